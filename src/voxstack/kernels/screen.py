"""Single precision screens, double precision decides: what `permuted` finds, at twice the speed.

A product of two vectors of unit length that is summed in single precision, in whatever order, differs from the exact
one by no more than (n + 2) 2^-24 (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1, with the
rounding of both vectors); sums of more than 512 terms are sums of shorter ones, which add one rounding each. From that
follows a bound of the error of r and R. Whatever lies closer to the observed value than this bound, or to a row's
maximum, is computed anew in double precision; all else cannot change.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit, jit_reordered
from voxstack.kernels.permuted import FEW_DIGITS, Float, Side, product, refined, tie
from voxstack.kernels.suprathreshold import Suprathreshold

Single = NDArray[np.float32]

_CELLS = 2**19  # products of a tile (2 MB), which stay in cache
_ROWS = 1024  # vectors of a tile that are enough
_TERMS = 512  # of a sum in single precision
_BLOCK = 128  # voxels: few blocks hold any that has to be looked at again
_LEAST_REST = 0.05  # of a residual sum of squares of 1: below, a row is computed in double precision as a whole
_LOWEST = np.int32(-(2**31))


class _Kind(NamedTuple):
    """q vectors are tested, jointly or not, and on both sides or not."""

    q: int
    joint: bool
    two_sided: bool


@jit_reordered
def _ordered(x: np.float32) -> np.int32:
    # Whole numbers in the order of floating-point numbers: loops that look for the largest one are vectorised.
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@jit
def _unordered(number: np.int32) -> np.float32:
    bits = np.int32(number ^ ((number >> np.int32(31)) & np.int32(0x7FFFFFFF)))
    return np.float32(bits.view(np.float32))


@jit_reordered
def _scores(products: Single, kind: _Kind, used: Single, scores: Single) -> np.int32:
    # Scores (v,) of one relabelling from its products (m, v), and what the vectors that are not tested take of the sum
    # of squares of 1; returns the most that they take.
    q, joint, two_sided = kind
    m, v = products.shape
    used[:] = np.float32(0.0)
    for k in range(q, m):
        row = products[k]
        for j in range(v):
            used[j] += row[j] * row[j]
    if joint:
        scores[:] = np.float32(0.0)
        for k in range(q):
            row = products[k]
            for j in range(v):
                scores[j] += row[j] * row[j]
    else:
        scores[:] = products[0]
    most = _LOWEST
    for j in range(v):
        rest = np.float32(1.0) - used[j]
        score = scores[j] / (rest if joint else np.sqrt(rest))
        scores[j] = abs(score) if two_sided else score
        most = max(most, _ordered(used[j]))
    return most


@jit_reordered
def _count(
    scores: Single, sizes: bool, least: Single, bound: np.float32, counts: NDArray[np.int32]
) -> tuple[np.int32, np.int32]:
    # Counts the scores, or their sizes, that surely reach what they have to; returns how many perhaps do, and the
    # largest.
    doubtful, top = np.int32(0), _LOWEST
    for j in range(scores.size):
        score = abs(scores[j]) if sizes else scores[j]
        surely = np.int32(score - bound >= least[j])
        counts[j] = np.int32(counts[j] + surely)
        doubtful = np.int32(doubtful + np.int32(np.int32(score + bound >= least[j]) - surely))
        top = max(top, _ordered(score))
    return doubtful, top


@jit
def _exact(left: Float, voxel: Float, q: int, joint: bool) -> float:
    # r or R.
    rest, explained, u = 1.0, 0.0, 0.0
    for k in range(len(left)):
        found = product(left[k], voxel)
        if k >= q:
            rest -= found * found
        else:
            explained += found * found
            u = found
    if rest < FEW_DIGITS:
        return refined(left, voxel, q, joint)
    return float(explained / rest) if joint else float(u / np.sqrt(rest))


@jit
def _bound(delta: float, m: int, kind: _Kind, rest: float) -> np.float32:
    # Of the error of a score, where all products are within delta and the least residual sum of squares is `rest`.
    bound, others = delta, np.sqrt(m - kind.q)
    if kind.joint:
        bound = 3.0 * delta * (np.sqrt(kind.q) + others) / rest
    elif m > kind.q:
        bound = 1.5 * delta * (1.0 / np.sqrt(rest) + others / rest)
    return np.float32(bound + 4e-7 * m / rest)


@jit
def _screened(products: Single, kind: _Kind, delta: float, used: Single, scores: Single) -> tuple[bool, np.float32]:
    # Scores of one relabelling, and the bound of their error; or that they have to be computed in double precision.
    m, rest = len(products), 1.0
    if m > 1 or kind.joint:
        rest = 1.0 - float(_unordered(_scores(products, kind, used, scores)))
    else:
        scores[:] = products[0]
    return rest >= _LEAST_REST, _bound(delta, m, kind, max(rest, _LEAST_REST))


@jit
def _decide(
    products: Single,
    left: Float,
    voxels: Float,
    kind: _Kind,
    delta: float,
    enough: Float,
    maxima: Float,
    counts: NDArray[np.int32],
) -> None:
    v = len(voxels)
    least, scores, used = enough.astype(np.float32), np.empty(v, dtype=np.float32), np.empty(v, dtype=np.float32)
    doubtful, tops = np.empty((2, -(-v // _BLOCK)), dtype=np.int32)
    for i in range(len(left)):
        screened, bound = _screened(products[i], kind, delta, used, scores)
        if not screened:
            for j in range(v):
                score = _exact(left[i], voxels[j], kind.q, kind.joint)
                score = abs(score) if kind.two_sided else score
                counts[j] += np.int32(score >= enough[j])
                maxima[i] = max(maxima[i], score)
            continue
        largest = _LOWEST
        for k in range(tops.size):
            some = slice(k * _BLOCK, (k + 1) * _BLOCK)
            doubtful[k], tops[k] = _count(scores[some], kind.two_sided, least[some], bound, counts[some])
            largest = max(largest, tops[k])
        near_top = np.float32(max(np.float64(_unordered(largest)) - 2 * bound, maxima[i] - bound))
        near = _ordered(near_top)
        for k in range(tops.size):
            if doubtful[k] == 0 and tops[k] < near:
                continue
            for j in range(k * _BLOCK, min((k + 1) * _BLOCK, v)):
                score32 = abs(scores[j]) if kind.two_sided else scores[j]
                unsure = score32 + bound >= least[j] and not score32 - bound >= least[j]
                if unsure or score32 >= near_top:
                    score = _exact(left[i], voxels[j], kind.q, kind.joint)
                    score = abs(score) if kind.two_sided else score
                    maxima[i] = max(maxima[i], score)
                    if unsure:
                        counts[j] += np.int32(score >= enough[j])


@jit_reordered
def _reaching(scores: Single, sizes: bool, least: np.float32) -> np.int32:
    found = np.int32(0)
    for j in range(scores.size):
        found = np.int32(found + np.int32((abs(scores[j]) if sizes else scores[j]) >= least))
    return found


@jit
def _find(
    products: Single, left: Float, voxels: Float, kind: _Kind, delta: float, least: float
) -> tuple[NDArray[np.int64], NDArray[np.int32], Float]:
    v, found = len(voxels), 0
    scores, used = np.empty(v, dtype=np.float32), np.empty(v, dtype=np.float32)
    number = np.zeros(len(left), dtype=np.int64)
    voxel, ratio = np.empty(1024, dtype=np.int32), np.empty(1024)
    for i in range(len(left)):
        screened, bound = _screened(products[i], kind, delta, used, scores)
        low = np.float32(least - bound) if screened else np.float32(-np.inf)
        if screened and not _reaching(scores, kind.two_sided, low):
            continue
        while found + v > voxel.size:
            voxel, ratio = np.append(voxel, np.empty_like(voxel)), np.append(ratio, np.empty_like(ratio))
        before = found
        for first in range(0, v, _BLOCK):
            if screened and not _reaching(scores[first : first + _BLOCK], kind.two_sided, low):
                continue
            for j in range(first, min(first + _BLOCK, v)):
                if screened and not (abs(scores[j]) if kind.two_sided else scores[j]) >= low:
                    continue
                r = _exact(left[i], voxels[j], kind.q, kind.joint)
                voxel[found], ratio[found] = j, r
                found += int((abs(r) if kind.two_sided else r) >= least)
        number[i] = found - before
    return number, voxel[:found].copy(), ratio[:found].copy()


class _Tile:
    """Some relabellings (b, m, n) at some voxels (n, v) in single precision, a part of the relabellings at a time."""

    def __init__(self, left: Float, unit: Float) -> None:
        self.voxels = np.ascontiguousarray(unit.T)
        self._left, self._unit = left.astype(np.float32), unit.astype(np.float32)
        n = len(unit)
        sums = -(-n // _TERMS)
        self._terms = -(-n // sums)
        self.delta = (self._terms + sums + 4) * 2.0**-24

    def parts(self) -> Iterator[tuple[slice, Single]]:
        """Relabellings, and their products (b, m, v), whose memory is used again for the next ones."""
        (b, m, n), v = self._left.shape, self._unit.shape[1]
        # Of long vectors many at a time, or else putting the data into the order of products takes as long as these.
        step = max(_CELLS // (m * v), min(n, _ROWS) // m, 1)
        room, part = np.empty((2, step * m, v), dtype=np.float32)
        for start in range(0, b, step):
            some = slice(start, min(start + step, b))
            rows = self._left[some].reshape(-1, n)
            products = room[: len(rows)]
            for first in range(0, n, self._terms):
                terms = slice(first, first + self._terms)
                into = part[: len(rows)] if first else products
                np.matmul(rows[:, terms], self._unit[terms], out=into)
                if first:
                    products += into
            yield some, products.reshape(-1, m, v)


def _greater(left: Float, side: Side) -> Float:
    """Vectors for which "less" is "greater"."""
    if side == "less":
        left = left.copy()
        left[:, 0] *= -1.0
    return left


def tally(
    left: Float, q: int, unit: Float, side: Side, observed: Float, maxima: Float, counts: NDArray[np.int64]
) -> None:
    """`permuted.tally`, with the same counts, and maxima that differ in their last bits."""
    left, kind = _greater(left, side), _Kind(q, side == "F", side == "two-sided")
    tile, enough = _Tile(left, unit), observed - tie(observed, side)
    found = np.zeros(len(observed), dtype=np.int32)
    for some, products in tile.parts():
        _decide(products, left[some], tile.voxels, kind, tile.delta, enough, maxima[some], found)
    counts += found


def beyond(left: Float, q: int, unit: Float, side: Side, least: float) -> Suprathreshold:
    """`permuted.beyond`, with ratios that differ in their last bits."""
    left, kind = _greater(left, side), _Kind(q, side == "F", side == "two-sided")
    tile = _Tile(left, unit)
    parts = [_find(products, left[some], tile.voxels, kind, tile.delta, least) for some, products in tile.parts()]
    number, voxel, ratio = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Suprathreshold(number, voxel, -ratio if side == "less" else ratio)
