"""The only package that knows what executes: a pool of threads, or the active Dask client."""

from collections.abc import Hashable, Iterable, Iterator
from time import perf_counter
from typing import Any

from voxstack.events import emit
from voxstack.run.performance import performance_report
from voxstack.run.resources import active_client, memory_limit, resources, thread_count
from voxstack.run.schedulers import executing, scheduler
from voxstack.run.tasks import Task, call, shared
from voxstack.run.threads import run_on_threads
from voxstack.run.visibility import check_visible

__all__ = [
    "Task", "call", "check_visible", "executing", "memory_limit", "performance_report", "resources", "run", "scheduler",
    "shared", "thread_count",
]  # fmt: skip


def run(
    tasks: Iterable[Task], *, label: str = "tasks", together: bool = False, threads_each: int = 1, ahead: int = 2
) -> Iterator[tuple[Hashable, Any]]:
    """Execute tasks and yield (key, result) as each completes, in no particular order.

    Tasks run on the active Dask client if there is one, otherwise on a pool of threads of this process (as many as
    ``dask.config.get("num_workers")`` says, by default one per core). Only a window of tasks is in flight, so results
    that the caller has not taken yet do not pile up. A task whose worker died is given to another one, until workers
    die without any task completing; and where no worker is left, it is waited for one for a stated time only.

    Parameters
    ----------
    tasks
        Made as they are needed.
    label
        What they do, in a word or two: for the dashboard and the log.
    together
        Hand a client all tasks at once: what several of them need is then computed once.
    threads_each
        Threads that each task uses by itself; on a pool of threads so many fewer tasks run at a time.
    ahead
        Tasks in flight for each thread.

    Raises
    ------
    VoxstackError
        The workers or the scheduler are gone; the message says what to do.
    Exception
        What a task raised; the tasks in flight are waited for or cancelled first.
    """
    client = active_client()
    if client is None:
        results = run_on_threads(iter(tasks), max(thread_count() // threads_each, 1), ahead)
    else:
        from voxstack.run.cluster import run_on_client

        results = run_on_client(client, iter(tasks), ahead=None if together else ahead, label=label)
    started, completed = perf_counter(), 0
    try:
        for result in results:
            completed += 1
            yield result
    finally:
        results.close()
        emit("tasks ended", step=label, tasks=completed, seconds=round(perf_counter() - started, 3))
