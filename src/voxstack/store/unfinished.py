"""What a call of `stack` has done so far, so that the next call goes on from there.

Below the key ``stack.partial`` lie the plan and, for each batch of subjects, one key of marks and one of counts. A
batch's mark is written when its chunks of the maps and its counts are there; publishing removes it all.
"""

import json
from dataclasses import asdict, dataclass, replace
from uuid import uuid4

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.abc.store import Store

from voxstack.store import keys
from voxstack.store.chunks import LEVEL
from voxstack.store.coverage import Coverage
from voxstack.store.published import Chunking, Editions

RESULT = "results.partial"
"""Key that is there while a result is written: with it, what is of no result was left by a call that was stopped."""

FOLDER = "stack.partial"
PLAN = f"{FOLDER}/plan.json"
MARKS, _COUNTS = f"{FOLDER}/marks", f"{FOLDER}/counts"
_zstd = Zstd(level=LEVEL)


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
    sharded
        Whether the maps are written in shards.
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
    sharded: bool
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
            return cls("", 0, 0, 1, False, -1, -1)

    def begin(self, store: Store, call: str) -> "Plan":
        """Write it with a new id, and what was asked for; from now on a stopped call is gone on with."""
        plan = replace(self, run=uuid4().hex, call=call)
        keys.put(store, {PLAN: json.dumps(asdict(plan)).encode()})
        return plan

    def continues(self, other: "Plan") -> bool:
        """Whether it asks for what the other one has begun."""
        return replace(other, subjects_per_chunk=self.subjects_per_chunk, run=self.run, call=self.call) == self

    @property
    def chunking(self) -> Chunking:
        """Of the maps."""
        return Chunking(self.subjects_per_chunk, self.sharded)

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

    Two keys each. ``marks/NUMBER`` holds two uint64: fingerprint of the sources and digest of the values.
    ``counts/NUMBER`` holds compressed counts (1 + 2 maps, x, y, z) in uint8: subjects with data in every map; then for
    each map those whose value is 0, and for each those whose value is neither 0 nor missing. Zeros are those before
    smoothing, outside an explicit mask too where maps are smoothed.

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
        self._store, self._n_batches, self._n_maps = store, n_batches, n_maps
        self._shape = (1 + 2 * n_maps, *shape)

    def set(self, batch: int, fingerprint: int, digest: int, counts: NDArray[np.uint8]) -> None:
        """Mark a batch as done, which is the last thing that is written of it."""
        told = np.array([fingerprint, digest], dtype="<u8").tobytes()
        keys.put(self._store, {f"{_COUNTS}/{batch}": bytes(_zstd.encode(counts)), f"{MARKS}/{batch}": told})

    def remove(self, batch: int) -> None:
        """Before a batch is done anew."""
        keys.delete(self._store, [f"{MARKS}/{batch}"])

    @property
    def _marks(self) -> NDArray[np.uint64]:
        told = [keys.get(self._store, f"{MARKS}/{batch}") for batch in range(self._n_batches)]
        whole = [content if content is not None and len(content) == 16 else bytes(16) for content in told]
        return np.frombuffer(b"".join(whole), dtype="<u8").reshape(-1, 2)

    def fingerprints(self) -> list[int]:
        """Of the sources of each batch; 0 where it is not done."""
        return [int(value) for value in self._marks[:, 0]]

    def digests(self) -> NDArray[np.uint64]:
        """Of the values of each batch."""
        return self._marks[:, 1]

    def coverage(self) -> Coverage:
        """Of all batches together."""
        total = np.zeros(self._shape, dtype=np.int32)
        for batch in range(self._n_batches):
            content = keys.get(self._store, f"{_COUNTS}/{batch}")
            assert content is not None, batch
            total += np.frombuffer(_zstd.decode(content), dtype=np.uint8).reshape(self._shape)
        return Coverage(total[0], total[1 : 1 + self._n_maps], total[1 + self._n_maps :])


def has_marks(store: Store) -> bool:
    """Whether some batch of some plan is done."""
    return any(key.startswith(f"{MARKS}/") for key in keys.all_keys(store))
