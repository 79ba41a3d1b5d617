"""Results that were cut, renamed or have unusual units, on their way out."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import xarray as xr

import voxstack as vx
from small_cohorts import content
from voxstack.errors import InputError, StoreError

AFFINE = np.diag([2.0, 2, 2, 1])


def a_result(scale: float = 1.0) -> xr.Dataset:
    rng = np.random.default_rng(0)
    cohort = vx.from_arrays({"effect": scale * rng.standard_normal((20, 3, 4, 5))}, affine=AFFINE)
    cohort = cohort.assign_coords(age=("subject", rng.standard_normal(20)))
    return vx.contrast(vx.fit_glm(cohort, "~ age"), ["age", "Intercept"]).compute()


def test_a_result_without_its_contrast_dimension_is_refused_with_what_to_do(tmp_path: Path) -> None:
    one = a_result().sel(contrast="age")
    for write in (lambda: vx.write_maps(one, tmp_path), lambda: vx.save_results(one, tmp_path / "r.zarr")):
        with pytest.raises(InputError, match=r"sel\(contrast=\["):
            write()
    assert not list(tmp_path.iterdir())


def test_a_renamed_contrast_is_refused(tmp_path: Path) -> None:
    renamed = a_result().assign_coords(contrast=["one", "two"])
    with pytest.raises(InputError, match="does not say what 'one' is"):
        vx.write_maps(renamed, tmp_path)


def test_some_variables_of_a_result_are_written(tmp_path: Path) -> None:
    paths = vx.write_maps(a_result()[["z_score"]], tmp_path)
    assert [path.name for path in paths] == [f"contrast-{name}_stat-z_statmap.nii.gz" for name in ("age", "Intercept")]


@pytest.mark.parametrize("scale", [1e-24, 1e24])
def test_values_that_float32_cannot_hold_are_written_as_float64(tmp_path: Path, scale: float) -> None:
    result = a_result(scale)
    paths = {path.name: path for path in vx.write_maps(result, tmp_path)}
    variance = nib.load(paths["contrast-age_stat-variance_statmap.nii.gz"])
    np.testing.assert_array_equal(variance.get_fdata(), result["variance"].sel(contrast="age"))
    assert nib.load(paths["contrast-age_stat-t_statmap.nii.gz"]).get_data_dtype() == np.float32


def test_one_variable_can_be_computed_alone() -> None:
    result = a_result()
    lazy = result.chunk(x=2)["z_score"]
    computed = vx.compute(lazy)
    assert isinstance(computed.data, np.ndarray)
    xr.testing.assert_identical(computed, result["z_score"])


def test_a_cut_fit_has_no_contrasts() -> None:
    cohort = vx.from_arrays({"effect": np.random.default_rng(0).standard_normal((9, 2, 2, 2))}, affine=AFFINE)
    fit = vx.fit_glm(cohort.assign_coords(age=("subject", np.arange(9.0) ** 2)), "~ age")
    for cut in (fit.isel(regressor=[1]), fit.isel(subject=slice(5))):
        with pytest.raises(InputError, match="The fit was cut"):
            vx.contrast(cut, "age")
    with pytest.raises(InputError, match="no dimension z"):
        vx.contrast(fit.isel(z=0), "age")


@pytest.mark.parametrize("kind", ["image", "path"])
def test_a_model_can_be_narrowed_to_an_image(tmp_path: Path, kind: str) -> None:
    inside = np.zeros((2, 2, 2), dtype=np.uint8)
    inside[0] = 1
    image = nib.Nifti1Image(inside, AFFINE)
    image.to_filename(tmp_path / "mask.nii")
    cohort = vx.from_arrays({"effect": np.random.default_rng(0).standard_normal((9, 2, 2, 2))}, affine=AFFINE)
    fit = vx.fit_glm(cohort, "~ 1", mask=image if kind == "image" else tmp_path / "mask.nii")
    np.testing.assert_array_equal(np.isfinite(fit["residual_variance"]), inside == 1)


def test_results_are_not_scattered_in_a_store(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from voxstack.cli import cli

    table = vx.simulate_cohort(tmp_path / "cohort", n_subjects=6, resolution=18) / "participants.tsv"
    vx.stack(table, tmp_path / "c.zarr", maps={"effect": "effect_path"})
    store = str(tmp_path / "c.zarr")
    done = CliRunner().invoke(cli, ["fit", store, "--design", "~ age", "--contrast", "age", "--output", store])
    assert isinstance(done.exception, StoreError)
    assert f"would lie in the store {store}, which removes what is not its own" in str(done.exception)
    before = content(tmp_path / "c.zarr")
    for inside in (store, f"{store}/demo"):
        done = CliRunner().invoke(cli, ["demo", "--subjects", "4", "--output", inside])
        assert isinstance(done.exception, StoreError)
        assert f"would lie in the store {store}, which removes what is not its own" in str(done.exception)
    assert content(tmp_path / "c.zarr") == before
