"""Shards: several chunks under one key, with an index at its end; Zarr's codec ``sharding_indexed``.

Object stores are slow, and charge, by the object. There a shard is all that one task has of a slab of voxels, so it is
written once, in one piece; of what is read later, a chunk is one request for part of it.

The chunks of a shard lie one behind the other, the last axis of their numbers counted fastest. The index holds offset
and length of each (uint64, little-endian), both all ones for a chunk without any value, and ends with a checksum.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from zarr.abc.store import Store

from voxstack.errors import StoreError
from voxstack.store import keys

_CODEC = "sharding_indexed"
_NONE = np.iinfo("<u8").max
_CHECKSUM = 4  # bytes
_ATTEMPTS = 5  # to read a chunk while its shard is written anew

Shape = tuple[int, ...]


def shard_shape(shape: Shape, chunks: Shape) -> Shape:
    """Of a shard of maps (n, x, y, z) with such chunks: one row of chunks, all of x and y, one chunk along z."""
    x, y = (-(-n // size) * size for n, size in zip(shape[1:3], chunks[1:3], strict=True))
    return (chunks[0], x, y, chunks[3])


def is_sharded(metadata: Mapping[str, Any]) -> bool:
    """Whether an array lies in shards such as these."""
    codecs = metadata["codecs"]
    if [codec["name"] for codec in codecs] != [_CODEC]:
        return False
    told = codecs[0]["configuration"]
    names = [codec["name"] for codec in told["index_codecs"]]
    little = told["index_codecs"][0].get("configuration", {}).get("endian") == "little"
    return names == ["bytes", "crc32c"] and little and told["index_location"] == "end"


def of_chunks(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Metadata of an array as they would be without shards."""
    if not is_sharded(metadata):
        return metadata
    told = metadata["codecs"][0]["configuration"]
    grid = {"name": "regular", "configuration": {"chunk_shape": told["chunk_shape"]}}
    return {**metadata, "codecs": told["codecs"], "chunk_grid": grid}


def join(chunks: Sequence[bytes | None]) -> bytes | None:
    """A shard of chunks in the order of their numbers; None where none of them has any value."""
    index = np.full((len(chunks), 2), _NONE, dtype="<u8")
    end = 0
    for entry, chunk in zip(index, chunks, strict=True):
        if chunk is not None:
            entry[:] = end, len(chunk)
            end += len(chunk)
    if end == 0:
        return None
    entries = index.tobytes()
    return b"".join((*filter(None, chunks), entries, _checksum(entries)))


def _checksum(entries: bytes) -> bytes:
    return int(google_crc32c.value(entries)).to_bytes(_CHECKSUM, "little")


class Place(NamedTuple):
    """Where a chunk is.

    Attributes
    ----------
    shard
        Numbers of its shard along the axes.
    number
        In the shard.
    total
        Chunks of a shard.
    """

    shard: Shape
    number: int
    total: int


def place(index: Shape, chunks: Shape, shards: Shape) -> Place:
    """Of the chunk with such numbers along the axes, by the shapes of chunks and shards."""
    counts = tuple(shard // chunk for shard, chunk in zip(shards, chunks, strict=True))
    shard = tuple(i // n for i, n in zip(index, counts, strict=True))
    number = int(np.ravel_multi_index(tuple(i % n for i, n in zip(index, counts, strict=True)), counts))
    return Place(shard, number, math.prod(counts))


class Shard:
    """A stored shard, whose index is read once.

    Parameters
    ----------
    store
        Where it is.
    key
        Its key.
    total
        Of its chunks.
    """

    def __init__(self, store: Store, key: str, total: int) -> None:
        self._store, self._key, self._total = store, key, total
        self._index = self._read()

    def _read(self) -> bytes:
        """Its index; empty where the shard is not stored."""
        size = 16 * self._total
        content = keys.get_end(self._store, self._key, size + _CHECKSUM)
        if content is None:
            return b""
        entries, checksum = content[:size], content[size:]
        if len(checksum) != _CHECKSUM or checksum != _checksum(entries):
            raise StoreError(f"The index of the shard {self._key} is damaged.")
        return entries

    def chunk(self, number: int, *, settled: bool) -> bytes | None:
        """One of its chunks; None where that has no value.

        Parameters
        ----------
        number
            Of the chunk.
        settled
            The shard is never written again. If it may be, since appending fills it up, the index is looked at once
            more: what was read by an old one is read again by the new one.

        Raises
        ------
        StoreError
            It is damaged.
        """
        for _ in range(_ATTEMPTS):
            index, problem, content = self._index, None, None
            try:
                content = self._cut(index, number)
            except (StoreError, OSError) as error:
                problem = error
            now = index if settled else self._read()
            self._index = now
            if now == index:
                if problem is not None:
                    raise problem
                return content
        raise StoreError(f"The shard {self._key} is written again and again. Read it when that is over.")

    def _cut(self, index: bytes, number: int) -> bytes | None:
        if not index:
            return None
        start, size = (int(value) for value in np.frombuffer(index, dtype="<u8").reshape(-1, 2)[number])
        if start == size == _NONE:
            return None
        content = keys.get_part(self._store, self._key, start, start + size)
        if content is None or len(content) != size:
            raise StoreError(f"The shard {self._key} is cut short.")
        return content
