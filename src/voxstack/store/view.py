"""Stored arrays as lazy ones: each task reads one chunk, and knows nothing but where it is.

xarray's own lazy arrays hang all chunks of a variable on one key, whose place in the graph Dask's optimisation changes
from one computation to the next; a distributed scheduler then sees two versions of a task under one key, and may hang
(dask issue 9888). Here every task stands for itself.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from socket import gethostname
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from voxstack.errors import StoreError
from voxstack.store import keys, shards
from voxstack.store.chunks import decode_chunk, is_plain
from voxstack.store.location import Location
from voxstack.store.published import ROOT, Editions, Published, open_array


@dataclass(frozen=True)
class StoreView:
    """An array in a store.

    Attributes
    ----------
    location
        The store.
    name
        Of the array.
    metadata
        Of the array when the store was opened, as text: chunks that were appended since do not exist for it.
    stamp
        Of what was published then: the time (ns) in a folder, a digest in an object store.
    editions
        Of the cohort then; None for a result.
    """

    location: Location
    name: str
    metadata: str
    stamp: int | str
    editions: Editions | None

    def __hash__(self) -> int:
        return hash((self.location.url, self.name, self.metadata))

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What the values depend on, wherever the store is: what a cohort has held, or when a result was published."""
        return "StoreView", self.name, self.stamp if self.editions is None else self.editions.history

    def read(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        """Part of the array; `StoreError` if the store was replaced since it was opened.

        The new data would be read under the old labels. Appending to a cohort leaves what is read here as it was.
        """
        try:
            values = self._read(selection)
        except (StoreError, RuntimeError, OSError) as error:
            self._check()  # what was replaced cannot be read, and is not damaged
            starts = ", ".join(str(part.start) for part in selection)
            raise StoreError(f"{self.location}: {self.name!r} cannot be read from ({starts}) on: {error}") from error
        # After reading: chunks of a cohort that was replaced are removed, and would have been read as missing.
        self._check()
        return values

    def _check(self) -> None:
        """Raise `StoreError` where the store was replaced since it was opened."""
        try:
            now = _stamp(self.location)
            same = now == self.stamp or _still_there(self, now)
        except OSError as error:
            raise StoreError(f"{self.location} cannot be read: {error}.") from error
        if not same:
            raise StoreError(f"{self.location} was replaced after it was opened. Open it again.")

    def _read(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        array, plain = _open(self)
        starts = [part.start % size for part, size in zip(selection, array.chunks, strict=True)]
        if not plain or any(starts):
            return np.asarray(array[selection])
        # One chunk, decoded here: Zarr's way through an event loop and a copy takes half as long again.
        index = tuple(part.start // size for part, size in zip(selection, array.chunks, strict=True))
        chunk = decode_chunk(self._content(array, index), array.chunks, array.dtype)
        return chunk[tuple(slice(0, part.stop - part.start) for part in selection)]

    def _content(self, array: Any, index: tuple[int, ...]) -> bytes | None:
        """Of the chunk with such numbers along the axes."""
        if array.shards is None:
            return keys.get(array.store, f"{self.name}/{array.metadata.encode_chunk_key(index)}")
        place = shards.place(index, array.chunks, array.shards)
        key = f"{self.name}/{array.metadata.encode_chunk_key(place.shard)}"
        # Appending fills up the last row of a cohort.
        settled = (place.shard[0] + 1) * array.shards[0] <= array.shape[0]
        return _shard(self, key, place.total).chunk(place.number, settled=settled)


def _stamp(location: Location) -> int | str:
    if location.path is None:
        published = Published.read(location.open(read_only=True))
        if published is None:
            raise StoreError(f"{location} was removed after it was opened.")
        return hashlib.blake2b(published.root, digest_size=16).hexdigest()
    try:
        return (location.path / ROOT).stat().st_mtime_ns
    except FileNotFoundError:
        raise StoreError(
            f"{location} was removed after it was opened, or {gethostname()} does not see it: workers must see the "
            "folder under the same path."
        ) from None


@lru_cache(maxsize=128)
def _still_there(view: StoreView, now: int | str) -> bool:
    """Whether a cohort with another stamp is the same one, with subjects appended."""
    published = Published.read(view.location.open(read_only=True))
    if published is None or view.editions is None or "editions" not in published.attributes:
        return False
    editions = published.editions
    return editions.maps == view.editions.maps and set(view.editions.history) <= set(editions.history)


@lru_cache(maxsize=128)
def _open(view: StoreView) -> tuple[Any, bool]:
    """The array, and whether its chunks can be decoded here."""
    metadata = json.loads(view.metadata)
    return open_array(view.location.open(read_only=True), view.name, metadata), is_plain(shards.of_chunks(metadata))


@lru_cache(maxsize=4096)  # some hundred bytes each
def _shard(view: StoreView, key: str, total: int) -> shards.Shard:
    return shards.Shard(_open(view)[0].store, key, total)


def lazy_array(location: Location, published: Published, name: str) -> da.Array:
    """A stored array as a Dask array, chunked as it is stored.

    Parameters
    ----------
    location
        The store.
    published
        Its root metadata.
    name
        Of the array.

    Returns
    -------
    dask.array.Array
        Under a name of its own: a store that is written anew never meets results of the old one.
    """
    metadata = published.arrays[name]
    editions = published.editions if "editions" in published.attributes else None
    view = StoreView(location, name, json.dumps(metadata), _stamp(location), editions)
    array, _ = _open(view)
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
