"""Results out: NIfTI images, maps with sidecars, stores of results."""

import json
from pathlib import Path
from typing import Any

import dask.array as da
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import stats
from scipy.spatial.transform import Rotation

import voxstack as vx
from voxstack.errors import InputError, StoreError
from voxstack.export.files import staged
from voxstack.export.folder import write_folder
from voxstack.grid import GridIndex

SHAPE = (4, 5, 3)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.5, 0, -40], [0, 0, 3, 10], [0, 0, 0, 1]])
CONTRASTS = {"age": "age", "M > F": "sex[T.M]", "both": ["age", "sex[T.M]"]}


def cohort(*, lazy: bool = False, holes: bool = False, affine: NDArray[Any] = AFFINE) -> xr.Dataset:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((12, *SHAPE))
    values[:, 0, 0, 0] = np.nan
    if holes:
        values[:3, 1] = np.nan
    people = pd.DataFrame({"age": rng.uniform(20, 80, 12), "sex": ["F", "M"] * 6}, index=[f"s{i}" for i in range(12)])
    mask = np.isfinite(values).any(axis=0)
    array = da.from_array(values, chunks=(5, 2, 5, 3)) if lazy else values
    return vx.from_arrays({"effect": array}, affine=affine, mask=mask, participants=people)


def contrasts(*, alternative: Any = "two-sided", missing: Any = "complete", **options: Any) -> xr.Dataset:
    fit = vx.fit_glm(cohort(holes=missing == "available", **options), "~ age + sex", missing=missing)
    return vx.contrast(fit, CONTRASTS, alternative=alternative)


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return contrasts().compute()


def sidecar(image: Path) -> dict[str, Any]:
    return json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text(encoding="utf-8"))


class TestToNifti:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "int32"])
    def test_type_values_and_affine_are_those_of_the_array(self, dtype: str) -> None:
        volume = cohort()["effect"].isel(subject=0).fillna(0).astype(dtype)
        image = vx.to_nifti(volume)
        assert image.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), volume.values)
        np.testing.assert_allclose(image.affine, AFFINE)
        for affine, code in (image.header.get_sform(coded=True), image.header.get_qform(coded=True)):
            np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
            assert code > 0
        assert image.header.get_xyzt_units()[0] == "mm"

    @pytest.mark.parametrize(("given", "stored"), [("bool", "uint8"), ("int64", "int32"), ("float16", "float32")])
    def test_types_that_tools_do_not_read_become_others(self, given: str, stored: str) -> None:
        values = (cohort()["effect"].isel(subject=0).fillna(0) > 0).astype(given)
        image = vx.to_nifti(values)
        assert image.get_data_dtype() == stored
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), values.values.astype(stored))

    def test_whole_numbers_that_do_not_fit_are_refused(self) -> None:
        numbers = cohort()["mask"].astype("int64") * 2**31
        with pytest.raises(InputError, match="mask holds integers beyond int32"):
            vx.to_nifti(numbers)
        assert np.asanyarray(vx.to_nifti(numbers - 1).dataobj).max() == 2**31 - 1

    @pytest.mark.parametrize(
        "cut",
        [
            pytest.param({"x": slice(1, 3), "z": slice(2, None)}, id="subset"),
            pytest.param({"x": slice(None, None, -1), "y": slice(None, None, -1)}, id="flipped"),
            pytest.param({"y": slice(4, 0, -2)}, id="thinned"),
            pytest.param({"z": 1}, id="scalar coordinate"),
            pytest.param({"x": 3, "y": 0, "z": 2}, id="one voxel"),
        ],
    )
    @pytest.mark.parametrize("oblique", [False, True])
    def test_voxels_of_subsets_stay_where_they_were(self, cut: dict[str, Any], oblique: bool) -> None:
        affine = AFFINE.copy()
        if oblique:
            affine[:3] = Rotation.from_euler("xyz", [0.1, 0.2, -0.15]).as_matrix() @ affine[:3]
        full = cohort(affine=affine)["effect"].isel(subject=1)
        numbers = full.copy(data=np.arange(full.size, dtype="float64").reshape(SHAPE))
        image = vx.to_nifti(numbers.isel(cut))
        assert image.ndim == 3
        values = image.get_fdata()
        for voxel in np.ndindex(values.shape):
            origin = np.unravel_index(int(values[voxel]), SHAPE)
            np.testing.assert_allclose(apply_affine(image.affine, voxel), apply_affine(affine, origin), atol=1e-3)

    def test_one_more_dimension_becomes_the_fourth_axis(self) -> None:
        maps = cohort(lazy=True)["effect"].transpose("z", "subject", "y", "x")
        image = vx.to_nifti(maps)
        assert image.shape == (*SHAPE, 12)
        np.testing.assert_array_equal(image.get_fdata(), maps.transpose("x", "y", "z", "subject").values)
        np.testing.assert_allclose(image.affine, AFFINE)

    def test_what_is_no_image_is_refused(self) -> None:
        maps = cohort()["effect"]
        with pytest.raises(InputError, match="not subject, contrast"):
            vx.to_nifti(maps.expand_dims(contrast=["a"]).transpose("subject", ...))
        with pytest.raises(InputError, match="complex128, not numbers"):
            vx.to_nifti(maps.isel(subject=0) + 1j)
        with pytest.raises(InputError, match="no coordinate x"):
            vx.to_nifti(maps.drop_vars("x"))


class TestWriteMaps:
    def test_names_of_a_contrast(self, tmp_path: Path, result: xr.Dataset) -> None:
        paths = vx.write_maps(result, tmp_path / "new" / "maps", prefix="task-rest_")
        expected = [
            f"task-rest_contrast-{contrast}_stat-{stat}_statmap.nii.gz"
            for contrast, kinds in (
                ("age", ("effect", "variance", "t", "z", "p")),
                ("MF", ("effect", "variance", "t", "z", "p")),
                ("both", ("F", "z", "p")),
            )
            for stat in kinds
        ]
        assert sorted(path.name for path in paths) == sorted(expected)
        assert {path.parent for path in paths} == {tmp_path / "new" / "maps"}
        sidecars = [name.replace(".nii.gz", ".json") for name in expected]
        assert sorted(path.name for path in (tmp_path / "new" / "maps").iterdir()) == sorted(expected + sidecars)

    def test_values_types_and_places(self, tmp_path: Path, result: xr.Dataset) -> None:
        variables = {"effect": "effect", "variance": "variance", "t": "stat", "z": "z_score", "p": "p_value"}
        vx.write_maps(result, tmp_path)
        for stat, variable in variables.items():
            image = nib.load(tmp_path / f"contrast-age_stat-{stat}_statmap.nii.gz")
            dtype = "float64" if stat == "p" else "float32"
            assert image.get_data_dtype() == dtype
            expected = result[variable].sel(contrast="age").values.astype(dtype)
            assert np.isnan(expected[0, 0, 0])
            np.testing.assert_array_equal(np.asanyarray(image.dataobj), expected)
            np.testing.assert_allclose(image.affine, AFFINE)

    def test_lazy_results_give_the_same_files(self, tmp_path: Path) -> None:
        lazy = contrasts(lazy=True)
        written = vx.write_maps(lazy, tmp_path / "lazy")
        for path in vx.write_maps(lazy.compute(), tmp_path / "eager"):
            assert tmp_path / "lazy" / path.name in written
            other = tmp_path / "lazy" / path.name
            np.testing.assert_array_equal(nib.load(path).get_fdata(), nib.load(other).get_fdata())
            assert sidecar(path) == sidecar(other)

    @pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
    def test_sidecars_say_what_a_map_is(self, tmp_path: Path, alternative: str) -> None:
        vx.write_maps(contrasts(alternative=alternative), tmp_path)
        told = sidecar(tmp_path / "contrast-MF_stat-t_statmap.nii.gz")
        assert told["Contrast"] == "M > F"
        assert told["StatType"] == "t"
        assert told["Weights"] == [{"sex[T.M]": 1.0}]
        assert told["DegreesOfFreedom"] == 12 - 3
        assert told["Alternative"] == alternative
        assert told["Description"]
        assert told["Provenance"]["formula"] == "~ age + sex"
        assert told["Provenance"]["versions"]["voxstack"] == vx.__version__
        told = sidecar(tmp_path / "contrast-both_stat-F_statmap.nii.gz")
        assert told["StatType"] == "F"
        assert told["Weights"] == [{"age": 1.0}, {"sex[T.M]": 1.0}]
        assert told["NumeratorDegreesOfFreedom"] == 2
        assert told["DegreesOfFreedom"] == 9
        assert told["Alternative"] not in ("two-sided", "greater", "less")

    def test_degrees_of_freedom_that_differ_are_a_map(self, tmp_path: Path) -> None:
        paths = vx.write_maps(contrasts(missing="available"), tmp_path)
        assert tmp_path / "stat-dof_statmap.nii.gz" in paths
        dof = nib.load(tmp_path / "stat-dof_statmap.nii.gz").get_fdata()
        assert dof[2, 2, 2] == 12 - 3
        assert dof[1, 2, 2] == 9 - 3
        assert np.isnan(dof[0, 0, 0])
        assert "stat-dof_statmap" in sidecar(tmp_path / "contrast-age_stat-t_statmap.nii.gz")["DegreesOfFreedom"]

    def test_log10_p_of_a_map_of_p_alone(self, tmp_path: Path) -> None:
        p = np.random.default_rng(0).uniform(1e-6, 1, (4, 3, 2))
        found = vx.read_map(nib.Nifti1Image(p, np.eye(4)), kind="p", mask=nib.Nifti1Image(np.ones(p.shape), np.eye(4)))
        for result in (found, vx.threshold(found, correction="none", alpha=0.9)):
            written = {path.name.rpartition("_")[2]: path for path in vx.write_maps(result, tmp_path, log10_p=True)}
            values = nib.load(written["statmap.nii.gz"]).get_fdata()
            np.testing.assert_allclose(values, np.where(np.isnan(values), np.nan, -np.log10(p)), rtol=1e-5)
            if result is not found:
                np.testing.assert_array_equal(nib.load(written["mask.nii.gz"]).get_fdata(), p <= 0.9)

    @pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
    def test_log10_p_is_finite_where_p_underflows(self, tmp_path: Path, alternative: str) -> None:
        extreme = contrasts(alternative=alternative).compute()
        z = extreme["z_score"].copy()
        z[:, 1, 1, :] = [40.0, -40.0, 1.5]
        paths = vx.write_maps(extreme.assign(z_score=z), tmp_path, log10_p=True)
        assert not any("stat-p_" in path.name for path in paths)
        image = nib.load(tmp_path / "contrast-age_stat-log10p_statmap.nii.gz")
        assert image.get_data_dtype() == np.float32
        found = image.get_fdata()
        known = z.sel(contrast="age").values.astype(float)
        tails = {
            "two-sided": np.minimum(stats.norm.logsf(np.abs(known)) + np.log(2), 0),
            "greater": stats.norm.logsf(known),
            "less": stats.norm.logcdf(known),
        }
        np.testing.assert_allclose(found, -tails[alternative] / np.log(10), rtol=1e-6, atol=1e-6)
        assert 340 < np.nanmax(found) < 360
        f = nib.load(tmp_path / "contrast-both_stat-log10p_statmap.nii.gz").get_fdata()
        np.testing.assert_allclose(f[1, 1, 0], -stats.norm.logsf(40) / np.log(10), rtol=1e-6)
        assert "log10" in sidecar(tmp_path / "contrast-age_stat-log10p_statmap.nii.gz")["Description"]

    def test_maps_of_a_fit(self, tmp_path: Path) -> None:
        fit = vx.fit_glm(cohort(), "~ age + sex").compute()
        paths = vx.write_maps(fit, tmp_path)
        assert sorted(path.name for path in paths) == [
            "regressor-Intercept_stat-beta_statmap.nii.gz",
            "regressor-age_stat-beta_statmap.nii.gz",
            "regressor-sexTM_stat-beta_statmap.nii.gz",
            "stat-dof_statmap.nii.gz",
            "stat-residualvariance_statmap.nii.gz",
        ]
        beta = nib.load(tmp_path / "regressor-sexTM_stat-beta_statmap.nii.gz").get_fdata()
        np.testing.assert_array_equal(beta, fit["beta"].sel(regressor="sex[T.M]").values.astype("float32"))
        assert sidecar(tmp_path / "regressor-sexTM_stat-beta_statmap.nii.gz")["Regressor"] == "sex[T.M]"

    @pytest.mark.parametrize(
        ("names", "says"),
        [(["a-b", "a b", "c"], "would be called contrast-ab_stat"), (["+", "c"], r"'\+' has no letter")],
    )
    def test_names_that_make_no_file_names_are_refused(self, tmp_path: Path, names: list[str], says: str) -> None:
        fit = vx.fit_glm(cohort(), "~ age + sex")
        with pytest.raises(InputError, match=says):
            vx.write_maps(vx.contrast(fit, dict.fromkeys(names, "age")), tmp_path / "maps")
        assert not (tmp_path / "maps").exists()

    @pytest.mark.parametrize("prefix", ["../", "a/b_", "a b", "*"])
    def test_prefixes_that_leave_the_folder_are_refused(self, tmp_path: Path, result: xr.Dataset, prefix: str) -> None:
        with pytest.raises(InputError, match="prefix"):
            vx.write_maps(result, tmp_path / "maps", prefix=prefix)
        assert list(tmp_path.rglob("*")) == []

    def test_letters_of_any_alphabet_are_kept(self, tmp_path: Path) -> None:
        fit = vx.fit_glm(cohort(), "~ age + sex")
        paths = vx.write_maps(vx.contrast(fit, {"Größe_2": "age"}), tmp_path)
        assert tmp_path / "contrast-Größe2_stat-t_statmap.nii.gz" in paths
        assert sidecar(paths[0])["Contrast"] == "Größe_2"

    def test_files_of_an_earlier_call_are_replaced(self, tmp_path: Path, result: xr.Dataset) -> None:
        (path, *_) = vx.write_maps(result, tmp_path)
        before = path.read_bytes()
        path.write_bytes(b"stale")
        vx.write_maps(result, tmp_path)
        assert nib.load(path).shape == SHAPE
        assert len(path.read_bytes()) == len(before)
        assert not list(tmp_path.glob("*partial*"))

    def test_what_is_told_of_a_run_is_json_whatever_it_holds(self, tmp_path: Path, result: xr.Dataset) -> None:
        record = {"seconds": float("nan"), "steps": [1.5, {"limits": (-np.inf, 2)}], "none": None, "Größe": True}
        write_folder(result, tmp_path, record=record)
        told = json.loads((tmp_path / "provenance.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert told == {"seconds": None, "steps": [1.5, {"limits": [None, 2]}], "none": None, "Größe": True}

    def test_of_two_calls_each_renames_its_own_files(self, tmp_path: Path) -> None:
        path = tmp_path / "map.nii.gz"
        with staged([(path, b"one call")]):
            with staged([(path, b"another")]):
                pass
            assert path.read_bytes() == b"another"
        assert path.read_bytes() == b"one call"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_cohort_is_no_result(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="fit, permutation or discoveries: it is a cohort"):
            vx.write_maps(cohort(), tmp_path)
        with pytest.raises(InputError, match="does not say what it is"):
            vx.write_maps(xr.Dataset(), tmp_path)


class TestResultStores:
    @pytest.mark.parametrize("lazy", [False, True])
    @pytest.mark.parametrize("missing", ["complete", "available"])
    @pytest.mark.parametrize("kind", ["fit", "contrast"])
    def test_what_is_opened_is_what_was_saved(self, tmp_path: Path, lazy: bool, missing: Any, kind: str) -> None:
        fit = vx.fit_glm(cohort(lazy=lazy, holes=True), "~ age + sex", missing=missing)
        saved = fit if kind == "fit" else vx.contrast(fit, CONTRASTS, alternative="less")
        vx.save_results(saved, tmp_path / "r.zarr")
        opened = vx.open_results(tmp_path / "r.zarr")
        xr.testing.assert_identical(opened.compute(), saved.compute())
        assert {type(opened.xindexes[dim]) for dim in "xyz"} == {GridIndex}
        assert opened.sel(x=28).sizes["y"] == 5
        np.testing.assert_allclose(vx.to_nifti(opened["mask"]).affine, AFFINE)
        if kind == "fit":
            again = vx.contrast(opened, CONTRASTS, alternative="less").compute()
            xr.testing.assert_identical(again, vx.contrast(fit, CONTRASTS, alternative="less").compute())

    def test_an_oblique_result_stays_oblique(self, tmp_path: Path) -> None:
        affine = AFFINE.copy()
        affine[:3] = Rotation.from_euler("z", 0.2).as_matrix() @ affine[:3]
        vx.save_results(contrasts(affine=affine), tmp_path / "r.zarr")
        opened = vx.open_results(tmp_path / "r.zarr")
        np.testing.assert_allclose(vx.to_nifti(opened["mask"]).affine, affine, atol=1e-3)
        with pytest.raises(InputError, match="at_mm"):
            opened.sel(x=0)

    def test_an_existing_result_is_replaced_only_where_asked(self, tmp_path: Path, result: xr.Dataset) -> None:
        vx.save_results(result, tmp_path / "r.zarr")
        with pytest.raises(StoreError, match=r"r\.zarr exists already.*overwrite=True"):
            vx.save_results(result.isel(contrast=[0]), tmp_path / "r.zarr")
        assert vx.open_results(tmp_path / "r.zarr").sizes["contrast"] == 3
        vx.save_results(result.isel(contrast=[0]), tmp_path / "r.zarr", overwrite=True)
        xr.testing.assert_identical(vx.open_results(tmp_path / "r.zarr").compute(), result.isel(contrast=[0]))
        assert [path.name for path in tmp_path.iterdir()] == ["r.zarr"]

    def test_a_result_can_be_saved_over_the_store_that_it_is_read_from(
        self, tmp_path: Path, result: xr.Dataset
    ) -> None:
        vx.save_results(result, tmp_path / "r.zarr")
        opened = vx.open_results(tmp_path / "r.zarr")
        vx.save_results(opened.isel(contrast=[1, 2]), tmp_path / "r.zarr", overwrite=True)
        xr.testing.assert_identical(vx.open_results(tmp_path / "r.zarr").compute(), result.isel(contrast=[1, 2]))

    def test_what_is_no_result_is_never_overwritten(self, tmp_path: Path, result: xr.Dataset) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
        zarr.open_group(tmp_path / "group.zarr", mode="w", attributes={"other": True})
        image = nib.Nifti1Image(np.ones(SHAPE, "float32"), AFFINE)
        table = pd.DataFrame({"participant_id": ["a"], "image": [image]})
        vx.stack(table, tmp_path / "cohort.zarr", maps={"effect": "image"})
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        for name in ("file", "thesis", "group.zarr", "cohort.zarr"):
            for overwrite in (False, True):
                with pytest.raises(StoreError, match=name):
                    vx.save_results(result, tmp_path / name, overwrite=overwrite)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_what_is_no_result_is_not_opened(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="fit, permutation or discoveries: it is a cohort"):
            vx.save_results(cohort(), tmp_path / "r.zarr")
        with pytest.raises(StoreError, match=r"no result at .*r\.zarr"):
            vx.open_results(tmp_path / "r.zarr")

    def test_no_path_or_time_in_the_metadata(self, tmp_path: Path, result: xr.Dataset) -> None:
        vx.save_results(result, tmp_path / "r.zarr")
        vx.save_results(result, tmp_path / "again.zarr")
        for path in (tmp_path / "r.zarr").rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert tmp_path.name.encode() not in content
                assert content == (tmp_path / "again.zarr" / path.relative_to(tmp_path / "r.zarr")).read_bytes()
