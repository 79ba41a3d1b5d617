"""Stored arrays as lazy ones: each task reads one chunk, and knows nothing but where it is.

xarray's own lazy arrays hang all chunks of a variable on one key, whose place in the graph Dask's optimisation changes
from one computation to the next; a distributed scheduler then sees two versions of a task under one key, and may hang
(dask issue 9888). Here every task stands for itself.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
import zarr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from voxstack.errors import StoreError
from voxstack.store.location import Location


@dataclass(frozen=True)
class StoreView:
    """An array in a store.

    Attributes
    ----------
    location
        The store.
    name
        Of the array.
    token
        Of its metadata: an array that was replaced by one of another shape or chunks is another array.
    stamp
        When a store in a folder was published (ns); None for an object store.
    """

    location: Location
    name: str
    token: str
    stamp: int | None

    def __hash__(self) -> int:
        return hash((self.location.url, self.name, self.token))

    def read(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        """Part of the array; `StoreError` if the store was replaced since it was opened.

        The new data would be read under the old labels.
        """
        if self.stamp != _stamp(self.location):
            raise StoreError(f"{self.location} was replaced after it was opened. Open it again.")
        return np.asarray(_open(self)[selection])


def _stamp(location: Location) -> int | None:
    if location.path is None:
        return None
    try:
        return (location.path / "zarr.json").stat().st_mtime_ns
    except FileNotFoundError:
        raise StoreError(f"{location} was removed after it was opened.") from None


@lru_cache(maxsize=128)
def _open(view: StoreView) -> Any:
    return zarr.open_array(view.location.open(read_only=True), path=view.name, mode="r")


def lazy_array(location: Location, name: str) -> da.Array:
    """A stored array as a Dask array, chunked as it is stored.

    Parameters
    ----------
    location
        The store.
    name
        Of the array.

    Returns
    -------
    dask.array.Array
        Under a name of its own: a store that is written anew never meets results of the old one.
    """
    array = zarr.open_array(location.open(read_only=True), path=name, mode="r")
    assert isinstance(array, zarr.Array)
    token = tokenize(array.metadata.to_dict(), dict(location.storage_options))
    view = StoreView(location, name, token, _stamp(location))
    chunks = da.core.normalize_chunks(array.chunks, shape=array.shape)
    key = f"read-{name}-{uuid4().hex}"
    stops = [np.cumsum(axis).tolist() for axis in chunks]
    slices = [
        [slice(stop - size, stop) for size, stop in zip(axis, ends, strict=True)]
        for axis, ends in zip(chunks, stops, strict=True)
    ]
    graph: dict[Any, Any] = {
        (key, *block): (StoreView.read, view, tuple(axis[i] for axis, i in zip(slices, block, strict=True)))
        for block in product(*(range(len(axis)) for axis in chunks))
    }
    layers = HighLevelGraph.from_collections(key, graph)
    return da.Array(layers, key, chunks=chunks, dtype=array.dtype)
