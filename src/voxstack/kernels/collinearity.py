"""How close the columns of a design are to being combinations of each other."""

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.basis import decompose

Float = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


def condition_number(design: Float) -> float:
    """Ratio of the largest to the smallest singular value, of the design with columns scaled to unit length.

    Belsley, Kuh and Welsch (1980), Regression Diagnostics, section 3.2. Columns are not centred: an intercept counts
    like any other.

    Parameters
    ----------
    design : (n, p) float64

    Returns
    -------
    float
        At least 1; infinite where the design is rank deficient.
    """
    unit = _unit_columns(design)
    if decompose(unit).rank < unit.shape[1]:
        return float("inf")
    singular = np.linalg.svd(unit, compute_uv=False)
    return float(singular[0] / singular[-1])


def variance_inflation(design: Float) -> Float:
    """Variance inflation factor of each column: 1 / (1 - R^2) of its regression on all others.

    Belsley, Kuh and Welsch (1980), Regression Diagnostics, section 3.2. R^2 is about the mean where the other columns
    span the constant, as those of groups do, and about 0 where they do not.

    Parameters
    ----------
    design : (n, p) float64

    Returns
    -------
    (p,) float64
        At least 1; NaN for a constant column, infinite for one that is a combination of others.

    Notes
    -----
    With X = Q T, the residual sum of squares of column j on the others is one over the squared norm of row j of the
    inverse of T. X'X, whose condition is that of X squared, is not formed.
    """
    n, p = design.shape
    unit = _unit_columns(design)
    basis = decompose(unit)
    inverse_rss = np.sum(basis.to_beta**2, axis=1)
    # The constant's distance from the span of the other columns: what of its length only this column can give.
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(basis.to_beta @ basis.constant) / np.sqrt(inverse_rss)
    centred = basis.constant.any() & (distance <= 8 * max(n, p) * _EPS * np.sqrt(n))
    total = np.where(centred, np.sum((unit - unit.mean(axis=0)) ** 2, axis=0), 1.0)
    inflation: Float = np.maximum(total * inverse_rss, 1.0)

    # Combinations of columns that are 0: a column is part of one where its weight is not 0.
    _, _, combinations = np.linalg.svd(basis.rows.T @ unit)
    weights = np.linalg.norm(combinations[basis.rank :], axis=0)
    inflation[weights > 1e-8] = np.inf
    constant = np.ptp(design, axis=0) <= 4 * _EPS * np.abs(design).max(axis=0)
    inflation[constant & design.any(axis=0)] = np.nan
    return inflation


def _unit_columns(design: Float) -> Float:
    assert design.ndim == 2, design.shape
    # The largest value is taken out first, so that no square underflows or overflows.
    largest = np.abs(design).max(axis=0)
    scaled = design / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(scaled, axis=0)
    unit: Float = scaled / np.where(norms > 0, norms, 1.0)
    return unit
