"""Images cut into chunks of voxels, what a chunk holds, and voxels taken out of it, each in one pass over memory."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit


@jit
def _cut(volume: NDArray[Any], chunks: NDArray[Any], row: int) -> None:
    # The image is gone through once, in the order of its memory; each chunk, too, is written in that of its own.
    nz, ny, nx = volume.shape
    a_n, b_n, c_n, _, sz, sy, sx = chunks.shape
    for z in range(nz):
        for y in range(ny):
            for a in range(a_n):
                n = min(sx, nx - a * sx)
                line = chunks[a, y // sy, z // sz, row, z % sz, y % sy]
                source = volume[z, y, a * sx : a * sx + n]
                for x in range(n):
                    line[x] = source[x]
                for x in range(n, sx):
                    line[x] = np.nan
    for z in range(c_n * sz):
        for y in range(ny if z < nz else 0, b_n * sy):
            for a in range(a_n):
                chunks[a, y // sy, z // sz, row, z % sz, y % sy] = np.nan


def cut(volume: NDArray[np.floating], chunks: NDArray[np.floating], row: int) -> None:
    """Cut one subject's image into chunks of voxels.

    Parameters
    ----------
    volume : (x, y, z) float32 or float64
        With any strides; fast where it lies in memory as in a NIfTI file, x fastest.
    chunks : (a, b, c, n, k, j, i) float32 or float64
        Chunk (a, b, c) holds the voxels from (a i, b j, c k) on, of n subjects, its axes in the order z, y, x. One
        subject's row is written; what lies beyond the image becomes NaN.
    row
        Of the subject.
    """
    counts = tuple(-(-n // size) for n, size in zip(volume.shape, chunks.shape[:3:-1], strict=True))
    assert chunks.shape[:3] == counts, (chunks.shape, volume.shape)
    _cut(volume.T, chunks, row)


def turned(block: NDArray[Any]) -> NDArray[Any]:
    """Turn (..., x, y, z) into (..., z, y, x), or back, without a copy.

    Wherever voxels are counted, x runs fastest, as in the chunks of a store.
    """
    return block.transpose(*range(block.ndim - 3), -1, -2, -3)


class Counts(NamedTuple):
    """What a chunk of subjects and voxels holds.

    Attributes
    ----------
    zero, nonzero : (k, j, i) uint8
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
            known += np.int32(row[j] == row[j])
            finite += np.int32(row[j] - row[j] == 0)
        present[i] = known
        infinite[i] = known - finite


def count(chunk: NDArray[np.floating]) -> Counts:
    """Count what a chunk holds.

    Parameters
    ----------
    chunk : (n, k, j, i) float32 or float64
        Of at most 255 subjects; NaN is missing.
    """
    n = len(chunk)
    assert n <= np.iinfo(np.uint8).max, chunk.shape
    matrix = chunk.reshape(n, -1)
    zero, nonzero = np.zeros((2, matrix.shape[1]), dtype=np.uint8)
    present, infinite = np.zeros((2, n), dtype=np.int64)
    _count(matrix, zero, nonzero, present, infinite)
    return Counts(zero.reshape(chunk.shape[1:]), nonzero.reshape(chunk.shape[1:]), present, infinite)


@jit
def _gather(rows: NDArray[Any], at: NDArray[np.int64], values: NDArray[Any]) -> None:
    n, v = values.shape
    for i in range(n):
        row, line = rows[i], values[i]
        for j in range(v):
            line[j] = row[at[j]]


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
    if chunk[0].flags.c_contiguous:
        at = np.flatnonzero(inside)
    else:
        at = np.sum([index * step for index, step in zip(np.nonzero(inside), steps, strict=True)], axis=0)
    # One row a subject, as far as its last voxel lies from its first one in memory.
    span = 1 + sum((n - 1) * step for n, step in zip(inside.shape, steps, strict=True))
    rows = np.lib.stride_tricks.as_strided(
        chunk, (len(chunk), span), (chunk.strides[0], chunk.itemsize), writeable=False
    )
    values = np.empty((len(chunk), len(at)), dtype=chunk.dtype)
    _gather(rows, at, values)
    return values


@jit
def _scatter(values: NDArray[Any], at: NDArray[np.int64], block: NDArray[np.float64]) -> None:
    n, v = values.shape
    for i in range(n):
        line, row = values[i], block[i]
        for j in range(v):
            row[at[j]] = line[j]


def scatter(values: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values of some voxels as a block, NaN elsewhere: the way back from `gather`.

    Parameters
    ----------
    values : (..., v)
    inside : (x, y, z) bool
        The v voxels.

    Returns
    -------
    (..., x, y, z) float64 array
    """
    assert values.shape[-1] == np.count_nonzero(inside), (values.shape, inside.shape)
    block = np.full((*values.shape[:-1], *inside.shape), np.nan)
    at = np.flatnonzero(inside)
    if len(at):
        _scatter(values.reshape(-1, len(at)), at, block.reshape(-1, inside.size))
    return block
