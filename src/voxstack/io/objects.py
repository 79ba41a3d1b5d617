"""Objects in stores: read, written and described by one library for each protocol.

s3, gs and az go through obstore, other protocols through fsspec. Whatever goes wrong is an `OSError`, as of a file,
whose message holds no credentials.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from voxstack.errors import StoreError, VoxstackError

OBSTORE_SCHEMES = ("s3", "gs", "az", "abfs", "abfss")
_SECRET = re.compile(r"key|secret|token|password|credential|signature|sas|auth", re.IGNORECASE)
_LONGEST = 400  # letters of an error of another program

StorageOptions = Mapping[str, Any]


class Status(NamedTuple):
    """What a store tells of an object without reading it: its size in bytes, and a text that changes with it."""

    size: int
    version: str


def without_password(url: str) -> str:
    """A URL without the password that it may hold."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", url)


@contextmanager
def errors_as_of_files(url: str, storage_options: StorageOptions) -> Iterator[None]:
    """Each protocol has exceptions of its own: here they are `OSError`s, and say no secret."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"there is nothing at {without_password(url)}") from None
    except VoxstackError:
        raise
    except Exception as error:
        # Their own texts and tracebacks may hold what has to stay secret.
        raise OSError(without_secrets(error, storage_options)) from None


def is_of_object_store(error: Exception) -> bool:
    """Whether an error is obstore's own, of what the store or the network refuses."""
    return type(error).__module__.partition(".")[0] == "obstore"


def without_secrets(error: Exception, storage_options: StorageOptions) -> str:
    """What went wrong, in one line, without credentials and signed queries."""
    text = str(error).partition("\n\nDebug source")[0]
    for secret in sorted(_secrets(storage_options), key=len, reverse=True):
        text = text.replace(secret, "***")
    text = re.sub(r"(://[^\s\"'<>?]*)\?[^\s\"'<>]*", r"\1", without_password(text))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _secrets(options: Any, named: bool = False) -> Iterator[str]:
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from _secrets(value, named or bool(_SECRET.search(str(name))))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _secrets(value, named)
    elif named and len(str(options)) > 3 and not isinstance(options, bool):
        yield str(options)


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
    if scheme_of(url) in OBSTORE_SCHEMES:
        root, key = split_url(url)
        return _OfObstore(obstore_client(root, storage_options), key)
    from fsspec.core import url_to_fs

    return _OfFsspec(*url_to_fs(url, **storage_options))


def scheme_of(url: str) -> str:
    """What comes before ``://``."""
    return url.partition("://")[0]


_clients: dict[tuple[str, str], Any] = {}


def obstore_client(url: str, storage_options: StorageOptions) -> Any:
    """obstore's store of a URL, one in a process, so that connections are used again."""
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{without_password(url)}: object stores need obstore. Install it with: pip install 'voxstack[cloud]'."
        ) from error
    key = url, json.dumps(storage_options, sort_keys=True, default=repr)
    if key not in _clients:
        _clients[key] = from_url(url, **storage_options)
    return _clients[key]


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
