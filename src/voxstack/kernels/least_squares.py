"""Ordinary least squares streamed over subjects, as exact as if all subjects were in memory at once.

Each chunk of subjects is reduced to the triangular factor of its own QR decomposition, the data's projections on it,
and the *residual* sum of squares. Two chunks combine by the QR decomposition of their stacked factors. Residual sums of
squares only ever grow by squares of residuals, so nothing cancels, whether the mean is a million standard deviations or
the design explains all but a millionth of a millionth (Golub and Van Loan, Matrix Computations, sections 5.2 and 6.5).

With missing data each voxel has a triangular factor of its own, built and combined row by row with Givens rotations
(Gentleman 1974, Applied Statistics 23:448).
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.basis import Basis
from voxstack.kernels.jit import jit

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_EPS = float(np.finfo(np.float64).eps)


class Reduced(NamedTuple):
    """What least squares needs to know of some subjects, for v voxels.

    Attributes
    ----------
    n : int
        Number of subjects.
    R : (r, r) float64
        Triangular factor of these subjects' rows of the basis: of every complete voxel.
    projection : (r, v) float64
        Q'(y - pivot), with the Q that belongs to each voxel's triangular factor.
    rss : (v,) float64
        Residual sum of squares. NaN at incomplete voxels, unless `incomplete` lists them.
    pivot : (v,) float64
        What was subtracted from the data of each voxel: the first subject's value, or 0 where the design has no
        constant to put it back.
    constant : (r,) float64
        `Basis.constant`, which moves projections to another pivot.
    incomplete : (m,) int64
        Voxels with a subject missing, ascending, when available cases were asked for; else empty.
    own_R : (m, r, r) float64
        Triangular factors of the incomplete voxels.
    present : (m,) int64
        Subjects that have data at the incomplete voxels.
    """

    n: int
    R: Float
    projection: Float
    rss: Float
    pivot: Float
    constant: Float
    incomplete: Index
    own_R: Float
    present: Index


@jit
def _project(y: NDArray[Any], Q: Float, pivot: Float, projection: Float, rss: Float) -> None:
    # Two passes over a tile that stays in cache: projections, then squares of residuals. The innermost loops run over
    # slices along memory, which is what lets the compiler vectorise them.
    n, v = y.shape
    r = Q.shape[1]
    tile = 256
    buffer = np.empty((n, tile))
    for start in range(0, v, tile):
        stop = min(start + tile, v)
        shift, squares = pivot[start:stop], rss[start:stop]
        for i in range(n):
            d, values = buffer[i, : stop - start], y[i, start:stop]
            for j in range(d.size):
                d[j] = np.float64(values[j]) - shift[j]
            for a in range(r):
                sums, weight = projection[a, start:stop], Q[i, a]
                for j in range(d.size):
                    sums[j] += weight * d[j]
        for i in range(n):
            d = buffer[i, : stop - start]
            for a in range(r):
                sums, weight = projection[a, start:stop], Q[i, a]
                for j in range(d.size):
                    d[j] -= weight * sums[j]
            for j in range(d.size):
                squares[j] += d[j] * d[j]


@jit
def _rotate_in(R: Float, u: Float, row: Float, value: float) -> float:
    # Adds one observation to a triangular factor and its projections; what is left of the value is a residual.
    r = u.size
    for a in range(r):
        if row[a] == 0.0:
            continue
        length = np.hypot(R[a, a], row[a])
        c, s = R[a, a] / length, row[a] / length
        for b in range(a, r):
            above, below = R[a, b], row[b]
            R[a, b] = c * above + s * below
            row[b] = c * below - s * above
        above = u[a]
        u[a] = c * above + s * value
        value = c * value - s * above
    return value


@jit
def _reduce_incomplete(
    y: NDArray[Any],
    rows: Float,
    use_pivot: bool,
    voxels: Index,
    pivot: Float,
    projection: Float,
    rss: Float,
    R: Float,
    present: Index,
) -> None:
    n, r = rows.shape
    row = np.empty(r)
    u = np.empty(r)
    for m in range(voxels.size):
        v = voxels[m]
        u[:] = 0.0
        rss[v] = 0.0
        pivot[v] = 0.0
        for i in range(n):
            value = np.float64(y[i, v])
            if np.isnan(value):
                continue
            if present[m] == 0 and use_pivot:
                pivot[v] = value
            present[m] += 1
            row[:] = rows[i]
            residual = _rotate_in(R[m], u, row, value - pivot[v])
            rss[v] += residual * residual
        projection[:, v] = u


@jit
def _merge_incomplete(R: Float, u: Float, rss: Float, other_R: Float, other_u: Float) -> None:
    m, r = u.shape
    row = np.empty(r)
    for k in range(m):
        for a in range(r):
            row[:] = other_R[k, a]
            residual = _rotate_in(R[k], u[k], row, other_u[k, a])
            rss[k] += residual * residual


def reduce(y: NDArray[np.floating], rows: Float, constant: Float, *, available: bool) -> Reduced:
    """Reduce one chunk of subjects.

    Parameters
    ----------
    y : (n, v) float32 or float64
        NaN is missing.
    rows : (n, r) float64
        The rows of `Basis.rows` of these subjects.
    constant : (r,) float64
        `Basis.constant`.
    available
        Reduce incomplete voxels over the subjects that they have. Otherwise they are NaN.

    Returns
    -------
    Reduced
    """
    n, v = y.shape
    r = rows.shape[1]
    assert rows.shape == (n, r), (y.shape, rows.shape)
    assert constant.shape == (r,), constant.shape
    y = np.ascontiguousarray(y)
    Q, R = _square_qr(rows.tobytes(), rows.shape)
    has_constant = bool(constant.any())
    pivot = y[0].astype(np.float64) if has_constant else np.zeros(v)
    projection, rss = np.zeros((r, v)), np.zeros(v)
    _project(y, Q, pivot, projection, rss)
    incomplete = np.flatnonzero(np.isnan(rss)) if available else np.zeros(0, dtype=np.int64)
    own_R, present = np.zeros((incomplete.size, r, r)), np.zeros(incomplete.size, dtype=np.int64)
    if incomplete.size:
        rows = np.ascontiguousarray(rows)
        _reduce_incomplete(y, rows, has_constant, incomplete, pivot, projection, rss, own_R, present)
    return Reduced(n, R, projection, rss, pivot, constant, incomplete, own_R, present)


def combine(first: Reduced, second: Reduced) -> Reduced:
    """Two chunks of subjects together, about the first one's pivot."""
    r = len(first.R)
    incomplete = np.union1d(first.incomplete, second.incomplete)
    own_first, own_second = _at(first, incomplete), _at(second, incomplete)
    # A voxel without any data so far has no pivot of its own.
    pivot = first.pivot.copy()
    empty = incomplete[own_first.present == 0]
    pivot[empty] = second.pivot[empty]
    first, second = _shift(first, pivot), _shift(second, pivot)

    Q, R = np.linalg.qr(np.vstack([first.R, second.R]))
    stacked = np.vstack([first.projection, second.projection])
    with np.errstate(invalid="ignore"):  # of voxels that hold infinities; they become NaN
        projection = Q.T @ stacked
        residual = stacked - Q @ projection
    rss = first.rss + second.rss + np.einsum("rv,rv->v", residual, residual)

    own_R = own_first.R.copy()
    if incomplete.size:
        u = np.ascontiguousarray(first.projection[:, incomplete].T)
        own_rss = first.rss[incomplete] + second.rss[incomplete]
        other_u = np.ascontiguousarray(second.projection[:, incomplete].T)
        _merge_incomplete(own_R, u, own_rss, own_second.R, other_u)
        projection[:, incomplete], rss[incomplete] = u.T, own_rss
    assert R.shape == (r, r), R.shape
    present = own_first.present + own_second.present
    return Reduced(first.n + second.n, R, projection, rss, pivot, first.constant, incomplete, own_R, present)


class Fit(NamedTuple):
    """Least squares at v voxels; NaN where it cannot be computed.

    Attributes
    ----------
    beta : (p, v) float64
    residual_variance : (v,) float64
        Residual sum of squares over the degrees of freedom; exactly 0 where the residuals are rounding error alone.
    dof : (v,) float64
        Subjects that have data, less the rank.
    covariance : (p, p, v) float64 or None
        (X'X)^-1 of each voxel's own subjects; None where only complete voxels were asked for.
    """

    beta: Float
    residual_variance: Float
    dof: Float
    covariance: Float | None


def solve(reduced: Reduced, basis: Basis, *, available: bool, min_subjects: int = 1) -> Fit:
    """Least squares from all subjects, reduced.

    Parameters
    ----------
    reduced
        All n subjects.
    basis
        Of the design of all n subjects.
    available
        As in `reduce`. An incomplete voxel is NaN where the design loses rank, or no degree of freedom is left, over
        the subjects that it has.
    min_subjects
        An incomplete voxel is also NaN where it has data of fewer subjects.

    Returns
    -------
    Fit
    """
    v, r = reduced.rss.size, basis.rank
    w = np.linalg.solve(reduced.R, reduced.projection)
    dof = np.where(np.isnan(reduced.rss), np.nan, float(reduced.n - r))
    # Residuals this small against the data are rounding error alone: there is no variance.
    size = reduced.rss + np.einsum("rv,rv->v", reduced.projection, reduced.projection)
    rss = np.where(reduced.rss <= (32 * _EPS) ** 2 * size, 0.0, reduced.rss)
    covariance = None
    if available:
        covariance = np.repeat(basis.covariance[:, :, None], v, axis=2)
        at, R = reduced.incomplete, reduced.own_R
        singular = np.linalg.svd(R, compute_uv=False)
        own_dof = reduced.present - float(r)
        solvable = (singular[:, -1] > 1e-10 * singular[:, 0]) & (own_dof > 0) & (reduced.present >= min_subjects)
        inverse = np.full(R.shape, np.nan)
        inverse[solvable] = np.linalg.inv(R[solvable])
        w[:, at] = np.einsum("mab,bm->am", inverse, reduced.projection[:, at])
        to_beta = np.einsum("pa,mab->mpb", basis.to_beta, inverse)
        covariance[:, :, at] = np.einsum("mpb,mqb->pqm", to_beta, to_beta)
        dof[at] = np.where(solvable, own_dof, np.nan)
    beta = basis.to_beta @ w + basis.beta_of_constant[:, None] * reduced.pivot
    return Fit(beta, rss / dof, dof, covariance)


@lru_cache(maxsize=1024)
def _square_qr(rows: bytes, shape: tuple[int, int]) -> tuple[Float, Float]:
    """QR of (n, r) with a square R, also where n < r: Q (n, r), R (r, r), filled up with zeros.

    Every block of voxels has the same subjects, so it is kept.
    """
    Q, R = np.linalg.qr(np.frombuffer(rows).reshape(shape))
    lacking = shape[1] - Q.shape[1]
    return np.pad(Q, ((0, 0), (0, lacking))), np.pad(R, ((0, lacking), (0, 0)))


class _Own(NamedTuple):
    R: Float
    present: Index


def _at(reduced: Reduced, voxels: Index) -> _Own:
    """Triangular factors (m, r, r) and subjects present (m,) at some voxels, complete or not."""
    R = np.repeat(reduced.R[None], voxels.size, axis=0)
    present = np.full(voxels.size, reduced.n, dtype=np.int64)
    where = np.searchsorted(voxels, reduced.incomplete)
    R[where], present[where] = reduced.own_R, reduced.present
    return _Own(R, present)


def _shift(reduced: Reduced, pivot: Float) -> Reduced:
    """The same subjects about another pivot: residuals stay, projections move along the constant vector."""
    with np.errstate(invalid="ignore"):  # infinities
        delta = reduced.pivot - pivot
    projection = reduced.projection + (reduced.R @ reduced.constant)[:, None] * delta
    if reduced.incomplete.size:
        at = reduced.incomplete
        projection[:, at] = reduced.projection[:, at] + (reduced.own_R @ reduced.constant).T * delta[at]
    return reduced._replace(projection=projection, pivot=pivot)
