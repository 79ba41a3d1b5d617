"""What tasks may use: the client, if any; threads and memory."""

import sys
from dataclasses import dataclass
from typing import Any

import dask
import psutil
from dask.system import CPU_COUNT


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


def active_client() -> Any | None:
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
    client = active_client()
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
