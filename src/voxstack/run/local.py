"""Worker processes on this machine that nobody else sees, and that Ctrl-C reaches only through this process."""

import logging
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import dask
import psutil
from dask.system import CPU_COUNT

_LOOPBACK = "127.0.0.1:0"


@contextmanager
def local_cluster(n_workers: int | None, *, memory_limit: str | None) -> Iterator[str]:
    """Run everything inside on worker processes of one thread each, which end with it.

    Scheduler, workers and their dashboards listen on loopback alone, at any free port; what workers spill lies in a
    folder that only this user may enter, and is removed with it.

    Parameters
    ----------
    n_workers
        By default one per core.
    memory_limit
        Of each worker; by default its part of the machine's memory.

    Yields
    ------
    str
        Where to watch it.
    """
    from distributed import Client, LocalCluster

    within = dask.config.get("temporary-directory", None)
    if within:
        Path(within).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="voxstack-", dir=within or None, ignore_cleanup_errors=True) as scratch,
        dask.config.set({"temporary-directory": scratch}),
        _quiet(),
        _loop() as loop,
        ExitStack() as started,
    ):
        cluster = None
        try:
            with _postponed_signals():
                cluster = LocalCluster(
                    n_workers=n_workers or CPU_COUNT,
                    threads_per_worker=1,
                    memory_limit=memory_limit or "auto",
                    dashboard_address=_LOOPBACK,
                    worker_dashboard_address=_LOOPBACK,
                    loop=loop,
                )
                started.enter_context(cluster)
                started.enter_context(Client(cluster))
            yield str(cluster.dashboard_link)
        except BaseException:
            if cluster is not None:
                _kill(cluster)
            raise


@contextmanager
def _postponed_signals() -> Iterator[None]:
    """What comes while a cluster starts is dealt with when it is there: half of one cannot be ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, lambda got, _: came.append(got)) for signum in numbers}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
    for number in came[:1]:
        signal.raise_signal(number)


def _kill(cluster: Any) -> None:
    """End the workers of a run that has failed or was stopped at once.

    Asked to end, they would first go on with what nobody wants any more, for seconds, and print what they gave up. What
    they write is whole or swept by the next call.
    """
    for nanny in cluster.workers.values():
        nanny.close_gracefully()  # it starts no other one in its place
        pid = nanny.pid
        if pid is None:  # it is dead, or not started again yet; psutil would take this process
            continue
        with suppress(psutil.Error):
            psutil.Process(pid).kill()


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave unsaid which messages a scheduler that has ended did not get, until the event loop has stopped."""
    logger = logging.getLogger("distributed.batched")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _loop() -> Iterator[Any]:
    """An event loop in a thread that Ctrl-C does not reach."""
    from distributed.utils import LoopRunner

    runner = LoopRunner()
    with _unreached_by_interrupts():
        runner.start()
    try:
        yield runner.loop
    finally:
        runner.stop()


@contextmanager
def _unreached_by_interrupts() -> Iterator[None]:
    """Threads that are started inside, and all that they start, never see SIGINT.

    A terminal sends Ctrl-C to every process. Each worker would print where it was; and the one that had to be told by
    this process to end may be gone already. Threads and processes inherit what is blocked, so it holds from a worker's
    first moment on, and also for those that are started in place of dead ones.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the thread that starts it would be unblocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
