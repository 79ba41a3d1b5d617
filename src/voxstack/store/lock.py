"""One writer at a time."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from zarr.abc.store import Store

from voxstack.errors import StoreError, writing
from voxstack.store import keys
from voxstack.store.location import Location

if sys.platform != "win32":
    import fcntl

LOCK = "stack.lock"
_BEAT = 20.0  # seconds between signs of life
_STALE = 120.0  # seconds without one, after which a run is thought dead


@contextmanager
def one_writer(location: Location, *, break_lock: bool = False) -> Iterator["Lock"]:
    """Hold the lock of a store for as long as it is written.

    A folder has the operating system's lock on ``NAME.lock`` beside it, which ends with the process that holds it,
    however that ends. Object stores (and Windows) have a key ``stack.lock`` in the store, written only where none is,
    and renewed every 20 seconds; that of a run which was killed stays, and is stale after two minutes.

    Parameters
    ----------
    location
        The store.
    break_lock
        Take a key that another run has left.

    Raises
    ------
    StoreError
        Another writer holds the lock; the message says who, and since when it has given no sign of life.
    """
    if location.path is not None and sys.platform != "win32":
        with _file_lock(location):
            yield Lock(None, "")
    else:
        with _key_lock(location, break_lock) as lock:
            yield lock


class Lock:
    """The lock that this run holds.

    Parameters
    ----------
    store
        Where its key is; None for the operating system's lock, which nobody else can take.
    run
        Id of this run.
    """

    def __init__(self, store: Store | None, run: str) -> None:
        self._store, self._run = store, run

    def check(self) -> None:
        """Raise `StoreError` where another run has taken the lock: it writes now."""
        if self._store is not None and _told(self._store).get("run") != self._run:
            raise StoreError(
                "Another run has taken the lock of this store (break_lock=True), so this one stops. Nothing was "
                "published by it."
            )


def _owner() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _name(told: dict[str, Any]) -> str:
    return f"process {told['process']} on {told['host']}" if {"process", "host"} <= told.keys() else "another process"


@contextmanager
def _file_lock(location: Location) -> Iterator[None]:
    assert location.path is not None
    folder = location.path.resolve()  # a link to the store is the store
    path = folder.with_name(f"{folder.name}.lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            there = path.exists()
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise StoreError(f"{location} cannot be written: {error}.") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _refusal(location, _parsed(os.pread(descriptor, 4096, 0))) from None
            except OSError as error:  # some file systems of networks and clusters have no locks
                if not there:
                    path.unlink(missing_ok=True)
                raise StoreError(
                    f"{location} cannot be locked against other writers: {error}. Choose a place on another file "
                    "system, or have this one mounted with locks (flock)."
                ) from error
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                try:
                    with writing(location):
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, json.dumps(_owner()).encode(), 0)
                    yield
                finally:
                    path.unlink(missing_ok=True)  # users may have tidied up
                return
        finally:
            os.close(descriptor)
        # Its last holder removed the file between our opening and locking it.


def _refusal(location: Location, told: dict[str, Any]) -> StoreError:
    return StoreError(
        f"{location} is being written by another call, {_name(told)}. Wait until that is done, or stop it: "
        "its lock ends with it, and what it has written is gone on with."
    )


@contextmanager
def _key_lock(location: Location, break_lock: bool) -> Iterator[Lock]:
    store, run = location.open(read_only=False), uuid4().hex

    def content() -> bytes:
        return json.dumps({"run": run, **_owner(), "beat": time.time()}).encode()

    with writing(location):
        if break_lock:
            keys.delete(store, [LOCK])
        keys.put_new(store, LOCK, content())
        told = _told(store)
    if told.get("run") != run:
        raise _key_refusal(location, told)
    lock, done = Lock(store, run), threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT):
            # One that fails is not the last: the store may be out of reach for a moment.
            with suppress(Exception):
                if _told(store).get("run") != run:
                    return  # the next check says so
                keys.put(store, {LOCK: content()})

    thread = threading.Thread(target=beat, name="voxstack-lock", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        done.set()
        thread.join()
        with suppress(OSError):  # out of reach; the lock will be stale
            if _told(store).get("run") == run:
                keys.delete(store, [LOCK])


def _key_refusal(location: Location, told: dict[str, Any]) -> StoreError:
    beat = told.get("beat")
    if not isinstance(beat, int | float):
        return StoreError(
            f"{location} has a lock that cannot be read, so another call may be writing it. If none is, go on "
            "with break_lock=True (--break-lock)."
        )
    silent = max(time.time() - beat, 0)
    if silent > _STALE:
        return StoreError(
            f"{location} has a stale lock: {_name(told)} was writing it and has given no sign of life for "
            f"{silent / 60:.0f} minutes. If that run is dead, go on with break_lock=True (--break-lock)."
        )
    return StoreError(
        f"{location} is being written by another call, {_name(told)}, whose last sign of life was "
        f"{silent:.0f} seconds ago. Wait until that is done. If you know that it is dead, go on with break_lock=True "
        "(--break-lock)."
    )


def _told(store: Store) -> dict[str, Any]:
    return _parsed(keys.get(store, LOCK) or b"")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
