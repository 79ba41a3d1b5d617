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
    """What ``fetch_localizer_contrasts`` gives: a table, and maps in a folder for each person; some lack theirs."""
    made = vx.simulate_cohort(folder / f"made-{seed}", n_subjects=n, resolution=6, seed=seed)
    people = [f"S{i + 1:02d}" for i in range(n)]
    maps = []
    for person, path in zip(people, sorted(made.glob("sub-*/*.nii.gz")), strict=True):
        maps.append(folder / person / f"cmaps_{contrast}.nii.gz")
        maps[-1].parent.mkdir(exist_ok=True)
        path.rename(maps[-1])
    paths = [str(path) for i, path in enumerate(maps) if i not in lacking]
    rng = np.random.default_rng(seed)
    table = {
        "participant_id": people,
        "age": [*rng.integers(18, 50, n - 1).tolist(), None],
        "sex": rng.permutation(["F", "M"] * n)[:n].tolist(),
        "site": np.resize(["SHFJ", "Neurospin"], n).tolist(),
        "pseudo": [None, *rng.normal(17.7, 3.5, n - 1).round().tolist()],
    }
    return {"cmaps": paths, "tmaps": paths, "ext_vars": table}


def test_association_of_downloaded_maps(tmp_path: Path) -> None:
    given = localizer(tmp_path, 12, contrast="LeftAuditoryClick", seed=1, lacking=(5,))
    said = downloaded(tmp_path, "association_test.py", fetch_localizer_contrasts=[given])
    assert "10 of 11 people have a score" in said


def test_designs_of_downloaded_people(tmp_path: Path) -> None:
    given = localizer(tmp_path, 20, contrast="AuditorySentences", seed=2, lacking=(3,))
    said = downloaded(tmp_path, "second_level_design_matrix.py", fetch_localizer_contrasts=[given])
    assert "18 people; left out: S20" in said


def language_localizer(folder: Path, n: int) -> Path:
    """A data set of BIDS, laid out as that of ``fetch_language_localizer_demo_dataset``."""
    rng = np.random.default_rng(3)
    events = pd.DataFrame({"onset": np.arange(0, 80, 10), "duration": 10, "trial_type": ["language", "string"] * 4})
    shape = 17, 18, 16
    brain = np.zeros((*shape, 1))
    brain[3:-3, 3:-3, 3:-3] = 1
    for label in (f"sub-{i + 1:02d}" for i in range(n)):
        raw, derived = folder / label / "func", folder / "derivatives" / label / "func"
        raw.mkdir(parents=True)
        derived.mkdir(parents=True)
        stem = f"{label}_task-languagelocalizer"
        events.to_csv(raw / f"{stem}_events.tsv", sep="\t", index=False)
        series = brain * (100 + rng.normal(size=(*shape, 40)))
        image = nib.Nifti1Image(series.astype(np.float32), np.diag([4.5, 4.5, 4.5, 1]))
        image.header.set_zooms((4.5, 4.5, 4.5, 2.0))
        image.to_filename(derived / f"{stem}_desc-preproc_bold.nii.gz")
        told = {"RepetitionTime": 2.0, "StartTime": 0.0, "SkullStripped": False}
        (derived / f"{stem}_desc-preproc_bold.json").write_text(json.dumps(told), encoding="utf-8")
        motion = pd.DataFrame({"RotX": rng.normal(size=40)})
        motion.to_csv(derived / f"{stem}_desc-confounds_regressors.tsv", sep="\t", index=False)
    return folder


def test_first_level_models_of_a_downloaded_data_set(tmp_path: Path) -> None:
    folder = str(language_localizer(tmp_path / "bids", 6))
    given = [{"data_dir": folder}]
    said = downloaded(tmp_path, "from_first_level_models.py", fetch_language_localizer_demo_dataset=given)
    assert "6 models: 01, 02, 03, 04, 05, 06" in said
    assert "64 sign flips, exhaustive: True" in said


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
    given = localizer(tmp_path, 10, contrast="LeftVsRight", seed=5)
    said = downloaded(tmp_path, "button_press.py", fetch_localizer_contrasts=[given])
    assert "10 people, the first of them S01" in said
    assert "report.html" in said


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
