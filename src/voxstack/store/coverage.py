"""Where the subjects of a cohort have data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import listing
from voxstack.schema import SPACE, SUBJECT


@dataclass(frozen=True)
class Coverage:
    """How many subjects have what at each voxel.

    Attributes
    ----------
    n_valid : (x, y, z) int32
        Subjects with data in every map.
    n_zero : (maps, x, y, z) int32
        Subjects whose value is exactly 0.
    n_nonzero : (maps, x, y, z) int32
        Subjects whose value is neither 0 nor missing.
    """

    n_valid: NDArray[np.int32]
    n_zero: NDArray[np.int32]
    n_nonzero: NDArray[np.int32]

    def __add__(self, other: "Coverage") -> "Coverage":
        return Coverage(self.n_valid + other.n_valid, self.n_zero + other.n_zero, self.n_nonzero + other.n_nonzero)

    @property
    def informative(self) -> NDArray[np.bool_]:
        """Voxels (x, y, z) where in every map some subject's value is neither 0 nor missing."""
        return np.asarray((self.n_nonzero > 0).all(axis=0))


def zero_warning(coverage: Coverage, mask: NDArray[np.bool_], n_subjects: int, maps: Sequence[str]) -> str | None:
    """What to say where some subjects, not all, are exactly 0 within the mask; None where none is."""
    partly = (coverage.n_zero > 0) & (coverage.n_zero < n_subjects) & mask
    counts = {name: int(where.sum()) for name, where in zip(maps, partly, strict=True) if where.any()}
    if not counts:
        return None
    told = listing(f"{count:,} voxels of {name!r}" for name, count in counts.items())
    return (
        f"{told} within the mask are exactly 0 in some subjects. They are taken as data. If 0 means missing in these "
        "maps, stack them with zero_is_missing=True (--zero-is-missing)."
    )


def with_counted_subjects(cohort: xr.Dataset) -> xr.Dataset:
    """The cohort, whose `n_valid` says of how many subjects it was counted: a selection of them keeps it as it is."""
    if "n_valid" not in cohort.data_vars:
        return cohort
    return cohort.assign(n_valid=cohort["n_valid"].assign_attrs(n_subjects=cohort.sizes[SUBJECT]))


def counts_other_subjects(cohort: xr.Dataset) -> bool:
    """Whether `n_valid` was counted for other subjects than the cohort has now."""
    counts = cohort["n_valid"]
    return set(counts.dims) != set(SPACE) or counts.attrs.get("n_subjects") != cohort.sizes[SUBJECT]
