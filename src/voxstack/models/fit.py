"""`fit_glm`: one model, fitted to every voxel of a cohort."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from voxstack import provenance
from voxstack.blocks import Reduction, as_blocks, reduce_subjects
from voxstack.design import Matrix, make_design
from voxstack.errors import DesignError, InputError, VoxstackWarning, listing
from voxstack.grid import Grid
from voxstack.kernels.basis import decompose
from voxstack.models.blueprint import Missing, Model
from voxstack.models.registry import MODELS
from voxstack.schema import REGISTRY, SPACE, SUBJECT, annotate, map_names
from voxstack.store.mask import mask_on_grid

FitMask = xr.DataArray | NDArray[np.bool_] | str | Path | SpatialImage


def fit_glm(
    cohort: xr.Dataset,
    design: str | Matrix,
    *,
    variable: str | None = None,
    model: str = "ols",
    missing: Missing = "complete",
    mask: FitMask | None = None,
) -> xr.Dataset:
    """Fit a general linear model to every voxel. Nothing is read until the result is computed.

    Parameters
    ----------
    cohort
        Of `open_cohort`, `stack` or `from_arrays`.
    design
        What `make_design` takes: a formula, a DataFrame or a DataArray, aligned to the cohort by subject label.
    variable
        Map to model; needed only where the cohort has several.
    model
        "ols": ordinary least squares.
    missing
        "complete": voxels that some subject lacks are NaN. "available": each voxel is fitted to the subjects that have
        it; it is NaN where the design then loses rank or no degree of freedom is left.
    mask : (x, y, z) bool, path or image
        Narrows the cohort's mask; an image is brought to its grid by nearest neighbour.

    Returns
    -------
    xarray.Dataset
        `beta` (regressor, x, y, z); `residual_variance` and `dof` (x, y, z); `beta_covariance`, the covariance of beta
        over the residual variance (regressor, regressor_2, and x, y, z for available cases); `design` (subject,
        regressor). float64; NaN outside the mask.

    Raises
    ------
    DesignError
        The design does not fit the cohort, or leaves no degrees of freedom.
    InputError
        No such map, model or mask.

    Warns
    -----
    VoxstackWarning
        The design is rank deficient; the columns are named. Contrasts that do not depend on the choice of solution
        remain exact, others are refused by `contrast`.

    Notes
    -----
    Least squares by QR decompositions of chunks of subjects, combined (Golub and Van Loan, Matrix Computations, 5.2);
    `voxstack.kernels.least_squares` tells how.
    """
    # Validate
    blueprint = _choose(model, missing)
    name = _choose_map(cohort, variable)
    _check_labels(cohort)
    absent = [need for need in blueprint.needs if need != "map" and need not in map_names(cohort)]
    if absent:
        raise InputError(f"The model {model!r} needs the map {listing(absent)}, which the cohort does not have.")
    matrix = make_design(cohort, design)
    regressors = [str(regressor) for regressor in matrix["regressor"].values]
    _check_rank(matrix, regressors)
    inside = _mask(cohort, mask)

    # Compute (lazily)
    setup = blueprint.prepare(matrix.values, missing)
    outputs = {output: _leading_shape(output, len(regressors)) for output in blueprint.maps[missing]}
    arrays = [as_blocks(cohort[name if need == "map" else need]) for need in blueprint.needs]
    passes = [Reduction(model, stage.partial, stage.combine, stage.finish) for stage in blueprint.passes]
    maps = reduce_subjects(arrays, passes, setup, mask=inside, outputs=outputs, whole=blueprint.subjects == "whole")

    # Conclude
    variables: dict[str, Any] = {
        output: (_dims(output, array.ndim), array)
        for part in (maps, blueprint.shared(setup))
        for output, array in part.items()
    }
    grid = Grid.from_dataset(cohort)
    coords = {"regressor": regressors, "regressor_2": regressors, SUBJECT: cohort[SUBJECT].values}
    fit = xr.Dataset(variables, coords=coords).assign(design=matrix.variable).assign_coords(grid.coords())
    fit = fit.assign_coords(mask=(SPACE, inside))
    formula = matrix.attrs.get("formula")
    details = {"model": model, "missing": missing, "variable": name}
    details |= {} if formula is None else {"formula": formula}
    whole = {"regressors": regressors, "n_subjects": cohort.sizes[SUBJECT]}
    return annotate(fit, "fit", **details, **whole, provenance=provenance.record("fit_glm", **details))


def _choose(model: str, missing: str) -> Model:
    if model not in MODELS:
        raise InputError(f"There is no model {model!r}; voxstack has {listing(MODELS)}.")
    if missing not in MODELS[model].maps:
        raise InputError(f"missing={missing!r}: the model {model!r} knows {listing(map(repr, MODELS[model].maps))}.")
    return MODELS[model]


def _check_labels(cohort: xr.Dataset) -> None:
    labels = cohort.indexes[SUBJECT] if SUBJECT in cohort.indexes else pd.Index(range(cohort.sizes[SUBJECT]))
    if labels.has_duplicates:
        twice = listing(labels[labels.duplicated()].unique())
        raise InputError(f"The cohort holds {twice} more than once. Give each image a label of its own.")


def _choose_map(cohort: xr.Dataset, variable: str | None) -> str:
    names = map_names(cohort)
    if not names:
        raise InputError("This is no cohort: it has no variable with the dimensions subject, x, y and z.")
    if variable is None and len(names) == 1:
        return names[0]
    if variable is None:
        raise InputError(f"The cohort has the maps {listing(names)}. Say which one to model: variable={names[0]!r}.")
    if variable not in names:
        raise InputError(f"The cohort has no map {variable!r}. It has: {listing(names)}.")
    return variable


def _check_rank(design: xr.DataArray, regressors: list[str]) -> None:
    n, p = design.shape
    basis = decompose(design.values)
    if basis.rank == 0:
        raise DesignError(f"The design is 0 everywhere; its regressors are {listing(regressors, most=20)}.")
    if n <= basis.rank:
        raise DesignError(
            f"The design has rank {basis.rank} and the cohort {n} subjects: no degrees of freedom are left. "
            f"Use fewer than {n} independent regressors; these are {listing(regressors, most=20)}."
        )
    if basis.rank < p:
        names = listing(regressors[column] for column in basis.dependent)
        warnings.warn(
            f"The design has {p} regressors but rank {basis.rank}: {names} can be written as a combination of the "
            "regressors before. Their coefficients are not unique; contrasts that are remain exact.",
            VoxstackWarning,
            stacklevel=3,
        )


def _mask(cohort: xr.Dataset, mask: FitMask | None) -> NDArray[np.bool_]:
    if "mask" in cohort.coords:
        stored = cohort["mask"]
        if SUBJECT in stored.dims:  # cohorts with masks of their own were concatenated
            stored = stored.all(SUBJECT)
        inside = np.asarray(stored.transpose(*SPACE).values, dtype=bool)
    else:
        inside = np.ones(Grid.from_dataset(cohort).shape, dtype=bool)
    if mask is not None:
        if isinstance(mask, xr.DataArray):
            # Raises GridMismatch where the lattices differ.
            mask, _ = xr.align(mask.transpose(*SPACE), cohort, join="inner")
        if isinstance(mask, str | Path | SpatialImage):
            mask = mask_on_grid(Path(mask) if isinstance(mask, str) else mask, Grid.from_dataset(cohort))
        given = np.asarray(mask)
        if given.shape != inside.shape:
            raise InputError(f"The mask has the shape {given.shape}, the cohort's grid {inside.shape}.")
        inside = inside & (np.nan_to_num(given.astype(float)) != 0)
    if not inside.any():
        raise InputError("No voxel is left in the mask.")
    return inside


def _dims(output: str, ndim: int) -> tuple[str, ...]:
    return next(dims for dims in REGISTRY["fit", output].dims if len(dims) == ndim)


def _leading_shape(output: str, p: int) -> tuple[int, ...]:
    dims = max(REGISTRY["fit", output].dims, key=len)
    return (p,) * (len(dims) - len(SPACE))
