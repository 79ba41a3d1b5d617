"""What a fit and a permutation test both begin with: a map, a design, and which subjects and voxels take part."""

from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.contrasts import Contrast, parse_contrasts
from voxstack.design import Matrix, make_design
from voxstack.kernels.basis import Basis, decompose
from voxstack.models.blueprint import Cases, Missing
from voxstack.models.inputs import (
    check_estimable,
    check_labels,
    check_rank,
    choose_cases,
    choose_map,
    labels_of,
    mask_inside,
)
from voxstack.schema import SUBJECT, map_names
from voxstack.store.mask import AnalysisMask


class Analysis(NamedTuple):
    """Of one map of a cohort, by one design.

    Attributes
    ----------
    variable
        Name of the map.
    design : (n, p) DataArray
        Of `make_design`.
    basis
        Of the design.
    kept : (N,) bool
        Which subjects of the cohort the design has.
    inside : (x, y, z) bool
        Voxels in the masks of these.
    cases
        Which of them count at a voxel.
    """

    variable: str
    design: xr.DataArray
    basis: Basis
    kept: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    cases: Cases


def begin_analysis(
    cohort: xr.Dataset,
    design: str | Matrix,
    *,
    variable: str | None,
    missing: Missing,
    min_subjects: SupportsIndex | None,
    mask: AnalysisMask | None,
    drop_missing: bool,
) -> Analysis:
    """Check what users ask for, before any map is read; parameters and errors are those of `fit_glm`."""
    name = choose_map(cohort, variable)
    check_labels(cohort)
    matrix = make_design(cohort, design, drop_missing=drop_missing)
    basis = decompose(matrix.values)
    check_rank(matrix, basis)
    cases = choose_cases(missing, min_subjects, len(matrix))
    kept = np.asarray(labels_of(cohort).isin(matrix[SUBJECT].values))
    inside = mask_inside(cohort.drop_vars(map_names(cohort)).isel({SUBJECT: np.flatnonzero(kept)}), mask)
    return Analysis(name, matrix, basis, kept, inside, cases)


def tested_contrasts(contrasts: Any, design: xr.DataArray, basis: Basis) -> list[Contrast]:
    """Contrasts that users name, all of which the design can estimate; `DesignError` for others.

    Parameters
    ----------
    contrasts
        As of `voxstack.contrast`.
    design : (n, p)
        With its regressors and, of a formula, their terms.
    basis
        Of the design.
    """
    terms = [str(term) for term in design["term"].values] if "term" in design.coords else None
    found = parse_contrasts(contrasts, [str(regressor) for regressor in design["regressor"].values], terms)
    check_estimable(found, design.values, basis)
    return found
