"""Threshold-free cluster enhancement (Smith and Nichols 2009, NeuroImage 44:83), exact.

A voxel of value z becomes the integral over heights h from 0 to z of extent(h)^E h^H dh, where extent(h) is the size of
the cluster of voxels >= h that holds it. Extents change only at the values of voxels, so the integral is a finite sum.
Voxels are taken in falling order, each joined by union-find to the clusters that it touches: this gives the tree of all
clusters at all heights (Najman and Couprie 2006, IEEE Transactions on Image Processing 15:3531). A cluster's node in
the tree is the last voxel that joined, and a voxel's integral is that of the node above which it lies, plus

    extent^E (G(z) - G(z of that node)),        G(z) = z^(H+1) / (H+1),

of its own. The sum over steps dh, 2 dh, ... that other programs take in place of the integral is the same with
G(z) = dh (dh^H + (2 dh)^H + ...), up to the last step that z reaches. Voxels of equal value add nothing to one another,
so their order does not matter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit
from voxstack.kernels.suprathreshold import Sides

Float = NDArray[np.float64]
Index = NDArray[np.int32]
Rank = NDArray[np.uint32]

# Of each side, the signs of the values that are enhanced, one after the other; 0 is both signs together.
_SIGNS: dict[Sides, tuple[int, ...]] = {"greater": (1,), "less": (-1,), "signed": (1, -1), "absolute": (0,)}

_DIGIT = 12  # bits: the values of a map differ in 57 bits or so, which makes five passes


class _Scratch(NamedTuple):
    """Memory for one map of v voxels with k neighbours before each.

    Ranks count the voxels that are enhanced in rising order of their heights, from 1; rank 0 is the ground.
    """

    height: Float  # (2, v)
    voxel: Index  # (3, v)
    rank: Rank  # (v + 1,)
    higher: Rank  # (v + 1, 1 + 2k)
    parent: Rank  # (v + 1,), as all that follow
    node: Rank
    below: Rank
    extent: Rank
    integral: Float
    enhanced: Float


def _scratch(v: int, k: int) -> _Scratch:
    rank, parent, node, below, extent = (np.empty(v + 1, dtype=np.uint32) for _ in range(5))
    return _Scratch(
        height=np.empty((2, v)),
        voxel=np.empty((3, v), dtype=np.int32),
        rank=rank,
        higher=np.empty((v + 1, 1 + 2 * k), dtype=np.uint32),
        parent=parent,
        node=node,
        below=below,
        extent=extent,
        integral=np.empty(v + 1),
        enhanced=np.empty(v + 1),
    )


@jit
def _positive(values: Float, sign: int, height: Float, voxel: Index) -> int:
    # Lists the n voxels of this sign, and their heights. No branch: signs are a coin's tosses to a processor.
    n = 0
    for i in range(values.size):
        h = abs(values[i]) if sign == 0 else sign * values[i]
        height[n], voxel[n] = h, i
        n += h > 0
    return n


@jit
def _sort(height: Float, voxel: Index, n: int) -> int:
    # Radix sort of the first n heights and their voxels, rising, from row 0; returns the row where they end. The bits
    # of positive numbers, taken for integers, are in the order of the numbers.
    bits = height.view(np.uint64)
    last = np.uint64((1 << _DIGIT) - 1)
    differ = np.uint64(0)
    for i in range(n):
        differ |= bits[0, i] ^ bits[0, 0]
    passes = 0
    while differ > 0:
        differ >>= np.uint64(_DIGIT)
        passes += 1
    for p in range(passes):
        shift = np.uint64(p * _DIGIT)
        bits_in, voxel_in, bits_out, voxel_out = bits[p % 2], voxel[p % 2], bits[1 - p % 2], voxel[1 - p % 2]
        start = np.zeros(1 << _DIGIT, np.uint32)
        for i in range(n):
            start[(bits_in[i] >> shift) & last] += np.uint32(1)
        total = np.uint32(0)
        for digit in range(start.size):
            start[digit], total = total, total + start[digit]
        for i in range(n):
            digit = (bits_in[i] >> shift) & last
            to = start[digit]
            bits_out[to], voxel_out[to] = bits_in[i], voxel_in[i]
            start[digit] = to + np.uint32(1)
    return passes % 2


@jit
def _find_higher(voxel: Index, unsorted: Index, neighbours: Index, rank: Rank, higher: Rank) -> None:
    # Row r: how many neighbours of the voxel of rank r have a higher rank, and these. Voxels are gone through in the
    # order of memory, where neighbours are near. Row 0, whose count stays 0, takes what is no pair: no branch.
    n, k = voxel.size, neighbours.shape[1]
    rank[:] = 0  # also the last, which is what a neighbour -1 reads
    for i in range(n):
        rank[voxel[i]] = i + 1
    higher[: n + 1, 0] = 0
    for i in range(n):
        a = rank[unsorted[i]]
        for j in range(k):
            b = rank[neighbours[unsorted[i], j]]
            row = min(a, b)
            count = higher[row, 0] + np.uint32(b > 0)
            higher[row, count] = max(a, b)
            higher[row, 0] = count


@jit
def _root(parent: Rank, member: Any) -> Any:
    above = parent[member]
    while parent[above] != above:
        parent[member] = parent[above]
        member = parent[above]
        above = parent[member]
    return above


@jit
def _grow(n: int, higher: Rank, parent: Rank, node: Rank, below: Rank, extent: Rank) -> None:
    # From the highest voxel down. `extent[r]` is that of the cluster when rank r joined, `below[r]` the next rank that
    # joined it, or 0. In union-find trees `parent` leads to the root, and `node[root]` is the rank that joined last.
    for r in range(n, 0, -1):
        count = higher[r, 0]
        below[r] = 0
        if count == 0:
            parent[r], node[r], extent[r] = r, r, 1
            continue
        root = _root(parent, higher[r, 1])
        parent[r] = root
        below[node[root]] = r
        size = extent[node[root]]
        total = size + np.uint32(1)
        for j in range(2, 1 + count):
            other = _root(parent, higher[r, j])
            if other == root:
                continue
            below[node[other]] = r
            other_size = extent[node[other]]
            total += other_size
            if other_size > size:
                root, other, size = other, root, other_size
            parent[other] = root
        node[root] = r
        extent[r] = total


@jit
def _integrate(height: Float, H: float, dh: float, tie: float, integral: Float) -> None:
    # G of rising heights, from 0 at rank 0.
    integral[0] = 0.0
    if dh == 0:
        for i in range(height.size):
            h = height[i]
            integral[i + 1] = h * h * h / 3.0 if H == 2 else h ** (H + 1.0) / (H + 1.0)
        return
    step, total = 0, 0.0
    for i in range(height.size):
        reached = height[i] * (1.0 + tie)
        while (step + 1) * dh <= reached:
            step += 1
            total += dh * (step * dh) ** H
        integral[i + 1] = total


@jit
def _sum(n: int, integral: Float, below: Rank, extent: Rank, E: float, enhanced: Float) -> None:
    enhanced[0] = 0.0
    for r in range(1, n + 1):
        b = below[r]
        enhanced[r] = enhanced[b]
        if integral[r] > integral[b]:  # not where both are infinite
            weight = np.sqrt(np.float64(extent[r])) if E == 0.5 else np.float64(extent[r]) ** E
            enhanced[r] += weight * (integral[r] - integral[b])


@jit
def _enhance(
    values: Float,
    neighbours: Index,
    sign: int,
    exponents: tuple[float, float],
    step: tuple[float, float, float],
    scratch: _Scratch,
    out: Float,
) -> float:
    # Writes the voxels of this sign, and returns the largest enhanced value.
    E, H = exponents
    dh, steps, tie = step
    n = _positive(values, sign, scratch.height[0], scratch.voxel[0])
    unsorted = scratch.voxel[2, :n]
    unsorted[:] = scratch.voxel[0, :n]
    row = _sort(scratch.height, scratch.voxel, n)
    height, voxel = scratch.height[row, :n], scratch.voxel[row, :n]
    _find_higher(voxel, unsorted, neighbours, scratch.rank, scratch.higher)
    _grow(n, scratch.higher, scratch.parent, scratch.node, scratch.below, scratch.extent)
    if steps > 0 and n > 0:
        dh = height[n - 1] / steps
    _integrate(height, H, dh, tie, scratch.integral)
    _sum(n, scratch.integral, scratch.below, scratch.extent, E, scratch.enhanced)
    for i in range(n):
        out[voxel[i]] = np.copysign(scratch.enhanced[i + 1], values[voxel[i]])
    return float(scratch.enhanced[: n + 1].max())


def enhance(
    maps: Float,
    neighbours: Index,
    *,
    sides: Sides,
    E: float,
    H: float,
    tie: float,
    dh: float | None = None,
    steps: int | None = None,
) -> Float:
    """Threshold-free cluster enhancement of maps.

    Parameters
    ----------
    maps : (v,) or (b, v) float64
        NaN is in no cluster. Several maps in one call share their working memory.
    neighbours : (v, k) int32
        Of `voxstack.kernels.neighbours`.
    sides
        "greater": positive values; "less": negative ones, by their size; "signed": both, each alone; "absolute": both
        together, by their size, in clusters that may hold either sign.
    E, H
        Exponents of extent and height, not negative.
    tie
        Relative tolerance, above rounding error: values short of a step by no more than this reach it, so that a map's
        maximum reaches the last of its `steps`. The integral has none.
    dh
        Sum over heights dh, 2 dh, ... in place of the integral. Values must not be infinite then.
    steps
        The same with dh = maximum / steps, the maximum being that of each map, and of each sign of "signed". PALM and
        FSL take 100.

    Returns
    -------
    array of the shape of `maps`, float64
        With the signs of the values; 0 where a value is not enhanced.
    """
    one = _enhancer(maps, neighbours, sides, (float(E), float(H)), (dh, steps, tie))
    out = np.zeros(maps.shape)
    for values, row in zip(_rows(maps), _rows(out), strict=True):
        one(values, row)
    return out


def largest(
    maps: Float,
    neighbours: Index,
    *,
    sides: Sides,
    E: float,
    H: float,
    tie: float,
    dh: float | None = None,
    steps: int | None = None,
) -> Float:
    """Largest absolute value of each enhanced map: (b,) from (b, v), parameters as of `enhance`."""
    one = _enhancer(maps, neighbours, sides, (float(E), float(H)), (dh, steps, tie))
    unused = np.empty(maps.shape[-1])
    return np.array([one(values, unused) for values in _rows(maps)])


def _rows(maps: Float) -> Float:
    """(b, v) from (v,) or (b, v), without a copy of contiguous memory."""
    return np.ascontiguousarray(np.atleast_2d(maps))


def _enhancer(
    maps: Float,
    neighbours: Index,
    sides: Sides,
    exponents: tuple[float, float],
    step: tuple[float | None, int | None, float],
) -> Callable[[Float, Float], float]:
    """What enhances one map into a row, and returns the largest value."""
    dh, steps, tie = step
    assert maps.ndim in (1, 2), maps.shape
    assert maps.shape[-1] == len(neighbours), (maps.shape, neighbours.shape)
    assert min(exponents) >= 0, exponents
    assert dh is None or steps is None, (dh, steps)
    if dh is not None or steps is not None:
        assert (dh or steps or 0) > 0, (dh, steps)
        assert not np.isinf(maps).any()
    numbers = (float(dh or 0), float(steps or 0), float(tie))
    memory = _scratch(*neighbours.shape)
    return lambda values, row: max(
        _enhance(values, neighbours, sign, exponents, numbers, memory, row) for sign in _SIGNS[sides]
    )
