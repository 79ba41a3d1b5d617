"""Tasks on the active Dask client: resubmitted when workers die, watched so that nothing waits for ever."""

import logging
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager, suppress
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
        self._looked = self._since = monotonic()  # and when a worker was last seen to be able to work
        self._seen = False  # whether there ever was one
        self._told = False
        self._threads = 0
        self._known: set[str] = set()  # addresses of workers
        self._paused: dict[str, float] = {}  # since when

    def see(self) -> None:
        """Some worker is able to work, now."""
        self._since, self._seen, self._told = monotonic(), True, False

    def threads(self) -> int:
        """Of all workers, as they were a moment ago."""
        if not self._threads or monotonic() - self._looked > _LOOK:
            self.look()
        return self._threads

    def look(self) -> None:
        """Raise `VoxstackError` where no worker has been able to work for too long, or the scheduler is gone.

        Workers that are seen for the first time are asked whether they run the same code.
        """
        workers = _workers(self._client)
        check_versions(self._client, workers)
        gone, self._known = self._known - workers.keys(), set(workers)
        if gone:
            emit("workers lost", logging.WARNING, lost=len(gone), left=len(workers))
        self._looked, self._threads = monotonic(), sum(worker["nthreads"] for worker in workers.values())
        paused = [address for address, worker in workers.items() if worker.get("status") == "paused"]
        self._paused = {address: self._paused.get(address, self._looked) for address in paused}
        if len(paused) < len(workers):
            self.see()
            return
        waited, key = monotonic() - self._since, WORKER_TIMEOUT if self._seen else START_TIMEOUT
        if not self._told and waited > min(10.0, timeout(key) / 2):
            self._told = True
            emit("waiting for a worker", logging.WARNING, paused=len(workers), seconds=round(waited, 1))
        if waited > timeout(key):
            raise VoxstackError(_no_worker(len(workers), self._seen, timeout(key), key))

    def stuck(self) -> list[str]:
        """Addresses of workers that have been paused for so long that their memory will not become free by itself.

        The tasks that such a worker has been given wait for it, though others have nothing to do.
        """
        least = timeout(WORKER_TIMEOUT) / 2
        return [address for address, since in self._paused.items() if monotonic() - since > least]


def _workers(client: Any) -> dict[str, dict[str, Any]]:
    """What the scheduler says of its workers, by address."""
    try:
        if client.status in ("running", "connecting") and client.scheduler is not None:
            return dict(client.scheduler_info(n_workers=-1)["workers"])
    except (OSError, TimeoutError, RuntimeError) as error:
        raise _lost_scheduler() from error
    raise _lost_scheduler()


@contextmanager
def _connected(client: Any) -> Iterator[None]:
    """What a client raises that has no scheduler any more is said in words."""
    from distributed.client import ClosedClientError, FutureCancelledError

    try:
        yield
    except (ClosedClientError, FutureCancelledError) as error:
        raise _lost_scheduler() from error
    except (RuntimeError, UnboundLocalError) as error:  # of one that is closed in the middle of a question
        if client.status in ("running", "connecting"):
            raise
        raise _lost_scheduler() from error


@contextmanager
def _place_given_up() -> Iterator[None]:
    """Within a task of a worker, which waits for others from here on: the worker takes another one meanwhile.

    Where every thread of the workers held such a task there would be none left for what they wait for.
    """
    from distributed import get_worker, rejoin, secede

    try:
        get_worker()
        secede()
    except (ValueError, KeyError):  # this is no task, or it has done so itself
        yield
        return
    try:
        yield
    finally:
        rejoin()


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
    while not watchdog.threads():
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_LOOK)


def run_on_client(
    client: Any, tasks: Iterator[Task], *, ahead: int | None, label: str
) -> Generator[tuple[Hashable, Any]]:
    """Yield (key, result) as each completes.

    Parameters
    ----------
    client
        Of distributed.
    tasks
        Made as they are needed.
    ahead
        Tasks in flight for each thread of the workers; None for all at once.
    label
        Of the span of the tasks on the dashboard.
    """
    flight = _Flight(client, label)
    with _place_given_up():
        try:
            flight.look()
            while True:
                flight.submit(list(islice(tasks, None if ahead is None else flight.room(ahead))))
                if not flight:
                    return
                yield flight.next()
        finally:
            flight.cancel()


class _NotYet(Exception):
    """What is waited for has not come for `_LOOK` seconds. Of this module alone: tasks may raise whatever else."""


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

    def room(self, ahead: int) -> int:
        """For more tasks, with so many for each thread of the workers."""
        return max(ahead * max(self._watchdog.threads(), 1) - len(self), 0)

    def look(self) -> None:
        """Raise `VoxstackError` where the cluster cannot be worked with."""
        self._watchdog.look()

    def submit(self, tasks: list[Task]) -> None:
        """Hand tasks to the workers."""
        from distributed import span

        if not tasks:
            return
        with _connected(self._client), span("voxstack", self._label):
            futures = self._client.compute([task.work for task in tasks])
        for task, future in zip(tasks, futures, strict=True):
            self._tasks[future.key] = task, future
            future.add_done_callback(self._finished.put)

    def next(self) -> tuple[Hashable, Any]:
        """The next result, or what a task raised."""
        from distributed.scheduler import KilledWorker

        while True:
            future = self._patiently(self._ended)
            if future.key not in self._tasks:
                continue
            try:
                # A worker may be gone with the result, which is then computed again.
                with _connected(self._client):
                    result = self._patiently(partial(self._result, future))
            except KilledWorker:
                with _connected(self._client):
                    self._resubmit(future)
                continue
            task, _ = self._tasks.pop(future.key)
            future.release()
            self._deaths = 0
            self._watchdog.see()
            return task.key, result

    def _ended(self) -> Any:
        """A future whose task has ended, in whatever way."""
        try:
            return self._finished.get(timeout=_LOOK)
        except Empty:
            raise _NotYet from None

    def _result(self, future: Any) -> Any:
        from distributed.comm.core import CommClosedError

        try:
            return future.result(timeout=_LOOK)
        except (TimeoutError, CommClosedError) as error:
            if future.status == "error" and isinstance(future.exception(), type(error)):  # of the task itself
                raise
            raise _NotYet from None

    def _patiently(self, get: Callable[[], Any]) -> Any:
        while True:
            try:
                return get()
            except _NotYet:
                self._watchdog.look()
                self._restart(self._watchdog.stuck())

    def _restart(self, stuck: list[str]) -> None:
        """Have the nannies of workers start them anew."""
        if not stuck:
            return
        self._count_death("paused workers started anew", workers=len(stuck))
        with suppress(TimeoutError, ValueError, OSError):  # too slow, without a nanny, or gone by now
            self._client.restart_workers(stuck, timeout=30)

    def _resubmit(self, future: Any) -> None:
        self._count_death("task resubmitted", task=str(future.key))
        try:
            self._client.sync(self._retry, future.key)
        except OSError as error:
            raise _lost_scheduler() from error
        future.add_done_callback(self._finished.put)

    async def _retry(self, key: str) -> None:
        """Have a task tried again. Dask's own way to do so fails where it is one that this one depends on that died."""
        for retried in await self._client.scheduler.retry(keys=[key], client=self._client.id):
            if retried in self._client.futures:
                self._client.futures[retried].retry()

    def _count_death(self, event: str, **fields: Any) -> None:
        self._deaths += 1
        emit(event, logging.WARNING, **fields, in_a_row=self._deaths)
        if self._deaths > _FRUITLESS_RETRIES:
            raise VoxstackError(
                f"Workers died {_FRUITLESS_RETRIES} times in a row without completing a task. They probably run out of "
                "memory: give each worker more, or fewer threads, and call again."
            )

    def cancel(self) -> None:
        """Give up what is not done."""
        if self._tasks and self._client.status == "running":
            with suppress(OSError, TimeoutError):
                self._client.cancel([future for _, future in self._tasks.values()])
