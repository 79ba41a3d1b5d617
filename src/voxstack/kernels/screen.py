"""Single precision screens, double precision decides: the counts and maxima of `permuted.tally` at twice the speed.

A product of two vectors of unit length that is summed in single precision, in whatever order, differs from the exact
one by no more than (n + 2) 2^-24 (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1, with the
rounding of both vectors). From that follows a bound of the error of r and R. Whatever lies closer to the observed value
than this bound, or to a row's maximum, is computed anew in double precision; all else cannot change.
"""

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit, jit_reordered
from voxstack.kernels.permuted import FEW_DIGITS, VOXELS, Float, Side, refined, tie

Single = NDArray[np.float32]

_VECTORS = 256  # of a tile of relabellings
_LEAST_REST = 0.05  # of a residual sum of squares of 1: below, a row is computed in double precision as a whole


@jit_reordered
def _scores(products: Single, q: int, joint: bool, two_sided: bool, scores: Single) -> float:
    # Scores of one relabelling (v,) from its products (m, v); returns the least residual sum of squares without X.
    m, v = products.shape
    least = np.float32(1.0)
    for j in range(v):
        rest = np.float32(1.0)
        for k in range(q, m):
            rest -= products[k, j] * products[k, j]
        least = min(least, rest)
        if joint:
            explained = np.float32(0.0)
            for k in range(q):
                explained += products[k, j] * products[k, j]
            scores[j] = explained / rest
        else:
            r = products[0, j] / np.sqrt(rest)
            scores[j] = abs(r) if two_sided else r
    return float(least)


@jit_reordered
def _count(scores: Single, least: Single, bound: np.float32, counts: NDArray[np.int32]) -> tuple[np.int32, np.float32]:
    # Counts the scores that surely reach what they have to; returns how many perhaps do, and the largest.
    doubtful, top = np.int32(0), np.float32(-2.0)
    for j in range(scores.size):
        surely = np.int32(scores[j] - bound >= least[j])
        doubtful += np.int32(scores[j] + bound >= least[j]) - surely
        counts[j] += surely
        top = max(top, scores[j])
    return doubtful, top


@jit_reordered
def _count_sizes(r: Single, least: Single, bound: np.float32, counts: NDArray[np.int32]) -> tuple[np.int32, np.float32]:
    # As _count, of |r|: in one pass where r is all that there is.
    doubtful, top = np.int32(0), np.float32(-2.0)
    for j in range(r.size):
        score = abs(r[j])
        surely = np.int32(score - bound >= least[j])
        doubtful += np.int32(score + bound >= least[j]) - surely
        counts[j] += surely
        top = max(top, score)
    return doubtful, top


@jit_reordered
def _product(a: Float, b: Float) -> float:
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@jit
def _exact(left: Float, voxel: Float, q: int, joint: bool, two_sided: bool) -> float:
    rest, explained, u = 1.0, 0.0, 0.0
    for k in range(len(left)):
        product = _product(left[k], voxel)
        if k >= q:
            rest -= product * product
        else:
            explained += product * product
            u = product
    if rest < FEW_DIGITS:
        r = refined(left, voxel, q, joint)
    else:
        r = float(explained / rest) if joint else float(u / np.sqrt(rest))
    return abs(r) if two_sided else r


@jit
def _bound(delta: float, m: int, q: int, joint: bool, rest: float) -> float:
    # Of the error of a score, where all products are within delta and the least residual sum of squares is `rest`.
    bound = delta
    if joint:
        bound = 3.0 * delta * (np.sqrt(q) + np.sqrt(m - q)) / rest
    elif m > q:
        bound = 1.5 * delta * (1.0 / np.sqrt(rest) + np.sqrt(m - q) / rest)
    return float(bound + 4e-7 * m / rest)


@jit
def _decide(
    products: Single,
    left: Float,
    voxels: Float,
    q: int,
    kind: tuple[bool, bool],
    delta: float,
    enough: Float,
    maxima: Float,
    counts: NDArray[np.int32],
) -> None:
    b, m, v = products.shape
    joint, two_sided = kind
    plain = m == 1 and not joint
    least = enough.astype(np.float32)
    scores = np.empty(v, dtype=np.float32)
    for i in range(b):
        rest = 1.0
        if not plain:
            rest = _scores(products[i], q, joint, two_sided, scores)
        elif not two_sided:
            scores = products[i, 0]
        if rest < _LEAST_REST:
            for j in range(v):
                score = _exact(left[i], voxels[j], q, joint, two_sided)
                counts[j] += np.int32(score >= enough[j])
                maxima[i] = max(maxima[i], score)
            continue
        bound = np.float32(_bound(delta, m, q, joint, rest))
        if plain and two_sided:
            doubtful, top = _count_sizes(products[i, 0], least, bound, counts)
        else:
            doubtful, top = _count(scores, least, bound, counts)
        near_top = np.float32(max(np.float64(top) - 2 * bound, maxima[i] - bound))
        if not doubtful and top < near_top:
            continue
        for j in range(v):
            score32 = abs(products[i, 0, j]) if plain and two_sided else scores[j]
            unsure = score32 + bound >= least[j] and not score32 - bound >= least[j]
            if unsure or score32 >= near_top:
                score = _exact(left[i], voxels[j], q, joint, two_sided)
                maxima[i] = max(maxima[i], score)
                if unsure:
                    counts[j] += np.int32(score >= enough[j])


def tally(
    left: Float, q: int, unit: Float, side: Side, observed: Float, maxima: Float, counts: NDArray[np.int64]
) -> None:
    """`permuted.tally`, with the same counts, and maxima that differ in their last bits."""
    b, m, n = left.shape
    if side == "less":  # the same as "greater" of what is turned round
        left = left.copy()
        left[:, 0] *= -1.0
    kind = side == "F", side == "two-sided"
    single = left.astype(np.float32)
    step = max(_VECTORS // m, 1)
    for first in range(0, unit.shape[1], VOXELS):
        tile = slice(first, first + VOXELS)
        voxels, narrow = np.ascontiguousarray(unit[:, tile].T), unit[:, tile].astype(np.float32)
        found = np.zeros(len(voxels), dtype=np.int32)
        room = np.empty((step * m, len(voxels)), dtype=np.float32)
        for start in range(0, b, step):
            some = slice(start, min(start + step, b))
            rows = some.stop - some.start
            products = np.matmul(single[some].reshape(rows * m, n), narrow, out=room[: rows * m])
            _decide(
                products.reshape(rows, m, -1),
                left[some],
                voxels,
                q,
                kind,
                (n + 4) * 2.0**-24,
                observed[tile] - tie(observed[tile], side),
                maxima[some],
                found,
            )
        counts[tile] += found
