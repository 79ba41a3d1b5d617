"""Suprathreshold voxels: the few of a map that reach a threshold, listed map by map."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit

Float = NDArray[np.float64]
Sides = Literal["greater", "less", "signed", "absolute"]

_BLOCK = 64  # voxels: few blocks hold any beyond the usual thresholds


class Suprathreshold(NamedTuple):
    """Voxels of b maps that reach a threshold.

    Attributes
    ----------
    number : (b,) int64
        Of them in each map.
    voxel : (k,) int32
        Their numbers, one map after the other, ascending in each.
    value : (k,) float64
        What each is.
    """

    number: NDArray[np.int64]
    voxel: NDArray[np.int32]
    value: Float

    @classmethod
    def none(cls, b: int) -> Self:
        """No voxel of b maps."""
        return cls(np.zeros(b, dtype=np.int64), np.zeros(0, dtype=np.int32), np.zeros(0))


@jit
def _find(maps: Float, upper: float, lower: float, number: NDArray[np.int64]) -> tuple[NDArray[np.int32], Float]:
    # Blocks are looked through without a branch, several times faster.
    b, v = maps.shape
    size = 0
    voxel, value = np.empty(1024, dtype=np.int32), np.empty(1024)
    for i in range(b):
        before = size
        for start in range(0, v, _BLOCK):
            block = maps[i, start : start + _BLOCK]
            found = 0
            for j in range(block.size):
                found += (block[j] >= upper) | (block[j] <= lower)
            if found == 0:
                continue
            if size + _BLOCK > voxel.size:
                voxel, value = np.append(voxel, np.empty_like(voxel)), np.append(value, np.empty_like(value))
            for j in range(block.size):
                if block[j] >= upper or block[j] <= lower:
                    voxel[size], value[size] = start + j, block[j]
                    size += 1
        number[i] = size - before
    return voxel[:size].copy(), value[:size].copy()


def find(maps: Float, *, threshold: float, sides: Sides, tie: float) -> Suprathreshold:
    """The voxels that reach a threshold, in ascending order.

    Parameters
    ----------
    maps : (b, v) float64
        NaN reaches nothing.
    threshold
        Positive.
    sides
        "greater": values at least the threshold; "less": at most its negative; "signed" and "absolute": both.
    tie
        Relative tolerance: values short of the threshold by no more than this count as equal to it.
    """
    number = np.zeros(len(maps), dtype=np.int64)
    return Suprathreshold(number, *_find(np.ascontiguousarray(maps), *_limits(threshold, sides, tie), number))


def narrowed(found: Suprathreshold, *, threshold: float, sides: Sides, tie: float) -> Suprathreshold:
    """Those of some voxels that reach a threshold, which is given as to `find`."""
    upper, lower = _limits(threshold, sides, tie)
    kept = (found.value >= upper) | (found.value <= lower)
    rows = np.repeat(np.arange(len(found.number)), found.number)[kept]
    return Suprathreshold(np.bincount(rows, minlength=len(found.number)), found.voxel[kept], found.value[kept])


def _limits(threshold: float, sides: Sides, tie: float) -> tuple[float, float]:
    """From where on upwards, and from where on downwards, values reach a threshold; NaN stands for never."""
    assert threshold > 0, threshold
    least = float(threshold * (1 - tie))
    return np.nan if sides == "less" else least, np.nan if sides == "greater" else -least


def stacked(parts: Sequence[Suprathreshold]) -> Suprathreshold:
    """Lists of several maps at the same voxels, one after another."""
    number, voxel, value = (np.concatenate(column) for column in zip(Suprathreshold.none(0), *parts, strict=True))
    return Suprathreshold(number, voxel, value)


@jit
def _place(
    number: NDArray[np.int64],
    voxel: NDArray[np.int32],
    value: Float,
    numbers: NDArray[np.int32],
    at: NDArray[np.int64],
    voxels: NDArray[np.int32],
    values: Float,
) -> None:
    # One part's voxels into the lists of all, behind those of the parts before.
    start = 0
    for i in range(number.size):
        for j in range(number[i]):
            voxels[at[i]], values[at[i]] = numbers[voxel[start + j]], value[start + j]
            at[i] += 1
        start += number[i]


@jit
def _sort(number: NDArray[np.int64], voxel: NDArray[np.int32], value: Float) -> None:
    start = 0
    for m in number:
        some = slice(start, start + m)
        order = np.argsort(voxel[some])
        voxel[some], value[some] = voxel[some][order], value[some][order]
        start += m


def joined(parts: Sequence[Suprathreshold], voxels: Sequence[NDArray[np.integer]]) -> Suprathreshold:
    """Lists of the same maps at several parts of the voxels as one; `voxels` are the numbers of each part's voxels."""
    number = np.sum([part.number for part in parts], axis=0)
    voxel, value = np.empty(number.sum(), dtype=np.int32), np.empty(number.sum())
    at = np.cumsum(number) - number
    for part, numbers in zip(parts, voxels, strict=True):
        _place(*part, numbers.astype(np.int32), at, voxel, value)
    _sort(number, voxel, value)
    return Suprathreshold(number, voxel, value)
