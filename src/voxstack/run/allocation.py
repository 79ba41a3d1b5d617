"""Memory that a task of a worker process gets back as soon as it has freed it."""

import ctypes
import os
import sys
import threading
from typing import Any

from voxstack.plan import FREED

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # glibc's names for what `mallopt` sets
_LARGEST = 2**25  # bytes, the most that glibc takes as a threshold
_STATIC = 2**17  # glibc's own threshold, where it may not change it
_SET_BY_DASK = "MALLOC_TRIM_THRESHOLD_"


class _ReusedMemory:
    """Arrays of a chunk are given the memory of those of the chunk before, while any task runs.

    Dask's nanny has worker processes return memory to the system at once, by an environment variable that also keeps
    glibc from adapting itself: each array of more than 128 KiB then is of new pages, which the system fills with
    zeros. Where chunks are decoded one after the other that takes as long as all else (measured). Between tasks all is
    as Dask wants it, and what is free is returned.

    The settings belong to the process: of contexts that overlap in several threads the first one in makes them, and
    the last one out undoes them. Elsewhere, and without glibc, nothing is done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def __enter__(self) -> None:
        if (libc := _glibc()) is None:
            return
        with self._lock:
            self._users += 1
            if self._users == 1:
                libc.mallopt(_MMAP_THRESHOLD, _LARGEST)
                libc.mallopt(_TRIM_THRESHOLD, FREED)

    def __exit__(self, *_: object) -> None:
        if (libc := _glibc()) is None:
            return
        with self._lock:
            self._users -= 1
            if self._users == 0:
                libc.mallopt(_MMAP_THRESHOLD, _STATIC)
                libc.mallopt(_TRIM_THRESHOLD, int(os.environ[_SET_BY_DASK]))
                libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library, where it is glibc and Dask has set how it returns memory."""
    if not sys.platform.startswith("linux") or not os.environ.get(_SET_BY_DASK, "").isdecimal():
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


reused_memory = _ReusedMemory()
