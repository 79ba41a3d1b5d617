"""What a call of `stack` has done so far, so that the next call goes on from there.

Below the key ``stack.partial`` lie the plan and, for each batch of subjects, one chunk of marks and one of counts. A
batch's mark is written when its chunks of the maps and its counts are there; publishing removes it all.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr import Array
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from voxstack.store import keys
from voxstack.store.chunks import LEVEL
from voxstack.store.coverage import Coverage
from voxstack.store.published import Editions, open_array

FOLDER = "stack.partial"
PLAN = f"{FOLDER}/plan.json"


@dataclass(frozen=True)
class Plan:
    """What is being written, as far as the chunks of the maps depend on it.

    Attributes
    ----------
    request
        Digest of the grid, the maps and how they are prepared.
    first, stop
        Rows of the subjects that are written.
    subjects_per_chunk
        Chosen from the memory when the writing began.
    maps, labels
        Editions that are written.
    run
        Id of the call that carries it out: tasks of a call that was killed may still be running somewhere, and must
        not write any more.
    call
        Digest of everything that it was asked for, the images included.
    """

    request: str
    first: int
    stop: int
    subjects_per_chunk: int
    maps: int
    labels: int
    run: str = ""
    call: str = ""

    @classmethod
    def read(cls, store: Store) -> "Plan | None":
        """Of a stopped call; None where there is none."""
        content = keys.get(store, PLAN)
        if content is None:
            return None
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):  # damaged, or of another version: one that nothing continues
            return cls("", 0, 0, 1, -1, -1)

    def begin(self, store: Store, call: str) -> "Plan":
        """Write it with a new id, and what was asked for; from now on a stopped call is gone on with."""
        plan = replace(self, run=uuid4().hex, call=call)
        keys.put(store, {PLAN: json.dumps(asdict(plan)).encode()})
        return plan

    def continues(self, other: "Plan") -> bool:
        """Whether it asks for what the other one has begun."""
        return replace(other, subjects_per_chunk=self.subjects_per_chunk, run=self.run, call=self.call) == self

    @property
    def base(self) -> tuple[int, Editions] | None:
        """Subjects and editions of the cohort that was there before; None where none was."""
        if self.labels == 0:
            return None
        return self.first, Editions(self.maps if self.first else self.maps - 1, self.labels - 1)

    def batches(self) -> list[range]:
        """Rows of each batch: the first one fills a chunk that is there in part, each other one begins a chunk."""
        size = self.subjects_per_chunk
        starts = [self.first, *range((self.first // size + 1) * size, self.stop, size)]
        return [range(start, stop) for start, stop in zip(starts, [*starts[1:], self.stop], strict=True)]


class Marks:
    """What is known of each batch of a plan.

    Two arrays. Marks (batches, 2) uint64: fingerprint of the sources and digest of the values, 0 where the batch is not
    done. Counts (batches, 1 + 2 maps, x, y, z) uint8: subjects with data in every map; then for each map those whose
    value is 0, and those whose value is neither 0 nor missing.

    Parameters
    ----------
    store
        Where they are, or will be.
    n_batches, n_maps
        Of the plan.
    shape
        Of the grid.
    """

    def __init__(self, store: Store, n_batches: int, n_maps: int, shape: tuple[int, int, int]) -> None:
        self._n_maps, self._shape = n_maps, shape
        n_counts = 1 + 2 * n_maps
        self._marks = _array(store, "marks", (n_batches, 2), (1, 2), "uint64")
        self._counts = _array(store, "counts", (n_batches, n_counts, *shape), (1, n_counts, *shape), "uint8")

    def set(self, batch: int, fingerprint: int, digest: int, counts: NDArray[np.uint8]) -> None:
        """Mark a batch as done, which is the last thing that is written of it."""
        self._counts[batch] = counts
        self._marks[batch] = np.array([fingerprint, digest], dtype=np.uint64)

    def remove(self, batch: int) -> None:
        """Before a batch is done anew."""
        self._marks[batch] = np.zeros(2, dtype=np.uint64)

    def fingerprints(self) -> list[int]:
        """Of the sources of each batch; 0 where it is not done."""
        return [int(value) for value in np.asarray(self._marks[:])[:, 0]]

    def digests(self) -> NDArray[np.uint64]:
        """Of the values of each batch."""
        return np.asarray(self._marks[:])[:, 1]

    def coverage(self) -> Coverage:
        """Of all batches together."""
        total = np.zeros(self._counts.shape[1:], dtype=np.int32)
        for batch in range(self._counts.shape[0]):
            total += np.asarray(self._counts[batch])
        return Coverage(total[0], total[1 : 1 + self._n_maps], total[1 + self._n_maps :])


def has_marks(store: Store) -> bool:
    """Whether some batch of some plan is done."""
    return any(key.startswith(f"{FOLDER}/marks/") for key in keys.all_keys(store))


def _array(store: Store, name: str, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> Array[Any]:
    """An array that is not a node of its store: nobody but a plan, which knows its metadata, finds it."""
    node = zarr.create_array(
        MemoryStore(),
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        fill_value=0,
        zarr_format=3,
        compressors=[ZstdCodec(level=LEVEL)],
    )
    return open_array(store, f"{FOLDER}/{name}", node.metadata.to_dict())
