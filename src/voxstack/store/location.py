"""Where a store is: a folder or a URL, as something that travels to workers."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from zarr.abc.store import Store
from zarr.storage import LocalStore

from voxstack.errors import InputError
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
    def of(cls, store: str | Path, storage_options: Mapping[str, Any] | None = None) -> "Location":
        """From what users pass as `store` and `storage_options`; `InputError` for a URL with credentials in it."""
        url = str(store)
        if "://" not in url:
            # Workers may run in another folder.
            return cls(str(Path(url).expanduser().absolute()), {})
        if url.startswith("file://"):
            return cls(unquote(url.removeprefix("file://")), {})
        _refuse_credentials(url)
        return cls(url, dict(storage_options or {}))

    @property
    def path(self) -> Path | None:
        """The folder; None for an object store."""
        return None if "://" in self.url else Path(self.url)

    def open(self, *, read_only: bool) -> Store:
        """The Zarr store; `StoreError` where its options are wrong. Nothing is sent to an object store for it."""
        if self.path is not None:
            return LocalStore(self.path, read_only=read_only)
        # With the environment, from which credentials may come as well.
        return _opened(self, read_only, frozenset(os.environ.items()))

    def __str__(self) -> str:
        return self.url


@lru_cache(maxsize=16)
def _opened(location: Location, read_only: bool, environment: frozenset[tuple[str, str]]) -> Store:
    """One store for many calls, which then share its connections."""
    return open_remote(location.url, location.storage_options, read_only=read_only)


def _refuse_credentials(url: str) -> None:
    """URLs end up in messages, logs and task names."""
    scheme = url.partition("://")[0]
    # A password may hold any letter; before a slash, digits behind a colon are a port.
    with_password = re.search(r"://[^/@]*:(?!\d+(/|$))[^@]*@", url)
    # az://container@account is a place; a name alone may be a token elsewhere.
    with_token = scheme.startswith("http") and re.search(r"://[^/]*@", url)
    if with_password or with_token or "?" in url:
        what = "a query, which may be a token" if "?" in url else "a user or a password"
        raise InputError(
            f"The URL of the store ({scheme}://...) holds {what}. URLs are shown in messages and logs, so give "
            "credentials as storage_options, or by the environment variables of the protocol."
        )
