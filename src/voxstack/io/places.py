"""Files wherever they lie: paths, and URLs that readers and writers treat as paths."""

import io
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from voxstack.errors import InputError
from voxstack.io.objects import Status, StoredObject, split_url, stored_object
from voxstack.io.secrets import StorageOptions, errors_as_of_files, refuse_credentials

_BUFFER = 8 << 20  # bytes that are read ahead of a file that is gone through


@dataclass(frozen=True, repr=False)
class Remote:
    """A file at a URL, with the methods of `pathlib.Path` that voxstack uses.

    Attributes
    ----------
    url
        Such as ``s3://bucket/maps/sub-01.nii.gz``; it is shown and logged, so it holds no credentials.
    storage_options
        Credentials and settings: those of obstore for s3, gs and az, of fsspec for other protocols. They travel to
        workers and are part of no text.
    """

    url: str
    storage_options: StorageOptions = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    @property
    def name(self) -> str:
        """After the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Ending of the name."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> "Remote":
        """Before the last slash; of a bucket the bucket itself."""
        root, key = split_url(self.url)
        return Remote(f"{root}/{posixpath.dirname(key)}".rstrip("/"), self.storage_options)

    @property
    def parents(self) -> list["Remote"]:
        """From its folder up to the bucket."""
        found, at = [], self
        while split_url(at.url)[1]:
            at = at.parent
            found.append(at)
        return found

    def with_name(self, name: str) -> "Remote":
        """A file beside it."""
        return Remote(f"{self.url.rpartition('/')[0]}/{name}", self.storage_options)

    def __truediv__(self, name: str) -> "Remote":
        root, key = split_url(self.url)
        joined = posixpath.normpath(posixpath.join(key, name))  # object stores know no ".."
        return Remote(f"{root}/{joined.lstrip('/')}", self.storage_options)

    def status(self) -> Status:
        """Without reading it; FileNotFoundError where there is none."""
        with self._object() as found:
            return found.status()

    def exists(self) -> bool:
        """Whether there is such an object."""
        try:
            self.status()
        except FileNotFoundError:
            return False
        return True

    is_file = exists  # a folder is nothing of its own in an object store

    def read_bytes(self) -> bytes:
        """All of it."""
        with self._object() as found:
            return found.read()

    def read_range(self, start: int, stop: int) -> tuple[bytes, int]:
        """Bytes from `start` to before `stop`, fewer at its end, and the size of the whole."""
        with self._object() as found:
            return found.read_range(start, stop)

    def open(self, mode: str = "rb", buffering: int = -1) -> Any:
        """A file that reads what it is asked for; with a buffer, some megabytes ahead."""
        assert mode == "rb"
        raw = _RangedFile(self)
        return raw if buffering == 0 else io.BufferedReader(raw, _BUFFER)

    def write_bytes(self, content: bytes) -> None:
        """Put it in one step: readers see what was there before, or all of it."""
        with self._object() as found:
            found.write(content)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it."""
        try:
            with self._object() as found:
                found.delete()
        except FileNotFoundError:
            if not missing_ok:
                raise

    @contextmanager
    def _object(self) -> Iterator[StoredObject]:
        with errors_as_of_files(self.url, self.storage_options):
            yield stored_object(self.url, self.storage_options)


Place = Path | Remote
"""Where a file or folder is."""


def is_url(text: str) -> bool:
    """Whether a text is a URL rather than a path."""
    return "://" in text


def place_of(place: str | Path | Remote, storage_options: StorageOptions | None = None) -> Place:
    """The place that a user names by a path or a URL; ``file://`` is a path. `InputError` for credentials in a URL."""
    if not isinstance(place, str):
        return place
    if place.startswith("file://"):
        return Path(unquote(place.removeprefix("file://")))
    if not is_url(place):
        return Path(place).expanduser() if place.startswith("~/") else Path(place)
    refuse_credentials(place)
    return Remote(place, storage_options or {})


def located(given: Any, storage_options: StorageOptions | None) -> Any:
    """What a user gives, alone or as one of a pair, with paths and URLs as places; all else as it is."""
    if isinstance(given, tuple):
        return tuple(place_of(one, storage_options) if isinstance(one, str) else one for one in given)
    return place_of(given, storage_options) if isinstance(given, str) else given


def joined(folder: Place, name: str, storage_options: StorageOptions | None = None) -> Place:
    """What a name in a table means: a URL or an absolute path itself, else a file below the table's folder."""
    if is_url(name) or name.startswith("~/") or Path(name).is_absolute():
        return place_of(name, storage_options)
    return folder / name


def local_folder(folder: str | Path, what: str) -> Path:
    """A folder of this machine; `InputError` for a URL where only such a folder will do."""
    if isinstance(folder, str) and is_url(folder) and not folder.startswith("file://"):
        refuse_credentials(folder)
        raise InputError(f"{what} is written to a folder of this machine, not to {folder}.")
    place = place_of(folder)
    assert isinstance(place, Path)
    return place


def version_of(place: Place) -> tuple[Any, ...] | None:
    """Changes whenever the file does; None where there is none."""
    try:
        if isinstance(place, Remote):
            return tuple(place.status())
        # A file may be replaced by one of the same size and time, but not without a change of its own status.
        stat = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class _RangedFile(io.RawIOBase):
    """An object as a file, of which only what is read is fetched."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._at = remote, 0
        self._size: int | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not len(buffer) or (self._size is not None and self._at >= self._size):
            return 0
        content, self._size = self._remote.read_range(self._at, self._at + len(buffer))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END and self._size is None:
            self._size = self._remote.status().size
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size or 0}[whence]
        if start + offset < 0:
            raise OSError("a place before the beginning of the file")
        self._at = start + offset
        return self._at
