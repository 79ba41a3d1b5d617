"""One BLAS thread per task while anything runs in this process."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import threadpool_limits


class _OneBlasThread:
    """One BLAS thread per task while anything runs.

    The limit belongs to the process. Of contexts that overlap in several threads the first one in sets it, and the last
    one out restores it; both happen in one thread of their own, since threadpoolctl lets only the thread that set a
    limit restore it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._keeper: ThreadPoolExecutor | None = None
        self._limits: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._keeper = ThreadPoolExecutor(1, thread_name_prefix="voxstack-blas")
                try:
                    self._limits = self._keeper.submit(threadpool_limits, 1, user_api="blas").result()
                except BaseException:
                    # An executor that Ctrl-C interrupts while it starts a thread does not know of that thread, and
                    # Python would wait for it for ever at its end.
                    self._keeper.shutdown(wait=False)
                    raise
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                assert self._keeper is not None
                try:
                    self._keeper.submit(self._limits.__exit__, None, None, None).result()
                finally:
                    self._keeper.shutdown()


one_blas_thread = _OneBlasThread()
