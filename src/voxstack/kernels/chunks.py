"""Images cut into chunks of voxels, what a chunk holds, and voxels taken out of it, each in one pass over memory."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit


@jit
def _cut(volume: NDArray[Any], chunks: NDArray[Any], row: int) -> None:
    # Images run fastest along x, chunks along z: of each tile (x, z) the lines of both stay in cache.
    nx, ny, nz = volume.shape
    a_n, b_n, c_n, _, sx, sy, sz = chunks.shape
    for a in range(a_n):
        for c in range(c_n):
            for b in range(b_n):
                target = chunks[a, b, c, row]
                for y in range(min(sy, ny - b * sy)):
                    for x in range(min(sx, nx - a * sx)):
                        for z in range(min(sz, nz - c * sz)):
                            target[x, y, z] = volume[a * sx + x, b * sy + y, c * sz + z]


def cut(volume: NDArray[np.floating], chunks: NDArray[np.floating], row: int) -> None:
    """Cut one subject's image into chunks of voxels.

    Parameters
    ----------
    volume : (x, y, z) float32 or float64
        With any strides.
    chunks : (a, b, c, n, i, j, k) float32 or float64
        Chunk (a, b, c) holds the voxels from (a i, b j, c k) on, of n subjects. One subject's row is written, but for
        what lies beyond the image: that is of `pad`.
    row
        Of the subject.
    """
    _check_cover(chunks, volume.shape)
    _cut(volume, chunks, row)


def pad(chunks: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    """Set what lies beyond images of a shape (x, y, z) to NaN, for all subjects."""
    _check_cover(chunks, shape)
    for axis, n in enumerate(shape):
        size = chunks.shape[4 + axis]
        inside = n - (chunks.shape[axis] - 1) * size
        last = np.moveaxis(np.moveaxis(chunks, axis, 0)[-1], 3 + axis, 0)
        last[inside:] = np.nan


def _check_cover(chunks: NDArray[np.floating], shape: tuple[int, ...]) -> None:
    counts = tuple(-(-n // size) for n, size in zip(shape, chunks.shape[4:], strict=True))
    assert chunks.shape[:3] == counts, (chunks.shape, shape)


class Counts(NamedTuple):
    """What a chunk of subjects and voxels holds.

    Attributes
    ----------
    zero, nonzero : (i, j, k) uint8
        Subjects whose value is 0, and those whose value is neither 0 nor missing.
    present, infinite : (n,) int64
        Voxels where a subject's value is not missing, and where it is infinite.
    """

    zero: NDArray[np.uint8]
    nonzero: NDArray[np.uint8]
    present: NDArray[np.int64]
    infinite: NDArray[np.int64]


@jit
def _count(
    chunk: NDArray[Any],
    zero: NDArray[np.uint8],
    nonzero: NDArray[np.uint8],
    present: NDArray[np.int64],
    infinite: NDArray[np.int64],
) -> None:
    n, v = chunk.shape
    for i in range(n):
        row = chunk[i]
        known, finite = np.int32(0), np.int32(0)
        for j in range(v):
            is_known, is_zero = np.uint8(row[j] == row[j]), np.uint8(row[j] == 0)
            zero[j] += is_zero
            nonzero[j] += is_known - is_zero
        for j in range(v):
            known += np.int32(row[j] == row[j])
            finite += np.int32(row[j] - row[j] == 0)
        present[i] = known
        infinite[i] = known - finite


def count(chunk: NDArray[np.floating]) -> Counts:
    """Count what a chunk holds.

    Parameters
    ----------
    chunk : (n, i, j, k) float32 or float64
        Of at most 255 subjects; NaN is missing.
    """
    n = len(chunk)
    assert n <= np.iinfo(np.uint8).max, chunk.shape
    matrix = chunk.reshape(n, -1)
    zero, nonzero = np.zeros((2, matrix.shape[1]), dtype=np.uint8)
    present, infinite = np.zeros((2, n), dtype=np.int64)
    _count(matrix, zero, nonzero, present, infinite)
    return Counts(zero.reshape(chunk.shape[1:]), nonzero.reshape(chunk.shape[1:]), present, infinite)


def gather(chunk: NDArray[np.floating], inside: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Values of some voxels of a chunk.

    Parameters
    ----------
    chunk : (n, x, y, z) float32 or float64
        With any strides: part of a larger array is not copied first.
    inside : (x, y, z) bool
        The v voxels.

    Returns
    -------
    (n, v) array
    """
    assert chunk.shape[1:] == inside.shape, (chunk.shape, inside.shape)
    steps = [stride // chunk.itemsize for stride in chunk.strides[1:]]
    if not inside.any() or min(steps) < 0 or any(stride % chunk.itemsize for stride in chunk.strides[1:]):
        return chunk[:, inside]
    at = sum(index * step for index, step in zip(np.nonzero(inside), steps, strict=True))
    # One row a subject, as far as its last voxel lies from its first one in memory.
    span = 1 + sum((n - 1) * step for n, step in zip(inside.shape, steps, strict=True))
    rows = np.lib.stride_tricks.as_strided(
        chunk, (len(chunk), span), (chunk.strides[0], chunk.itemsize), writeable=False
    )
    return np.take(rows, at, axis=1)
