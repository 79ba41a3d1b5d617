"""What a Dask scheduler on this machine can take: the real graph of a fit, whose tasks do nothing."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time
from typing import Any

from dask._expr import FinalizeCompute
from dask.base import collections_to_expr
from dask.delayed import Delayed
from distributed import Client, LocalCluster, wait
from distributed.protocol import serialize, to_serialize
from faked import fake_cohort
from rates import tested
from studies import fit_tasks


@dataclass(frozen=True)
class Capacity:
    """Of scheduler and client.

    Attributes
    ----------
    tasks
        Of the graph.
    per_task
        Seconds of the scheduler's thread, in which the client's messages are handled, too.
    throughput
        Tasks a second, with two workers on the cores of this machine.
    building
        Seconds to open the cohort and to build the graph.
    megabytes
        Of the graph on its way to the scheduler.
    """

    tasks: int
    per_task: float
    throughput: float
    building: float
    megabytes: float


def measure(folder: Path, n_subjects: int, repeats: int) -> Capacity:
    """Of a fit with three contrasts."""
    store = folder / f"capacity-{n_subjects}.zarr"
    fake_cohort(store, n_subjects)
    building = [_build(store) for _ in range(repeats)]
    size = building[0][1]
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        runs = [_run(client, store) for _ in range(repeats + 1)][1:]  # the first one imports
    tasks = runs[0][0]
    return Capacity(
        tasks,
        median(seconds for _, seconds, _ in runs) / tasks,
        tasks / median(wall for _, _, wall in runs),
        median(seconds for seconds, _ in building),
        size,
    )


def _build(store: Path) -> tuple[float, float]:
    """Seconds, and megabytes that a client would send."""
    import voxstack as vx

    start = perf_counter()
    works = [task.work for task in fit_tasks(tested(vx.open_cohort(store)).unify_chunks())]
    seconds = perf_counter() - start
    return seconds, sent(works) / 1e6


def sent(works: list[Any]) -> int:
    """Bytes that a client sends of some collections, as `Client.compute` serialises them."""
    header, frames = serialize(to_serialize(FinalizeCompute(collections_to_expr(works, True)).optimize()))
    return len(str(header)) + sum(memoryview(frame).nbytes for frame in frames)


def _run(client: Client, store: Path) -> tuple[int, float, float]:
    """Tasks, seconds of the scheduler's thread, and of the wall clock."""
    import voxstack as vx

    tasks = fit_tasks(tested(vx.open_cohort(store)).unify_chunks())
    works, keys = [], set()
    for task in tasks:
        graph = {key: _idle(node) for key, node in task.work.__dask_graph__().items()}
        keys |= graph.keys()
        works.append(Delayed(task.work.key, graph))
    before, start = client.run_on_scheduler(thread_time), perf_counter()
    futures = client.compute(works)
    wait(futures)
    wall = perf_counter() - start
    return len(keys), client.run_on_scheduler(thread_time) - before, wall


def _idle(node: Any) -> Any:
    """A task with the same arguments that does nothing; data stay what they are."""
    return (_nothing, *node[1:]) if isinstance(node, tuple) and callable(node[0]) else node


def _nothing(*_: object) -> None:
    """Whatever a task was given."""
