"""A real dask-gateway server with local workers: the command line from the first file to the last map."""

import json
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from dask_gateway import Gateway
from distributed import get_client

import voxstack as vx
from background import background, wait_until
from small_cohorts import content
from voxstack.cli import cli
from voxstack.errors import InputError, VoxstackError
from voxstack.run import executing, scheduler

PAGE = Path(__file__).parents[1] / "docs/clusters.md"
PASSWORD = "a-secret"
ALICE = {"gateway.auth.type": "basic", "gateway.auth.kwargs": {"username": "alice", "password": PASSWORD}}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the configuration of the documentation, at another port."""
    folder = tmp_path_factory.mktemp("gateway")
    (file,) = re.findall(r":caption: dask_gateway_config.py\n(.*?)^```", PAGE.read_text(), flags=re.M | re.S)
    port = free_port()
    assert file.count(":8000") == 1
    quick = f"c.LocalBackend.sigint_timeout = 1\nc.LocalBackend.clusters_directory = {str(folder / 'clusters')!r}\n"
    (folder / "config.py").write_text(file.replace(":8000", f":{port}") + quick)
    server = Path(sys.executable).parent / "dask-gateway-server"
    log = folder / "log"
    with background(server, "-f", folder / "config.py", log=log) as process:
        wait_until(lambda: "server started" in log.read_text() or process.poll() is not None, log=log)
        wait_until(lambda: "GET /api/v1/routes" in log.read_text() or process.poll() is not None, log=log)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def user() -> Iterator[None]:
    with dask.config.set(ALICE):
        yield


@pytest.fixture(scope="module")
def gateway(address: str) -> Iterator[Gateway]:
    """What users of dask-gateway look at it with."""
    with dask.config.set(ALICE):
        gateway = Gateway(address)
    yield gateway
    gateway.sync(gateway._cleanup)


def clusters(gateway: Gateway) -> list[str]:
    """Those that run."""
    return [report.name for report in gateway.list_clusters()]


def succeed(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.output)


def test_the_main_job_gives_what_threads_give(address: str, gateway: Gateway, user: None, tmp_path: Path) -> None:
    simulated = vx.simulate_cohort(tmp_path / "simulated", n_subjects=9, resolution=15)
    model = ("--design", "~ age + sex", "--contrast", "age", "--quiet")
    tests = (*model, "--permutations", "60", "--statistic", "voxel", "--statistic", "tfce", "--seed", "3")
    for name, where in (("threads", ()), ("gateway", ("--scheduler", f"gateway:{address}", "--memory-limit", "1GiB"))):
        one = ("--workers", "1") if where else ()
        store = tmp_path / f"{name}.zarr"
        succeed("stack", simulated / "participants.tsv", store, "--map", "effect=effect_path", "--quiet", *where)
        succeed("fit", store, *model, "--output", tmp_path / name / "fit", *where, *one)
        succeed("permute", store, *tests, "--output", tmp_path / name / "permute", *where, *one)
    assert content(tmp_path / "gateway.zarr") == content(tmp_path / "threads.zarr")
    for verb in ("fit", "permute"):
        here, there = (
            vx.open_results(tmp_path / name / verb / "results.zarr").load() for name in ("threads", "gateway")
        )
        assert set(here.data_vars) == set(there.data_vars)
        for variable in here.data_vars:
            if "_p" in str(variable):
                np.testing.assert_array_equal(there[variable], here[variable], err_msg=str(variable))
            else:
                xr.testing.assert_allclose(there[variable], here[variable], rtol=1e-10)
        told = json.loads((tmp_path / "gateway" / verb / "provenance.json").read_text())
        assert told["scheduler"] == {"kind": "gateway", "workers": 1, "threads": 1, "memory_limits": [2**30]}
    assert clusters(gateway) == []
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [content for content in everything if PASSWORD.encode() in content]


def test_a_cluster_that_runs_is_joined_and_left_running(address: str, gateway: Gateway, user: None) -> None:
    name = gateway.submit()
    try:
        wait_until(lambda: gateway.get_cluster(name).status.name == "RUNNING")
        gateway.scale_cluster(name, 1)
        for _ in range(2):
            with dask.config.set({"gateway.address": address}), scheduler(f"gateway:#{name}") as dashboard:
                assert dashboard == f"{address}/clusters/{name}/status"
                assert executing()["workers"] == 1
        assert clusters(gateway) == [name]
    finally:
        gateway.stop_cluster(name)


def test_a_new_cluster_is_shut_down_where_the_work_fails(address: str, gateway: Gateway, user: None) -> None:
    names = []

    def fail() -> None:
        with scheduler(f"gateway:{address}", workers=1):
            names.extend(clusters(gateway))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(names) == 1
    assert clusters(gateway) == []
    with pytest.raises(ValueError, match="client"):
        get_client()


class TestRefusals:
    def refused(self, spec: str, told: str, **options: str) -> None:
        with pytest.raises(VoxstackError, match=told), scheduler(spec, **options):
            pass

    def test_a_wrong_password(self, address: str) -> None:
        wrong = {"gateway.auth.kwargs": {"username": "alice", "password": "guessed"}}
        with dask.config.set({**ALICE, **wrong}):
            self.refused(f"gateway:{address}", r"does not let you in \(401\).*gateway.auth")

    def test_nothing_there(self, user: None) -> None:
        self.refused(f"gateway:http://127.0.0.1:{free_port()}", "Cannot connect.*whether it runs")

    def test_no_such_cluster(self, address: str, user: None) -> None:
        self.refused(f"gateway:{address}#nobody", "nobody.*not.*exist|not found")

    def test_more_memory_than_there_is(self, address: str, gateway: Gateway, user: None) -> None:
        self.refused(f"gateway:{address}", "refuses that for its workers", memory_limit="100GiB")
        assert clusters(gateway) == []

    @pytest.mark.parametrize("spec", ["gateway", "gateway:", "gateway:host"])
    def test_no_address(self, spec: str) -> None:
        with pytest.raises(InputError, match=r"write gateway:https://HOST"), scheduler(spec):
            pass
