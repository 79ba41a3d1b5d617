"""`fit_glm`: one model, fitted to every voxel of a cohort."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack import provenance
from voxstack.blocks import Reduction, as_blocks, reduce_subjects
from voxstack.design import Matrix
from voxstack.errors import InputError, listing
from voxstack.grid import Grid
from voxstack.io.places import located
from voxstack.models.analysis import begin_analysis
from voxstack.models.blueprint import Missing, Model
from voxstack.models.inputs import choose_map, described_mask
from voxstack.models.registry import MODELS
from voxstack.schema import REGISTRY, SPACE, SUBJECT, annotate, map_names
from voxstack.store.mask import AnalysisMask


def fit_glm(
    cohort: xr.Dataset,
    design: str | Matrix,
    *,
    variable: str | None = None,
    model: str = "ols",
    missing: Missing = "complete",
    min_subjects: int | None = None,
    drop_missing: bool = False,
    mask: AnalysisMask | None = None,
    storage_options: Mapping[str, Any] | None = None,
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
    min_subjects
        For missing="available": voxels with data of fewer subjects are NaN.
    drop_missing
        Leave out the subjects that lack a covariate which the design uses, and list them in the attribute
        "dropped_subjects". By default they are an error. A design that `make_design` made with this option needs no
        second word: the subjects that it lists are left out.
    mask : (x, y, z) bool, path, URL or image
        Narrows the cohort's mask; an image is brought to its grid by nearest neighbour.
    storage_options
        Credentials and settings for the URL of a mask.

    Returns
    -------
    xarray.Dataset
        `beta` (regressor, x, y, z); `residual_variance` and `dof` (x, y, z); `beta_covariance`, the covariance of beta
        over the residual variance (regressor, regressor_2, and x, y, z for available cases); `design` (subject,
        regressor). float64; NaN outside the mask. Coordinates: `variance_inflation` and, of a formula, `term` along
        `regressor`; `condition_number`, a number. `make_design` says what they are.

    Raises
    ------
    DesignError
        The design does not fit the cohort, or leaves no degrees of freedom.
    InputError
        No such map, model or mask; `min_subjects` for complete cases, or more than there are.

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
    mask = located(mask, storage_options)
    blueprint = _choose(model, missing)
    choose_map(cohort, variable)  # before what a model needs besides
    absent = [need for need in blueprint.needs if need != "map" and need not in map_names(cohort)]
    if absent:
        raise InputError(f"The model {model!r} needs the map {listing(absent)}, which the cohort does not have.")
    name, matrix, _, kept, inside, cases = begin_analysis(
        cohort,
        design,
        variable=variable,
        missing=missing,
        min_subjects=min_subjects,
        mask=mask,
        drop_missing=drop_missing,
    )
    regressors = [str(regressor) for regressor in matrix["regressor"].values]

    # Compute (lazily)
    setup = blueprint.prepare(matrix.values, cases)
    outputs = {output: _leading_shape(output, len(regressors)) for output in blueprint.maps[missing]}
    arrays = [as_blocks(cohort[name if need == "map" else need]) for need in blueprint.needs]
    passes = [Reduction(f"fit-{model}", stage.partial, stage.combine, stage.finish) for stage in blueprint.passes]
    some, passes = _leave_out(setup, passes, kept)
    maps = reduce_subjects(arrays, passes, some, mask=inside, outputs=outputs, whole=blueprint.subjects == "whole")

    # Conclude
    variables: dict[str, Any] = {
        output: (_dims(output, array.ndim), array)
        for part in (maps, blueprint.shared(setup))
        for output, array in part.items()
    }
    grid = Grid.from_dataset(cohort)
    coords = {"regressor": regressors, "regressor_2": regressors, SUBJECT: matrix[SUBJECT].values}
    fit = xr.Dataset(variables, coords=coords).assign(design=matrix.variable).assign_coords(grid.coords())
    diagnostics: dict[Any, xr.Variable] = {
        key: matrix[key].variable for key in ("term", "variance_inflation") if key in matrix.coords
    }
    diagnostics["condition_number"] = xr.Variable((), matrix.attrs["condition_number"])
    fit = fit.assign_coords(mask=(SPACE, inside)).assign_coords(diagnostics)
    details: dict[str, Any] = {"model": model, "missing": missing, "variable": name}
    details |= {} if min_subjects is None else {"min_subjects": cases.min_subjects}
    details |= {key: matrix.attrs[key] for key in ("formula", "dropped_subjects") if key in matrix.attrs}
    details |= {} if mask is None else {"mask": described_mask(mask)}
    whole = {"regressors": regressors, "n_subjects": len(matrix)}
    return annotate(fit, "fit", **details, **whole, provenance=provenance.record("fit_glm", **details))


def _choose(model: str, missing: str) -> Model:
    if model not in MODELS:
        raise InputError(f"There is no model {model!r}; voxstack has {listing(MODELS)}.")
    if missing not in MODELS[model].maps:
        raise InputError(f"missing={missing!r}: the model {model!r} knows {listing(map(repr, MODELS[model].maps))}.")
    return MODELS[model]


class _Some(NamedTuple):
    """What tasks need to model some of the subjects: the model's own setup, and which they are (n,)."""

    setup: Any
    kept: NDArray[np.bool_]


def _leave_out(setup: Any, passes: list[Reduction], kept: NDArray[np.bool_]) -> tuple[Any, list[Reduction]]:
    """The same passes over those subjects that are kept.

    The others are taken out in the tasks. Dask would take them out by cutting the subjects into new chunks, for which
    it reads and holds several old ones at a time.
    """
    if kept.all():
        return setup, passes
    return _Some(setup, kept), [
        Reduction(p.name, _PartialOfSome(p.partial), _CombineSome(p.combine), _FinishSome(p.finish)) for p in passes
    ]


@dataclass(frozen=True)
class _PartialOfSome:
    """State of one chunk of subjects; None where none of them is kept."""

    partial: Callable[[Sequence[NDArray[Any]], slice, Any, Any], Any]

    def __call__(self, blocks: Sequence[NDArray[Any]], rows: slice, some: _Some, previous: Any) -> Any:
        here, before = some.kept[rows], int(some.kept[: rows.start].sum())
        if not here.any():
            return None
        rows = slice(before, before + int(here.sum()))
        return self.partial([block[here] for block in blocks], rows, some.setup, previous)


@dataclass(frozen=True)
class _CombineSome:
    combine: Callable[[Any, Any], Any]

    def __call__(self, first: Any, second: Any) -> Any:
        if first is None or second is None:
            return second if first is None else first
        return self.combine(first, second)


@dataclass(frozen=True)
class _FinishSome:
    finish: Callable[[Any, Any], Any]

    def __call__(self, state: Any, some: _Some) -> Any:
        return self.finish(state, some.setup)


def _dims(output: str, ndim: int) -> tuple[str, ...]:
    return next(dims for dims in REGISTRY["fit", output].dims if len(dims) == ndim)


def _leading_shape(output: str, p: int) -> tuple[int, ...]:
    dims = max(REGISTRY["fit", output].dims, key=len)
    return (p,) * (len(dims) - len(SPACE))
