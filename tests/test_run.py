"""What executes: threads and clusters, lost workers, BLAS threads, block-wise computing."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.delayed import delayed
from distributed import Client, LocalCluster, get_client
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import OpenBLASController, threadpool_info, threadpool_limits

import voxstack as vx
from background import wait_until
from voxstack.errors import InputError, VoxstackError
from voxstack.run import Task, memory_limit, run, scheduler, thread_count

few = settings(deadline=None, max_examples=15)


def task(key: Any, function: Callable[..., Any], *arguments: Any) -> Task:
    return Task(key, delayed(function, pure=False)(*arguments))


def square(number: int) -> int:
    return number**2


def fail(number: int) -> int:
    raise ZeroDivisionError(f"task {number} divides by zero")


def raise_empty(number: int) -> int:
    raise Empty


def squares(number: int) -> list[int]:
    return sorted(result for _, result in run(task(i, square, i) for i in range(number)))


def die_at_first(number: int, mark: Path) -> int:
    """Kill the process that runs this, but not twice."""
    if not mark.exists():
        mark.touch()
        os._exit(1)
    return number**2


def die(number: int) -> int:
    os._exit(1)


def wait_for(event: threading.Event) -> bool:
    return event.wait(timeout=20)


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two processes that nobody forgives a death: distributed itself gives up at the first."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


class TestThreads:
    def test_every_task_gives_its_result_once(self) -> None:
        assert sorted(run(task(i, square, i) for i in range(50))) == [(i, i**2) for i in range(50)]
        assert list(run([])) == []

    def test_results_come_as_they_complete(self) -> None:
        gate = threading.Event()
        order = []
        with dask.config.set(num_workers=2):
            for key, result in run([task("slow", wait_for, gate), *(task(i, square, i) for i in range(8))]):
                order.append(key)
                if len(order) == 8:
                    gate.set()
                assert result is not False, "the slow task was waited for"
        assert order[-1] == "slow"

    @pytest.mark.parametrize("n_threads", [1, 3])
    def test_only_a_window_of_tasks_is_taken_ahead(self, n_threads: int) -> None:
        taken = 0

        def tasks() -> Iterator[Task]:
            nonlocal taken
            for i in range(100):
                taken += 1
                yield task(i, square, i)

        with dask.config.set(num_workers=n_threads):
            for done, _ in enumerate(run(tasks()), start=1):
                assert taken <= 2 * n_threads + done

    def test_number_of_threads_is_that_of_the_configuration(self) -> None:
        with dask.config.set(num_workers=3):
            barrier = threading.Barrier(3)
            assert thread_count() == 3
            waits = [task(i, lambda: barrier.wait(timeout=20)) for i in range(3)]
            assert {threads for _, threads in run(waits)} == {0, 1, 2}

    def test_exceptions_of_tasks_propagate(self) -> None:
        ran = []
        tasks = [task("bad", fail, 7), *(task(i, ran.append, i) for i in range(500))]
        with pytest.raises(ZeroDivisionError, match="task 7 divides by zero"):
            list(run(tasks))
        assert len(ran) < 500

    def test_a_loop_that_is_left_early_stops_the_tasks(self) -> None:
        before = blas_threads()
        ran = []
        results = run(task(i, ran.append, i) for i in range(500))
        next(results)
        results.close()
        time.sleep(0.05)
        assert len(ran) < 500
        assert blas_threads() == before

    @few
    @given(n_tasks=st.integers(0, 20), n_threads=st.integers(1, 5))
    def test_any_number_of_tasks_on_any_number_of_threads(self, n_tasks: int, n_threads: int) -> None:
        with dask.config.set(num_workers=n_threads):
            assert dict(run(task(i, square, i) for i in range(n_tasks))) == {i: i**2 for i in range(n_tasks)}


def set_blas_threads(number: int) -> None:
    """From a thread that ends: newer threadpoolctl lets only one living thread change the number of OpenBLAS."""
    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread(force=True)
    thread = threading.Thread(target=threadpool_limits, args=(number,), kwargs={"user_api": "blas"})
    thread.start()
    thread.join()


class TestBlasThreads:
    @pytest.fixture(autouse=True)
    def several(self) -> Iterator[None]:
        """More than one, also on a machine of one core."""
        before = blas_threads()
        set_blas_threads(3)
        if set(blas_threads()) != {3}:
            pytest.skip("this BLAS does not take a number of threads")
        yield
        set_blas_threads(before[0])

    def test_one_thread_while_a_task_runs_and_all_again_after(self) -> None:
        assert all(set(inside) == {1} for _, inside in run(task(i, blas_threads) for i in range(4)))
        assert set(blas_threads()) == {3}
        with pytest.raises(ZeroDivisionError):
            list(run([task(0, fail, 0)]))
        assert set(blas_threads()) == {3}

    def test_an_interruption_before_the_limit_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(number: int, user_api: str) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("voxstack.run.blas.threadpool_limits", interrupt)
            with pytest.raises(KeyboardInterrupt):
                list(run([task(0, blas_threads)]))
        wait_until(lambda: not [thread for thread in threading.enumerate() if "voxstack-blas" in thread.name])
        assert all(set(inside) == {1} for _, inside in run([task(0, blas_threads)]))
        assert set(blas_threads()) == {3}

    def test_nested_runs(self) -> None:
        outer = run(task(i, blas_threads) for i in range(6))
        next(outer)
        assert dict(run([task(0, square, 3)])) == {0: 9}
        assert all(set(inside) == {1} for _, inside in outer)
        assert set(blas_threads()) == {3}

    def test_runs_that_overlap_in_several_threads(self) -> None:
        """The first to begin is the first to end: contexts of threadpoolctl alone would restore the wrong number."""
        first_began, second_began, first_ended = (threading.Event() for _ in range(3))

        def first() -> None:
            results = run([task(0, square, 1), task(1, wait_for, second_began)])
            next(results)
            first_began.set()
            list(results)
            first_ended.set()

        def second() -> list[int]:
            assert wait_for(first_began)
            results = run([task(0, blas_threads), task(1, wait_for, first_ended), task(2, blas_threads)])
            seen = list(next(results)[1])
            second_began.set()
            return seen + [n for _, inside in results if isinstance(inside, list) for n in inside]

        with dask.config.set(num_workers=2), ThreadPoolExecutor(2) as pool:
            jobs = pool.submit(first), pool.submit(second)
            jobs[0].result()
            assert set(jobs[1].result()) == {1}
            assert set(blas_threads()) == {3}

    def test_a_run_leaves_other_threads_free_to_limit_themselves(self) -> None:
        list(run([task(0, square, 3)]))

        def limited() -> list[int]:
            with threadpool_limits(2, user_api="blas"):
                return blas_threads()

        with ThreadPoolExecutor(1) as pool:
            assert set(pool.submit(limited).result()) == {2}


class TestCluster:
    def test_tasks_run_on_the_workers_of_the_active_client(self, client: Client) -> None:
        pids = dict(run(task(i, os.getpid) for i in range(8)))
        assert set(pids) == set(range(8))
        assert os.getpid() not in pids.values()

    def test_without_a_client_they_run_here(self, cluster: LocalCluster) -> None:
        assert {pid for _, pid in run(task(i, os.getpid) for i in range(3))} == {os.getpid()}

    def test_exceptions_of_tasks_propagate(self, client: Client) -> None:
        with pytest.raises(ZeroDivisionError, match="task 7 divides by zero"):
            list(run([task("bad", fail, 7), *(task(i, square, i) for i in range(20))]))

    def test_a_task_whose_worker_dies_is_given_to_another(self, client: Client, tmp_path: Path) -> None:
        tasks = [task("deadly", die_at_first, 9, tmp_path / "died"), *(task(i, square, i) for i in range(12))]
        assert dict(run(tasks)) == {"deadly": 81} | {i: i**2 for i in range(12)}
        assert (tmp_path / "died").exists()

    def test_an_exception_that_queues_raise_is_one_like_others(self, client: Client) -> None:
        with pytest.raises(Empty):
            list(run([task(i, raise_empty if i == 1 else square, i) for i in range(3)]))
        assert not client.futures

    def test_tasks_of_a_task_find_a_thread_where_there_is_only_one(self) -> None:
        options: dict[str, Any] = {"processes": False, "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(n_workers=1, threads_per_worker=1, **options) as cluster, Client(cluster) as client:
            futures = client.map(squares, [1, 3], pure=False)
            assert [future.result(timeout=30) for future in futures] == [[0], [0, 1, 4]]

    def test_an_event_loop_is_not_kept_from_its_own_client(self) -> None:
        def squared() -> list[int]:
            return sorted(result for _, result in run(task(i, square, i) for i in range(3)))

        async def both() -> list[int]:
            options: dict[str, Any] = {"processes": False, "dashboard_address": "127.0.0.1:0", "asynchronous": True}
            async with LocalCluster(n_workers=1, **options) as cluster, Client(cluster, asynchronous=True):
                with pytest.raises(InputError, match="asynchronous"):
                    squared()
                return await asyncio.wait_for(asyncio.to_thread(squared), 20)

        assert asyncio.run(both()) == [0, 1, 4]

    def test_endless_deaths_end_with_advice(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("voxstack.run.cluster._FRUITLESS_RETRIES", 1)
        with pytest.raises(VoxstackError, match=r"Workers died .*memory"):
            list(run([task("deadly", die, 1)]))

    def test_blocks_are_computed_on_the_workers(self, client: Client) -> None:
        shape = (4, 3, 2)
        pids = da.zeros(shape, chunks=(2, 3, 1)).map_blocks(lambda block: block + os.getpid(), dtype=float)
        computed = vx.compute(xr.Dataset({"pid": (("x", "y", "z"), pids)}))
        assert os.getpid() not in computed["pid"].values
        assert computed["pid"].values.min() > 0


class TestCompute:
    @pytest.mark.filterwarnings("ignore:Increasing number of chunks")
    @few
    @given(data=st.data())
    def test_any_chunking_gives_what_dask_gives(self, data: st.DataObject) -> None:
        sizes = {"subject": 3, "x": 4, "y": 2, "z": 3, "contrast": 2}
        rng = np.random.default_rng(0)

        def lazy(dims: tuple[str, ...]) -> xr.Variable:
            values = rng.standard_normal([sizes[dim] for dim in dims])
            chunks = tuple(data.draw(st.integers(1, sizes[dim])) for dim in dims)
            return xr.Variable(dims, da.from_array(values, chunks=chunks), {"long_name": "-".join(dims)})

        orders = st.permutations(("contrast", "x", "y", "z")).map(tuple)
        dataset = xr.Dataset(
            {
                "one": lazy(data.draw(orders)),
                "two": lazy(("x", "y", "z")),
                "cohort": lazy(("subject", "x", "y", "z")),
                "other": lazy(("subject", "contrast")),
                "plain": ("contrast", [1, 2]),
            },
            coords={"mask": lazy(("x", "y", "z")), "contrast": ["a", "b"], "spatial_ref": 0},
            attrs={"kind": "contrast"},
        )
        computed = vx.compute(dataset)
        xr.testing.assert_identical(computed, dataset.compute())
        assert computed.chunks == {}

    @settings(deadline=None, max_examples=8)
    @given(data=st.data())
    def test_a_fit_of_any_chunking_gives_what_dask_gives(self, data: st.DataObject) -> None:
        values = np.random.default_rng(1).standard_normal((9, 4, 3, 2))
        values[data.draw(st.integers(0, 8)), 1, 2] = np.nan
        chunks = tuple(data.draw(st.integers(1, n)) for n in values.shape)
        cohort = vx.from_arrays({"effect": da.from_array(values, chunks=chunks)}, affine=np.eye(4))
        fit = vx.fit_glm(cohort, "~ 1", missing=data.draw(st.sampled_from(["complete", "available"])))
        result = vx.contrast(fit, "Intercept")
        xr.testing.assert_identical(vx.compute(result), result.compute())
        assert type(vx.compute(fit).xindexes["x"]) is type(fit.xindexes["x"])

    def test_what_is_in_memory_stays_as_it_is(self) -> None:
        cohort = vx.from_arrays({"effect": np.ones((2, 2, 2, 2))}, affine=np.eye(4))
        xr.testing.assert_identical(vx.compute(cohort), cohort)


class TestScheduler:
    @pytest.mark.parametrize(
        "spec",
        [
            "",
            "thread",
            "threads:2",
            "local:0",
            "local:-1",
            "local:two",
            "local:1.5",
            "local2",
            "processes",
        ],
    )
    def test_texts_that_name_no_scheduler(self, spec: str) -> None:
        with pytest.raises(InputError, match=r"threads \| local"), scheduler(spec):
            pass

    @pytest.mark.parametrize(
        ("spec", "amount"),
        [
            ("threads", "much"),
            ("local:1", "4 potatoes"),
            ("threads", "-1GiB"),
            ("threads", "0"),
            ("threads", " "),
            ("local:1", "1e400GiB"),
        ],
    )
    def test_texts_that_are_no_amount_of_memory(self, spec: str, amount: str) -> None:
        with pytest.raises(InputError, match="amount of memory"), scheduler(spec, memory_limit=amount):
            pass

    def test_threads_take_the_memory_limit(self) -> None:
        before = memory_limit()
        with scheduler("threads", memory_limit="3MiB") as dashboard:
            assert dashboard == ""
            assert memory_limit() == 3 * 2**20
        assert memory_limit() > 3 * 2**20
        assert abs(memory_limit() - before) < 0.9 * before

    def test_a_limit_of_the_configuration_holds_where_none_is_given(self) -> None:
        with dask.config.set({"voxstack.memory-limit": "5MB"}), scheduler("threads"):
            assert memory_limit() == 5_000_000

    def test_local_makes_that_many_processes_and_ends_them(self) -> None:
        with scheduler("local:1", memory_limit="1GiB") as dashboard:
            client = get_client()
            workers = client.scheduler_info()["workers"]
            assert [(w["nthreads"], w["memory_limit"]) for w in workers.values()] == [(1, 2**30)]
            assert dashboard.startswith("http")
            ((_, pid),) = run([task(0, os.getpid)])
            assert pid != os.getpid()
        with pytest.raises(ValueError, match="client"):
            get_client()
