"""What a number of workers make of a graph whose tasks take known times: a list-scheduling simulation.

Whenever a worker is free it gets the ready task that comes first in Dask's order, if it can on the worker that holds
most of what the task needs. The scheduler is a server of its own that spends some time on each task, one task after
the other; what a task needs from other workers comes over the network at a given rate, and so do results to the
client. Work is handed over as `voxstack.run` does it: all groups of tasks at once, or some for each worker at a time.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import count, islice
from typing import Any

import dask
from dask._task_spec import convert_legacy_graph
from dask.delayed import Delayed

from voxstack.run import Task


@dataclass(frozen=True)
class Cost:
    """Of a task: seconds of a core, bytes of its result, and bytes that it reads from a store and writes to one."""

    seconds: float
    result: float = 0.0
    stored: float = 0.0


@dataclass(frozen=True)
class Node:
    """A task in a group: its cost, and what it needs.

    Attributes
    ----------
    key
        The same in all groups that share the task.
    cost
        Seconds and bytes.
    needs
        Keys of tasks of the same group.
    """

    key: Hashable
    cost: Cost
    needs: Sequence[Hashable]


@dataclass(frozen=True)
class Network:
    """What lies between workers, scheduler and client.

    Attributes
    ----------
    per_task
        Seconds that the scheduler spends on a task.
    rate
        Bytes a second that a worker, or the client, receives.
    """

    per_task: float
    rate: float


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes
    ----------
    wall
        Seconds from the first task to the last result.
    busy
        Seconds of cores that tasks took, without waiting for data.
    tasks
        That were run.
    scheduler
        Seconds that the scheduler was busy.
    moved
        Bytes that went from worker to worker or to the client.
    stored
        Bytes that were read from and written to stores.
    """

    wall: float
    busy: float
    tasks: int
    scheduler: float
    moved: float
    stored: float

    def __add__(self, other: "Outcome") -> "Outcome":
        """One after the other."""
        return Outcome(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def efficiency(self, workers: int) -> float:
        """Share of the cores' time that tasks took."""
        return self.busy / (self.wall * workers)


@dataclass(frozen=True)
class Group:
    """Tasks that are handed over as one.

    Attributes
    ----------
    nodes
        In Dask's order.
    results
        Keys of those whose results the client gets.
    """

    nodes: Sequence[Node]
    results: Sequence[Hashable]


CostOf = Callable[[Any, Any], Cost]
"""From a key and a node of a graph as it was built."""


def one_by_one(tasks: Iterable[Task], cost: Callable[[Task], CostOf]) -> Iterator[Group]:
    """Tasks of `run`, as they are handed over; costs may depend on the task that nodes belong to."""
    return (together([task], cost(task)) for task in tasks)


def together(tasks: Iterable[Task], cost: CostOf) -> Group:
    """Tasks of `run` that are handed over at once."""
    graph: dict[Any, Any] = {}
    results = []
    for task in tasks:
        assert isinstance(task.work, Delayed)
        graph.update(task.work.__dask_graph__())
        results.append(task.work.key)
    seen = convert_legacy_graph(graph)  # as the scheduler does
    order = dask.order.order(seen)
    keys = sorted(seen, key=order.__getitem__)
    nodes = [Node(key, cost(key, graph[key]), tuple(seen[key].dependencies)) for key in keys]
    return Group(nodes, results)


@dataclass
class _Cluster:
    """Workers, the scheduler, and what is where."""

    workers: int
    network: Network
    now: float = 0.0
    scheduler_free: float = 0.0
    client_free: float = 0.0
    busy: float = 0.0
    moved: float = 0.0
    stored: float = 0.0
    ran: int = 0
    idle: set[int] = field(default_factory=set)
    where: dict[Hashable, set[int]] = field(default_factory=dict)
    size: dict[Hashable, float] = field(default_factory=dict)

    def place(self, node: Node) -> int:
        """The idle worker that holds most of what a task needs."""
        held: dict[int, float] = defaultdict(float)
        for need in node.needs:
            for worker in self.where[need] & self.idle:
                held[worker] += self.size[need]
        worker = max(held, key=lambda one: held[one]) if held else next(iter(self.idle))
        self.idle.discard(worker)
        return worker

    def run(self, node: Node, worker: int) -> float:
        """When it will be done."""
        self.scheduler_free = max(self.scheduler_free, self.now) + self.network.per_task
        missing = sum(self.size[need] for need in node.needs if worker not in self.where[need])
        for need in node.needs:
            self.where[need].add(worker)
        self.moved += missing
        self.busy += node.cost.seconds
        self.stored += node.cost.stored
        self.ran += 1
        return self.scheduler_free + missing / self.network.rate + node.cost.seconds

    def send(self, node: Node) -> None:
        """A result to the client."""
        self.moved += node.cost.result
        self.client_free = max(self.client_free, self.now) + node.cost.result / self.network.rate


def simulate(groups: Iterable[Group], workers: int, network: Network, *, ahead: int | None) -> Outcome:
    """Run groups of tasks.

    Parameters
    ----------
    groups
        In the order in which they are handed over.
    workers
        Of one thread each.
    network
        What scheduler and data take.
    ahead
        Groups in flight for each worker; None hands all over at once.
    """
    cluster = _Cluster(workers, network, idle=set(range(workers)))
    coming, numbers = iter(groups), count()
    waiting: dict[Hashable, int] = {}  # tasks that are not ready, and how many others they wait for
    nodes: dict[Hashable, Node] = {}
    priority: dict[Hashable, int] = {}
    wanted_by: dict[Hashable, list[Hashable]] = defaultdict(list)
    ready: list[tuple[int, Hashable]] = []
    running: list[tuple[float, int, Hashable, int]] = []
    in_flight: set[Hashable] = set()

    def hand_over() -> None:
        room = None if ahead is None else ahead * workers - len(in_flight)
        for group in islice(coming, room):
            in_flight.update(group.results)
            for node in group.nodes:
                if node.key in nodes:
                    continue
                nodes[node.key], priority[node.key] = node, next(numbers)
                left = [need for need in node.needs if need not in cluster.where]
                for need in left:
                    wanted_by[need].append(node.key)
                waiting[node.key] = len(left)
                if not left:
                    heapq.heappush(ready, (priority[node.key], node.key))

    hand_over()
    while ready or running:
        while ready and cluster.idle:
            _, key = heapq.heappop(ready)
            worker = cluster.place(nodes[key])
            heapq.heappush(running, (cluster.run(nodes[key], worker), priority[key], key, worker))
        cluster.now, _, key, worker = heapq.heappop(running)
        cluster.idle.add(worker)
        cluster.where[key], cluster.size[key] = {worker}, nodes[key].cost.result
        for other in wanted_by.pop(key, ()):
            waiting[other] -= 1
            if not waiting[other]:
                heapq.heappush(ready, (priority[other], other))
        if key in in_flight:
            in_flight.discard(key)
            cluster.send(nodes[key])
            hand_over()
    wall = max(cluster.now, cluster.client_free)
    return Outcome(wall, cluster.busy, cluster.ran, cluster.ran * network.per_task, cluster.moved, cluster.stored)
