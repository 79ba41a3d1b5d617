"""The only module that knows what executes: a pool of threads, or the active Dask client."""

import sys
import threading
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import dask
import psutil
from dask.base import compute
from dask.delayed import Delayed
from dask.local import get_sync
from dask.system import CPU_COUNT
from threadpoolctl import threadpool_limits

from voxstack.errors import InputError, VoxstackError

_FRUITLESS_RETRIES = 10  # times that a task may lose its worker while no other task completes


@dataclass(frozen=True)
class Task:
    """Work that may run twice: it is pure, or writes only what is its own.

    Attributes
    ----------
    key
        What its result is yielded with.
    work
        A Dask collection (a Delayed, a Dataset).
    """

    key: Hashable
    work: Any


@dataclass(frozen=True)
class Share:
    """What a task that can use several threads may use.

    Attributes
    ----------
    threads
        All of this process, since then one task runs at a time; or one, of a Dask worker.
    memory
        Bytes.
    tasks
        That use one thread each and run at once, on this process or on all workers.
    """

    threads: int
    memory: int
    tasks: int


def run(tasks: Iterable[Task], *, together: bool = False, threads_each: int = 1) -> Iterator[tuple[Hashable, Any]]:
    """Execute tasks and yield (key, result) as each completes, in no particular order.

    Tasks run on the active Dask client if there is one, otherwise on a pool of threads of this process (as many as
    ``dask.config.get("num_workers")`` says, by default one per core). Only a window of tasks is in flight, so results
    that the caller has not taken yet do not pile up. A task whose worker died is given to another one, until workers
    die without any task completing.

    Parameters
    ----------
    tasks
        Made as they are needed.
    together
        Hand a client all tasks at once: what several of them need is then computed once.
    threads_each
        Threads that each task uses by itself; on a pool of threads so many fewer tasks run at a time.

    Raises
    ------
    Exception
        What a task raised; the tasks in flight are waited for or cancelled first.
    """
    client = _active_client()
    if client is None:
        yield from _run_on_threads(iter(tasks), max(thread_count() // threads_each, 1))
    else:
        yield from _run_on_client(client, iter(tasks), together)


def _run_on_threads(tasks: Iterator[Task], n_threads: int) -> Iterator[tuple[Hashable, Any]]:
    with _one_blas_thread, ThreadPoolExecutor(n_threads, thread_name_prefix="voxstack") as pool:
        in_flight: dict[Future[Any], Task] = {}
        try:
            while True:
                while len(in_flight) < 2 * n_threads and (task := next(tasks, None)) is not None:
                    in_flight[pool.submit(_compute, task.work)] = task
                if not in_flight:
                    return
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    yield in_flight.pop(future).key, future.result()
        finally:
            for future in in_flight:
                future.cancel()


def _compute(work: Any) -> Any:
    if isinstance(work, Delayed):  # as it is: there is nothing to optimise in it
        return get_sync(work.__dask_graph__(), work.key)
    return compute(work, scheduler="synchronous")[0]


def _run_on_client(client: Any, tasks: Iterator[Task], together: bool) -> Iterator[tuple[Hashable, Any]]:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    in_flight: dict[str, tuple[Task, Any]] = {}
    deaths = 0  # since a task was last completed
    completed = as_completed()
    try:
        while True:
            window = max(2 * sum(client.nthreads().values()), 2)
            room = None if together else max(window - len(in_flight), 0)
            new = list(islice(tasks, room))
            for task, future in zip(new, client.compute([task.work for task in new]), strict=True):
                in_flight[future.key] = task, future
                completed.add(future)
            if not in_flight:
                return
            future = next(completed)
            if future.status == "error" and isinstance(future.exception(), KilledWorker):
                deaths += 1
                if deaths > _FRUITLESS_RETRIES:
                    raise VoxstackError(
                        f"Workers died {_FRUITLESS_RETRIES} times in a row without completing a task. They probably "
                        "run out of memory: give each worker more, or fewer threads, and call again."
                    ) from future.exception()
                future.retry()
                completed.add(future)
                continue
            task, _ = in_flight.pop(future.key)
            result = future.result()
            future.release()
            deaths = 0
            yield task.key, result
    finally:
        client.cancel([future for _, future in in_flight.values()])


def _active_client() -> Any | None:
    """The client that the user made, if any. Without distributed imported there can be none."""
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        return get_client()
    except ValueError:
        return None


def thread_count() -> int:
    """Threads that tasks run on in this process."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def share() -> Share:
    """What a task that can use several threads may use: of this process, or of a worker of the active client."""
    client = _active_client()
    if client is None:
        return Share(thread_count(), memory_limit(), thread_count())
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    shares = [worker["memory_limit"] / worker["nthreads"] for worker in workers if worker["memory_limit"]]
    memory = int(min(shares)) if shares else int(memory_limit() / thread_count())
    return Share(1, memory, max(sum(worker["nthreads"] for worker in workers), 1))


def memory_limit() -> int:
    """Memory in bytes that this process may use: ``voxstack.memory-limit`` of Dask's configuration, or what is free."""
    configured = dask.config.get("voxstack.memory-limit", None)
    if configured is None:
        return int(psutil.virtual_memory().available)
    return int(dask.utils.parse_bytes(configured))


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


_one_blas_thread = _OneBlasThread()


@contextmanager
def scheduler(spec: str, *, memory_limit: str | None = None) -> Iterator[str]:
    """Run everything inside on the scheduler that a text names.

    Parameters
    ----------
    spec
        "threads": a pool of threads in this process. "local" or "local:N": N worker processes of one thread each on
        this machine, by default one per core.
    memory_limit
        Such as "4GiB": of this process, or of each worker.

    Yields
    ------
    str
        Where to watch it; empty where there is nothing to watch.

    Raises
    ------
    InputError
        No such scheduler.
    """
    kind, _, count = spec.partition(":")
    if memory_limit is not None:
        try:
            enough = dask.utils.parse_bytes(memory_limit) > 0
        except ValueError:
            enough = False
        if not enough:
            raise InputError(f"{memory_limit!r} is not an amount of memory; write for example 4GiB.")
    if spec == "threads":
        with dask.config.set({} if memory_limit is None else {"voxstack.memory-limit": memory_limit}):
            yield ""
        return
    if kind != "local" or (count and not (count.isdecimal() and int(count) > 0)):
        raise InputError(f"There is no scheduler {spec!r}; use threads, local or local:N with N worker processes.")
    from distributed import Client, LocalCluster

    n_workers = int(count) if count else CPU_COUNT
    with (
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, memory_limit=memory_limit or "auto", dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        yield str(cluster.dashboard_link)
