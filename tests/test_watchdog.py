"""What goes wrong with workers costs time only, or ends in an error that says what to do: nothing waits for ever."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from dask.delayed import delayed
from distributed import Client, Future, LocalCluster
from distributed.comm.core import CommClosedError

import voxstack as vx
from voxstack.errors import VoxstackError
from voxstack.events import collecting
from voxstack.run import Task, call, resources, run


def square(number: int, seconds: float = 0) -> int:
    time.sleep(seconds)
    return number**2


def die_at_first(number: int, mark: Path) -> int:
    """Kill the process that runs this, but not twice."""
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return number**2


def hoard(number: int) -> int:
    """More memory than any worker of these tests has."""
    held = [np.ones(2**24) for _ in range(20)]
    return len(held)


def task(key: Any, *arguments: Any, function: Any = square) -> Task:
    return Task(key, delayed(function, pure=False)(*arguments))


def pause(dask_worker: Any) -> None:
    """Have a worker think that its memory is full."""
    dask_worker.memory_manager.memory_pause_fraction = 1e-9


def clustered(n_workers: int, **options: Any) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def client() -> Iterator[Client]:
    """Two processes; a worker that says nothing for 3 seconds is given up."""
    with dask.config.set({"distributed.scheduler.worker-ttl": "3s", "distributed.scheduler.allowed-failures": 0}):
        yield from clustered(2, memory_limit="600MiB")


@pytest.fixture
def client_in_process() -> Iterator[Client]:
    yield from clustered(1, processes=False)


@pytest.fixture(autouse=True)
def timeouts() -> Iterator[None]:
    with dask.config.set({"voxstack.worker-timeout": "2s", "voxstack.start-timeout": "1.5s"}):
        yield


def pids(client: Client) -> list[int]:
    return list(client.run(os.getpid).values())


class TestErrors:
    def test_every_worker_is_gone(self, client_in_process: Client) -> None:
        results = run([task(i, i, 0.05) for i in range(300)])
        next(results)
        client_in_process.cluster.scale(0)
        start = time.monotonic()
        with pytest.raises(VoxstackError, match=r"Every worker is gone, and none has come back for 2 seconds.*memory"):
            list(results)
        assert 2 < time.monotonic() - start < 15

    def test_no_worker_comes(self) -> None:
        for _ in clustered(0):
            with pytest.raises(VoxstackError, match=r"No worker has come for 2 seconds.*scale it up"):
                list(run([task(0, 3)]))
            with pytest.raises(VoxstackError, match="No worker has come"):
                vx.memory_plan(n_subjects=10, shape=(5, 5, 5))

    def test_all_workers_are_paused(self, client_in_process: Client) -> None:
        results = run([task(i, i, 0.01) for i in range(300)])
        next(results)
        client_in_process.run(pause)
        with pytest.raises(VoxstackError, match=r"All 1 workers have been paused for 2 seconds: their memory is full"):
            list(results)

    def test_the_scheduler_is_gone(self, client_in_process: Client) -> None:
        results = run([task(i, i, 0.05) for i in range(300)])
        next(results)
        client_in_process.cluster.close()
        with pytest.raises(VoxstackError, match="The connection to the Dask scheduler is lost"):
            list(results)

    # Of Dask's own loop, which forgets what it was asked for when it ends.
    @pytest.mark.filterwarnings("ignore:coroutine 'Future._result' was never awaited:RuntimeWarning")
    def test_the_client_is_closed_meanwhile(self, client_in_process: Client) -> None:
        with Client(client_in_process.cluster.scheduler_address) as other, other.as_current():
            results = run([task(i, i, 0.1) for i in range(30)])
            next(results)
            threading.Timer(0.35, other.close).start()
            with pytest.raises(VoxstackError, match="The connection to the Dask scheduler is lost"):
                list(results)

    def test_tasks_that_never_fit_end_with_advice(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("voxstack.run.cluster._FRUITLESS_RETRIES", 1)
        with (
            dask.config.set({"voxstack.worker-timeout": "30s"}),
            collecting() as events,
            pytest.raises(VoxstackError, match=r"Workers died 1 times in a row .*memory"),
        ):
            list(run([task("all", 0, function=hoard)]))
        told = [event["event"] for event in events if event["event"] != "workers lost"]
        assert told == ["task resubmitted", "task resubmitted", "tasks ended"]


class TestLostTime:
    def test_a_connection_that_fails_for_a_moment(
        self, client_in_process: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result, asked = Future.result, []

        def fail_at_first(future: Future, **options: Any) -> Any:
            asked.append(future.key)
            if asked.count(future.key) == 1:
                raise CommClosedError("closed")
            return result(future, **options)

        monkeypatch.setattr(Future, "result", fail_at_first)
        assert dict(run([task(i, i) for i in range(3)])) == {0: 0, 1: 1, 2: 4}
        assert len(asked) == 6

    def test_workers_that_come_late_are_waited_for(self) -> None:
        for client in clustered(0):
            threading.Timer(0.7, client.cluster.scale, [1]).start()
            with dask.config.set({"voxstack.start-timeout": "1 minute"}):
                assert resources().tasks == 1
            assert dict(run([task(0, 3)])) == {0: 9}

    def test_a_task_that_another_one_depends_on_loses_its_worker(self, client: Client, tmp_path: Path) -> None:
        whole = call("whole", sum, [call("part", die_at_first, i, tmp_path / str(i)) for i in range(3)])
        with dask.config.set({"voxstack.worker-timeout": "30s"}):
            assert dict(run([Task("whole", whole), task(1, 3)])) == {"whole": 5, 1: 9}
        assert len(list(tmp_path.iterdir())) == 3

    @pytest.mark.parametrize("signals", [signal.SIGKILL, signal.SIGTERM])
    def test_workers_that_are_killed_again_and_again(self, client: Client, signals: signal.Signals) -> None:
        stop, killed = threading.Event(), []

        def kill() -> None:
            while not stop.wait(0.7):
                for pid in pids(client)[:1]:
                    os.kill(pid, signals)
                    killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            with dask.config.set({"voxstack.worker-timeout": "30s"}), collecting() as events:
                assert dict(run(task(i, i, 0.02) for i in range(200))) == {i: i**2 for i in range(200)}
        finally:
            stop.set()
            killer.join()
        assert killed
        assert any(event["event"] == "workers lost" for event in events)

    def test_a_worker_that_is_cut_off(self, client: Client) -> None:
        frozen = pids(client)[0]
        results = run([task(i, i, 0.05) for i in range(60)])
        found = [next(results)]
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert dict([*found, *results]) == {i: i**2 for i in range(60)}
        finally:
            with suppress(ProcessLookupError):  # its nanny may have ended it
                os.kill(frozen, signal.SIGKILL)

    def test_a_paused_worker_leaves_its_tasks_to_the_others(self, client: Client) -> None:
        results = run([task(i, i, 0.02) for i in range(60)])
        found = [next(results)]
        client.run(pause, workers=[next(iter(client.nthreads()))])
        assert dict([*found, *results]) == {i: i**2 for i in range(60)}


def test_events_say_what_was_done(tmp_path: Path) -> None:
    with collecting() as events:
        list(run([task(i, i) for i in range(5)], label="squares"))
    (ended,) = events
    assert (ended["event"], ended["step"], ended["tasks"]) == ("tasks ended", "squares", 5)
    assert ended["seconds"] >= 0
