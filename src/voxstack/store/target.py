"""Where `stack` writes: over nothing that must stay, and an old cohort stays until the new one is whole."""

import shutil
from dataclasses import dataclass

from zarr.abc.store import Store

from voxstack.errors import StoreError
from voxstack.store import layout
from voxstack.store.location import Location
from voxstack.store.open import open_cohort


@dataclass(frozen=True)
class Target:
    """Where the cohort goes, and where it is built: beside an old one that it will replace, else in place."""

    final: Location
    building: Location

    @classmethod
    def claim(cls, location: Location, *, overwrite: bool) -> "Target":
        """Refuse whatever must not be written over."""
        target = cls(location, location)
        if location.path is not None and not location.path.exists():
            return target
        if location.path is not None and not location.path.is_dir():
            raise StoreError(f"{location} is a file; a cohort needs a folder.")
        store = location.open(read_only=True)
        if layout.exists(store, "zarr.json"):
            if not overwrite:
                raise StoreError(
                    f"{location} exists already. Choose another place, or replace it with overwrite=True (--overwrite)."
                )
            open_cohort(location.url, storage_options=location.storage_options)  # refuses what is not a cohort
            if location.path is None:
                return target
            return cls(location, Location(f"{location.path}.partial"))
        if not layout.exists(store, layout.UNFINISHED) and location.path is not None and any(location.path.iterdir()):
            raise StoreError(f"{location} is a folder with other files in it. Choose a place that does not exist yet.")
        return target

    def begin(self) -> Store:
        """An empty store to write into; what a stopped call left there is removed."""
        store = self.building.open(read_only=False)
        try:
            layout.clear(store)
            if self.building.path is not None:
                self.building.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{self.building} cannot be written: {error}.") from error
        return store

    def finish(self) -> None:
        """Put the new cohort in the place of the old one."""
        if self.building == self.final:
            return
        assert self.final.path is not None
        assert self.building.path is not None
        old = self.final.path.with_name(f"{self.final.path.name}.old.partial")
        shutil.rmtree(old, ignore_errors=True)
        self.final.path.rename(old)
        self.building.path.rename(self.final.path)
        shutil.rmtree(old)
