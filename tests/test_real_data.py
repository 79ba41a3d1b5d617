"""Public cohorts whose results other toolboxes have published."""

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
from voxstack.kernels.pvalues import z_to_log10p

Float = NDArray[np.float64]


def on_lattice_of(data: xr.DataArray, image: nib.spatialimages.SpatialImage) -> Float:
    """Values at the positions in mm of an image's voxels, in the image's own order."""
    steps, origin = np.diag(image.affine)[:3], image.affine[:3, 3]
    axes = [o + s * np.arange(n) for o, s, n in zip(origin, steps, image.shape[:3], strict=True)]
    return np.asarray(data.sel(x=axes[0], y=axes[1], z=axes[2]).transpose("x", "y", "z").values)


def check_slopes(effect: xr.DataArray, folder: Path) -> None:
    """X-M_effect.img holds the slopes of another toolbox; it is 0 where there is none."""
    image = nib.load(folder / "X-M_effect.img")
    slopes = image.get_fdata().squeeze()
    defined = np.nan_to_num(slopes) != 0
    assert defined.sum() > 20_000
    found = on_lattice_of(effect, image)
    assert np.isfinite(found[defined]).all()
    assert np.abs(found - slopes)[defined].max() < 1e-6


def test_wager_slopes_on_x_equal_another_toolbox(wager_table: pd.DataFrame, data_folder: Path, tmp_path: Path) -> None:
    cohort = vx.stack(wager_table, tmp_path / "wager.zarr", maps={"effect": "path"}, mask=0.05)
    assert cohort.sizes["subject"] == 30
    fit = vx.fit_glm(cohort, "~ X", missing="available")
    check_slopes(vx.contrast(fit, "X")["effect"].sel(contrast="X"), data_folder / "wager2008")


def test_wager_slopes_by_the_command_line(wager_table: pd.DataFrame, data_folder: Path, tmp_path: Path) -> None:
    participants, store, output = tmp_path / "participants.tsv", tmp_path / "wager.zarr", tmp_path / "maps"
    wager_table.to_csv(participants, sep="\t", index=False)
    for command in (
        ["stack", participants, store, "--map", "effect=path", "--mask", "0.05", "--quiet"],
        ["fit", store, "--design", "~ X", "--contrast", "X", "--missing", "available", "--output", output, "--quiet"],
    ):
        result = CliRunner().invoke(cli, list(map(str, command)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
    check_slopes(vx.open_results(output / "results.zarr")["effect"].sel(contrast="X"), data_folder / "wager2008")
    # The NIfTI map says the same, wherever its axes lead.
    written = nib.as_closest_canonical(nib.load(output / "contrast-X_stat-effect_statmap.nii.gz"))
    labelled = vx.from_arrays({"map": np.asarray(written.dataobj)[None]}, affine=written.affine)
    check_slopes(labelled["map"].isel(subject=0), data_folder / "wager2008")


@pytest.mark.parametrize(
    ("table", "reference", "scale"),
    [
        ("PARC_500aparc_thickness_behavmerge.csv", "CT", 1),
        ("PARC_500aparc_MT_projfrac+030_mean_behavmerge.csv", "MT_projfrac+030", 1000),
    ],
)
def test_nspn_slopes_on_age_and_values_at_14(data_folder: Path, table: str, reference: str, scale: float) -> None:
    folder = data_folder / "nspn_discovery"
    people = pd.read_csv(folder / table).set_index("nspn_id")
    parcels = [name for name in people if "_part" in name and "unknown" not in name]
    values = people[parcels].replace(-99, np.nan).to_numpy() / scale
    assert values.shape == (100, 308)
    cohort = vx.from_arrays({"map": values[:, :, None, None]}, affine=np.eye(4), participants=people[["age_scan"]])
    fit = vx.fit_glm(cohort, "~ age_scan")
    result = vx.contrast(fit, {"slope": "age_scan", "at 14": "Intercept + 14 * age_scan"}).compute()
    for name, file in (("slope", "m"), ("at 14", "c14")):
        known = np.loadtxt(folder / f"{reference}_regional_corr_age_{file}.txt")
        found = result["effect"].sel(contrast=name).values.ravel()
        # The files have five decimals.
        assert np.abs(found - known).max() <= 5e-6


def vectorstats(folder: Path) -> tuple[xr.Dataset, dict[str, Any]]:
    """Fit of a folder of mrtrix_vectorstats, and its contrasts under the names of their files."""
    design = np.loadtxt(folder / "design.csv", delimiter=",", ndmin=2)
    rows = np.loadtxt(folder / "contrast.csv", delimiter=",", ndmin=2)
    files = (folder / "subjects.txt").read_text().split()
    values = np.stack([np.loadtxt(folder / file) for file in files])[:, :, None, None]
    cohort = vx.from_arrays({"map": values}, affine=np.eye(4), mask=np.ones(values.shape[1:], dtype=bool))
    contrasts: dict[str, Any] = {f"t{i + 1}": row for i, row in enumerate(rows)} if len(rows) > 1 else {"": rows[0]}
    if (folder / "ftests.csv").exists():
        tests = np.loadtxt(folder / "ftests.csv", ndmin=2)
        contrasts |= {f"F{i + 1}": rows[test == 1] for i, test in enumerate(tests)}
    return vx.fit_glm(cohort, design, missing="available"), contrasts


@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_mrtrix_betas_t_f_and_z(data_folder: Path, number: int) -> None:
    folder = data_folder / "mrtrix_vectorstats" / str(number)

    def known(name: str) -> Float:
        return np.loadtxt(folder / f"{name}.csv", ndmin=1)

    fit, contrasts = vectorstats(folder)
    result = vx.contrast(fit, contrasts).compute()
    np.testing.assert_allclose(fit["beta"].values[..., 0, 0].squeeze(), known("outbetas"), rtol=1e-13, atol=1e-14)
    deviation = np.sqrt(fit["residual_variance"].values.ravel())
    np.testing.assert_allclose(deviation, known("outstd_dev"), rtol=1e-9)  # written with ten digits
    for name in contrasts:
        one = result.sel(contrast=name)
        suffix = f"_{name}" if name else ""
        kind = "F" if name.startswith("F") else "t"
        np.testing.assert_allclose(one["stat"].values.ravel(), known(f"out{kind}value{suffix}"), rtol=5e-13)
        # Its z are interpolated from a table.
        np.testing.assert_allclose(one["z_score"].values.ravel(), known(f"outZstat{suffix}"), rtol=0, atol=5e-8)
        if kind == "t":
            np.testing.assert_allclose(one["effect"].values.ravel(), known(f"outabs_effect{suffix}"), rtol=1e-9)


def test_swe_t_and_log_p_of_condition_one(data_folder: Path) -> None:
    folder = data_folder / "swe12"
    images = [nib.load(folder / "cifti" / f"con_{number:04d}.dscalar.nii") for number in range(3, 15)]
    brain = images[0].header.get_axis(1)
    voxels = tuple(brain.voxel[brain.volume_mask].T)
    assert len(voxels[0]) == 1685
    maps = np.full((12, *brain.volume_shape), np.nan, dtype=np.float32)
    for row, image in enumerate(images):
        maps[row][voxels] = image.get_fdata(dtype=np.float32)[0, brain.volume_mask]
    cohort = vx.from_arrays({"con": maps}, affine=brain.affine)
    result = vx.contrast(vx.fit_glm(cohort, "~ 1"), "Intercept", alternative="greater").compute()
    assert result["dof"].values.tolist() == [11]

    def known(name: str) -> Float:
        image = nib.load(folder / "reference_t" / f"swe_vox_{name}.nii")
        np.testing.assert_array_equal(image.affine, brain.affine)
        return image.get_fdata()[voxels]

    def found(name: str) -> Float:
        values = result[name].sel(contrast="Intercept").values
        assert np.isfinite(values).sum() == 1685
        return values[voxels]

    assert np.abs(found("effect") - known("beta_b01")).max() < 1e-6
    assert np.abs(found("stat") - known("Tstat_c01")).max() < 7e-7
    # One-sided, stored in single precision.
    assert np.abs(-np.log10(found("p_value")) - known("Tstat_lp_c01")).max() < 1e-6
    assert np.abs(z_to_log10p(found("z_score"), "greater") - known("Tstat_lp_c01")).max() < 1e-6


def test_coverage_of_21_pain_studies(data_folder: Path, tmp_path: Path) -> None:
    """Outside of a study's brain is 0, not NaN; 192,885 voxels are complete, 259,353 are in the studies' own mask."""
    folder = data_folder / "pain21"
    labels = [f"pain_{number:02d}" for number in range(1, 22)]
    paths = {kind: [str(folder / f"{kind}_{label}.nii.gz") for label in labels] for kind in ("contrast", "var")}
    table = pd.DataFrame({"participant_id": labels, **paths})
    maps = {"effect": "contrast", "variance": "var"}
    cohort = vx.stack(table, tmp_path / "pain.zarr", maps=maps, zero_is_missing=True, mask=str(folder / "mask.nii.gz"))
    assert int(cohort["mask"].sum()) == 259_353

    # Without the mask, which hides values outside of it.
    cohort = vx.stack(table, tmp_path / "pain.zarr", maps=maps, zero_is_missing=True, mask=11 / 21, overwrite=True)
    told = vx.describe(tmp_path / "pain.zarr")["coverage"]
    assert told["complete"] == told["maps"]["effect"]["complete"] == told["maps"]["variance"]["complete"] == 192_885
    counted = sum((nib.load(path).get_fdata() != 0).astype(int) for path in table["contrast"])
    here = vx.to_nifti(cohort["n_valid"])
    there = nib.load(folder / "mask.nii.gz")
    np.testing.assert_array_equal(here.affine, there.affine)
    np.testing.assert_array_equal(here.get_fdata(), counted)
    np.testing.assert_array_equal(cohort["mask"], counted > 10)
    # The studies' mask has all voxels of more than 10 studies, and 1,785 of fewer.
    in_mask = there.get_fdata() != 0
    assert int((counted > 10).sum()) == 257_568
    assert not ((counted > 10) & ~in_mask).any()
