"""One writer at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from voxstack.errors import StoreError
from voxstack.store.location import Location

if sys.platform != "win32":
    import fcntl


@contextmanager
def one_writer(location: Location) -> Iterator[None]:
    """Hold the lock of a folder, ``NAME.lock`` beside it, for as long as it is written.

    The lock is the operating system's, so it ends with the process that holds it, however that ends. Object stores and
    Windows have none.

    Raises
    ------
    StoreError
        Another writer holds it.
    """
    if location.path is None or sys.platform == "win32":
        yield
        return
    path = location.path.with_name(f"{location.path.name}.lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise StoreError(f"{location} cannot be written: {error}.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreError(
                f"{location} is being written by another call of stack. Wait until that is done."
            ) from None
        try:
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                try:
                    yield
                finally:
                    path.unlink()
                return
        finally:
            os.close(descriptor)
        # Its last holder removed the file between our opening and locking it.
