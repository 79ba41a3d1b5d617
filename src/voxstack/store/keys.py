"""A store's keys, read and written one by one.

Folders are read and written directly: Zarr's way through an event loop costs more than the writing of a chunk itself.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.common import concurrent_map
from zarr.core.sync import sync
from zarr.storage import LocalStore

_REQUESTS = 16  # at a time
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.partial$")  # other programs have files that end in .partial, too


def exists(store: Store, key: str) -> bool:
    """Whether a key is there."""
    if isinstance(store, LocalStore):
        return (store.root / key).is_file()
    return bool(sync(store.exists(key)))


def get(store: Store, key: str) -> bytes | None:
    """What a key holds; None where it is not there."""
    return _get(store, key, None)


def get_part(store: Store, key: str, start: int, stop: int) -> bytes | None:
    """Bytes of a key from one to another, fewer where it ends before; None where it is not there."""
    return _get(store, key, RangeByteRequest(start, stop))


def get_end(store: Store, key: str, size: int) -> bytes | None:
    """So many of a key's last bytes, or all that it has; None where it is not there."""
    return _get(store, key, SuffixByteRequest(size))


def _get(store: Store, key: str, part: RangeByteRequest | SuffixByteRequest | None) -> bytes | None:
    if isinstance(store, LocalStore):
        try:
            with (store.root / key).open("rb") as file:
                if isinstance(part, SuffixByteRequest):
                    file.seek(max(file.seek(0, os.SEEK_END) - part.suffix, 0))
                elif part is not None:
                    file.seek(part.start)
                return file.read(part.end - part.start if isinstance(part, RangeByteRequest) else -1)
        except (FileNotFoundError, NotADirectoryError):
            return None
    found = sync(store.get(key, default_buffer_prototype(), part))
    return None if found is None else found.to_bytes()


def put(store: Store, keys: Mapping[str, bytes]) -> None:
    """Write keys in their order, each in one step."""
    for key, content in keys.items():
        if isinstance(store, LocalStore):
            _put_file(store.root / key, content)
        else:
            sync(store.set(key, cpu.Buffer.from_bytes(content)))


def _put_file(path: Path, content: bytes) -> None:
    # The ending is that of Zarr's own temporary files, so both are swept alike.
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        try:
            temporary.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def is_temporary(key: str) -> bool:
    """Whether a key is what a writer that was killed has left of another one, which it was writing beside it."""
    return _TEMPORARY.search(key) is not None


def put_new(store: Store, key: str, content: bytes) -> None:
    """Write a key unless it is there already; of several writers one succeeds."""
    sync(store.set_if_not_exists(key, cpu.Buffer.from_bytes(content)))


def delete(store: Store, keys: Iterable[str]) -> None:
    """Remove keys, also such that are not there; in no particular order."""
    if not isinstance(store, LocalStore):
        sync(concurrent_map([(key,) for key in keys], store.delete, limit=_REQUESTS))
        return
    root = str(store.root)
    for key in keys:
        with suppress(FileNotFoundError):
            Path(root, key).unlink()


def all_keys(store: Store) -> list[str]:
    """Every key, in order."""
    if isinstance(store, LocalStore):
        return sorted(_files(store))

    async def collected() -> list[str]:
        return [key async for key in store.list()]

    return sorted(sync(collected()))


def _files(store: LocalStore) -> Iterator[str]:
    root = str(store.root)
    for folder, _, names in os.walk(root):
        for name in names:
            yield f"{folder}/{name}"[len(root) + 1 :].replace(os.sep, "/")


def some_key(store: Store, *, but: Callable[[str], bool]) -> str | None:
    """One key, whichever comes first, that is not of a certain kind; None where there is none."""
    if isinstance(store, LocalStore):
        return next((key for key in _files(store) if not but(key)), None)

    async def first() -> str | None:
        async for key in store.list():
            if not but(key):
                return key
        return None

    return sync(first())


def size(store: Store) -> tuple[int, int]:
    """Number of keys, and their bytes in all."""
    found = all_keys(store)
    if isinstance(store, LocalStore):
        sizes = []
        for key in found:
            with suppress(FileNotFoundError):  # a writer has removed it meanwhile
                sizes.append((store.root / key).stat().st_size)
        return len(sizes), sum(sizes)
    return len(found), int(sync(store.getsize_prefix("")))


def prune(store: Store) -> None:
    """Remove the empty folders that deleted keys leave behind."""
    if not isinstance(store, LocalStore):
        return
    for folder, _, names in os.walk(store.root, topdown=False):
        if not names and folder != str(store.root):
            with suppress(OSError):  # it holds other folders
                Path(folder).rmdir()
