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
            self._users += 1
            if self._users == 1:
                self._keeper = ThreadPoolExecutor(1, thread_name_prefix="voxstack-blas")
                self._limits = self._keeper.submit(threadpool_limits, 1, user_api="blas").result()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                assert self._keeper is not None
                self._keeper.submit(self._limits.__exit__, None, None, None).result()
                self._keeper.shutdown()


one_blas_thread = _OneBlasThread()
