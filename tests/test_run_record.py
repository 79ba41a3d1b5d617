"""What is told of a run beside its results: provenance.json, the log, Dask's performance report."""

import json
import logging
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import dask
import pytest
from click.testing import CliRunner, Result

import voxstack as vx
from small_cohorts import content
from voxstack.cli import cli
from voxstack.events import JsonLines, emit, handling
from voxstack.io.secrets import without_secrets

FIT = ("fit", "cohort.zarr", "--design", "~ age", "--contrast", "age", "--output", "fitted", "--quiet")
PERMUTE = ("permute", "cohort.zarr", "--design", "~ age", "--contrast", "age", "--permutations", "30",
           "--output", "permuted", "--quiet")  # fmt: skip


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def succeed(*arguments: str) -> str:
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    return str(done.output)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vx.simulate_cohort(tmp_path_factory.mktemp("simulated") / "simulated", n_subjects=8, resolution=15)


@pytest.fixture
def folder(simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a cohort that the command line has stacked."""
    return study(simulated, tmp_path, monkeypatch)


def study(simulated: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    succeed("stack", str(simulated / "participants.tsv"), "cohort.zarr", "--map", "effect=effect_path", "--quiet")
    return folder


def told_in(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
    return told


class TestProvenanceFile:
    def test_it_says_what_ran_where_and_how_long_each_step_took(self, folder: Path) -> None:
        with dask.config.set(num_workers=3):
            succeed(*FIT, "--memory-limit", "2GiB")
        told = told_in(folder / "fitted")
        assert told["command"] == ["voxstack", *FIT, "--memory-limit", "2GiB"]
        assert told["versions"]["voxstack"] == vx.__version__
        assert told["scheduler"] == {"kind": "threads", "workers": 0, "threads": 3, "memory_limits": [2**31]}
        started, ended = (datetime.fromisoformat(told[key]) for key in ("started", "ended"))
        assert started.tzinfo is not None
        assert started <= ended
        assert [step["step"] for step in told["steps"]] == ["contrast"]
        assert told["steps"][0]["tasks"] > 0
        assert 0 < told["steps"][0]["seconds"] <= told["seconds"]
        assert told["incidents"] == []

    def test_workers_of_a_cluster(self, folder: Path) -> None:
        succeed(*PERMUTE, "--scheduler", "local:1", "--memory-limit", "1GiB")
        told = told_in(folder / "permuted")
        assert told["scheduler"] == {"kind": "local", "workers": 1, "threads": 1, "memory_limits": [2**30]}

    def test_two_runs_differ_in_it_by_times_alone_and_nowhere_else(
        self, simulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = []
        for name in ("one", "two"):
            where = study(simulated, tmp_path / name, monkeypatch)
            succeed(*FIT)
            succeed(*PERMUTE)
            runs.append(content(where))
        records = {name for name in runs[0] if name.endswith("provenance.json")}
        assert records == {"fitted/provenance.json", "permuted/provenance.json"}
        for name in runs[0].keys() | runs[1].keys():
            if name not in records:
                assert runs[0][name] == runs[1][name], name
        for name in records:
            first, second = (json.loads(run[name]) for run in runs)
            for told in (first, second):
                for step in (told, *told["steps"]):
                    assert step.pop("seconds") > 0
                assert datetime.fromisoformat(told.pop("started")) <= datetime.fromisoformat(told.pop("ended"))
            assert first == second

    def test_overwriting_results_replaces_it(self, folder: Path) -> None:
        succeed(*FIT)
        succeed(*FIT, "--overwrite")
        assert told_in(folder / "fitted")["command"][-1] == "--overwrite"

    @pytest.mark.parametrize(
        ("written", "kept"),
        [
            ("gateway:https://alice:pa55@host/x#name", "gateway:https://***@host/x#name"),
            ("s3://bucket/c.zarr?X-Amz-Signature=abc&v=1", "s3://bucket/c.zarr?X-Amz-Signature=***&v=***"),
            ("aws_secret_access_key=abc=", "aws_secret_access_key=***"),
            ("sas-token=a=b&c", "sas-token=***"),
            ("region=eu-west-1", "region=eu-west-1"),
            ("effect=maps/{participant_id}.nii.gz", "effect=maps/{participant_id}.nii.gz"),
            ("~ age + C(site)", "~ age + C(site)"),
            ("young_old=a - b", "young_old=a - b"),
            ("s3://bucket/c.zarr", "s3://bucket/c.zarr"),
        ],
    )
    def test_secrets_of_the_command_line_are_left_out(self, written: str, kept: str) -> None:
        assert without_secrets(["stack", written]) == ["stack", kept]


class TestLog:
    def test_lines_of_json_are_added(self, folder: Path) -> None:
        succeed(*FIT, "--log", "log.jsonl")
        assert invoke(*FIT, "--log", "log.jsonl", "--overwrite", "--mask", "nothing.nii.gz").exit_code != 0
        events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert all(datetime.fromisoformat(event["time"]).tzinfo is not None for event in events)
        assert [(event["event"], event.get("outcome")) for event in events] == [
            ("command started", None),
            ("tasks ended", None),
            ("command ended", "done"),
            ("command started", None),
            ("command ended", "failed"),
        ]
        assert (events[0]["command"], events[0]["scheduler"]) == ("fit", "threads")
        assert events[1]["step"] == "contrast"

    def test_a_log_that_cannot_be_written_is_found_before_the_work(self, folder: Path) -> None:
        done = invoke(*FIT, "--log", "nowhere/log.jsonl")
        assert "nowhere/log.jsonl cannot be written" in str(done.exception)
        assert not (folder / "fitted").exists()

    def test_from_python_as_the_documentation_says(self, tmp_path: Path) -> None:
        handler = logging.FileHandler(tmp_path / "log.jsonl")
        handler.setFormatter(JsonLines())
        with handling(handler):
            emit("something happened", number=3)
        (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
        told = json.loads(line)
        assert (told["level"], told["event"], told["number"]) == ("info", "something happened", 3)


class TestPerformanceReport:
    def test_one_page_that_needs_no_network(self, folder: Path) -> None:
        succeed(*FIT, "--scheduler", "local:1", "--performance-report", "report.html")
        page = (folder / "report.html").read_text()
        assert "Dask Performance Report" in page
        assert not re.findall(r"<script[^>]*\ssrc=|<link[^>]*stylesheet", page)

    def test_threads_have_none(self, folder: Path) -> None:
        done = invoke(*FIT, "--performance-report", "report.html")
        assert "only Dask's schedulers have one" in str(done.exception)
        assert not (folder / "report.html").exists()
        assert not (folder / "fitted").exists()

    def test_a_file_that_cannot_be_written_is_found_before_the_work(self, folder: Path) -> None:
        done = invoke(*FIT, "--scheduler", "local:1", "--performance-report", "nowhere/report.html")
        assert "nowhere/report.html cannot be written" in str(done.exception)
        assert not (folder / "fitted").exists()
