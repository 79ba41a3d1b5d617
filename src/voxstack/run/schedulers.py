"""Schedulers that a text names, for the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

import dask
from dask.system import CPU_COUNT

from voxstack.errors import InputError


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
