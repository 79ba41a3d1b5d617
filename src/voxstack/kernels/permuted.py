"""Statistics of relabelled designs: one matrix product for a batch of relabellings and a tile of voxels.

Not the data are relabelled but the design. A relabelling gives m orthonormal vectors of length n, of which the first q
span what is tested; with data of unit length their products with the data say all. With u the products of the tested
vectors and w those of the others, the residual sum of squares is 1 - w'w - u'u, and

    r = u / sqrt(1 - w'w)        (t contrasts: the partial correlation, t = r sqrt(dof / (1 - r^2)))
    R = u'u / (1 - w'w)          (F contrasts: the partial R2, F = R / (1 - R) dof / q)

grow with t and F. Maxima and counts are taken of them, before the next tile is computed.
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit, jit_reordered
from voxstack.kernels.pvalues import TIE
from voxstack.kernels.suprathreshold import Suprathreshold

Float = NDArray[np.float64]
Side = Literal["greater", "less", "two-sided", "F"]

_SIDES: dict[Side, int] = {"greater": 0, "less": 1, "two-sided": 2, "F": 3}
_VECTORS = 64  # of a tile, whose products (1 MB with 2048 voxels) stay in cache
_LINES = 64  # voxels that are read at a time
_EPS = float(np.finfo(np.float64).eps)
FEW_DIGITS = 1e-2  # of a sum of squares of 1: what is left below it is computed from residuals
_ROUNDING = 256 * _EPS  # of r and R


class Unit(NamedTuple):
    """Data as relabelled statistics need them.

    Attributes
    ----------
    values : (n, v) float64
        Residuals, each column of unit length; NaN where `length` is. In memory one voxel comes after the other.
    length : (v,) float64
        That they had; NaN for voxels that lack a subject, or have no residuals.
    size : (v,) float64
        Length of the data.
    """

    values: Float
    length: Float
    size: Float


@jit_reordered
def product(a: Float, b: Float) -> float:
    """Sum of products of two vectors (n,), which must hold no NaN."""
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@jit_reordered
def _subtract(values: Float, vector: Float, times: float) -> None:
    for i in range(values.size):
        values[i] -= times * vector[i]


@jit_reordered
def _centre(values: Float) -> None:
    # First by one of the values, so that the sum of large ones loses nothing.
    first, total = values[0], 0.0
    for i in range(values.size):
        values[i] -= first
        total += values[i]
    for i in range(values.size):
        values[i] -= total / values.size


@jit
def _read(data: NDArray[np.floating], first: int, values: Float, known: NDArray[np.bool_]) -> None:
    # Some voxels of data (n, v), turned: a line of the data is read once for all of them.
    for i in range(len(data)):
        for j in range(len(values)):
            value = data[i, first + j]
            values[j, i] = value
            known[j] &= np.isfinite(value)


@jit
def _unit_residuals(
    data: NDArray[np.floating], basis: Float, centred: bool, values: Float, length: Float, size: Float
) -> None:
    v, n = values.shape
    known = np.ones(v, dtype=np.bool_)
    for first in range(0, v, _LINES):
        _read(data, first, values[first : first + _LINES], known[first : first + _LINES])
        for j in range(first, min(first + _LINES, v)):
            voxel = values[j]
            if not known[j]:
                voxel[:], length[j], size[j] = np.nan, np.nan, np.nan
                continue
            size[j] = np.sqrt(product(voxel, voxel))
            if centred:
                _centre(voxel)
            for _ in range(2):
                for vector in basis:
                    _subtract(voxel, vector, product(vector, voxel))
            left = np.sqrt(product(voxel, voxel))
            # What is left of a voxel that the basis explains is rounding error.
            length[j] = left if left > 8 * n * _EPS * size[j] else np.nan
            voxel /= length[j]


def unit_residuals(data: NDArray[np.floating], basis: Float) -> Unit:
    """Residuals from a basis, at unit length.

    Parameters
    ----------
    data : (n, v) float32 or float64
        NaN is missing.
    basis : (n, r) float64
        Orthonormal columns; r may be 0.
    """
    n, v = data.shape
    assert basis.shape[0] == n, (data.shape, basis.shape)
    # The constant is among what is taken out: without it first, nothing is lost where the mean is large.
    centred = bool(n - np.sum((basis.T @ np.ones(n)) ** 2) < 8 * n * _EPS)
    values, length, size = np.empty((v, n)), np.empty(v), np.empty(v)
    _unit_residuals(data, np.ascontiguousarray(basis.T), centred, values, length, size)
    return Unit(values.T, length, size)


@jit
def _explained(values: Float, nothing: Float, basis: Float, products: Float, left: Float) -> None:
    voxel = np.empty(basis.shape[1])
    for j in range(len(values)):
        products[:, j] = left[j] = np.nan
        if np.isnan(nothing[j]):
            continue
        voxel[:] = values[j]
        for k in range(len(basis)):
            products[k, j] = product(basis[k], voxel)
        for _ in range(2):
            for vector in basis:
                _subtract(voxel, vector, product(vector, voxel))
        length = np.sqrt(product(voxel, voxel))
        left[j] = length if length > nothing[j] else np.nan


def explained(unit: Unit, basis: Float) -> tuple[Float, Float]:
    """What more vectors explain of residuals of unit length.

    Parameters
    ----------
    unit
        Of `unit_residuals`.
    basis : (n, q) float64
        Orthonormal columns.

    Returns
    -------
    products : (q, v) float64
        With the residuals; NaN where there are none.
    left : (v,) float64
        Length of what the vectors do not explain, NaN where that is rounding error of the data.
    """
    (n, v), q = unit.values.shape, basis.shape[1]
    products, left = np.empty((q, v)), np.empty(v)
    with np.errstate(invalid="ignore"):
        nothing = 8 * n * _EPS * unit.size / unit.length
    _explained(unit.values.T, nothing, np.ascontiguousarray(basis.T), products, left)
    return products, left


@jit
def refined(left: Float, voxel: Float, q: int, joint: bool) -> float:
    """r or R of one relabelling (m, n) and voxel (n,) whose relabelled Z explains nearly all, from its residuals."""
    residual = voxel.copy()
    for _ in range(2):
        for k in range(q, len(left)):
            product = np.sum(left[k] * residual)
            residual -= product * left[k]
    rest = np.sum(residual * residual)
    if rest <= (64 * len(voxel) * _EPS) ** 2:  # there is nothing left that X could explain
        return 0.0
    explained, u = 0.0, 0.0
    for k in range(q):
        u = np.sum(left[k] * residual)
        explained += u * u
    return float(explained / rest) if joint else float(u / np.sqrt(rest))


@jit
def _ratios(products: Float, left: Float, unit: Float, q: int, joint: bool, ratios: Float) -> None:
    b, m, v = products.shape
    for i in range(b):
        ratio = ratios[i]
        for j in range(v):
            rest = 1.0
            for k in range(q, m):
                rest -= products[i, k, j] ** 2
            if rest < FEW_DIGITS:
                ratio[j] = refined(left[i], unit[:, j], q, joint)
            elif joint:
                explained = 0.0
                for k in range(q):
                    explained += products[i, k, j] ** 2
                ratio[j] = explained / rest
            else:
                ratio[j] = products[i, 0, j] / np.sqrt(rest)


def ratios(left: Float, q: int, unit: Float, joint: bool) -> Float:
    """r, or R where the vectors that are tested are tested jointly, of relabellings.

    Parameters
    ----------
    left : (b, m, n) float64
        Orthonormal vectors of each relabelling, those that are tested first.
    q : int
        How many are tested; 1 unless they are tested jointly.
    unit : (n, v) float64
        Columns of unit length.

    Returns
    -------
    (b, v) float64
    """
    b, m, n = left.shape
    assert unit.shape[0] == n, (left.shape, unit.shape)
    assert joint or q == 1, q
    found = np.empty((b, unit.shape[1]))
    _ratios((left.reshape(b * m, n) @ unit).reshape(b, m, -1), left, unit, q, joint, found)
    return found


def tie(observed: Float, side: Side) -> Float:
    """How far below an observed score, of any shape, another one may lie and still be equal but for rounding.

    `pvalues.TIE` is a relative difference of t or F: with t = r sqrt(dof / (1 - r^2)) a relative difference of t is
    one of r over 1 - r^2. It is never below the rounding error of r, which matters where r is close to 0 or to 1.
    """
    size = np.abs(observed)
    return np.maximum(TIE * size * (1.0 - (size if side == "F" else size**2)), _ROUNDING)


def score(ratio: Float, side: Side) -> Float:
    """What is compared: r, -r or \\|r\\| by the side that is tested, or R."""
    return np.abs(ratio) if side == "two-sided" else -ratio if side == "less" else ratio


@jit
def _tally(ratios: Float, side: int, least: Float, maxima: Float, counts: NDArray[np.int64]) -> None:
    b, v = ratios.shape
    for i in range(b):
        row, top = ratios[i], maxima[i]
        for j in range(v):
            value = abs(row[j]) if side == 2 else -row[j] if side == 1 else row[j]
            top = max(top, value)
            counts[j] += np.int64(value >= least[j])
        maxima[i] = top


def tally(
    left: Float, q: int, unit: Float, side: Side, observed: Float, maxima: Float, counts: NDArray[np.int64]
) -> None:
    """Count relabellings whose score reaches the observed one, and raise the maxima, at one tile of voxels.

    A few relabellings at a time, so that their products stay in cache.

    Parameters
    ----------
    left, q, unit
        As of `ratios`.
    side
        That is tested.
    observed : (v,) float64
        Scores of the identity.
    maxima : (b,) float64
        Scores' maxima over voxels; raised in place.
    counts : (v,) int64
        Of relabellings whose score is at least the observed one, within `tie`; raised in place.
    """
    b, m, _ = left.shape
    step = max(_VECTORS // m, 1)
    least = observed - tie(observed, side)
    for start in range(0, b, step):
        some = slice(start, start + step)
        _tally(ratios(left[some], q, unit, side == "F"), _SIDES[side], least, maxima[some], counts)


def beyond(left: Float, q: int, unit: Float, side: Side, least: float) -> Suprathreshold:
    """Find the voxels of a tile whose score is at least `least`, a positive number, and their r or R.

    Parameters
    ----------
    left, q, unit, side
        As of `tally`.
    """
    b, m, _ = left.shape
    step = max(_VECTORS // m, 1)
    parts = []
    for start in range(0, b, step):
        found = ratios(left[start : start + step], q, unit, side == "F")
        rows, voxel = np.nonzero(score(found, side) >= least)
        parts.append((np.bincount(rows, minlength=len(found)), voxel.astype(np.int32), found[rows, voxel]))
    return Suprathreshold(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def to_statistic(ratio: Float, q: int, dof: Float | float, joint: bool) -> Float:
    """t of r, or F of R, of any shape; degrees of freedom may be of that shape, too."""
    with np.errstate(divide="ignore"):
        if joint:
            ratio = np.minimum(ratio, 1.0)
            return np.asarray(ratio / (1.0 - ratio) * (dof / q))
        ratio = np.clip(ratio, -1.0, 1.0)
        return np.asarray(ratio * np.sqrt(dof / ((1.0 - ratio) * (1.0 + ratio))))
