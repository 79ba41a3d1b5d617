"""Reductions over subjects: tasks of some chunks of subjects and one block of voxels, and lazy maps of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.utils import ensure_dict
from numpy.typing import NDArray

from voxstack.blocks.chunks import Recipe, chunk_of, made, matrix, slices
from voxstack.blocks.packed import Packed
from voxstack.blocks.voxels import scattered, unpacked
from voxstack.plan import CHUNKS_PER_TASK
from voxstack.run.allocation import reused_memory

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
    setup_key, maps_key = f"{passes[0].name}-setup-{token}", f"{passes[-1].name}-maps-{token}"
    rows, sources = slices(chunks[0]), [ensure_dict(array.__dask_graph__()) for array in arrays]
    together = len(rows) if whole else CHUNKS_PER_TASK
    groups = [range(first, min(first + together, len(rows))) for first in range(0, len(rows), together)]
    voxels = [slices(axis) for axis in chunks[1:]]
    graph: dict[Any, Any] = {setup_key: _Opaque(setup)}
    in_graph: set[str] = set()  # arrays whose chunks tasks do not make for themselves
    for block in product(*(range(len(axis)) for axis in chunks[1:])):
        inside = mask[tuple(axis[i] for axis, i in zip(voxels, block, strict=True))]
        if not inside.any():
            continue
        voxels_inside = Packed(inside)
        inputs = [
            [[chunk_of(source, (array.name, s, *block)) for array, source in zip(arrays, sources, strict=True)]
             for s in group]
            for group in groups
        ]  # fmt: skip
        in_graph |= {chunk[0] for of_group in inputs for some in of_group for chunk in some if isinstance(chunk, tuple)}
        previous: Any = None
        for number, stage in enumerate(passes, start=1):
            states = []
            for at, (group, some) in enumerate(zip(groups, inputs, strict=True)):
                key = (f"{stage.name}-reduce-{number}-{token}", at, *block)
                spans = [rows[s] for s in group]
                graph[key] = (
                    _partial,
                    stage.partial,
                    stage.combine,
                    whole,
                    some,
                    spans,
                    voxels_inside,
                    setup_key,
                    previous,
                )
                states.append(key)
            state = _combine_tree(graph, f"{stage.name}-combine-{number}-{token}", states, block, stage.combine)
            previous = (f"{stage.name}-solve-{number}-{token}", *block)
            graph[previous] = (_finish, stage.finish, state, setup_key)
        graph[(maps_key, *block)] = (_scattered, previous, voxels_inside, dict(outputs))
    return unpacked(maps_key, graph, [array for array in arrays if array.name in in_graph], outputs, chunks[1:])


def _combine_tree(
    graph: dict[Any, Any], name: str, states: list[Any], block: tuple[int, ...], combine: Callable[[Any, Any], Any]
) -> Any:
    """Add tasks that combine states by eights until one is left, and return its key."""
    level = 0
    while len(states) > 1:
        merged = []
        for number, start in enumerate(range(0, len(states), CHUNKS_PER_TASK)):
            key = (name, level, number, *block)
            graph[key] = (reduce, combine, states[start : start + CHUNKS_PER_TASK])
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
    partial: Callable[..., Any],
    combine: Callable[[Any, Any], Any],
    whole: bool,
    chunks: list[list[Recipe | NDArray[Any]]],
    rows: list[slice],
    voxels: Packed[NDArray[np.bool_]],
    setup: _Opaque,
    previous: Any,
) -> Any:
    """State of some chunks of subjects, one after the other; or of all of them at once where they are needed whole."""
    inside = voxels.unpack()
    if whole:
        matrices = [[matrix(made(chunk), inside) for chunk in of_array] for of_array in zip(*chunks, strict=True)]
        span = slice(rows[0].start, rows[-1].stop)
        return partial([np.concatenate(some) for some in matrices], span, setup.value, previous)
    states = (
        partial([matrix(made(chunk), inside) for chunk in of_rows], span, setup.value, previous)
        for of_rows, span in zip(chunks, rows, strict=True)
    )
    with reused_memory:
        return reduce(combine, states)


def _scattered(maps: Arrays, voxels: Packed[NDArray[np.bool_]], outputs: Mapping[str, tuple[int, ...]]) -> Arrays:
    return scattered(maps, voxels.unpack(), outputs)
