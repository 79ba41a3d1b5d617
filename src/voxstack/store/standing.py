"""What stands at the place where a cohort is to be written, and what may be done to it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from zarr.abc.store import Store

from voxstack.errors import InputError, StoreError
from voxstack.grid import Grid
from voxstack.schema import check_kind
from voxstack.store import keys
from voxstack.store.location import Location
from voxstack.store.open import open_cohort
from voxstack.store.published import Editions, Published
from voxstack.store.unfinished import FOLDER, PLAN, Plan

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
        except OSError as error:
            raise StoreError(f"{location} cannot be read: {error}.") from error
        if published is not None:
            try:
                check_kind(published.attributes, "cohort")
                _ = published.editions, published.n_subjects, published.subjects_per_chunk
            except (InputError, KeyError, TypeError, ValueError) as error:
                raise StoreError(f"{location} is not a voxstack cohort: {error}") from error
            except StoreError as error:
                raise StoreError(f"{location}: {error}") from error
        elif location.path is not None and any(p.name != FOLDER for p in location.path.iterdir()) and not unfinished:
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

    def plan(self, goal: Goal, request: str, labels: list[str], subjects_per_chunk: int) -> Plan:
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
                same = self._plan(goal, base, request, labels, unfinished.subjects_per_chunk)
                if same.continues(unfinished):
                    return unfinished
        size = subjects_per_chunk if goal != "append" or self.published is None else self.published.subjects_per_chunk
        return self._plan(goal, self._base(), request, labels, size)

    def _plan(self, goal: Goal, base: tuple[int, Editions] | None, request: str, labels: list[str], size: int) -> Plan:
        first, editions = self._start(goal, base)
        return Plan(request, first, first + len(labels), size, editions.maps, editions.labels)

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
    # The plan goes last: as long as it is there, the next call knows what was being done.
    keys.delete(store, sorted(left, key=lambda key: (key == PLAN, key)))
    keys.prune(store)


def _ours(key: str) -> bool:
    name, _, rest = key.partition("/")
    if key.endswith(".partial") or name == FOLDER:
        return True
    parts = rest.replace(".", "/").split("/")
    return rest == "zarr.json" or (parts[0] == "c" and all(part.isdecimal() for part in parts[1:]))
