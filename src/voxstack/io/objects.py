"""Objects in stores: read, written and described by one library for each protocol.

s3, gs and az go through obstore, other protocols through fsspec.
"""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple, Protocol

from voxstack.errors import StoreError
from voxstack.io.secrets import StorageOptions

_VARIABLES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_", "abfs": "AZURE_", "abfss": "AZURE_"}
"""Protocols of obstore, and how the names of their environment variables begin."""

_CLIENT = {"timeout": "2 minutes"}
"""Of a request with its answer. A shard is sent in one, so obstore's 30 seconds would be too few on a slow line."""

_CLIENT_OPTIONS = (
    "allow_http", "allow_invalid_certificates", "connect_timeout", "pool_idle_timeout", "pool_max_idle_per_host",
    "proxy_ca_certificate", "proxy_excludes", "proxy_url", "timeout", "user_agent",
)  # fmt: skip

_RETRIES = {"max_retries": 15, "retry_timeout": timedelta(minutes=5)}
_BACKOFF = {"base": 3}
"""Some 35 seconds, where every retry fails at once. Those of obstore, ten by doubling, are over after 3 (median)."""


class Status(NamedTuple):
    """What a store tells of an object without reading it: its size in bytes, and a text that changes with it."""

    size: int
    version: str


def split_url(url: str) -> tuple[str, str]:
    """Bucket and key."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme}://{bucket}", key


class StoredObject(Protocol):
    """An object by one of the libraries."""

    def status(self) -> Status: ...
    def read(self) -> bytes: ...
    def read_range(self, start: int, stop: int) -> tuple[bytes, int]: ...
    def write(self, content: bytes) -> None: ...
    def delete(self) -> None: ...


def stored_object(url: str, storage_options: StorageOptions) -> StoredObject:
    """The object at a URL, which may be missing."""
    if by_obstore(url):
        root, key = split_url(url)
        return _OfObstore(obstore_client(root, storage_options), key)
    from fsspec.core import url_to_fs

    return _OfFsspec(*url_to_fs(url, **storage_options))


def by_obstore(url: str) -> bool:
    """Whether the protocol of a URL is one of obstore's."""
    return url.partition("://")[0] in _VARIABLES


_clients: dict[tuple[Any, ...], Any] = {}


def obstore_client(url: str, storage_options: StorageOptions) -> Any:
    """obstore's store of a URL, one in a process, so that connections are used again; `StoreError` without obstore."""
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{url}: object stores need obstore. Install it with: pip install 'voxstack[cloud]'."
        ) from error
    environment = _environment(url.partition("://")[0])
    key = url, json.dumps(storage_options, sort_keys=True, default=repr), tuple(sorted(environment.items()))
    if key not in _clients:
        # Client options, which obstore takes from the environment only where it is given none.
        mine = {name.lower(): value for name, value in environment.items() if name.lower() in _CLIENT_OPTIONS}
        client = {**_CLIENT, **mine, **storage_options.get("client_options", {})}
        asked = storage_options.get("retry_config", {})
        retries = {**_RETRIES, **asked, "backoff": {**_BACKOFF, **asked.get("backoff", {})}}
        _clients[key] = from_url(url, **{**storage_options, "client_options": client, "retry_config": retries})
    return _clients[key]


def _environment(scheme: str) -> Mapping[str, str]:
    """Variables of a protocol, from which credentials may come as well, by the rest of their names."""
    start = _VARIABLES[scheme]
    return {name.removeprefix(start): value for name, value in os.environ.items() if name.startswith(start)}


class _OfObstore:
    def __init__(self, client: Any, key: str) -> None:
        self._client, self._key = client, key

    def status(self) -> Status:
        import obstore

        told = obstore.head(self._client, self._key)
        return Status(told["size"], str(told.get("e_tag") or told.get("version") or told["last_modified"]))

    def read(self) -> bytes:
        import obstore

        return bytes(obstore.get(self._client, self._key).bytes())

    def read_range(self, start: int, stop: int) -> tuple[bytes, int]:
        import obstore

        try:
            found = obstore.get(self._client, self._key, options={"range": (start, stop)})
            return bytes(found.bytes()), found.meta["size"]
        except Exception as error:
            if "416" not in str(error):
                raise
            return b"", self.status().size  # stores refuse ranges beyond the end, of an empty object any

    def write(self, content: bytes) -> None:
        import obstore

        obstore.put(self._client, self._key, content)

    def delete(self) -> None:
        import obstore

        obstore.delete(self._client, self._key)


class _OfFsspec:
    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path

    def status(self) -> Status:
        told = self._files.info(self._path)
        if told.get("type") == "directory":
            raise FileNotFoundError(self._path)
        size = told.get("size")
        return Status(len(self.read()) if size is None else int(size), str(self._files.ukey(self._path)))

    def read(self) -> bytes:
        return bytes(self._files.cat_file(self._path))

    def read_range(self, start: int, stop: int) -> tuple[bytes, int]:
        size = self.status().size
        stop = min(stop, size)
        return bytes(self._files.cat_file(self._path, start=start, end=stop)) if start < stop else b"", size

    def write(self, content: bytes) -> None:
        self._files.makedirs(self._files._parent(self._path), exist_ok=True)
        self._files.pipe_file(self._path, content)

    def delete(self) -> None:
        self._files.rm_file(self._path)
