"""A store's keys, read and written one by one.

Folders are read and written directly: Zarr's way through an event loop costs more than the writing of a chunk itself.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from zarr.abc.store import Store
from zarr.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore


def exists(store: Store, key: str) -> bool:
    """Whether a key is there."""
    if isinstance(store, LocalStore):
        return (store.root / key).is_file()
    return bool(sync(store.exists(key)))


def get(store: Store, key: str) -> bytes | None:
    """What a key holds; None where it is not there."""
    if isinstance(store, LocalStore):
        try:
            return (store.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    found = sync(store.get(key, default_buffer_prototype()))
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


def put_new(store: Store, key: str, content: bytes) -> None:
    """Write a key unless it is there already; of several writers one succeeds."""
    sync(store.set_if_not_exists(key, cpu.Buffer.from_bytes(content)))


def delete(store: Store, keys: Iterable[str]) -> None:
    """Remove keys, also such that are not there."""
    root = str(store.root) if isinstance(store, LocalStore) else None
    for key in keys:
        if root is not None:
            with suppress(FileNotFoundError):
                Path(root, key).unlink()
        else:
            sync(store.delete(key))


def delete_everything(store: Store) -> None:
    """Remove all keys."""
    if isinstance(store, LocalStore):
        shutil.rmtree(store.root, ignore_errors=True)
    else:
        sync(store.delete_dir(""))


def all_keys(store: Store) -> list[str]:
    """Every key, in order."""
    if isinstance(store, LocalStore):
        root = str(store.root)
        found = [f"{folder}/{name}" for folder, _, names in os.walk(root) for name in names]
        return sorted(path[len(root) + 1 :].replace(os.sep, "/") for path in found)

    async def collected() -> list[str]:
        return [key async for key in store.list()]

    return sorted(sync(collected()))


def size(store: Store) -> tuple[int, int]:
    """Number of keys, and their bytes in all."""
    found = all_keys(store)
    if isinstance(store, LocalStore):
        return len(found), sum((store.root / key).stat().st_size for key in found)
    return len(found), sum(sync(store.getsize(key)) for key in found)


def prune(store: Store) -> None:
    """Remove the empty folders that deleted keys leave behind."""
    if not isinstance(store, LocalStore):
        return
    for folder, _, names in os.walk(store.root, topdown=False):
        if not names and folder != str(store.root):
            with suppress(OSError):  # it holds other folders
                Path(folder).rmdir()
