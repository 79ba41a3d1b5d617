"""Where a store is: a folder or a URL, as something that travels to workers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from voxstack.errors import StoreError

_OBSTORE_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")


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
    def of(cls, store: str | Path, storage_options: Mapping[str, Any] | None = None) -> "Location":
        """From what users pass as `store` and `storage_options`."""
        url = str(store)
        if "://" not in url:
            # Workers may run in another folder.
            return cls(str(Path(url).expanduser().absolute()), {})
        if url.startswith("file://"):
            return cls(unquote(url.removeprefix("file://")), {})
        return cls(url, dict(storage_options or {}))

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
        except Exception as error:  # each protocol has exceptions of its own
            raise StoreError(
                f"{self.url} cannot be opened: {error} Use a folder, or the URL of an object store such as "
                "s3://bucket/cohort.zarr with the storage_options that it needs."
            ) from error

    def _open_url(self, read_only: bool) -> Store:
        if self.url.partition("://")[0] not in _OBSTORE_SCHEMES:
            return FsspecStore.from_url(self.url, storage_options=dict(self.storage_options), read_only=read_only)
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise StoreError(
                f"{self.url}: object stores need obstore. Install it with: pip install 'voxstack[cloud]'."
            ) from error
        return ObjectStore(from_url(self.url, **self.storage_options), read_only=read_only)

    def __str__(self) -> str:
        return self.url
