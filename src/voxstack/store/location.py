"""Where a store is: a folder or a URL, as something that travels to workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from voxstack.errors import StoreError
from voxstack.io.objects import OBSTORE_SCHEMES, obstore_client, scheme_of, without_password, without_secrets
from voxstack.io.places import Remote, place_of


@dataclass(frozen=True)
class Location:
    """A folder, or the URL of an object store.

    Attributes
    ----------
    url
        A path, or a URL such as ``s3://bucket/cohort.zarr``.
    storage_options
        Credentials and settings of an object store: those of obstore for s3, gs and az, of fsspec for other protocols.
    """

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, store: str | Path | Remote, storage_options: Mapping[str, Any] | None = None) -> "Location":
        """From what users pass as `store` and `storage_options`."""
        place = place_of(store, storage_options)
        if isinstance(place, Remote):
            return cls(place.url, dict(place.storage_options))
        return cls(str(place.expanduser().absolute()), {})  # workers may run in another folder

    @property
    def path(self) -> Path | None:
        """The folder; None for an object store."""
        return None if "://" in self.url else Path(self.url)

    def open(self, *, read_only: bool) -> Store:
        """The Zarr store."""
        if self.path is not None:
            return LocalStore(self.path, read_only=read_only)
        try:
            return self._open_url(read_only)
        except StoreError:
            raise
        except Exception as error:  # each protocol has exceptions of its own, which may hold secrets
            raise StoreError(
                f"{self} cannot be opened: {without_secrets(error, self.storage_options)} Use a folder, or the URL of "
                "an object store such as s3://bucket/cohort.zarr with the storage_options that it needs."
            ) from None

    def _open_url(self, read_only: bool) -> Store:
        if scheme_of(self.url) in OBSTORE_SCHEMES:
            return ObjectStore(obstore_client(self.url, self.storage_options), read_only=read_only)
        return FsspecStore.from_url(self.url, storage_options=dict(self.storage_options), read_only=read_only)

    def __str__(self) -> str:
        return without_password(self.url)
