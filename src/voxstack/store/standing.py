"""What stands at the place where a cohort is to be written, and what may be done to it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from zarr.abc.store import Store

from voxstack.errors import InputError, StoreError
from voxstack.grid import Grid
from voxstack.io.places import place_of
from voxstack.schema import check_kind
from voxstack.store import keys
from voxstack.store.location import Location
from voxstack.store.lock import LOCK
from voxstack.store.open import open_cohort
from voxstack.store.published import Chunking, Editions, Published, enclosing
from voxstack.store.unfinished import FOLDER, MARKS, PLAN, RESULT, Plan

Goal = Literal["new", "append", "overwrite"]


@dataclass(frozen=True)
class Standing:
    """A place for a cohort.

    Attributes
    ----------
    location
        The place.
    published
        The cohort that readers see there; None where there is none.
    unfinished
        What a stopped call was writing there.
    """

    location: Location
    published: Published | None
    unfinished: Plan | None

    @classmethod
    def look(cls, location: Location) -> "Standing":
        """See what is there; `StoreError` where it is neither a cohort nor the beginning of one."""
        if location.path is not None and not location.path.exists():
            return cls(location, None, None)
        if location.path is not None and not location.path.is_dir():
            raise StoreError(f"{location} is a file; a cohort needs a folder.")
        store = location.open(read_only=True)
        try:
            published, unfinished = Published.read(store), Plan.read(store)
            nothing = published is None and unfinished is None
            others = nothing and keys.some_key(store, but=_of_the_start) is not None
        except OSError as error:
            raise StoreError(f"{location} cannot be read: {error}.") from error
        if published is not None:
            try:
                check_kind(published.attributes, "cohort")
                _ = published.editions, published.n_subjects, published.chunking
            except (InputError, KeyError, TypeError, ValueError) as error:
                raise StoreError(f"{location} is not a voxstack cohort: {error}") from error
            except StoreError as error:
                raise StoreError(f"{location}: {error}") from error
        elif others:
            raise StoreError(f"{location} is a folder with other files in it. Choose a place that does not exist yet.")
        return cls(location, published, unfinished)

    @property
    def unswept(self) -> bool:
        """Whether a call was stopped after it had published its cohort, and before it had tidied up."""
        if self.published is None or self.unfinished is None:
            return False
        return self.published.editions.labels == self.unfinished.labels

    def swept(self) -> "Standing":
        """The same without what a stopped call has left."""
        return replace(self, unfinished=None)

    def grid(self) -> Grid:
        """Of the cohort that is there."""
        return Grid.from_dataset(open_cohort(self.location.url, storage_options=self.location.storage_options))

    def require(self, goal: Goal) -> None:
        """Raise `StoreError` where nothing can come of a goal, before any work."""
        if not self.unswept:
            self._start(goal, self._base())
        if self.published is None:
            check_apart(self.location)

    def sharded(self, goal: Goal, shard: bool | None) -> bool:
        """Whether the maps will lie in shards, where users ask for them, for none, or say nothing.

        Raises
        ------
        InputError
            What is appended is to be cut in another way than what is there.
        """
        if goal != "append" or self.published is None:
            return self.location.path is None if shard is None else shard
        there = self.published.chunking.sharded
        if shard not in (None, there):
            raise InputError(
                f"{self.location} has {'shards' if there else 'no shards'}, and what is appended is cut as what is "
                "there. Leave shard out."
            )
        return there

    def plan(self, goal: Goal, request: str, labels: list[str], chunking: Chunking) -> Plan:
        """How a request is carried out: the unfinished plan, where that asks for the same.

        Raises
        ------
        StoreError
            A cohort is there and is neither to be replaced nor appended to, or none is there to append to.
        """
        unfinished = self.unfinished
        if unfinished is not None:
            base = unfinished.base if self.unswept else self._base()
            with suppress(StoreError):
                as_begun = chunking._replace(subjects=unfinished.subjects_per_chunk)
                same = self._plan(goal, base, request, labels, as_begun)
                if same.continues(unfinished):
                    return unfinished
        if goal == "append" and self.published is not None:
            chunking = self.published.chunking
        return self._plan(goal, self._base(), request, labels, chunking)

    def _plan(
        self, goal: Goal, base: tuple[int, Editions] | None, request: str, labels: list[str], chunking: Chunking
    ) -> Plan:
        first, editions = self._start(goal, base)
        return Plan(request, first, first + len(labels), *chunking, editions.maps, editions.labels)

    def _base(self) -> tuple[int, Editions] | None:
        return None if self.published is None else (self.published.n_subjects, self.published.editions)

    def _start(self, goal: Goal, base: tuple[int, Editions] | None) -> tuple[int, Editions]:
        """Row of the first subject to be written, and the editions."""
        if goal == "append":
            if base is None:
                unfinished = "" if self.unfinished is None else " The one that was begun there is not finished."
                raise StoreError(
                    f"There is no cohort at {self.location} to append to.{unfinished} Leave append out to stack one."
                )
            return base[0], replace(base[1], labels=base[1].labels + 1)
        if base is None:
            return 0, Editions()
        if goal == "new":
            raise StoreError(
                f"{self.location} exists already. Choose another place, add subjects with append=True (--append), or "
                "replace it with overwrite=True (--overwrite)."
            )
        return 0, Editions(base[1].maps + 1, base[1].labels + 1)


def check_apart(location: Location) -> None:
    """Raise `StoreError` for a place within a store, where the next writing of that would sweep what lies there."""
    url = location.url if location.path is not None else location.url.rstrip("/")
    if (outer := enclosing(place_of(url, location.storage_options), itself=False)) is not None:
        raise StoreError(
            f"{location} would lie in the store {outer}, which removes what is not its own. Choose another place."
        )


def sweep(store: Store, *, keep: Callable[[str], bool]) -> None:
    """Remove what stopped and replaced writings have left: temporary files, and chunks and arrays of no cohort.

    Parameters
    ----------
    store
        That nobody else writes.
    keep
        Whether a key stays; whatever voxstack does not write stays, too.
    """
    left = [key for key in keys.all_keys(store) if _ours(key) and not keep(key)]
    # A mark says that its chunks are there, so it goes before them: else a call that goes on with the plan would skip
    # what a sweep that was stopped has removed. As long as the last are there, the next call knows what was being done.
    first = [key for key in left if key.startswith(f"{MARKS}/")]
    last = [key for key in left if key == PLAN or _is_unfinished(key)]
    for part in (first, sorted(set(left) - {*first, *last}), last):  # each is gone before the next one is begun
        keys.delete(store, part)
    keys.prune(store)


def _of_the_start(key: str) -> bool:
    """Whether a key is written before anything else is, or by a worker that is too late."""
    return key == LOCK or key.startswith(f"{FOLDER}/") or keys.is_temporary(key)


def _is_unfinished(key: str) -> bool:
    """Whether a key is what a writing has not finished; users have files that end in .partial, too."""
    return keys.is_temporary(key) or key == RESULT


def _ours(key: str) -> bool:
    name, _, rest = key.partition("/")
    if _is_unfinished(key) or name == FOLDER:
        return True
    parts = rest.replace(".", "/").split("/")
    return rest in ("zarr.json", "0") or (parts[0] == "c" and all(part.isdecimal() for part in parts[1:]))
