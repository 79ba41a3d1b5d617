"""Where a store is: a folder or a URL, as something that travels to workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore

from voxstack.checks import check_options
from voxstack.errors import InputError
from voxstack.io.places import Remote, place_of
from voxstack.store.remote import open_remote


@dataclass(frozen=True)
class Location:
    """A folder, or the URL of an object store.

    Attributes
    ----------
    url
        A path, or a URL such as ``s3://bucket/cohort.zarr``. It is shown and logged, so it holds no credentials.
    storage_options
        Credentials and settings of an object store: those of obstore for s3, gs and az, of fsspec for other protocols.
    """

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __hash__(self) -> int:
        return hash(self.url)

    @classmethod
    def of(cls, store: str | Path | Remote, storage_options: Mapping[str, Any] | None = None) -> "Location":
        """From what users pass as `store` and `storage_options`; `InputError` for a URL with credentials in it."""
        if not isinstance(store, str | Path | Remote):
            raise InputError(f"A store is a path or a URL, not a {type(store).__name__}.")
        check_options("storage_options", storage_options)
        place = place_of(store, storage_options)
        if isinstance(place, Remote):
            return cls(place.url, dict(place.storage_options))
        return cls(str(place.expanduser().absolute()), {})  # workers may run in another folder

    @property
    def path(self) -> Path | None:
        """The folder; None for an object store."""
        return None if "://" in self.url else Path(self.url)

    def open(self, *, read_only: bool) -> Store:
        """The Zarr store; `StoreError` where its options are wrong. Nothing is sent to an object store for it."""
        if self.path is not None:
            return LocalStore(self.path, read_only=read_only)
        return open_remote(self.url, self.storage_options, read_only=read_only)

    def __str__(self) -> str:
        return self.url
