"""Relabelled designs at voxels that lack some subjects: all are relabelled, then a voxel's missing rows dropped.

At a voxel with data of the subjects S the model of a relabelling is what its rows S hold of the vectors V (m, n). These
are no longer orthonormal there: their products are G = V V' - (what the missing rows give), so that with G = L L' the
products with orthonormal vectors are those with V solved for L. Data that are 0 where they are missing have the same
products with V as with its rows S, so that one matrix product serves voxels of all patterns. Where little is left of a
vector, so that digits are lost, and wherever vectors may be dependent on S, the rows S are orthonormalised themselves
(Gram and Schmidt, twice).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit
from voxstack.kernels.permuted import FEW_DIGITS, Float

Index = NDArray[np.int64]

_EPS = float(np.finfo(np.float64).eps)
_NOTHING = 1e-10  # of a unit vector: rounding error
_LEAST_PIVOT = 0.1  # of vectors of unit length, below which they are orthonormalised themselves


class Patterns(NamedTuple):
    """Voxels by the subjects that they lack.

    Attributes
    ----------
    order : (v,) int64
        Voxels, those of one pattern after another.
    start : (g + 1,) int64
        Where in the order each of g patterns begins, and the end.
    row_start : (g + 1,) int64
        Where in `row` the missing subjects of each pattern begin, and the end.
    row : (k,) int64
        Missing subjects.
    """

    order: Index
    start: Index
    row_start: Index
    row: Index


def patterns(missing: NDArray[np.bool_]) -> Patterns:
    """Group voxels by what is missing (n, v)."""
    packed = np.ascontiguousarray(np.packbits(missing, axis=0).T)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, which, sizes = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    lacking, row = np.nonzero(missing[:, first].T)
    counts = np.bincount(lacking, minlength=len(first))
    start, row_start = (np.concatenate([[0], np.cumsum(part)]) for part in (sizes, counts))
    return Patterns(np.argsort(which, kind="stable"), start, row_start, row)


class Fitted(NamedTuple):
    """A model at voxels that lack some subjects.

    Attributes
    ----------
    stat : (v,) float64
        t or F; NaN where it cannot be estimated, or leaves no residuals.
    ratio : (v,) float64
        r or R.
    dof : (v,) float64
        Residual degrees of freedom: subjects less rank.
    """

    stat: Float
    ratio: Float
    dof: Float


@jit
def _orthonormal(vectors: Float, rows: Index, basis: Float) -> int:
    # Rows of vectors (m, n), made orthonormal one after the other: (m, k); what depends on those before becomes 0.
    # Returns how many are left.
    rank = 0
    for a in range(len(vectors)):
        new = basis[a]
        for i in range(rows.size):
            new[i] = vectors[a, rows[i]]
        for _ in range(2):
            for c in range(a):
                new -= np.sum(basis[c] * new) * basis[c]
        length = np.sqrt(np.sum(new * new))
        if length > _NOTHING:
            new /= length
            rank += 1
        else:
            new[:] = 0.0
    return rank


@jit
def _without(values: Float, basis: Float) -> float:
    # Takes the basis out of the values, in place; returns the length of what is left.
    for _ in range(2):
        for a in range(len(basis)):
            values -= np.sum(basis[a] * values) * basis[a]
    return float(np.sqrt(np.sum(values * values)))


@jit
def _read(data: NDArray[np.floating], rows: Index, voxel: int, centred: bool) -> tuple[Float, float]:
    # Values of a voxel, without their mean where the model holds it: then nothing is lost where it is large. And the
    # length that they had.
    values = np.empty(rows.size)
    for i in range(rows.size):
        values[i] = data[rows[i], voxel]
    length = float(np.sqrt(np.sum(values * values)))
    if centred:
        values -= values[0]
        values -= np.sum(values) / rows.size
    return values, length


@jit
def _present(n: int, missing: Index) -> Index:
    there = np.ones(n, dtype=np.bool_)
    for row in missing:
        there[row] = False
    return np.flatnonzero(there)


@jit
def _fit(
    data: NDArray[np.floating],
    order: Index,
    start: Index,
    row_start: Index,
    row: Index,
    vectors: Float,
    q: int,
    joint: bool,
    centred: bool,
    stat: Float,
    ratio: Float,
    dof: Float,
) -> None:
    m, n = vectors.shape
    for g in range(start.size - 1):
        rows = _present(n, row[row_start[g] : row_start[g + 1]])
        basis = np.empty((m, rows.size))
        rank = _orthonormal(vectors, rows, basis)
        tested = 0
        for a in range(m - q, m):
            tested += int(np.sum(basis[a] * basis[a]) > 0.5)
        if tested < q or rows.size <= rank:
            continue
        for voxel in order[start[g] : start[g + 1]]:
            values, length = _read(data, rows, voxel, centred)
            nothing = 8 * rows.size * _EPS * length
            reduced = _without(values, basis[: m - q])
            if not reduced > nothing:
                continue
            explained, u = 0.0, 0.0
            for a in range(m - q, m):
                u = np.sum(basis[a] * values)
                explained += u * u
            left = _without(values, basis[m - q :])
            if not left > nothing:
                continue
            dof[voxel] = rows.size - rank
            if joint:
                ratio[voxel] = explained / reduced**2
                stat[voxel] = explained / left**2 * dof[voxel] / q
            else:
                ratio[voxel] = u / reduced
                stat[voxel] = u / left * np.sqrt(dof[voxel])


def fit(data: NDArray[np.floating], groups: Patterns, vectors: Float, q: int, joint: bool) -> Fitted:
    """t or F, and r or R, of a model at each voxel.

    Parameters
    ----------
    data : (n, v) float32 or float64
        NaN is missing.
    groups
        Of what is missing.
    vectors : (m, n) float64
        Orthonormal ones that span the model; the last q are tested.
    """
    v = data.shape[1]
    found = Fitted(*np.full((3, v), np.nan))
    _fit(data, *groups, vectors, q, joint, _holds_constant(vectors[: len(vectors) - q]), *found)
    return found


def _holds_constant(vectors: Float) -> bool:
    n = vectors.shape[1]
    return bool(n - np.sum(vectors.sum(axis=1) ** 2) < 8 * n * _EPS)


@jit
def _residuals(
    data: NDArray[np.floating],
    order: Index,
    start: Index,
    row_start: Index,
    row: Index,
    vectors: Float,
    centred: bool,
    unit: Float,
) -> None:
    m, n = vectors.shape
    for g in range(start.size - 1):
        rows = _present(n, row[row_start[g] : row_start[g + 1]])
        basis = np.empty((m, rows.size))
        _orthonormal(vectors, rows, basis)
        for voxel in order[start[g] : start[g + 1]]:
            values, length = _read(data, rows, voxel, centred)
            left = _without(values, basis)
            if left > 8 * rows.size * _EPS * length:
                for i in range(rows.size):
                    unit[rows[i], voxel] = values[i] / left


def residuals(data: NDArray[np.floating], groups: Patterns, vectors: Float) -> Float:
    """Residuals (n, v) at unit length of each voxel; 0 where data are missing, and all 0 where nothing is left.

    Parameters
    ----------
    data, groups
        As of `fit`.
    vectors : (m, n) float64
        That are taken out; m may be 0.
    """
    unit = np.zeros(data.shape)
    _residuals(data, *groups, vectors, _holds_constant(vectors), unit)
    return unit


@jit
def _factor(gram: Float, vectors: Float, missing: Index, factor: Float) -> bool:
    # Cholesky factor of the products (m, m) without those of missing rows; False where digits would be lost.
    m = len(gram)
    for a in range(m):
        for c in range(a + 1):
            total = gram[a, c]
            for row in missing:
                total -= vectors[a, row] * vectors[c, row]
            for k in range(c):
                total -= factor[a, k] * factor[c, k]
            if a > c:
                factor[a, c] = total / factor[c, c]
            elif total < _LEAST_PIVOT:
                return False
            else:
                factor[a, a] = np.sqrt(total)
    return True


@jit
def _solved(products: Float, factor: Float, w: Float, q: int, joint: bool) -> float:
    # r or R from products (m,) with the vectors; NaN where the vectors that are not tested explain nearly all.
    m, rest, explained = len(factor), 1.0, 0.0
    for a in range(m):
        total = products[a]
        for k in range(a):
            total -= factor[a, k] * w[k]
        w[a] = total / factor[a, a]
        if a < m - q:
            rest -= w[a] * w[a]
        else:
            explained += w[a] * w[a]
    if rest < FEW_DIGITS:
        return np.nan
    return explained / rest if joint else w[m - 1] / np.sqrt(rest)


@jit
def _refined(unit: Float, rows: Index, basis: Float, q: int, joint: bool) -> float:
    # r or R from the rows S of a voxel (n,) and an orthonormal basis (m, k) of them.
    values = unit[rows]
    m = len(basis)
    rest = _without(values, basis[: m - q])
    if rest <= 64 * unit.size * _EPS:  # there is nothing left that X could explain
        return 0.0
    explained, u = 0.0, 0.0
    for a in range(m - q, m):
        u = np.sum(basis[a] * values)
        explained += u * u
    return explained / rest**2 if joint else u / rest


@jit
def _ratios(
    products: Float,
    vectors: Float,
    grams: Float,
    unit: Float,
    order: Index,
    start: Index,
    row_start: Index,
    row: Index,
    q: int,
    joint: bool,
    ratio: Float,
    lost: Index,
) -> None:
    b, m, n = vectors.shape
    factor, w = np.empty((m, m)), np.empty(m)
    for i in range(b):
        for g in range(start.size - 1):
            missing = row[row_start[g] : row_start[g + 1]]
            good = _factor(grams[i], vectors[i], missing, factor)
            rows, basis = missing, factor  # of their types
            if not good:
                rows = _present(n, missing)
                basis = np.empty((m, rows.size))
                lost[i, g] = m - _orthonormal(vectors[i], rows, basis)
            for voxel in order[start[g] : start[g + 1]]:
                found = _solved(products[i, :, voxel], factor, w, q, joint) if good else np.nan
                if np.isnan(found):
                    if good:
                        rows = _present(n, missing)
                        basis = np.empty((m, rows.size))
                        _orthonormal(vectors[i], rows, basis)
                    found = _refined(unit[:, voxel], rows, basis, q, joint)
                ratio[i, voxel] = found


def ratios(vectors: Float, q: int, unit: Float, groups: Patterns, joint: bool) -> tuple[Float, Index]:
    """r or R of relabellings at voxels that lack some subjects.

    Parameters
    ----------
    vectors : (b, m, n) float64
        Of each relabelled model, of unit length; the last q are tested. The others need not be orthogonal to them, nor
        to each other.
    unit : (n, v) float64
        Of `residuals`.
    groups
        Of what is missing.
    joint
        Whether R is wanted, and not r.

    Returns
    -------
    ratio : (b, v) float64
        0 where the vectors that are tested are explained by the others.
    lost : (b, g) int64
        By how much the rank of each pattern's model falls short of m.
    """
    b, m, n = vectors.shape
    assert unit.shape[0] == n, (vectors.shape, unit.shape)
    products = (vectors.reshape(b * m, n) @ unit).reshape(b, m, -1)
    grams = vectors @ np.swapaxes(vectors, 1, 2)
    ratio, lost = np.empty((b, unit.shape[1])), np.zeros((b, len(groups.start) - 1), dtype=np.int64)
    _ratios(products, vectors, grams, unit, *groups, q, joint, ratio, lost)
    return ratio, lost


@jit
def _tally(
    scores: Float,
    order: Index,
    start: Index,
    dof: Index,
    usual: Index,
    least: Float,
    maxima: Float,
    counts: Index,
) -> None:
    for i in range(len(scores)):
        for g in range(start.size - 1):
            top, same = maxima[i, dof[i, g]], dof[i, g] == usual[g]
            for voxel in order[start[g] : start[g + 1]]:
                top = max(top, scores[i, voxel])
                counts[voxel] += np.int64(same and scores[i, voxel] >= least[voxel])
            maxima[i, dof[i, g]] = top


def tally(
    scores: Float, groups: Patterns, dof: Index, usual: Index, least: Float, maxima: Float, counts: Index
) -> None:
    """Count relabellings whose score is at least `least`, and raise the maxima of each number of degrees of freedom.

    Parameters
    ----------
    scores : (b, v) float64
        Made of ratios.
    groups
        Of what is missing.
    dof : (b, g) int64
        Residual degrees of freedom of each relabelling and pattern.
    usual : (g,) int64
        Those of the identity. Where a relabelling has others its scores are not counted, as they cannot be compared.
    least : (v,) float64
    maxima : (b, d) float64
        Raised in place, in the columns of degrees of freedom.
    counts : (v,) int64
        Raised in place.
    """
    _tally(scores, groups.order, groups.start, dof, usual, least, maxima, counts)
