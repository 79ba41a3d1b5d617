"""Schedulers that the command line names: local ones that nobody else sees, and those that run elsewhere."""

import operator
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from dask.delayed import delayed
from distributed import Nanny, get_client

from background import background, dask_cluster, wait_until
from voxstack.errors import InputError, VoxstackError
from voxstack.run import Task, run, scheduler

SOON = {"distributed.comm.timeouts.connect": "2s", "voxstack.start-timeout": "1s"}


def tasks(n: int) -> Iterator[Task]:
    return (Task(i, delayed(operator.pow, pure=False)(i, 2)) for i in range(n))


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dask_cluster(tmp_path_factory.mktemp("remote")) as address:
        yield address


class TestLocal:
    def test_nobody_else_reaches_it_or_what_it_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with scheduler("local:2", memory_limit="1GiB"):
            assert dict(run(tasks(4))) == {0: 0, 1: 1, 2: 4, 3: 9}
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            sockets = [connection for process in processes for connection in process.net_connections("inet")]
            listening = [socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN]
            # The scheduler, its dashboard and two nannies are here; each worker has a port, and one for its dashboard.
            assert len(listening) >= 2 + 2 + 2 * 2
            assert {address.ip for address in listening} == {"127.0.0.1"}

            (scratch,) = tmp_path.iterdir()
            assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
            workers = get_client().scheduler_info()["workers"].values()
            assert len(workers) == 2
            assert all(Path(worker["local_directory"]).is_relative_to(scratch) for worker in workers)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_left_where_the_work_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        started: list[psutil.Process] = []

        def fail() -> None:
            with scheduler("local:1"):
                started.extend(p for p in psutil.Process().children(recursive=True) if "spawn_main" in _command(p))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert started
        assert not [process for process in started if process.is_running()]
        assert list(tmp_path.iterdir()) == []

    def test_a_worker_that_is_dead_when_the_work_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its nanny knows no process then, and no process would be taken for this one."""
        ended: list[int] = []

        def fail() -> None:
            with scheduler("local:1"):
                monkeypatch.setattr(Nanny, "pid", None)
                monkeypatch.setattr(psutil.Process, "kill", lambda process: ended.append(process.pid))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert ended == []

    @pytest.mark.parametrize(
        ("spec", "workers", "told"),
        [
            ("threads", 2, "have no workers"),
            ("local:3", 2, "differ"),
            ("local", 0, "not a number of workers"),
            ("tcp://127.0.0.1:8786", 2, "has the workers that it has"),
            ("gateway:http://127.0.0.1:8000#name", 2, "is for a new cluster"),
        ],
    )
    def test_numbers_of_workers_that_mean_nothing(self, spec: str, workers: int, told: str) -> None:
        with pytest.raises(InputError, match=told), scheduler(spec, workers=workers):
            pass

    def test_number_of_workers_by_option(self) -> None:
        with scheduler("local", workers=1):
            assert len(get_client().nthreads()) == 1


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


class TestRemote:
    def test_tasks_run_there_and_the_scheduler_goes_on(self, remote: str) -> None:
        for _ in range(2):
            with scheduler(remote, memory_limit="700MB") as dashboard:
                assert dashboard.startswith("http://127.0.0.1:")
                assert dask.config.get("voxstack.memory-limit") == "700MB"
                ((_, pid),) = run([Task(0, delayed(os.getpid, pure=False)())])
                assert pid != os.getpid()
        assert dask.config.get("voxstack.memory-limit", None) is None

    @pytest.mark.parametrize("spec", ["tcp://", "tcp://host", "tcp://host:port", "tcp://host:1/x", "tls://:1", "tcp:1"])
    def test_addresses_that_are_none(self, spec: str) -> None:
        with pytest.raises(InputError, match=r"write t(cp|ls)://HOST:PORT"), scheduler(spec):
            pass

    def test_nothing_answers(self) -> None:
        told = pytest.raises(VoxstackError, match=r"tcp://127.0.0.1:9 .*Timed out.*whether it runs")
        with dask.config.set(SOON), told, scheduler("tcp://127.0.0.1:9"):
            pass
        with pytest.raises(ValueError, match="client"):
            get_client()

    def test_something_else_answers(self, tmp_path: Path) -> None:
        serve = "import http.server as s; h = s.HTTPServer(('127.0.0.1', 0), s.BaseHTTPRequestHandler);"
        serve += "print(h.server_port, flush=True); h.serve_forever()"
        with background(sys.executable, "-c", serve, log=tmp_path / "log"):
            wait_until(lambda: (tmp_path / "log").read_text().endswith("\n"))
            address = f"tcp://127.0.0.1:{(tmp_path / 'log').read_text().strip()}"
            told = pytest.raises(VoxstackError, match="no Dask scheduler has answered")
            with dask.config.set(SOON), told, scheduler(address):
                pass

    def test_no_worker_comes(self, tmp_path: Path) -> None:
        told = pytest.raises(VoxstackError, match="No worker has come")
        broken = dask_cluster(tmp_path, worker=("--preload", "there_is_no_such_module"))
        with dask.config.set(SOON), broken as address, told, scheduler(address):
            pass


def certificate(folder: Path, name: str) -> dict[str, str]:
    """A certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(who, who, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.crt").write_bytes(signed.public_bytes(pem))
    plain = serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return {"cert": str(folder / f"{name}.crt"), "key": str(folder / f"{name}.key")}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("certificates")
    return {name: certificate(folder, name) for name in ("dask", "other")}


@pytest.fixture(scope="module")
def address(certificates: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    mine = certificates["dask"]
    tls = ("--tls-ca-file", mine["cert"], "--tls-cert", mine["cert"], "--tls-key", mine["key"])
    with dask_cluster(tmp_path_factory.mktemp("tls"), tls=tls) as address:
        yield address


class TestTls:
    def test_certificates_are_those_of_the_configuration(
        self, address: str, certificates: dict[str, dict[str, str]]
    ) -> None:
        assert address.startswith("tls://")
        mine = certificates["dask"]
        tls = {"distributed.comm.tls.ca-file": mine["cert"], "distributed.comm.tls.client": mine}
        with dask.config.set(tls), scheduler(address):
            assert dict(run(tasks(3))) == {0: 0, 1: 1, 2: 4}

    def test_other_certificates_none_and_no_tls_are_refused_in_words(
        self, address: str, certificates: dict[str, dict[str, str]]
    ) -> None:
        other = certificates["other"]
        tls = {"distributed.comm.tls.ca-file": other["cert"], "distributed.comm.tls.client": other}
        for config, spec, told in (
            (tls, address, "certificate verify failed"),
            ({}, address, "needs certificates"),
            ({}, address.replace("tls", "tcp"), "cannot be used as a Dask scheduler"),
        ):
            with dask.config.set({**SOON, **config}), pytest.raises(VoxstackError, match=told), scheduler(spec):
                pass


def test_the_extra_is_named_where_dask_gateway_is_missing() -> None:
    code = (
        "import sys; sys.modules['dask_gateway'] = None\n"
        "from voxstack.run import scheduler\n"
        "with scheduler('gateway:http://127.0.0.1:1'): pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "InputError" in done.stderr
    assert "pip install 'voxstack[gateway]'" in done.stderr
