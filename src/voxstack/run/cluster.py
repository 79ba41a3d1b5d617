"""Tasks on the active Dask client: resubmitted when workers die, watched so that nothing waits for ever."""

import logging
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

import dask

from voxstack.errors import VoxstackError
from voxstack.events import emit
from voxstack.run.tasks import Task
from voxstack.run.versions import check_versions

_FRUITLESS_RETRIES = 10  # times that a task may lose its worker while no other task completes
_LOOK = 1.0  # seconds without a result, after which the cluster is looked at

WORKER_TIMEOUT, START_TIMEOUT = "voxstack.worker-timeout", "voxstack.start-timeout"
"""Keys of Dask's configuration: how long to wait for a worker when all are gone, and for the first one."""

_DEFAULTS = {WORKER_TIMEOUT: "2 minutes", START_TIMEOUT: "15 minutes"}


def timeout(key: str) -> float:
    """Seconds of one of the two, as Dask's configuration has it."""
    return float(dask.utils.parse_timedelta(dask.config.get(key, _DEFAULTS[key])))


class Watchdog:
    """Looks after the workers of a client while its tasks are waited for.

    Dask waits for ever where no worker is left, and says nothing.

    Parameters
    ----------
    client
        Of distributed.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._since = monotonic()  # when a worker was last seen to be able to work
        self._seen = False  # whether there ever was one
        self._told = False

    def look(self) -> None:
        """Raise `VoxstackError` where no worker has been able to work for too long, or the scheduler is gone."""
        if self._client.status not in ("running", "connecting"):
            raise _lost_scheduler()
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        except (OSError, TimeoutError, RuntimeError) as error:
            raise _lost_scheduler() from error
        if any(worker.get("status", "running") == "running" for worker in workers):
            self._since, self._seen, self._told = monotonic(), True, False
            return
        waited, key = monotonic() - self._since, WORKER_TIMEOUT if self._seen else START_TIMEOUT
        if not self._told and waited > min(10.0, timeout(key) / 2):
            self._told = True
            emit("no worker", logging.WARNING, paused=len(workers), seconds=round(waited, 1))
        if waited > timeout(key):
            raise VoxstackError(_no_worker(len(workers), self._seen, timeout(key), key))


def _lost_scheduler() -> VoxstackError:
    return VoxstackError(
        "The connection to the Dask scheduler is lost: it was stopped, or the network failed. Start it again, or "
        "connect again, and repeat the call; stacking goes on where it was, and so does a permutation test with a "
        "checkpoint."
    )


def _no_worker(paused: int, seen: bool, seconds: float, key: str) -> str:
    if paused:
        what = f"All {paused} workers have been paused for {seconds:.0f} seconds: their memory is full"
        advice = "Give each worker more memory, or fewer threads"
    elif seen:
        what = f"Every worker is gone, and none has come back for {seconds:.0f} seconds"
        advice = "Look at the workers' logs; if they ran out of memory, give each one more, or fewer threads"
    else:
        what = f"No worker has come for {seconds:.0f} seconds"
        advice = "Look at the queue of the cluster, scale it up (cluster.scale), or use another scheduler"
    return (
        f"{what}. {advice}, and repeat the call: stacking goes on where it was, and so does a permutation test with a "
        f"checkpoint. Dask's configuration {key!r} sets how long to wait."
    )


def wait_for_worker(client: Any) -> None:
    """Return when the client has a worker; `VoxstackError` where none comes in time."""
    watchdog = Watchdog(client)
    while not client.nthreads():
        watchdog.look()
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_LOOK)


def run_on_client(client: Any, tasks: Iterator[Task], *, together: bool, label: str) -> Generator[tuple[Hashable, Any]]:
    """Yield (key, result) as each completes; twice as many tasks as the workers have threads are in flight.

    Parameters
    ----------
    client
        Of distributed.
    tasks
        Made as they are needed.
    together
        All are in flight at once.
    label
        Of the span of the tasks on the dashboard.
    """
    flight = _Flight(client, label)
    try:
        while True:
            threads = client.nthreads()
            check_versions(client, threads)
            room = None if together else max(2 * sum(threads.values()), 2) - len(flight)
            flight.submit(list(islice(tasks, room if room is None else max(room, 0))))
            if not flight:
                return
            yield flight.next()
    finally:
        flight.cancel()


class _Flight:
    """The tasks that a client works on."""

    def __init__(self, client: Any, label: str) -> None:
        self._client, self._label = client, label
        self._tasks: dict[str, tuple[Task, Any]] = {}
        self._finished: SimpleQueue[Any] = SimpleQueue()
        self._watchdog = Watchdog(client)
        self._deaths = 0  # since a task was last completed

    def __len__(self) -> int:
        return len(self._tasks)

    def submit(self, tasks: list[Task]) -> None:
        """Hand tasks to the workers."""
        from distributed import span

        if not tasks:
            return
        with span("voxstack", self._label):
            futures = self._client.compute([task.work for task in tasks])
        for task, future in zip(tasks, futures, strict=True):
            self._tasks[future.key] = task, future
            future.add_done_callback(self._finished.put)

    def next(self) -> tuple[Hashable, Any]:
        """The next result, or what a task raised."""
        from distributed.scheduler import KilledWorker

        while True:
            future = self._patiently(partial(self._finished.get, timeout=_LOOK))
            if future.key not in self._tasks:
                continue
            if future.status == "cancelled":
                raise _lost_scheduler()
            if future.status == "error" and isinstance(future.exception(), KilledWorker):
                self._resubmit(future)
                continue
            # A worker may be gone with the result, which is then computed again.
            result = self._patiently(partial(self._result, future))
            task, _ = self._tasks.pop(future.key)
            future.release()
            self._deaths = 0
            return task.key, result

    def _result(self, future: Any) -> Any:
        try:
            return future.result(timeout=_LOOK)
        except TimeoutError:
            if future.status == "error":  # what the task itself raised
                raise
            raise Empty from None

    def _patiently(self, get: Callable[[], Any]) -> Any:
        while True:
            try:
                return get()
            except Empty:
                self._watchdog.look()

    def _resubmit(self, future: Any) -> None:
        self._deaths += 1
        emit("worker lost", logging.WARNING, task=str(future.key), in_a_row=self._deaths)
        if self._deaths > _FRUITLESS_RETRIES:
            raise VoxstackError(
                f"Workers died {_FRUITLESS_RETRIES} times in a row without completing a task. They probably run out of "
                "memory: give each worker more, or fewer threads, and call again."
            ) from future.exception()
        future.retry()
        future.add_done_callback(self._finished.put)

    def cancel(self) -> None:
        """Give up what is not done."""
        if self._tasks and self._client.status == "running":
            with suppress(OSError, TimeoutError):
                self._client.cancel([future for _, future in self._tasks.values()])
