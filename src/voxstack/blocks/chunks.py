"""Chunks of labelled arrays: where they are in a graph, and what a task needs to make one for itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import DataNode, GraphNode, TaskRef
from dask.core import get_dependencies, istask
from dask.local import get_sync
from dask.sizeof import sizeof
from numpy.typing import NDArray

from voxstack.errors import InputError
from voxstack.kernels.chunks import gather, turned
from voxstack.plan import SUBJECTS_PER_CHUNK, voxel_chunks
from voxstack.schema import SPACE, SUBJECT


def as_blocks(variable: xr.DataArray) -> da.Array:
    """A map (subject, x, y, z) as a Dask array; NumPy arrays are cut as a store would be.

    Parameters
    ----------
    variable
        Dimensions subject, x, y, z in any order.
    """
    data = variable.transpose(SUBJECT, *SPACE).data
    if not isinstance(data, da.Array):
        chunks = (SUBJECTS_PER_CHUNK, *voxel_chunks(data.shape[1:]))
        data = da.from_array(data, chunks=chunks, name=False)
    if any(np.isnan(size) for size in data.shape):
        raise InputError("The map's chunks are of unknown size. Call .compute_chunk_sizes() on it first.")
    assert isinstance(data, da.Array)
    return data


# What keys are made of, and what may hold some.
_OF_GRAPHS = (str, bytes, int, float, list, dict, set, frozenset, GraphNode, TaskRef)
_FEW = 2**12  # bytes, such as of the numbers of the subjects that a chunk gets from another one


@dataclass(frozen=True)
class Recipe:
    """A chunk that a task makes for itself, when it comes to it.

    What a scheduler would read by tasks of its own lies in the memory of workers until it is used, and is sent between
    them; a task that reads its chunks one by one holds one at a time, and no cluster ever holds a cohort.

    Attributes
    ----------
    graph
        Whatever the chunk depends on: tasks, and no data but a few numbers.
    key
        Of the chunk.
    """

    graph: Mapping[Any, Any]
    key: Any

    @property
    def read(self) -> tuple[Any, ...] | None:
        """Function and arguments of the one task that most chunks are; None for others."""
        node = self.graph[self.key]
        return node if len(self.graph) == 1 and type(node) is tuple and callable(node[0]) else None

    def make(self) -> NDArray[Any]:
        """The chunk."""
        if self.read is None:
            return np.asarray(get_sync(self.graph, self.key))
        function, *arguments = self.read  # Dask would look for a while at what is one call
        return np.asarray(function(*arguments))


def chunk_of(graph: Mapping[Any, Any], key: Any) -> Any:
    """A chunk for a task: a `Recipe`, or where it depends on data in memory or on a cluster, its key."""
    node = graph[key]
    if _is_one_call(node):  # as of all chunks of a store, of which there are many
        return Recipe({key: node}, key)
    part = needed_by(graph, [key])
    return key if any(_is_data(node) for node in part.values()) else Recipe(part, key)


def _is_one_call(node: Any) -> bool:
    """Whether a node is a call whose arguments can be neither keys nor tasks, such as a place in a store."""
    return type(node) is tuple and callable(node[0]) and all(map(_is_itself, node[1:]))


def _is_itself(argument: Any) -> bool:
    if type(argument) is tuple:
        return all(type(one) is slice for one in argument)
    return not isinstance(argument, _OF_GRAPHS)


def _is_data(node: Any) -> bool:
    """Whether a node of a graph is data in memory or on a cluster, and neither a task nor a few numbers for one."""
    if istask(node) or (isinstance(node, GraphNode) and not isinstance(node, DataNode)):
        return False
    value = node.value if isinstance(node, DataNode) else node
    return isinstance(value, TaskRef) or hasattr(value, "__dask_future__") or sizeof(value) > _FEW


def made(chunk: Recipe | NDArray[Any]) -> NDArray[Any]:
    """The chunk itself, in a task."""
    return chunk.make() if isinstance(chunk, Recipe) else chunk


def matrix(chunk: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[Any]:
    """(n, v) of the voxels inside, in a type that kernels are compiled for."""
    block = turned(chunk)
    if block.dtype not in (np.float32, np.float64) or not block.dtype.isnative:
        block = block.astype(np.float64)
    return block.reshape(len(block), -1) if inside.all() else gather(block, inside.T)


def needed_by(graph: Mapping[Any, Any], keys: Sequence[Any]) -> dict[Any, Any]:
    """The part of a graph that some keys depend on.

    Dask would optimise the whole graph for each part anew, which takes longer than a small fit, and gives tasks that
    parts share other forms under the same keys, which a scheduler refuses (dask issue 9888).
    """
    part: dict[Any, Any] = {}
    needed = list(keys)
    while needed:
        one = needed.pop()
        if one not in part:
            part[one] = graph[one]
            needed.extend(get_dependencies(graph, one))
    return part


def slices(sizes: tuple[int, ...]) -> list[slice]:
    """Of an axis, where its chunks are."""
    stops = np.cumsum(sizes)
    return [slice(int(stop - size), int(stop)) for size, stop in zip(sizes, stops, strict=True)]
