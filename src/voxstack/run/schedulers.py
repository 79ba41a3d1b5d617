"""Schedulers that a text names, for the command line."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dask

from voxstack.errors import InputError
from voxstack.run.gateway import gateway_cluster
from voxstack.run.local import local_cluster
from voxstack.run.remote import remote_scheduler
from voxstack.run.resources import active_client, memory_limit, thread_count
from voxstack.run.wanted import Wanted

FORMS = "threads | local[:WORKERS] | tcp://HOST:PORT | tls://HOST:PORT | gateway:[URL][#CLUSTER]"
"""What a text may be."""


@contextmanager
def _threads(wanted: Wanted) -> Iterator[str]:
    if wanted.spec != "threads":
        raise unknown(wanted.spec)
    if wanted.workers is not None:
        raise InputError(
            "Threads have no workers: Dask's configuration num_workers (DASK_NUM_WORKERS) says how many threads there "
            "are. --workers is for --scheduler local and gateway."
        )
    yield ""


@contextmanager
def _local(wanted: Wanted) -> Iterator[str]:
    _, _, count = wanted.spec.partition(":")
    if count and not (count.isdecimal() and int(count) > 0):
        raise unknown(wanted.spec)
    if count and wanted.workers not in (None, int(count)):
        raise InputError(f"--scheduler {wanted.spec} and --workers {wanted.workers} differ; give one of them.")
    with local_cluster(int(count) if count else wanted.workers, memory_limit=wanted.memory_limit) as dashboard:
        yield dashboard


SCHEDULERS: dict[str, Callable[[Wanted], AbstractContextManager[str]]] = {
    "threads": _threads,
    "local": _local,
    "tcp": remote_scheduler,
    "tls": remote_scheduler,
    "gateway": gateway_cluster,
}
"""By what stands before the first colon; each yields the address of a dashboard, or nothing."""


@contextmanager
def scheduler(spec: str, *, workers: int | None = None, memory_limit: str | None = None) -> Iterator[str]:
    """Run everything inside on the scheduler that a text names.

    Parameters
    ----------
    spec
        "threads": a pool of threads in this process. "local" or "local:N": N worker processes of one thread each on
        this machine, by default one per core. "tcp://HOST:PORT" or "tls://HOST:PORT": a Dask scheduler that runs
        already, with the certificates of Dask's configuration. "gateway:URL": a new cluster of the dask-gateway at URL
        (by default that of Dask's configuration), which is shut down at the end; "gateway:URL#NAME": one that runs
        already, and goes on to run.
    workers
        Of "local", and of a new cluster of a gateway (2 by default).
    memory_limit
        Such as "4GiB": of this process, or of each worker. Workers that somebody else starts keep their own limit;
        tasks are planned for the lower one.

    Yields
    ------
    str
        Where to watch it; empty where there is nothing to watch.

    Raises
    ------
    InputError
        No such scheduler, or one that these options do not fit.
    VoxstackError
        It does not answer, lets nobody in, or gives no worker in time.
    """
    if memory_limit is not None:
        try:  # Dask takes no text at all for one byte
            enough = bool(memory_limit.strip()) and dask.utils.parse_bytes(memory_limit) > 0
        except (ValueError, OverflowError):
            enough = False
        if not enough:
            raise InputError(f"{memory_limit!r} is not an amount of memory; write for example 4GiB.")
    if workers is not None and workers < 1:
        raise InputError(f"{workers} is not a number of workers.")
    kind, _, _ = spec.partition(":")
    if kind not in SCHEDULERS:
        raise unknown(spec)
    limit = {} if memory_limit is None else {"voxstack.memory-limit": memory_limit}
    with dask.config.set(limit), SCHEDULERS[kind](Wanted(spec, workers, memory_limit)) as dashboard:
        yield dashboard


def executing() -> dict[str, Any]:
    """What executes now, in plain values: workers, threads, and the memory limits (bytes) that there are."""
    client = active_client()
    if client is None:
        configured = dask.config.get("voxstack.memory-limit", None) is not None
        return {"workers": 0, "threads": thread_count(), "memory_limits": [memory_limit()] if configured else []}
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return {
        "workers": len(workers),
        "threads": sum(worker["nthreads"] for worker in workers),
        "memory_limits": sorted({worker["memory_limit"] for worker in workers if worker["memory_limit"]}),
    }


def unknown(spec: str) -> InputError:
    """What to say of a text that names no scheduler."""
    return InputError(f"There is no scheduler {spec!r}; use {FORMS}.")
