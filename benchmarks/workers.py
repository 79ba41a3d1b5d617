"""Local clusters of small workers, and what is seen of them from outside: memory, spilling, restarts, kills."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from distributed import Client, LocalCluster

LIMIT = "1.5GiB"


@dataclass(frozen=True)
class Step:
    """What one step took.

    Attributes
    ----------
    seconds
        Wall time.
    peaks
        Most memory in bytes that each worker process ever held meanwhile.
    driver
        The same of this process.
    spilled
        Bytes that workers wrote to disk.
    restarts
        Worker processes that were replaced.
    """

    seconds: float
    peaks: list[int]
    driver: int
    spilled: int
    restarts: int


@contextmanager
def workers(number: int) -> Iterator[Client]:
    """Processes of one thread each, with a limit of 1.5 GiB."""
    with (
        LocalCluster(
            n_workers=number, threads_per_worker=1, memory_limit=LIMIT, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def pids(client: Client) -> list[int]:
    """Of the worker processes."""
    return sorted(client.run(os.getpid).values())


def watched(client: Client, call: Callable[[], object]) -> Step:
    """Run a step and see what it takes of the workers."""
    before = pids(client)
    for pid in (*before, os.getpid()):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    spilled = sum(client.run(_spilled).values())
    start = perf_counter()
    call()
    seconds = perf_counter() - start
    after = pids(client)
    return Step(
        seconds,
        [_peak(pid) for pid in after],
        _peak(os.getpid()),
        int(sum(client.run(_spilled).values()) - spilled),
        len(set(before) - set(after)),
    )


def _spilled(dask_worker: Any) -> float:
    written = getattr(dask_worker.data, "cumulative_metrics", {})
    return float(sum(value for (label, unit), value in written.items() if label == "disk-write" and unit == "bytes"))


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@dataclass
class Killer:
    """Kills a worker process every few seconds, at random, while its context lasts.

    Attributes
    ----------
    client
        Of the cluster.
    every
        Seconds, on average.
    chance
        Of when, and which one.
    kills
        That hit.
    """

    client: Client
    every: float
    chance: random.Random
    kills: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Killer":
        self._thread = threading.Thread(target=self._kill)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _kill(self) -> None:
        while not self._done.wait(self.chance.uniform(0.5, 1.5) * self.every):
            # One that is still starting is left alone: its nanny would give up, and the cluster shrink.
            there = self.client.scheduler_info(n_workers=-1)["workers"]
            nannies = [nanny for nanny in self.client.cluster.workers.values() if nanny.worker_address in there]
            process = self.chance.choice(nannies).process if nannies else None
            if process is not None and process.pid is not None and process.status.name == "running":
                os.kill(process.pid, signal.SIGKILL)
                self.kills += 1
