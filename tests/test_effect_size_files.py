"""Effect sizes and confidence bounds as files: maps, stores of results, and the command line."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from numpy.typing import NDArray

import voxstack as vx
from voxstack.cli import cli
from voxstack.errors import InputError

BOTH = ("cohens_d", "partial_r2")


def study(seed: int) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Covariates and maps of 20 subjects."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"age": rng.normal(size=20), "group": np.resize(["a", "b", "c"], 20)})
    return table.set_axis([f"s{i}" for i in range(20)]), rng.normal(size=(20, 3, 2, 2))


@pytest.fixture(scope="module")
def fit() -> xr.Dataset:
    table, maps = study(11)
    maps[:, 0, 0, 0] = np.nan
    mask = np.isfinite(maps).all(axis=0)
    cohort = vx.from_arrays({"map": maps}, affine=np.diag([3, 3, 3, 1]), mask=mask, participants=table)
    return vx.fit_glm(cohort, "~ age + group")


HYPOTHESES = {"age": "age", "group": ["group[T.b]", "group[T.c]"]}


def names(folder: Path) -> set[str]:
    """What the images in a folder are called, without what all share."""
    return {path.name.removesuffix("_statmap.nii.gz") for path in folder.glob("*.nii.gz")}


@pytest.mark.parametrize(
    ("alternative", "bounds"),
    [("two-sided", {"cilower", "ciupper"}), ("greater", {"cilower"}), ("less", {"ciupper"})],
)
def test_maps_are_written_but_for_bounds_at_infinity(
    fit: xr.Dataset, tmp_path: Path, alternative: Any, bounds: set[str]
) -> None:
    result = vx.contrast(fit, HYPOTHESES, alternative=alternative, effect_sizes=BOTH, confidence=0.9).compute()
    vx.write_maps(result, tmp_path)
    stats_of_t = {"effect", "variance", "t", "z", "p", "cohensd", "partialr2", *bounds}
    expected = {f"contrast-age_stat-{stat}" for stat in stats_of_t}
    expected |= {f"contrast-group_stat-{stat}" for stat in ("F", "z", "p", "partialr2")}
    assert names(tmp_path) == expected
    variables = {"cohensd": "cohens_d", "partialr2": "partial_r2", "cilower": "ci_lower", "ciupper": "ci_upper"}
    for stat in {"cohensd", "partialr2", *bounds}:
        image = nib.load(tmp_path / f"contrast-age_stat-{stat}_statmap.nii.gz")
        written = result[variables[stat]].sel(contrast="age").values.astype("float32")
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), written)
        assert np.isfinite(written).sum() == written.size - 1
        told = json.loads((tmp_path / f"contrast-age_stat-{stat}_statmap.json").read_text())
        assert told["Alternative"] == alternative
        assert told.get("ConfidenceLevel") == (0.9 if stat in bounds else None)
    told = json.loads((tmp_path / "contrast-age_stat-cohensd_statmap.json").read_text())
    assert "Cohen's d" in told["Description"]
    assert told["Provenance"]["effect_sizes"] == list(BOTH)


@pytest.mark.parametrize("alternative", ["two-sided", "less"])
def test_what_is_opened_is_what_was_saved(fit: xr.Dataset, tmp_path: Path, alternative: Any) -> None:
    saved = vx.contrast(fit, HYPOTHESES, alternative=alternative, effect_sizes=BOTH, confidence=0.9).compute()
    vx.save_results(saved, tmp_path / "r.zarr")
    opened = vx.open_results(tmp_path / "r.zarr")
    xr.testing.assert_identical(opened.compute(), saved)
    assert vx.write_maps(opened, tmp_path / "maps")


def test_the_command_line_writes_them_and_replaces_them(tmp_path: Path) -> None:
    table, maps = study(12)
    images = [nib.Nifti1Image(volume.astype("float32"), np.eye(4)) for volume in maps]
    people = table.rename_axis("participant_id").reset_index().assign(image=images)
    cohort = vx.stack(people, tmp_path / "c.zarr", maps={"map": "image"})
    shared = ["fit", str(tmp_path / "c.zarr"), "--design", "~ age", "--contrast", "age", "--quiet", "--output"]

    def run(*options: str) -> Any:
        return CliRunner().invoke(cli, [*shared, str(tmp_path / "out"), *options])

    sizes = ("--effect-size", "cohens_d", "--effect-size", "partial_r2", "--confidence", "0.95")
    done = run(*sizes)
    assert done.exit_code == 0, done.output
    written = vx.open_results(tmp_path / "out" / "results.zarr").compute()
    fit = vx.fit_glm(cohort, "~ age")
    xr.testing.assert_identical(written, vx.contrast(fit, "age", effect_sizes=BOTH, confidence=0.95).compute())
    plain = {f"contrast-age_stat-{stat}" for stat in ("effect", "variance", "t", "z", "p")}
    added = {f"contrast-age_stat-{stat}" for stat in ("cohensd", "partialr2", "cilower", "ciupper")}
    assert names(tmp_path / "out") == plain | added

    assert run("--overwrite").exit_code == 0
    assert names(tmp_path / "out") == plain
    assert len(list((tmp_path / "out").glob("contrast-*.json"))) == len(plain)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = run("--overwrite", "--confidence", "95")
    assert isinstance(done.exception, InputError)
    assert "between 0 and 1" in str(done.exception)
    assert run("--overwrite", "--effect-size", "eta").exit_code == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
