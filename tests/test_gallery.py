"""The gallery: every example runs, holds what it finds against the truth, and takes real data, too."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
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
    """What ``fetch_localizer_contrasts`` gives: a table, and maps in folders of each person, where some lack theirs."""
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


def test_thresholds_of_downloaded_maps(tmp_path: Path) -> None:
    given = localizer(tmp_path, 8, contrast="LeftVsRight", seed=2)
    said = downloaded(tmp_path, "thresholding.py", fetch_localizer_contrasts=[given])
    assert "8 people" in said
    assert "false" not in said.replace("false discovery rate", "")  # nothing is known of the truth


def test_true_discoveries_in_downloaded_maps(tmp_path: Path) -> None:
    given = localizer(tmp_path, 8, contrast="Sentences", seed=3)
    labels = np.zeros((20, 24, 20), dtype=np.int16)  # 9 mm, on a lattice of its own
    labels[:10, :, 5:15], labels[10:, :, 5:15] = 1, 2
    atlas = nib.Nifti1Image(labels, nib.affines.from_matvec(np.diag([9.0, 9, 9]), [-90, -126, -72]))
    atlas.to_filename(tmp_path / "atlas.nii.gz")
    lut = {"index": [0, 1, 2], "name": ["Background", "left half", "right half"]}
    harvard_oxford = {"maps": str(tmp_path / "atlas.nii.gz"), "lut": lut}
    said = downloaded(
        tmp_path, "true_discoveries.py", fetch_localizer_contrasts=[given], fetch_atlas_harvard_oxford=[harvard_oxford]
    )
    assert "8 people" in said
    assert "left half" in said


def test_morphometry_of_downloaded_maps(tmp_path: Path) -> None:
    made = vx.simulate_cohort(tmp_path / "made", n_subjects=16, resolution=6, seed=4)
    people = pd.read_csv(made / "participants.tsv", sep="\t")
    oasis = {
        "gray_matter_maps": [str(made / path) for path in people["effect_path"]],
        "ext_vars": {
            "id": people["participant_id"].tolist(),
            "mf": people["sex"].tolist(),
            "age": people["age"].tolist(),
        },
    }
    said = downloaded(
        tmp_path, "voxel_based_morphometry.py",
        fetch_oasis_vbm=[oasis], fetch_icbm152_brain_gm_mask=[str(made / "mask.nii.gz")],
    )  # fmt: skip
    assert "16 people" in said
    assert "report.html" in said


def downloaded(folder: Path, name: str, **fetched: list[Any]) -> str:
    """The output of an example whose fetchers give these."""
    answers = folder / "fetched.json"
    answers.write_text(json.dumps(fetched), encoding="utf-8")
    return run(folder, Path(__file__).with_name("downloaded.py"), EXAMPLES / name, answers)
