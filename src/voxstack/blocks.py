"""Labelled arrays as blocks of voxels: the only place that builds Dask graphs of them.

Kernels want (n, v) matrices of plain NumPy; datasets are (subject, x, y, z) in chunks. Here the chunks are laid out as
tasks, one per subject chunk and voxel block, and their results as lazy maps that share those tasks: computing several
maps together reads each chunk once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.core import get_dependencies
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from voxstack.errors import InputError
from voxstack.kernels.chunks import gather, scatter, turned
from voxstack.plan import SUBJECTS_PER_CHUNK, voxel_chunks
from voxstack.schema import SPACE, SUBJECT

_FAN_IN = 8  # states that one task combines

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Reduction:
    """A reduction over subjects: what the tasks call.

    Attributes
    ----------
    name
        Of the tasks, as the dashboard shows them.
    partial
        (blocks, rows, setup, previous) -> state of one chunk of subjects; blocks are (n, v), one per input array; rows
        is the slice of their subjects; previous is the result of the pass before, None in the first.
    combine
        (state, state) -> state
    finish
        (state, setup) -> result of all subjects: an input of the next pass, or in the last one the maps, a dict from
        names to (..., v).
    """

    name: str
    partial: Callable[[Sequence[NDArray[Any]], slice, Any, Any], Any]
    combine: Callable[[Any, Any], Any]
    finish: Callable[[Any, Any], Any]


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


def reduce_subjects(
    arrays: Sequence[da.Array],
    passes: Sequence[Reduction],
    setup: Any,
    *,
    mask: NDArray[np.bool_],
    outputs: Mapping[str, tuple[int, ...]],
    whole: bool = False,
) -> dict[str, da.Array]:
    """Reduce over subjects, block of voxels by block of voxels, within a mask.

    Parameters
    ----------
    arrays
        Inputs (n, x, y, z), of one shape; where their chunks differ they are brought to common ones.
    passes
        In order; each gets the result of the one before.
    setup
        What all tasks need beside the data; it travels to each worker once.
    mask : (x, y, z) bool
        Voxels outside are not computed, and blocks without any voxel inside are not read.
    outputs
        Leading shape of each map that the last pass's `finish` returns.
    whole
        Give `partial` all subjects of a block of voxels at once.

    Returns
    -------
    dict
        Lazy maps (..., x, y, z) in float64, NaN outside the mask.
    """
    if len({array.chunks for array in arrays}) > 1:
        _, unified = da.core.unify_chunks(*[part for array in arrays for part in (array, "nxyz")])
        arrays = list(unified)
    chunks = arrays[0].chunks
    token = tokenize([array.name for array in arrays], passes, setup, mask, dict(outputs), whole)
    names = [f"{p.name}-{number}-{token}" for number, p in enumerate(passes, start=1)]
    setup_key = f"setup-{token}"
    rows = slices(chunks[0])
    voxels = [slices(axis) for axis in chunks[1:]]
    graph: dict[Any, Any] = {setup_key: _Opaque(setup)}
    for block in product(*(range(len(axis)) for axis in chunks[1:])):
        inside = mask[tuple(axis[i] for axis, i in zip(voxels, block, strict=True))]
        if not inside.any():
            continue
        previous: Any = None
        for stage, name in zip(passes, names, strict=True):
            states = []
            groups = [range(len(rows))] if whole else [range(s, s + 1) for s in range(len(rows))]
            for number, group in enumerate(groups):
                key = (f"{name}-partial", number, *block)
                span = slice(rows[group[0]].start, rows[group[-1]].stop)
                inputs = [[(array.name, s, *block) for s in group] for array in arrays]
                graph[key] = (_partial, stage.partial, inputs, span, inside, setup_key, previous)
                states.append(key)
            state = _combine_tree(graph, f"{name}-combine", states, block, stage.combine)
            previous = (f"{name}-finish", *block)
            graph[previous] = (_finish, stage.finish, state, setup_key)
        graph[(f"{names[-1]}-maps", *block)] = (_scatter, previous, inside, dict(outputs))
    return _unpack(f"{names[-1]}-maps", graph, arrays, outputs, chunks[1:])


def _combine_tree(
    graph: dict[Any, Any], name: str, states: list[Any], block: tuple[int, ...], combine: Callable[[Any, Any], Any]
) -> Any:
    """Add tasks that combine states by eights until one is left, and return its key."""
    level = 0
    while len(states) > 1:
        merged = []
        for number, start in enumerate(range(0, len(states), _FAN_IN)):
            key = (name, level, number, *block)
            graph[key] = (reduce, combine, states[start : start + _FAN_IN])
            merged.append(key)
        states, level = merged, level + 1
    return states[0]


@dataclass(frozen=True)
class _Opaque:
    """A value that Dask must not look into: it takes a tuple that begins with a callable for a task."""

    value: Any


def _finish(function: Callable[[Any, Any], Any], state: Any, setup: _Opaque) -> Any:
    return function(state, setup.value)


def _partial(
    function: Callable[..., Any],
    inputs: list[list[NDArray[Any]]],
    rows: slice,
    inside: NDArray[np.bool_],
    setup: _Opaque,
    previous: Any,
) -> Any:
    return function([_matrix(chunks, inside) for chunks in inputs], rows, setup.value, previous)


def _matrix(chunks: list[NDArray[Any]], inside: NDArray[np.bool_]) -> NDArray[Any]:
    """(n, v) of the voxels inside, in a type that kernels are compiled for."""
    blocks = [turned(chunk) for chunk in chunks]
    block = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if block.dtype not in (np.float32, np.float64) or not block.dtype.isnative:
        block = block.astype(np.float64)
    return block.reshape(len(block), -1) if inside.all() else gather(block, inside.T)


def _scatter(maps: Arrays, inside: NDArray[np.bool_], outputs: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """(..., v) of the voxels inside -> (..., x, y, z), NaN elsewhere."""
    v = int(np.count_nonzero(inside))
    return {name: turned(scatter(np.broadcast_to(maps[name], (*lead, v)), inside.T)) for name, lead in outputs.items()}


def _nothing(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.full(shape, np.nan)


class Columns(NamedTuple):
    """The voxels of one block that are inside a mask.

    Attributes
    ----------
    numbers : (v,) int64
        Of the voxels among all those inside, x fastest.
    values : Delayed
        (n, v) array, in float32 or float64.
    """

    numbers: NDArray[np.int64]
    values: Delayed


def columns(array: da.Array, mask: NDArray[np.bool_], kept: NDArray[np.bool_]) -> list[Columns]:
    """Subjects of a map, all together, block of voxels by block of voxels within a mask.

    Parameters
    ----------
    array
        (n, x, y, z), as of `as_blocks`.
    mask : (x, y, z) bool
        Blocks without any voxel inside are left out.
    kept : (n,) bool
        Subjects that are wanted.
    """
    numbers = np.full(mask.size, -1)
    numbers[turned(mask).ravel()] = np.arange(np.count_nonzero(mask))
    numbered = turned(numbers.reshape(mask.shape[::-1]))
    graph, token = array.__dask_graph__(), tokenize(array.name, mask, kept)
    axes = [slices(axis) for axis in array.chunks[1:]]
    found = []
    for block in product(*(range(len(axis)) for axis in axes)):
        place = tuple(axis[i] for axis, i in zip(axes, block, strict=True))
        inside = mask[place]
        if not inside.any():
            continue
        key = f"columns-{token}-{block}"
        chunks = [(array.name, s, *block) for s in range(array.numblocks[0])]
        part = {key: (_kept, chunks, inside, kept), **needed_by(graph, chunks)}
        found.append(Columns(turned(numbered[place])[turned(inside)], Delayed(key, part)))
    return found


def _kept(chunks: list[NDArray[Any]], inside: NDArray[np.bool_], kept: NDArray[np.bool_]) -> NDArray[Any]:
    matrix = _matrix(chunks, inside)
    return matrix if kept.all() else matrix[kept]


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


def map_voxels(
    name: str,
    function: Callable[[Arrays], Arrays],
    inputs: Mapping[str, da.Array],
    *,
    outputs: Mapping[str, tuple[int, ...]],
) -> dict[str, da.Array]:
    """Apply a function of whole columns to each block of voxels.

    Parameters
    ----------
    name
        Of the tasks.
    function
        From arrays (..., v) to arrays (..., v), by name; it must be picklable and known to Dask's tokenize. It is not
        called for voxels where all inputs are NaN, whose results are NaN.
    inputs
        Lazy maps (..., x, y, z).
    outputs
        Leading shape of each result.

    Returns
    -------
    dict
        Lazy maps (..., x, y, z), float64.
    """
    whole = {name: array.rechunk(dict.fromkeys(range(array.ndim - 3), -1)) for name, array in inputs.items()}
    if len({array.chunks[-3:] for array in whole.values()}) > 1:
        leading = {name: tuple(f"{name}-{axis}" for axis in range(a.ndim - 3)) for name, a in whole.items()}
        pairs = [part for name, a in whole.items() for part in (a, (*leading[name], *SPACE))]
        whole = dict(zip(whole, da.core.unify_chunks(*pairs)[1], strict=True))
    inputs = whole
    chunks = next(iter(inputs.values())).chunks[-3:]
    key_name = f"{name}-{tokenize(function, {n: a.name for n, a in inputs.items()}, dict(outputs))}"
    graph: dict[Any, Any] = {}
    for block in product(*(range(len(axis)) for axis in chunks)):
        keys = [(array.name, *(0,) * (array.ndim - 3), *block) for array in inputs.values()]
        graph[(key_name, *block)] = (_apply, function, list(inputs), keys, dict(outputs))
    return _unpack(key_name, graph, list(inputs.values()), outputs, chunks)


def _apply(
    function: Callable[[Arrays], Arrays],
    names: list[str],
    blocks: list[NDArray[Any]],
    outputs: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    space = blocks[0].shape[-3:]
    columns = {name: turned(block).reshape(*block.shape[:-3], -1) for name, block in zip(names, blocks, strict=True)}
    # Voxels of which nothing is known, most of all those outside the mask, cost nothing.
    known = np.logical_or.reduce([~np.isnan(c).reshape(-1, c.shape[-1]).all(axis=0) for c in columns.values()])
    if not known.any():
        return {name: _nothing((*lead, *space)) for name, lead in outputs.items()}
    if not known.all():
        at = np.flatnonzero(known)
        columns = {name: np.take(column, at, axis=-1) for name, column in columns.items()}
    results = {name: np.asarray(result, dtype=np.float64) for name, result in function(columns).items()}
    return _scatter(results, known.reshape(space[::-1]).T, outputs)


def _unpack(
    name: str,
    graph: dict[Any, Any],
    dependencies: Sequence[da.Array],
    outputs: Mapping[str, tuple[int, ...]],
    chunks: tuple[tuple[int, ...], ...],
) -> dict[str, da.Array]:
    """One lazy array per entry of the dicts that the tasks (name, i, j, k) return; NaN where there is no such task."""
    arrays_before: Any = dependencies  # Dask's protocol of a collection does not accept its own untyped Array
    base = HighLevelGraph.from_collections(name, graph, dependencies=arrays_before)
    arrays = {}
    for output, lead in outputs.items():
        layer_name = f"{output}-{name}"
        layer: dict[Any, Any] = {}
        for block in product(*(range(len(axis)) for axis in chunks)):
            key = (layer_name, *(0,) * len(lead), *block)
            if (name, *block) in graph:
                layer[key] = (dict.__getitem__, (name, *block), output)
            else:
                layer[key] = (_nothing, (*lead, *(axis[i] for axis, i in zip(chunks, block, strict=True))))
        layers = HighLevelGraph({**base.layers, layer_name: layer}, {**base.dependencies, layer_name: {name}})
        all_chunks = (*((size,) for size in lead), *chunks)
        arrays[output] = da.Array(layers, layer_name, chunks=all_chunks, dtype=np.float64)
    return arrays


def slices(sizes: tuple[int, ...]) -> list[slice]:
    """Of an axis, where its chunks are."""
    stops = np.cumsum(sizes)
    return [slice(int(stop - size), int(stop)) for size, stop in zip(sizes, stops, strict=True)]
