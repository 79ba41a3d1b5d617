"""Functions of whole columns of lazy maps, block of voxels by block of voxels."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from voxstack.kernels.chunks import scatter, turned
from voxstack.schema import SPACE

Arrays = Mapping[str, NDArray[Any]]


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
    return unpacked(key_name, graph, list(inputs.values()), outputs, chunks)


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
    return scattered(results, known.reshape(space[::-1]).T, outputs)


def unpacked(
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


def scattered(maps: Arrays, inside: NDArray[np.bool_], outputs: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """(..., v) of the voxels inside -> (..., x, y, z), NaN elsewhere."""
    v = int(np.count_nonzero(inside))
    return {name: turned(scatter(np.broadcast_to(maps[name], (*lead, v)), inside.T)) for name, lead in outputs.items()}


def _nothing(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.full(shape, np.nan)
