"""Tasks on a pool of threads of this process."""

from collections.abc import Generator, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dask.base import compute
from dask.delayed import Delayed
from dask.local import get_sync

from voxstack.run.blas import one_blas_thread
from voxstack.run.tasks import Task


def run_on_threads(tasks: Iterator[Task], n_threads: int, ahead: int) -> Generator[tuple[Hashable, Any]]:
    """Yield (key, result) as each completes; so many tasks for each thread are in flight."""
    with one_blas_thread, ThreadPoolExecutor(n_threads, thread_name_prefix="voxstack") as pool:
        in_flight: dict[Future[Any], Task] = {}
        try:
            while True:
                while len(in_flight) < ahead * n_threads and (task := next(tasks, None)) is not None:
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
