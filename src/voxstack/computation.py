"""Lazy results computed block of voxels by block, each from the part of the graph that it depends on."""

from collections.abc import Hashable, Iterator, Sequence
from itertools import product
from typing import Any, cast, overload

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.core import flatten
from dask.delayed import Delayed
from numpy.typing import NDArray

from voxstack.blocks import needed_by, slices
from voxstack.kernels.chunks import turned
from voxstack.progress import track
from voxstack.run import Task, run
from voxstack.schema import SPACE

Index = tuple[int, int, int]


@overload
def compute(dataset: xr.Dataset, *, progress: bool = ...) -> xr.Dataset: ...


@overload
def compute(dataset: xr.DataArray, *, progress: bool = ...) -> xr.DataArray: ...


def compute(dataset: xr.Dataset | xr.DataArray, *, progress: bool = False) -> xr.Dataset | xr.DataArray:
    """Compute a lazy result block by block, on the active Dask client or on threads.

    What ``dataset.compute()`` does, too, but with a progress bar and with only a few blocks of voxels in memory at a
    time besides the result, however many subjects there are.

    Parameters
    ----------
    dataset
        Such as of `fit_glm` or `contrast`, or one of its variables.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset or DataArray
        The same, in memory.
    """
    if isinstance(dataset, xr.DataArray):
        name, temporary = dataset.name, "map"
        while temporary in dataset.coords:
            temporary += "_"
        return compute(dataset.rename(temporary).to_dataset(), progress=progress)[temporary].rename(name)
    lazy = [name for name, v in dataset.variables.items() if isinstance(v.data, da.Array) and set(SPACE) <= set(v.dims)]
    if not lazy:
        return dataset.compute()
    dataset = dataset.unify_chunks()
    done = {name: _empty(dataset[name].shape, dataset[name].dtype) for name in lazy}
    dims = {name: dataset[name].dims for name in lazy}
    regions = _regions(dataset)
    tasks = _region_tasks(xr.Dataset({name: dataset.variables[name] for name in lazy}), list(regions))
    label = str(dataset.attrs.get("kind", "compute"))
    for key, block in track(
        run(tasks, label=label, together=True), total=len(regions), description="compute", visible=progress
    ):
        region = regions[cast(Index, key)]
        for name in lazy:
            done[name][tuple(region.get(str(dim), slice(None)) for dim in dims[name])] = block[name]
    variables = {name: (dims[name], values, dataset[name].attrs) for name, values in done.items()}
    in_coords = {name: variable for name, variable in variables.items() if name in dataset.coords}
    in_data = {name: variable for name, variable in variables.items() if name not in dataset.coords}
    return dataset.assign_coords(in_coords).assign(in_data).compute()


def _empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Whole maps (..., x, y, z) with x fastest, as blocks and NIfTI files have them."""
    return turned(np.empty((*shape[:-3], *shape[:-4:-1]), dtype=dtype))


def _regions(dataset: xr.Dataset) -> dict[Index, dict[str, slice]]:
    """Blocks of voxels by their numbers along x, y and z."""
    axes = [list(enumerate(slices(dataset.chunksizes[dim]))) for dim in SPACE]
    return {(i, j, k): {"x": x, "y": y, "z": z} for (i, x), (j, y), (k, z) in product(*axes)}


def _region_tasks(dataset: xr.Dataset, regions: Sequence[Index]) -> Iterator[Task]:
    """For each block of voxels the part of the graph that it depends on."""
    graph: dict[Any, Any] = {}
    for variable in dataset.values():
        graph.update(variable.data.__dask_graph__())
    for region in regions:
        keys = {name: _block_keys(v.data, v.dims, region) for name, v in dataset.items()}
        key = f"gather-block-{tokenize(keys)}"
        assembled = (_assembled, list(keys), list(keys.values()))
        yield Task(region, Delayed(key, {key: assembled, **needed_by(graph, list(flatten(list(keys.values()))))}))


def _block_keys(array: da.Array, dims: tuple[Hashable, ...], region: Index) -> Any:
    """Keys of an array's chunks in a block of voxels, nested as its axes are."""
    at = dict(zip(SPACE, region, strict=True))

    def nested(chosen: tuple[int, ...]) -> Any:
        axis = len(chosen)
        if axis == array.ndim:
            return (array.name, *chosen)
        dim = str(dims[axis])
        return [nested((*chosen, i)) for i in ([at[dim]] if dim in at else range(array.numblocks[axis]))]

    return nested(())


def _assembled(names: list[Any], chunks: list[Any]) -> dict[Any, NDArray[Any]]:
    return {name: _joined(nested) for name, nested in zip(names, chunks, strict=True)}


def _joined(nested: Any) -> NDArray[Any]:
    """One array of nested lists of chunks; mostly there is only one."""
    one = nested
    while isinstance(one, list):
        if len(one) > 1:
            return np.asarray(da.core.concatenate3(nested))
        one = one[0]
    return np.asarray(one)
