"""Files on the page of clusters for machines that a test has not: what they start is started, as far as it goes."""

import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.utils
import psutil
import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from traitlets.config import PyFileConfigLoader
from traitlets.utils.importstring import import_item

import voxstack as vx
from background import DASK, VOXSTACK, background, wait_until
from buckets import upload
from pages import PAGES, ROOT, blocks, is_declared
from voxstack.io.places import Remote

FILES = {
    block.caption: block.content
    for page in PAGES
    if page.stem == "clusters"
    for block in blocks(page)
    if block.caption is not None
}


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    return vx.simulate_cohort(tmp_path / "simulated", n_subjects=9, resolution=15)


def runs(process: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    return False


class TestSlurm:
    """dask-jobqueue, and a sbatch that starts jobs on this machine and remembers what it was given."""

    SBATCH = f"""#!{sys.executable}
import subprocess, sys
from pathlib import Path
script = Path(sys.argv[1])
log = open(script.name + ".log", "wb")
job = subprocess.Popen(["bash", script], stdout=log, stderr=log, start_new_session=True)
Path(f"job-{{job.pid}}").write_text(script.read_text())
print("Submitted batch job", job.pid)
"""
    SCANCEL = """#!/bin/sh
kill -TERM -- "-$1"
"""

    @pytest.fixture
    def slurm(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """The current folder; jobs end with the test."""
        for name, code in (("sbatch", self.SBATCH), ("scancel", self.SCANCEL)):
            (tmp_path / name).write_text(code)
            (tmp_path / name).chmod(0o700)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        yield tmp_path
        for job in tmp_path.glob("job-*"):
            with suppress(ProcessLookupError):
                os.killpg(int(job.name.removeprefix("job-")), signal.SIGKILL)

    def test_the_script_runs_with_its_workers_as_jobs(self, slurm: Path, simulated: Path) -> None:
        loopback = next(
            name for name, all_of in psutil.net_if_addrs().items() if "127.0.0.1" in {a.address for a in all_of}
        )
        here = {
            "/project/env/bin/python": sys.executable,
            "/project/participants.tsv": f"{simulated}/participants.tsv",
            "/project/": f"{slurm}/",
            "ib0": loopback,
            "maximum=40": "maximum=1",
            "10_000": "100",
        }
        for name in ("on_slurm.py", "on_slurm.sh"):
            text = FILES[name]
            for there, local in here.items():
                text = text.replace(there, local)
            (slurm / name).write_text(text)
        told = subprocess.run(["sbatch", "on_slurm.sh"], check=True, capture_output=True, text=True).stdout
        log, driver = slurm / "on_slurm.sh.log", int(told.split()[-1])
        wait_until(lambda: not runs(driver), seconds=120, log=log)
        assert "Traceback" not in log.read_text()
        result = vx.open_results(slurm / "age.zarr")
        assert {"voxel_p_fwe", "tfce_p_fwe"} <= set(result.data_vars)

        workers = [text for job in slurm.glob("job-*") if "dask" in (text := job.read_text())]
        assert workers
        for text in workers:
            for asked in ("-p normal", "-A my-project", "--cpus-per-task=4", "--mem=16G", "-t 04:00:00"):
                assert f"#SBATCH {asked}\n" in text
            assert "--lifetime 225m --lifetime-stagger 10m" in text


class TestKubernetes:
    CLUSTER = yaml.safe_load(FILES["cluster.yaml"])
    JOB = yaml.safe_load(FILES["job.yaml"])

    def container(self, role: str) -> dict[str, Any]:
        (container,) = self.CLUSTER["spec"][role]["spec"]["containers"]
        return dict(container)

    def job(self) -> dict[str, Any]:
        (container,) = self.JOB["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def test_the_commands_of_the_pods_do_the_job(
        self, s3: dict[str, Any], simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("aws_access_key_id", "aws_secret_access_key"):
            monkeypatch.setenv(name.upper(), s3[name])
        for name, value in (("ENDPOINT_URL", s3["endpoint"]), ("REGION", "us-east-1"), ("ALLOW_HTTP", "true")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setattr("voxstack.io.objects._clients", {})
        upload(simulated, "s3://bucket/simulated", s3)
        vx.stack("s3://bucket/simulated/participants.tsv", "s3://bucket/cohort.zarr", maps={"effect": "effect_path"})

        told = tmp_path / "scheduler.json"
        here = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", told)
        program, *scheduler = self.container("scheduler")["args"]
        assert program == "dask"
        with background(DASK, *scheduler, *here, log=tmp_path / "scheduler.log"):
            wait_until(lambda: told.exists() and told.read_text(), log=tmp_path / "scheduler.log")
            found = json.loads(told.read_text())
            # What its probes ask.
            probe = self.container("scheduler")["readinessProbe"]["httpGet"]
            port = found["services"]["dashboard"]
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}{probe['path']}").status == 200

            # The operator sets these variables, and Kubernetes expands $(NAME).
            operator = {"DASK_SCHEDULER_ADDRESS": found["address"], "DASK_WORKER_NAME": "voxstack-default-worker-1"}
            _, *worker = self.container("worker")["args"]
            worker = [word.replace("$(DASK_WORKER_NAME)", operator["DASK_WORKER_NAME"]) for word in worker]
            loopback = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", "--local-directory", tmp_path)
            with background(DASK, *worker, *loopback, log=tmp_path / "worker.log", env=operator):
                program, *words = self.job()["args"]
                assert program == "voxstack"
                service = f"tcp://{self.CLUSTER['metadata']['name']}-scheduler:8786"
                assert sum(service in word for word in words) == 1
                words = [word.replace(service, found["address"]) for word in words]
                done = subprocess.run([*VOXSTACK, *words], capture_output=True, text=True, timeout=120, check=False)
                assert done.returncode == 0, done.stderr
        assert (Remote("s3://bucket/age", s3) / "results.zarr" / "zarr.json").exists()

    def test_what_the_files_say_twice_is_the_same(self) -> None:
        worker, scheduler = self.container("worker"), self.container("scheduler")
        assert worker["image"] == scheduler["image"] == self.job()["image"]
        names = [port["name"] for port in scheduler["ports"]]
        service = self.CLUSTER["spec"]["scheduler"]["service"]
        assert [port["targetPort"] for port in service["ports"]] == names
        assert service["selector"]["dask.org/cluster-name"] == self.CLUSTER["metadata"]["name"]

    def test_a_worker_spills_before_its_pod_is_killed(self) -> None:
        worker = self.container("worker")
        of = dict(zip(worker["args"][2::2], worker["args"][3::2], strict=True))
        limits = worker["resources"]["limits"]
        assert of["--nthreads"] == limits["cpu"]
        assert dask.utils.parse_bytes(of["--memory-limit"]) < dask.utils.parse_bytes(f"{limits['memory']}B")

    def test_the_image_is_of_a_python_and_of_extras_that_there_are(self) -> None:
        lines = FILES["Dockerfile"].splitlines()
        (base,) = [line.removeprefix("FROM python:").removesuffix("-slim") for line in lines if line.startswith("FROM")]
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert Version(base) in SpecifierSet(">=3.11")
        assert 'requires-python = ">=3.11"' in project
        (install,) = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN pip")]
        is_declared(install)
        assert shlex.split(install)[:2] == ["pip", "install"]


def test_the_gateway_for_slurm_names_classes_and_settings_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(FILES["dask_gateway_config.py, for SLURM"])
    config = PyFileConfigLoader("config.py", path=str(tmp_path)).load_config()
    gateway = import_item("dask_gateway_server.app.DaskGateway")
    backend = import_item(config.DaskGateway.backend_class)
    authenticator = import_item(config.DaskGateway.authenticator_class)
    assert authenticator.__name__ == "JupyterHubAuthenticator"
    cluster = backend.cluster_config_class.default_value
    classes = {
        "DaskGateway": gateway,
        "SlurmClusterConfig": import_item(cluster) if isinstance(cluster, str) else cluster,
        "Proxy": import_item("dask_gateway_server.proxy.core.Proxy"),
    }
    for name, settings in config.items():
        assert set(settings) <= set(classes[name].class_trait_names()), name
