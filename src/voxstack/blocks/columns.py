"""All subjects of some voxels at once, which a permutation test goes through again and again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.delayed import Delayed
from dask.tokenize import TokenizationError
from dask.utils import ensure_dict
from numpy.typing import NDArray

from voxstack.blocks.chunks import Recipe, chunk_of, made, matrix, needed_by, slices
from voxstack.blocks.packed import Packed
from voxstack.kernels.chunks import turned
from voxstack.run.allocation import reused_memory


@dataclass(frozen=True)
class Stored:
    """Columns that a task makes for itself, chunk by chunk: never more than one chunk is in memory beside them.

    Attributes
    ----------
    chunks
        Of subjects, in order.
    inside : (x, y, z) bool
        Voxels of the block that are wanted.
    kept
        For each chunk, which of its subjects are wanted (n,).
    """

    chunks: Packed[list[Recipe]]
    inside: Packed[NDArray[np.bool_]]
    kept: Packed[list[NDArray[np.bool_]]]


class Columns(NamedTuple):
    """Some voxels of one block that are inside a mask.

    Attributes
    ----------
    numbers : (v,) int64
        Of the voxels among all those inside, x fastest.
    values : Stored or Delayed
        What `column_values` makes an (n, v) array of in a task, float32 or float64: a recipe where the data are in a
        store, else the array itself.
    """

    numbers: NDArray[np.int64]
    values: Stored | Delayed


def columns(
    array: da.Array, mask: NDArray[np.bool_], kept: NDArray[np.bool_], *, most: int | None = None
) -> list[Columns]:
    """Subjects of a map, all together, some voxels of a block at a time, within a mask.

    Parameters
    ----------
    array
        (n, x, y, z), as of `as_blocks`.
    mask : (x, y, z) bool
        Blocks without any voxel inside are left out.
    kept : (n,) bool
        Subjects that are wanted.
    most
        Voxels of one `Columns`; by default all of a block.
    """
    numbers = np.full(mask.size, -1)
    numbers[turned(mask).ravel()] = np.arange(np.count_nonzero(mask))
    numbered = turned(numbers.reshape(mask.shape[::-1]))
    graph, token = ensure_dict(array.__dask_graph__()), tokenize(array.name, mask, kept)
    rows = [kept[span] for span in slices(array.chunks[0])]
    of_all = Packed(rows)
    axes = [slices(axis) for axis in array.chunks[1:]]
    found = []
    for block in product(*(range(len(axis)) for axis in axes)):
        place = tuple(axis[i] for axis, i in zip(axes, block, strict=True))
        if not mask[place].any():
            continue
        keys = [(array.name, s, *block) for s in range(array.numblocks[0])]
        chunks = [chunk_of(graph, key) for key in keys]
        of_block = Packed(chunks) if all(isinstance(chunk, Recipe) for chunk in chunks) else None
        for part, inside in enumerate(_parts(mask[place], most)):
            mine = turned(numbered[place])[turned(inside)]
            if of_block is not None:
                found.append(Columns(mine, Stored(of_block, Packed(inside), of_all)))
                continue
            key = f"columns-{token}-{(*block, part)}"
            made_of: dict[Any, Any] = {key: (_gathered, chunks, inside, rows), **needed_by(graph, keys)}
            found.append(Columns(mine, Delayed(key, made_of)))
    return found


def _parts(inside: NDArray[np.bool_], most: int | None) -> Iterator[NDArray[np.bool_]]:
    """A block's voxels in parts of much the same size, x fastest."""
    at = np.flatnonzero(turned(inside))
    number = 1 if most is None else -(-len(at) // most)
    for some in np.array_split(at, number):
        part = np.zeros(inside.size, dtype=bool)
        part[some] = True
        yield turned(part.reshape(inside.shape[::-1]))


def column_values(values: Stored | NDArray[Any]) -> NDArray[Any]:
    """(n, v) float32 or float64 array of `Columns.values`, in a task."""
    if not isinstance(values, Stored):
        return values
    with reused_memory:
        return _gathered(values.chunks.unpack(), values.inside.unpack(), values.kept.unpack())


def _gathered(
    chunks: Sequence[Recipe | NDArray[Any]], inside: NDArray[np.bool_], kept: Sequence[NDArray[np.bool_]]
) -> NDArray[Any]:
    counts = [int(np.count_nonzero(rows)) for rows in kept]
    whole, first = np.empty((0, 0)), 0
    for chunk, rows, count in zip(chunks, kept, counts, strict=True):
        if not count:
            continue
        some = matrix(made(chunk), inside)
        if not whole.size:
            whole = np.empty((sum(counts), some.shape[1]), dtype=some.dtype)
        whole[first : first + count] = some if count == len(some) else some[rows]
        first += count
    return whole


def stored_fingerprint(blocks: Sequence[Columns]) -> str | None:
    """Of all values of some blocks, where the store that they are read from tells it; else None.

    Only of chunks that are read as they are: of what else is done to them Dask makes no names that last. And only by
    what says itself what its values depend on: the name of a file would be the same for other content.
    """
    told: list[Any] = []
    for block in blocks:
        if not isinstance(block.values, Stored):
            return None
        chunks = block.values.chunks.unpack()
        if not all(map(_says_what_it_reads, chunks)):
            return None
        reads = [chunk.read for chunk in chunks]
        told.append((reads, block.values.inside.unpack(), block.values.kept.unpack()))
    try:
        return str(tokenize(told, ensure_deterministic=True))
    except TokenizationError:
        return None


def _says_what_it_reads(chunk: Recipe) -> bool:
    return chunk.read is not None and hasattr(chunk.read[1], "__dask_tokenize__")
