"""What tasks may use: the client, if any; threads and memory."""

import sys
from typing import Any

import dask
import psutil
from dask.system import CPU_COUNT

from voxstack.errors import InputError
from voxstack.plan import Resources


def active_client() -> Any | None:
    """The client that the user made, if any. Without distributed imported there can be none.

    Raises
    ------
    InputError
        This is the event loop that the client works in, which cannot wait for it.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import get_client

    try:
        client = get_client()
    except ValueError:
        return None
    if client.asynchronous:
        raise InputError(
            "The active Dask client is asynchronous, and works in the event loop that this call would keep busy. Call "
            "in a thread, as in await asyncio.to_thread(vx.permutation_test, ...), or make the client without "
            "asynchronous=True."
        )
    return client


def thread_count() -> int:
    """Threads that tasks run on in this process."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def resources() -> Resources:
    """What tasks may use: of this process, or of the workers of the active client, the first of which is waited for.

    Of a worker's memory limit that is what Dask lets it fill before it begins to spill.
    """
    client = active_client()
    if client is None:
        return Resources(memory_limit(), thread_count(), thread_count(), remote=False)
    from voxstack.run.cluster import wait_for_worker

    wait_for_worker(client)
    workers = list(client.scheduler_info(n_workers=-1)["workers"].values())
    limits = {(_usable(worker["memory_limit"]), worker["nthreads"]) for worker in workers}
    memory, threads = min(limits, key=lambda one: one[0] / one[1])
    return Resources(memory, threads, sum(worker["nthreads"] for worker in workers), remote=True)


def _usable(limit: int | None) -> int:
    """Of a worker's memory."""
    spill = dask.config.get("distributed.worker.memory.spill", 0.7)
    unspilt = int((spill or 1) * limit) if limit else int(memory_limit())
    configured = dask.config.get("voxstack.memory-limit", None)
    return unspilt if configured is None else min(unspilt, memory_limit())


def memory_limit() -> int:
    """Memory in bytes that this process may use: ``voxstack.memory-limit`` of Dask's configuration, or what is free."""
    configured = dask.config.get("voxstack.memory-limit", None)
    if configured is None:
        return int(psutil.virtual_memory().available)
    return int(dask.utils.parse_bytes(configured))
