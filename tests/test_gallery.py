"""The gallery: every example runs, holds what it finds against the truth, and takes real data, too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import voxstack as vx

pytest.importorskip("nilearn", reason="the examples draw with nilearn (extra report)")

EXAMPLES = Path(__file__).parents[1] / "examples"
GALLERY = sorted(path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("wager2008"))
SECONDS = 60  # that an example may take


def run(folder: Path, *command: str | Path) -> str:
    """A script in a process of its own, warnings as errors; its output."""
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"} | {"MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, command)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", GALLERY)
def test_example_finds_its_truth(name: str, tmp_path: Path) -> None:
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    assert "    assert " in source or "\nassert " in source or "\nnp.testing.assert_" in source
    run(tmp_path, EXAMPLES / name)
    assert not list(tmp_path.iterdir())  # nothing is left behind


def localizer(folder: Path, n: int, *, contrast: str, seed: int, lacking: tuple[int, ...] = ()) -> dict[str, Any]:
    """What ``fetch_localizer_contrasts`` gives: a table, and maps in a folder for each person; some lack theirs."""
    made = vx.simulate_cohort(folder / f"made-{seed}", n_subjects=n, resolution=6, seed=seed)
    people = [f"S{i + 1:02d}" for i in range(n)]
    maps = []
    for person, path in zip(people, sorted(made.glob("sub-*/*.nii.gz")), strict=True):
        maps.append(folder / person / f"cmaps_{contrast}.nii.gz")
        maps[-1].parent.mkdir(exist_ok=True)
        path.rename(maps[-1])
    paths = [str(path) for i, path in enumerate(maps) if i not in lacking]
    scores = np.random.default_rng(seed).normal(60, 12, n).round(1).tolist()
    return {"cmaps": paths, "tmaps": paths, "ext_vars": {"participant_id": people, "pseudo": [None, *scores[1:]]}}


def test_association_of_downloaded_maps(tmp_path: Path) -> None:
    given = localizer(tmp_path, 12, contrast="LeftAuditoryClick", seed=1, lacking=(5,))
    said = downloaded(tmp_path, "association_test.py", fetch_localizer_contrasts=[given])
    assert "10 of 11 people have a score" in said


def test_means_of_downloaded_maps(tmp_path: Path) -> None:
    said = downloaded(
        tmp_path,
        "one_sample_test.py",
        fetch_localizer_contrasts=[localizer(tmp_path, 10, contrast="LeftVsRight", seed=2, lacking=(3,))],
    )
    assert "9 people" in said
    assert "512 relabellings, exhaustive: True" in said


def test_pairs_of_downloaded_maps(tmp_path: Path) -> None:
    """Maps of two contrasts alternate, and who lacks one of them is left out."""
    both = [
        localizer(tmp_path, 8, contrast=contrast, seed=3 + i, lacking=lacking)
        for i, (contrast, lacking) in enumerate([("VerticalCheckerboard", (2,)), ("HorizontalCheckerboard", ())])
    ]
    given = both[0] | {"cmaps": sorted(both[0]["cmaps"] + both[1]["cmaps"])}
    said = downloaded(tmp_path, "two_sample_test.py", fetch_localizer_contrasts=[given])
    assert "14 maps of 7 people" in said
    assert "128 distinct relabellings" in said


def test_walk_through_downloaded_maps(tmp_path: Path) -> None:
    given = localizer(tmp_path, 9, contrast="LeftVsRight", seed=5)
    said = downloaded(tmp_path, "button_press.py", fetch_localizer_contrasts=[given])
    assert "9 people, the first of them S01" in said
    assert "report.html" in said


def downloaded(folder: Path, name: str, **fetched: list[dict[str, Any]]) -> str:
    """The output of an example whose fetchers give these."""
    answers = folder / "fetched.json"
    answers.write_text(json.dumps(fetched), encoding="utf-8")
    return run(folder, Path(__file__).with_name("downloaded.py"), EXAMPLES / name, answers)
