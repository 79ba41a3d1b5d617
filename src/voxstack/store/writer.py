"""Stacking in batches: each task reads its subjects' images and writes its own row of chunks."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from zarr import Array
from zarr.abc.store import Store
from zlib_ng import zlib_ng

from voxstack.errors import InputError, StoreError
from voxstack.io.readers import read_maps
from voxstack.kernels.chunks import Counts, count, cut
from voxstack.run.allocation import reused_memory
from voxstack.store import keys
from voxstack.store.chunks import encode_chunk
from voxstack.store.location import Location
from voxstack.store.placing import Placed
from voxstack.store.preparation import Preparation, infinite
from voxstack.store.published import open_array
from voxstack.store.shards import join
from voxstack.store.unfinished import Marks, Plan

Index = tuple[int, int, int]


class Buffers:
    """Memory for rows of chunks, kept from one batch to the next: to get it anew costs as much as to fill it.

    On a worker, whose tasks share nothing, none is kept: a task that is done would hold a row as long as Dask knows it.
    """

    def __init__(self, kept: bool = True) -> None:
        self._kept = kept
        self._spare: list[NDArray[Any]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, (False,)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Chunks (a, b, c, n, k, j, i) of any content."""
        spare = self._spare.pop() if self._spare else None
        return spare if spare is not None and spare.shape == shape else np.empty(shape, dtype=dtype)

    def give(self, chunks: NDArray[Any]) -> None:
        """Chunks of `take` that nobody uses any more."""
        if self._kept:
            self._spare.append(chunks)


@dataclass(frozen=True)
class Batch:
    """The subjects of one task: one row of chunks of every map, or what is still free of one.

    Attributes
    ----------
    number, rows
        Of the batch, and of its subjects.
    maps
        For each map its images.
    location
        The store.
    arrays
        Metadata of the maps' arrays.
    preparation
        How images become maps.
    plan
        What the batch belongs to.
    fingerprint
        Of the sources.
    threads
        That read images and compress chunks at the same time.
    buffers
        Of the process that the batches of a call run in.
    """

    number: int
    rows: range
    maps: Mapping[str, Sequence[Placed]]
    location: Location
    arrays: Mapping[str, Mapping[str, Any]]
    preparation: Preparation
    plan: Plan
    fingerprint: int
    threads: int
    buffers: Buffers

    def marks(self, store: Store) -> Marks:
        """Of all batches of the plan."""
        return Marks(store, len(self.plan.batches()), len(self.maps), self.preparation.grid.shape)

    @property
    def before(self) -> int:
        """Subjects that the row of chunks holds already."""
        return self.rows.start % self.plan.subjects_per_chunk


def write_batch(batch: Batch) -> None:
    """Read a batch's images, write its chunks, and mark it as done.

    Raises
    ------
    InputError
        An image that cannot be read whole, holds infinities or has no data at all; it names the subject.
    StoreError
        The store is not being written by this call any more, or is not there for this worker.
    """
    store = batch.location.open(read_only=False)
    with reused_memory, ThreadPoolExecutor(batch.threads) as pool:
        written = [_write_map(batch, store, name, pool) for name in batch.maps]
    digest = hashlib.blake2b(b"".join(one.digest for one in written), digest_size=8).digest()
    valid = written[0].valid if len(written) == 1 else _complete([one.known for one in written], batch)
    counts = np.stack([valid, *(one.zero for one in written), *(one.nonzero for one in written)])
    _check_plan(batch, store)  # again: to write the maps has taken a while
    batch.marks(store).set(batch.number, batch.fingerprint, int.from_bytes(digest, "little"), counts)


def _check_plan(batch: Batch, store: Store) -> None:
    """Raise `StoreError` where the store is not being written by the batch's call."""
    if Plan.read(store) != batch.plan:
        raise StoreError(
            f"{batch.location} is not being written by this call any more, or this worker does not see it. Workers "
            "need the store under the same path as the client."
        )


class _Written(NamedTuple):
    """What is known of one map of a batch: counts (x, y, z), digest of the chunks, and where subjects have data."""

    valid: NDArray[np.uint8]
    zero: NDArray[np.uint8]
    nonzero: NDArray[np.uint8]
    digest: bytes
    known: NDArray[np.bool_] | None


def _write_map(batch: Batch, store: Store, name: str, pool: Executor) -> _Written:
    target = open_array(store, name, batch.arrays[name])
    chunks, unsmoothed = _read(batch, batch.maps[name], target, pool)
    mine = chunks[:, :, :, batch.before :]
    _check_plan(batch, store)
    row = batch.rows.start // batch.plan.subjects_per_chunk

    def encoded(index: Index) -> tuple[Counts, bytes | None]:
        counts = count(mine[index])
        empty = not counts.present.any() and np.isnan(chunks[index][: batch.before]).all()
        return counts, None if empty else _filled_up(chunks[index], target)

    def put(numbers: tuple[int, ...], content: bytes | None) -> None:
        key = f"{name}/{target.metadata.encode_chunk_key(numbers)}"
        if content is None:
            keys.delete(store, [key])  # what is without any value is not stored
        else:
            keys.put(store, {key: content})

    def write(index: Index) -> tuple[Counts, bytes]:
        counts, content = encoded(index)
        put((row, *index), content)
        return counts, _checksum(content)

    indexes = _indexes(chunks)
    if target.shards is None:
        written = dict(zip(indexes, pool.map(write, indexes), strict=True))
    else:
        written = _write_shards(indexes, encoded, lambda z, content: put((row, 0, 0, z), content), pool)
    counted = {index: counts for index, (counts, _) in written.items()}
    # What is written is of no cohort yet: a batch that is refused is not marked, and its chunks are swept.
    within = "" if batch.preparation.outside is None else " inside the mask"
    _refuse(batch.maps[name], list(counted.values()), mine.dtype, within)
    known = None if len(batch.maps) == 1 else ~np.isnan(mine)
    batch.buffers.give(chunks)
    zero = _whole({index: c.zero for index, c in counted.items()}, batch)
    nonzero = _whole({index: c.nonzero for index, c in counted.items()}, batch)
    digest = b"".join(written[index][1] for index in indexes)
    valid = zero + nonzero
    if unsmoothed is not None:
        zero, nonzero = unsmoothed
    return _Written(valid, zero, nonzero, digest, known)


def _write_shards(
    indexes: Sequence[Index],
    encoded: Callable[[Index], tuple[Counts, bytes | None]],
    put: Callable[[int, bytes | None], None],
    pool: Executor,
) -> dict[Index, tuple[Counts, bytes]]:
    """Compress the chunks of one slab of z after the other, while the slab before is on its way to the store."""
    written: dict[Index, tuple[Counts, bytes]] = {}
    before: Future[None] | None = None
    for z in sorted({index[2] for index in indexes}):
        slab = [index for index in indexes if index[2] == z]
        made = list(pool.map(encoded, slab))
        if before is not None:
            before.result()
        before = pool.submit(put, z, join([content for _, content in made]))
        written |= {i: (counts, _checksum(content)) for i, (counts, content) in zip(slab, made, strict=True)}
        del made  # before the next slab is compressed
    if before is not None:
        before.result()
    return written


def _checksum(content: bytes | None) -> bytes:
    return bytes(4) if content is None else int(zlib_ng.crc32(content)).to_bytes(4, "little")


def _indexes(chunks: NDArray[Any]) -> list[Index]:
    a, b, c = chunks.shape[:3]
    return list(product(range(a), range(b), range(c)))


def _read(
    batch: Batch, images: Sequence[Placed], target: Array[Any], pool: Executor
) -> tuple[NDArray[np.floating], NDArray[np.uint8] | None]:
    """Chunks (a, b, c, n, k, j, i) with the batch's subjects, after those that are stored in them already.

    And for how many of the batch's subjects each voxel was 0 before smoothing, and was another value (2, x, y, z); None
    where nothing is smoothed.
    """
    sides = target.chunks[1:]
    shape, preparation = batch.preparation.grid.shape, batch.preparation
    unsmoothed = np.zeros((2, *shape), dtype=np.uint8) if preparation.smooths else None
    counting = Lock()
    counts = [-(-n // side) for n, side in zip(shape, sides, strict=True)]
    chunks = batch.buffers.take((*counts, batch.before + len(images), *sides[::-1]), target.dtype)
    # Volumes of one 4-D file are read in one go through it, by one thread.
    share = len(images) if images[0].source.volume is not None else 1
    parts = [range(start, min(start + share, len(images))) for start in range(0, len(images), share)]

    def read(part: range) -> None:
        some = [images[number] for number in part]
        for number, volume in read_maps([image.source for image in some], [image.order for image in some]):
            values = preparation.placed(volume, some[number])
            if unsmoothed is not None:
                zero_and_nonzero = preparation.zero_and_nonzero(values)
                with counting:
                    np.add(unsmoothed, zero_and_nonzero, out=unsmoothed)
            cut(preparation.finished(values), chunks, batch.before + part[number])

    jobs = [pool.submit(read, part) for part in parts]
    try:
        for job in jobs:
            job.result()
    finally:
        for job in jobs:
            job.cancel()
    first = batch.rows.start - batch.before
    for index in _indexes(chunks) if batch.before else []:
        voxels = tuple(slice(i * side, min((i + 1) * side, n)) for i, side, n in zip(index, sides, shape, strict=True))
        stored = np.asarray(target[(slice(first, batch.rows.start), *voxels)])
        before = chunks[index][: batch.before]
        before[...] = np.nan
        before[(slice(None), *(slice(0, n) for n in stored.shape[:0:-1]))] = stored.transpose(0, 3, 2, 1)
    return chunks, unsmoothed


def _refuse(images: Sequence[Placed], counted: Sequence[Counts], dtype: np.dtype[Any], within: str) -> None:
    """Subjects with infinities, or without data."""
    infinities = np.sum([c.infinite for c in counted], axis=0)
    present = np.sum([c.present for c in counted], axis=0)
    for image, n_infinite, n_present in zip(images, infinities, present, strict=True):
        if n_infinite:
            raise infinite(image, int(n_infinite), dtype)
        if not n_present:
            elsewhere = "" if image.affine is None else " on the cohort's grid"
            raise InputError(
                f"{image.label}: {image.source.name} has no data{within}{elsewhere}: every voxel is missing."
            )


def _filled_up(rows: NDArray[np.floating], target: Array[Any]) -> bytes:
    """A whole chunk, with missing values for the subjects that are not there yet."""
    chunk = rows
    if len(rows) < target.chunks[0]:
        chunk = np.full((target.chunks[0], *rows.shape[1:]), np.nan, dtype=rows.dtype)
        chunk[: len(rows)] = rows
    return encode_chunk(chunk)


def _complete(known: Sequence[NDArray[np.bool_] | None], batch: Batch) -> NDArray[np.uint8]:
    """Subjects with data in every map."""
    every = np.logical_and.reduce([where for where in known if where is not None])
    return _whole({index: every[index].sum(axis=0, dtype=np.uint8) for index in _indexes(every)}, batch)


def _whole(parts: Mapping[Index, NDArray[np.uint8]], batch: Batch) -> NDArray[np.uint8]:
    """A volume (x, y, z) from the counts (k, j, i) of its chunks."""
    shape = batch.preparation.grid.shape
    whole = np.empty(shape, dtype=np.uint8)
    for index, counts in parts.items():
        part = counts.T
        starts = [i * side for i, side in zip(index, part.shape, strict=True)]
        place = tuple(slice(s, min(s + side, n)) for s, side, n in zip(starts, part.shape, shape, strict=True))
        whole[place] = part[tuple(slice(0, p.stop - p.start) for p in place)]
    return whole
