"""Where the subjects of a cohort have data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import listing
from voxstack.schema import SPACE, SUBJECT
from voxstack.store.preparation import Preparation


@dataclass(frozen=True)
class Coverage:
    """How many subjects have what at each voxel.

    What is 0 is said of maps as they are before smoothing, which leaves hardly any value exactly 0; and then of voxels
    outside an explicit mask, too, which smoothing looks at.

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
        """Voxels (maps, x, y, z) where some subject's value is neither 0 nor missing."""
        return self.n_nonzero > 0

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Voxels (maps, x, y, z) where no subject's value is other than 0, and some subject's is 0."""
        return (self.n_zero > 0) & ~self.informative


def zero_warning(
    coverage: Coverage, mask: NDArray[np.bool_], n_subjects: int, maps: Sequence[str], preparation: Preparation
) -> str | None:
    """What to say of zeros that may mean missing; None where there are none.

    Parameters
    ----------
    coverage, n_subjects, maps
        Of the cohort.
    mask : (x, y, z) bool
        Voxels that are analysed.
    preparation
        How images became maps.
    """
    if preparation.zeros_for_missing:
        return None
    found = []
    partly = (coverage.n_zero > 0) & (coverage.n_zero < n_subjects) & ~coverage.blank & mask
    if counts := _counts(partly, maps):
        found.append(f"{counts} within the mask are exactly 0 in some subjects, and taken as data")
    given = mask if preparation.inside is None else preparation.inside
    around = coverage.blank & preparation.reached(given)
    # Where nothing outside an explicit mask is 0, the zeros in it are what its maps hold.
    smoothed = preparation.smooths and bool((around & ~given).any())
    if smoothed:
        found.append(
            f"{_counts(around, maps)} in or near the mask are exactly 0 in every subject that has data, and smoothing "
            "took them for data, which draws the values beside them towards 0"
        )
    if not found:
        return None
    smooth = " To smooth over zeros as nilearn does, say smoothing_missing='zero'." if smoothed else ""
    return (
        f"{'. '.join(found)}. If 0 means missing in these maps, stack them with zero_is_missing=True "
        f"(--zero-is-missing).{smooth}"
    )


def _counts(where: NDArray[np.bool_], maps: Sequence[str]) -> str:
    """Of voxels (maps, x, y, z), in words; empty where there is none."""
    counts = {name: int(of_map.sum()) for name, of_map in zip(maps, where, strict=True)}
    return listing(f"{n:,} voxels of {name!r}" for name, n in counts.items() if n)


def with_counted_subjects(cohort: xr.Dataset) -> xr.Dataset:
    """The cohort, whose `n_valid` says of how many subjects it was counted: a selection of them keeps it as it is."""
    if "n_valid" not in cohort.data_vars:
        return cohort
    return cohort.assign(n_valid=cohort["n_valid"].assign_attrs(n_subjects=cohort.sizes[SUBJECT]))


def counts_other_subjects(cohort: xr.Dataset) -> bool:
    """Whether `n_valid` was counted for other subjects than the cohort has now."""
    counts = cohort["n_valid"]
    return set(counts.dims) != set(SPACE) or counts.attrs.get("n_subjects") != cohort.sizes[SUBJECT]
