"""What a user gives to fit or to test a model, checked before any work: map, labels, mask, design and contrasts."""

import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import pandas as pd
import xarray as xr
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from voxstack.contrasts import Contrast
from voxstack.errors import DesignError, InputError, listing, warn
from voxstack.grid import Grid
from voxstack.io.places import Place, place_of
from voxstack.kernels.basis import Basis
from voxstack.models.blueprint import Cases, Missing
from voxstack.schema import SPACE, SUBJECT, map_names
from voxstack.store.mask import AnalysisMask, given_mask, mask_name


def labels_of(cohort: xr.Dataset) -> pd.Index:
    """Of the subjects, as text."""
    labels = cohort.indexes[SUBJECT] if SUBJECT in cohort.indexes else pd.Index(range(cohort.sizes[SUBJECT]))
    return labels.astype(str)


def check_labels(cohort: xr.Dataset) -> None:
    """Refuse a cohort that holds a label twice."""
    labels = labels_of(cohort)
    if labels.has_duplicates:
        twice = listing(labels[labels.duplicated()].unique())
        raise InputError(f"The cohort holds {twice} more than once. Give each image a label of its own.")


def choose_map(cohort: xr.Dataset, variable: str | None) -> str:
    """The map that users mean; one that they name, or the only one there is."""
    if not isinstance(cohort, xr.Dataset):
        raise InputError(f"A cohort is what open_cohort, stack or from_arrays give, not {cohort!r:.60}.")
    names = map_names(cohort)
    if not names:
        raise InputError("This is no cohort: it has no variable with the dimensions subject, x, y and z.")
    if variable is None and len(names) == 1:
        return names[0]
    if variable is None:
        raise InputError(
            f"The cohort has the maps {listing(names)}. Say which one to model: "
            f"variable={names[0]!r} (--variable {names[0]})."
        )
    if variable not in names:
        raise InputError(f"The cohort has no map {variable!r}. It has: {listing(names)}.")
    return variable


IN_MEMORY = ("an image in memory", "an array")
"""What provenance says of masks that are no files."""


def described_mask(mask: AnalysisMask) -> str:
    """For provenance: a file's name, or what it was."""
    if isinstance(mask, str | Place | SpatialImage):
        return mask_name(mask if isinstance(mask, SpatialImage) else place_of(mask))
    return "an array"


def mask_inside(cohort: xr.Dataset, mask: AnalysisMask | None) -> NDArray[np.bool_]:
    """Voxels (x, y, z) of the cohort's mask, narrowed by another one; `InputError` where none is left."""
    if "mask" in cohort.coords:
        stored = cohort["mask"]
        if SUBJECT in stored.dims:  # cohorts with masks of their own were concatenated
            stored = stored.all(SUBJECT)
        inside = np.asarray(stored.transpose(*SPACE).values, dtype=bool)
    else:
        inside = np.ones(Grid.from_dataset(cohort).shape, dtype=bool)
    if mask is not None:
        inside = inside & given_mask(mask, Grid.from_dataset(cohort))
    if not inside.any():
        raise InputError(
            "No voxel is left in the mask. If none has data of every subject, give `stack` or `from_arrays` a mask=, "
            "or `stack` the fraction of subjects that must have data."
        )
    return inside


def check_rank(design: xr.DataArray, basis: Basis) -> None:
    """Refuse a design that leaves no degrees of freedom, and warn of columns that are combinations of others."""
    n, p = design.shape
    regressors = [str(regressor) for regressor in design["regressor"].values]
    if basis.rank == 0:
        raise DesignError(f"The design is 0 everywhere; its regressors are {listing(regressors, most=20)}.")
    if n <= basis.rank:
        raise DesignError(
            f"The design has rank {basis.rank} and the cohort {n} subjects: no degrees of freedom are left. "
            f"Use fewer than {n} independent regressors; these are {listing(regressors, most=20)}."
        )
    if basis.rank < p:
        names = listing(regressors[column] for column in basis.dependent)
        warn(
            f"The design has {p} regressors but rank {basis.rank}: {names} can be written as a combination of the "
            "regressors before. Their coefficients are not unique; contrasts that are remain exact."
        )


def check_estimable(hypotheses: Sequence[Contrast], design: NDArray[np.float64], basis: Basis) -> None:
    """A contrast can be estimated if its weights lie in the row space of the design."""
    if basis.rank == design.shape[1]:
        return
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0  # of a column of zeros, whose coefficient nothing depends on
    onto_rows = scale[:, None] * (basis.to_beta @ (basis.rows.T @ (design / scale)))
    refused = []
    for hypothesis in hypotheses:
        weights = hypothesis.weights / scale
        left = np.linalg.norm(weights - weights @ onto_rows, axis=1)
        if np.any(left > 1e-8 * np.linalg.norm(weights, axis=1)):
            refused.append(hypothesis.name)
    if refused:
        raise DesignError(
            f"The design is rank deficient, and it cannot estimate the contrast {', '.join(map(repr, refused))}: its "
            "value depends on which of many equally good solutions is taken. Leave out a regressor that is a "
            "combination of others, or test a difference that does not depend on it."
        )


def choose_cases(missing: Missing, min_subjects: SupportsIndex | None, n: int) -> Cases:
    """Which subjects count at a voxel; `InputError` where `min_subjects` makes no sense."""
    if min_subjects is None:
        return Cases(missing)
    if missing != "available":
        raise InputError(
            f"min_subjects={min_subjects!r} goes with missing='available'. With missing={missing!r} voxels that some "
            "subject lacks are left out anyway."
        )
    try:
        least = 0 if isinstance(min_subjects, bool) else operator.index(min_subjects)
    except TypeError:
        least = 0
    if least < 1:
        raise InputError(f"min_subjects must be a whole number of at least 1, not {min_subjects!r}.")
    if least > n:
        raise InputError(f"min_subjects is {least}, but the model has only {n} subjects: no voxel would be left.")
    return Cases(missing, least)
