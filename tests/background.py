"""Programs that run while a test does, and end with it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

DASK = str(Path(sys.executable).parent / "dask")
VOXSTACK = [sys.executable, "-c", "from voxstack.cli import main; main()"]


@contextmanager
def background(
    *command: str | Path, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, which is ended at last with everything that it has started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        try:
            yield process
        finally:
            started = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            for left in (process, *started):
                with suppress(psutil.NoSuchProcess):
                    left.kill()
            process.wait()


def wait_until(true: Callable[[], object], *, seconds: float = 60, log: Path | None = None) -> None:
    """Return as soon as something is true."""
    until = time.monotonic() + seconds
    while not true():
        told = "" if log is None else log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < until, f"it did not come true within {seconds} seconds\n{told}"
        time.sleep(0.02)


@contextmanager
def dask_cluster(
    folder: Path, *, worker: tuple[str | Path, ...] = (), tls: tuple[str | Path, ...] = ()
) -> Iterator[str]:
    """A scheduler and a worker of Dask with further options; yields the address."""
    folder.mkdir(exist_ok=True)
    told = folder / "scheduler.json"
    protocol = ("--protocol", "tls") if tls else ()
    quiet = ("--dashboard-address", "127.0.0.1:0")
    with ExitStack() as stack:
        command = (DASK, "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", told, *quiet)
        stack.enter_context(background(*command, *protocol, *tls, log=folder / "scheduler.log"))
        wait_until(lambda: told.exists() and told.read_text(), log=folder / "scheduler.log")
        address = str(json.loads(told.read_text())["address"])
        command = (DASK, "worker", address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny", *quiet)
        spill = ("--local-directory", folder)
        stack.enter_context(background(*command, *tls, *spill, *worker, log=folder / "worker.log"))
        yield address
