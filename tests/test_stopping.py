"""Ctrl-C and SIGTERM: commands stop in order, leave nothing behind, and go on to the same bytes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner

from background import VOXSTACK, wait_until
from small_cohorts import content
from voxstack.cli import cli

N, SHAPE = 130, (44, 52, 36)
KEPT = {
    "stack": "The batches that are done are kept: the same command goes on from there.",
    "fit": "Nothing was written: the same command begins anew.",
    "permute": "What was done is in checkpoint: the same command goes on from there.",
}
OUTPUT = {"stack": "cohort.zarr", "fit": "fitted", "permute": "permuted"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of many subjects, whose images are a few that repeat, and what undisturbed commands make of it."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for number in range(4):
        volume = rng.standard_normal(SHAPE).astype("float32")
        nib.Nifti1Image(volume, np.eye(4) * [3, 3, 3, 1]).to_filename(folder / f"{number}.nii.gz")
    paths = [str(folder / f"{number % 4}.nii.gz") for number in range(N)]
    table = {"participant_id": [f"sub-{i}" for i in range(N)], "path": paths, "age": rng.uniform(20, 80, N).round(1)}
    pd.DataFrame(table).to_csv(folder / "participants.tsv", sep="\t", index=False)
    (folder / "undisturbed").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "undisturbed")
        for verb in KEPT:
            succeed(arguments(verb, folder))
    return folder


def succeed(arguments: list[str]) -> None:
    """In this process, and the current folder."""
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def arguments(verb: str, study: Path) -> list[str]:
    """Of a command whose output lies in the current folder."""
    store = str(study / "undisturbed" / "cohort.zarr")
    model = ("--design", "~ age", "--contrast", "age", "--output", OUTPUT[verb])
    tests = ("--permutations", "400", "--statistic", "tfce", "--checkpoint", "checkpoint")
    options: dict[str, tuple[str, ...]] = {
        "stack": (str(study / "participants.tsv"), OUTPUT[verb], "--map", "effect=path"),
        "fit": (store, *model, "--missing", "available"),
        "permute": (store, *model, *tests),
    }
    return [verb, *options[verb], "--quiet"]


def under_way(verb: str, folder: Path) -> Callable[[], bool]:
    """Whether a command has begun to work, or kept something of it."""
    places = {"stack": "cohort.zarr/effect/c", "fit": OUTPUT["fit"], "permute": "checkpoint"}
    return lambda: (folder / places[verb]).exists()


def members(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A command and the processes that it has started."""
    return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]


def files(folder: Path) -> dict[str, bytes]:
    """All that was written, but for the file that tells when."""
    return {name: held for name, held in content(folder).items() if name != "provenance.json"}


@pytest.mark.parametrize("where", ["threads", "local:2"])
@pytest.mark.parametrize("verb", list(KEPT))
def test_stopped_and_called_again(
    verb: str, where: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = signal.SIGINT if (verb == "fit") == (where == "threads") else signal.SIGTERM
    work, temporary = tmp_path / "work", tmp_path / "tmp"
    work.mkdir()
    temporary.mkdir()
    process = subprocess.Popen(
        [*VOXSTACK, *arguments(verb, study), "--scheduler", where],
        cwd=work,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    ready = under_way(verb, work)
    wait_until(lambda: ready() or process.poll() is not None)
    time.sleep(0.05)
    assert process.poll() is None, "it was done before it could be stopped"
    started = members(process)
    if request == signal.SIGINT:  # a terminal sends it to all processes
        os.killpg(process.pid, request)
    else:
        process.send_signal(request)
    _, told = process.communicate(timeout=60)

    assert process.returncode == 128 + request
    assert "Traceback" not in told
    lines = [line for line in told.splitlines() if line.strip() and not line.startswith("Dask dashboard")]
    assert lines == ["Stopping ...", f"Stopped. {KEPT[verb]}"]
    wait_until(lambda: not [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE])
    assert list(temporary.iterdir()) == []
    assert verb == "stack" or not (work / OUTPUT[verb]).exists()

    monkeypatch.chdir(work)
    succeed(arguments(verb, study))
    assert files(work / OUTPUT[verb]) == files(study / "undisturbed" / OUTPUT[verb])


def test_without_a_checkpoint_the_advice_is_to_have_one(study: Path, tmp_path: Path) -> None:
    without = [one for one in arguments("permute", study) if "checkpoint" not in one]
    process = subprocess.Popen([*VOXSTACK, *without], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "permuted").exists())
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.endswith("Stopped. What was done is lost; with --checkpoint DIR it would be kept.\n")
