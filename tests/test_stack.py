"""What `stack` keeps of the images, the table and the mask."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from numpy.typing import NDArray

import voxstack as vx
from small_cohorts import AFFINE, MAPS, SHAPE, noise, save
from voxstack.errors import InputError, VoxstackWarning


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "maps", noise(5))
    return tmp_path


class TestValues:
    @settings(deadline=None, max_examples=15)
    @given(data=st.data())
    def test_what_is_stored_is_what_nibabel_reads(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """Any mixture of types, scalings, byte orders and containers; missing values anywhere."""
        folder = tmp_path_factory.mktemp("mixture")
        n = data.draw(st.integers(1, 7))
        rng = np.random.default_rng(data.draw(st.integers(0, 99)))
        paths = []
        for i in range(n):
            header = nib.Nifti1Header(endianness=data.draw(st.sampled_from("<>")))
            kind = data.draw(st.sampled_from(["int16", "float32", "float64"]))
            values = rng.normal(3, 5, SHAPE)
            if kind != "int16":
                values[rng.random(SHAPE) < 0.2] = np.nan
            header.set_data_dtype(kind)  # nibabel scales what it writes as int16
            paths.append(folder / f"{i}{data.draw(st.sampled_from(['.nii', '.nii.gz']))}")
            nib.Nifti1Image(values, AFFINE, header).to_filename(paths[-1])
        dtype = data.draw(st.sampled_from(["float32", "float64"]))
        table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(n)], "path": paths})
        cohort = vx.stack(table, folder / "c.zarr", maps=MAPS, mask=1 / n, dtype=dtype)
        expected = np.stack([np.asarray(nib.load(path).dataobj) for path in paths]).astype(dtype)
        assert cohort["effect"].dtype == dtype
        np.testing.assert_array_equal(cohort["effect"].values, expected)
        valid = (~np.isnan(expected)).sum(axis=0)
        np.testing.assert_array_equal(cohort["n_valid"], valid)
        np.testing.assert_array_equal(cohort["mask"], valid > 0)

    def test_labels_positions_and_attributes(self, folder: Path) -> None:
        cohort = vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
        assert cohort["subject"].values.tolist() == [f"sub-{i:02d}" for i in range(5)]
        assert cohort["effect"].dims == ("subject", "x", "y", "z")
        np.testing.assert_allclose(cohort["x"], -3 + 2 * np.arange(4))
        np.testing.assert_allclose(cohort["z"], 1 + 3 * np.arange(3))
        assert cohort["x"].attrs == {"long_name": "x", "units": "mm"}
        assert cohort["effect"].attrs == {"long_name": "subject maps"}
        assert cohort.attrs["kind"] == "cohort"
        xr.testing.assert_identical(cohort.load(), vx.open_cohort(str(folder / "c.zarr")).load())

    def test_chunks_are_of_64_subjects_and_32_voxels_a_side(self, tmp_path: Path) -> None:
        n = 129
        volumes = noise(n, (34, 2, 2))
        images = [nib.Nifti1Image(volume, AFFINE) for volume in volumes]
        table = pd.DataFrame({"participant_id": [f"{i:03d}" for i in range(n)], "image": images})
        cohort = vx.stack(table, tmp_path / "c.zarr", maps={"effect": "image"})
        assert zarr.open_array(tmp_path / "c.zarr", path="effect", mode="r").chunks == (64, 32, 2, 2)
        assert cohort["effect"].chunks == ((*[64] * (n // 64), n % 64), (32, 2), (2,), (2,))
        np.testing.assert_array_equal(cohort["effect"].values, volumes)

    def test_smaller_batches_where_memory_is_short_hold_the_same(self, tmp_path: Path) -> None:
        volumes = noise(12, (20, 20, 20))
        save(tmp_path / "maps", volumes)
        with dask.config.set({"voxstack.memory-limit": "1.5MB", "num_workers": 2}):
            cohort = vx.stack(tmp_path / "maps" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        assert cohort["effect"].chunks[0][0] < 12
        np.testing.assert_array_equal(cohort["effect"].values, volumes)
        np.testing.assert_array_equal(cohort["n_valid"], np.full((20, 20, 20), 12))
        with dask.config.set({"voxstack.memory-limit": "10kB"}), pytest.raises(InputError, match="20 x 20 x 20 voxels"):
            vx.stack(tmp_path / "maps" / "participants.tsv", tmp_path / "d.zarr", maps=MAPS)

    @pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
    def test_flipped_copies_are_stacked_without_loss(self, tmp_path: Path, axes: tuple[int, ...]) -> None:
        volumes = noise(3)
        ornt = np.array([[axis, -1 if axis in axes else 1] for axis in range(3)])
        flipped = nib.Nifti1Image(volumes[1], AFFINE).as_reoriented(ornt)
        images = [nib.Nifti1Image(volumes[0], AFFINE), flipped, nib.Nifti1Image(volumes[2], AFFINE)]
        table = pd.DataFrame({"participant_id": list("abc"), "image": images})
        cohort = vx.stack(table, tmp_path / "c.zarr", maps={"effect": "image"})
        np.testing.assert_array_equal(cohort["effect"].values, volumes)
        other_way = vx.stack(table.iloc[[1, 0, 2]], tmp_path / "d.zarr", maps={"effect": "image"})
        for position in [(-3, -5, 1), (3, 0, 7)]:
            here, there = vx.at_mm(cohort, *position)["effect"], vx.at_mm(other_way, *position)["effect"]
            xr.testing.assert_equal(here.sel(subject=list("abc")), there.sel(subject=list("abc")))

    def test_store_as_url(self, folder: Path) -> None:
        table = folder / "maps" / "participants.tsv"
        local = vx.stack(table, f"file://{folder / 'c.zarr'}", maps=MAPS)
        remote = vx.stack(table, "memory://bucket/c.zarr", maps=MAPS)
        xr.testing.assert_identical(local.load(), remote.load())
        xr.testing.assert_identical(vx.open_cohort("memory://bucket/c.zarr").load(), local)


class TestSources:
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img", "memory"])
    def test_one_image_of_four_dimensions(self, tmp_path: Path, ending: str) -> None:
        volumes = noise(6)
        kind = nib.Nifti1Pair if ending == ".img" else nib.Nifti1Image
        image = kind(np.moveaxis(volumes, 0, -1), AFFINE)
        image.to_filename(tmp_path / f"all{ending if ending != 'memory' else '.nii'}")
        table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(6)], "age": range(6)})
        spec = image if ending == "memory" else tmp_path / f"all{ending}"
        cohort = vx.stack(table, tmp_path / "c.zarr", maps={"effect": spec})
        np.testing.assert_array_equal(cohort["effect"].values, volumes)
        assert cohort["age"].values.tolist() == list(range(6))

    @pytest.mark.parametrize("ending", [".nii", ".img", "memory"])
    @pytest.mark.parametrize("shape", [(4, 5, 3), (4, 5, 3, 1)])
    def test_one_image_for_one_row(self, tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
        kind = nib.Nifti1Pair if ending == ".img" else nib.Nifti1Image
        image = kind(noise(1).reshape(shape), AFFINE)
        image.to_filename(tmp_path / f"one{ending if ending != 'memory' else '.nii'}")
        spec = image if ending == "memory" else tmp_path / f"one{ending}"
        cohort = vx.stack(pd.DataFrame({"participant_id": ["a"]}), tmp_path / "c.zarr", maps={"effect": spec})
        np.testing.assert_array_equal(cohort["effect"].values, noise(1))

    @pytest.mark.parametrize("shape", [(4, 5, 3, 1, 6), (4, 5, 3, 6, 1)])
    def test_volumes_along_a_fifth_axis(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        volumes = noise(6)
        nib.Nifti1Image(np.moveaxis(volumes, 0, -1).reshape(shape), AFFINE).to_filename(tmp_path / "all.nii.gz")
        table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(6)]})
        cohort = vx.stack(table, tmp_path / "c.zarr", maps={"effect": tmp_path / "all.nii.gz"})
        np.testing.assert_array_equal(cohort["effect"].values, volumes)

    def test_pattern_and_table_in_another_folder(self, folder: Path) -> None:
        (folder / "table").mkdir()
        shutil.move(folder / "maps" / "participants.tsv", folder / "table" / "p.tsv")
        cohort = vx.stack(
            folder / "table" / "p.tsv", folder / "c.zarr", maps={"effect": "../maps/{participant_id}_effect.nii.gz"}
        )
        np.testing.assert_array_equal(cohort["effect"].values, noise(5))
        assert "path" not in cohort.coords

    def test_several_maps_count_coverage_together(self, tmp_path: Path) -> None:
        effect, variance = noise(4, seed=1), noise(4, seed=2) ** 2
        effect[0, 0, 0, 0] = effect[:, 1, 1, 1] = variance[3, 2, 2, 2] = np.nan
        save(tmp_path / "m", variance, name="variance")
        save(tmp_path / "m", effect)
        maps = {"effect": "path", "variance": "{participant_id}_variance.nii.gz"}
        cohort = vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=maps)
        assert set(cohort.data_vars) == {"effect", "variance", "n_valid"}
        np.testing.assert_array_equal(cohort["effect"].values, effect)
        np.testing.assert_array_equal(cohort["variance"].values, variance)
        valid = (np.isfinite(effect) & np.isfinite(variance)).sum(axis=0)
        np.testing.assert_array_equal(cohort["n_valid"], valid)
        np.testing.assert_array_equal(cohort["mask"], valid == 4)


class TestCovariates:
    def test_every_kind_survives_the_store(self, folder: Path) -> None:
        table = pd.DataFrame(
            {
                "participant_id": [f"sub-{i:02d}" for i in range(5)],
                "path": [str(folder / "maps" / f"sub-{i:02d}_effect.nii.gz") for i in range(5)],
                "age": [20.5, np.nan, 31, 44, 60],
                "runs": [1, 2, 3, 4, -5],
                "visits": pd.Series([1, None, 3, 4, 5], dtype="Int64"),
                "smoker": [True, False, True, True, False],
                "sex": pd.Series(["F", "M", None, "F", "M"], dtype="category"),
                "site": ["Köln", "北京", "a b", "", "n"],
            }
        )
        stacked = vx.stack(table, folder / "c.zarr", maps=MAPS)
        for cohort in (stacked, vx.open_cohort(folder / "c.zarr")):
            np.testing.assert_array_equal(cohort["age"], table["age"])
            assert cohort["age"].dtype == np.float64
            np.testing.assert_array_equal(cohort["visits"], [1, np.nan, 3, 4, 5])
            assert cohort["runs"].dtype == np.int64
            assert cohort["runs"].values.tolist() == [1, 2, 3, 4, -5]
            assert cohort["smoker"].dtype == np.bool_
            assert cohort["smoker"].values.tolist() == [True, False, True, True, False]
            assert cohort["sex"].values[[0, 1, 3, 4]].tolist() == ["F", "M", "F", "M"]
            assert np.isnan(cohort["sex"].values[2])
            assert cohort["site"].values.tolist() == ["Köln", "北京", "a b", "", "n"]
            assert "path" not in cohort.coords
            assert cohort["age"].dims == ("subject",)

    @pytest.mark.parametrize("name", ["weight/height", "", "."])
    def test_names_that_a_store_cannot_hold_are_refused_before_anything_is_read(self, folder: Path, name: str) -> None:
        table = pd.read_csv(folder / "maps" / "participants.tsv", sep="\t")
        table["path"] = [str(folder / "maps" / path) for path in table["path"]]
        with pytest.raises(InputError, match=f"called .*{re.escape(name)}"):
            vx.stack(table.assign(**{name: 1}), folder / "c.zarr", maps=MAPS)
        with pytest.raises(InputError, match=f"called .*{re.escape(name)}"):
            vx.stack(table, folder / "c.zarr", maps={name: "path"})
        assert not (folder / "c.zarr").exists()

    def test_name_of_a_map_is_refused(self, folder: Path) -> None:
        table = pd.read_csv(folder / "maps" / "participants.tsv", sep="\t").assign(effect=1.0)
        with pytest.raises(InputError, match="covariate cannot be called effect"):
            vx.stack(table, folder / "c.zarr", maps=MAPS)


class TestMask:
    def stack(self, folder: Path, volumes: NDArray[Any], **options: Any) -> xr.Dataset:
        save(folder / "m", volumes)
        return vx.stack(folder / "m" / "participants.tsv", folder / "c.zarr", maps=MAPS, **options)

    def test_intersection(self, tmp_path: Path) -> None:
        volumes = noise(4)
        volumes[2, 1, 1, 1] = volumes[:, 0, 0, 0] = np.nan
        np.testing.assert_array_equal(self.stack(tmp_path, volumes)["mask"], ~np.isnan(volumes).any(axis=0))

    @pytest.mark.parametrize(
        ("n", "fraction", "needed"),
        [(10, 0.3, 3), (10, 0.31, 4), (10, 1, 10), (10, 0.05, 1), (25, 0.28, 7)],  # 25 * 0.28 is above 7 in floats
    )
    def test_fraction_of_the_subjects_that_must_have_data(
        self, tmp_path: Path, n: int, fraction: float, needed: int
    ) -> None:
        volumes = noise(n, (n + 1, 2, 1))
        for missing in range(n + 1):
            volumes[:missing, missing] = np.nan
        mask = self.stack(tmp_path, volumes, mask=fraction)["mask"].values
        assert mask[:, 0, 0].tolist() == [n - missing >= needed for missing in range(n + 1)]

    @pytest.mark.parametrize("fraction", [0, 0.0, -0.5, 1.01, 2, np.nan, True])
    def test_fraction_out_of_range(self, folder: Path, fraction: float) -> None:
        with pytest.raises(InputError, match="above 0 and at most 1"):
            vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS, mask=fraction)
        assert not (folder / "c.zarr").exists()

    def test_voxels_without_information_are_outside(self, tmp_path: Path) -> None:
        volumes = noise(4)
        volumes[:, 0, 0, 0] = 0
        volumes[:2, 0, 0, 1], volumes[2:, 0, 0, 1] = 0, np.nan
        mask = self.stack(tmp_path, volumes, mask=0.25)["mask"].values
        assert not mask[0, 0, :2].any()
        assert mask.sum() == mask.size - 2

    @pytest.mark.parametrize("in_memory", [False, True])
    def test_image_on_another_grid_by_nearest_neighbour(self, tmp_path: Path, in_memory: bool) -> None:
        inside = (np.random.default_rng(3).random((9, 7, 8)) < 0.5).astype("float32")
        inside[0, 0, 0] = np.nan
        affine = np.array([[-1.1, 0, 0, 4.6], [0.1, 1.9, 0, -6.2], [0, 0, 1.3, -1.1], [0, 0, 0, 1]])
        image = nib.Nifti1Image(inside, affine)
        (tmp_path / "m").mkdir()
        image.to_filename(tmp_path / "m" / "brain.nii.gz")
        volumes = noise(3)
        cohort = self.stack(tmp_path, volumes, mask=image if in_memory else str(tmp_path / "m" / "brain.nii.gz"))
        expected = np.zeros(SHAPE, bool)
        for voxel in np.ndindex(SHAPE):
            there = np.rint(apply_affine(np.linalg.inv(affine), apply_affine(AFFINE, voxel))).astype(int)
            if np.all((there >= 0) & (there < inside.shape)):
                expected[voxel] = inside[tuple(there)] == 1
        assert 5 < expected.sum() < 50
        np.testing.assert_array_equal(cohort["mask"], expected)
        np.testing.assert_array_equal(cohort["effect"].values, np.where(expected, volumes, np.nan))
        np.testing.assert_array_equal(cohort["n_valid"], 3 * expected)

    def test_path_of_a_mask_starts_at_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        inside = noise(1)[0] > 0
        nib.Nifti1Image(inside.astype("uint8"), AFFINE).to_filename(tmp_path / "brain.nii")
        monkeypatch.chdir(tmp_path)
        np.testing.assert_array_equal(self.stack(tmp_path, noise(3), mask="brain.nii")["mask"], inside)

    def test_explicit_mask_does_not_ask_for_every_subject(self, tmp_path: Path) -> None:
        volumes = noise(3)
        volumes[0, 0] = np.nan
        mask = nib.Nifti1Image(np.ones(SHAPE, "uint8"), AFFINE)
        assert self.stack(tmp_path, volumes, mask=mask)["mask"].values.all()

    def test_empty_masks_are_refused(self, tmp_path: Path) -> None:
        nothing = nib.Nifti1Image(np.zeros(SHAPE, "uint8"), AFFINE)
        with pytest.raises(InputError, match=r"mask .* is empty or does not overlap the maps, which have 4 x 5 x 3"):
            self.stack(tmp_path, noise(3), mask=nothing)
        elsewhere = nib.Nifti1Image(np.ones(SHAPE, "uint8"), AFFINE + np.eye(4, k=3) * 500)
        with pytest.raises(InputError, match="does not overlap"):
            self.stack(tmp_path, noise(3), mask=elsewhere)
        volumes = noise(2)
        volumes[0, :2], volumes[1, 2:] = np.nan, np.nan
        with pytest.raises(InputError, match=r"No voxel is left.*data of 1 of 2 subjects"):
            self.stack(tmp_path, volumes)
        assert not (tmp_path / "c.zarr" / "zarr.json").exists()

    def test_a_mask_without_values_is_told_apart_from_a_fraction_that_is_too_large(self, tmp_path: Path) -> None:
        """A smaller fraction helps where some subjects have data, and nowhere else."""
        half = np.zeros((3, *SHAPE), "float32")
        half[:, :2] = noise(3)[:, :2]
        inside = np.zeros(SHAPE, "uint8")
        inside[3] = 1
        with pytest.raises(InputError, match=r"no voxel inside it has a value other than 0.*the mask lies") as error:
            self.stack(tmp_path, half, mask=nib.Nifti1Image(inside, AFFINE))
        assert "fraction" not in str(error.value)
        with pytest.raises(InputError, match=r"no voxel has a value other than 0.*the right images\.$"):
            self.stack(tmp_path / "b", half * 0)
        apart = noise(3)
        for number in range(3):
            apart[number, np.arange(4) != number] = np.nan
        with pytest.raises(InputError, match=r"data of 1 of 3 subjects\. .*smaller fraction.*mask=0\.33\.$"):
            self.stack(tmp_path / "c", apart)
        assert self.stack(tmp_path / "c", apart, mask=0.33)["mask"].any()

    def test_mask_that_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"brain\.nii: there is no such file"):
            self.stack(tmp_path, noise(2), mask="brain.nii")


class TestZeros:
    @pytest.fixture
    def volumes(self) -> NDArray[np.float32]:
        """Zero in some subjects at 4 voxels, in all at one more, missing in all but a zero at another."""
        volumes = noise(4)
        volumes[1:3, :2, :2, 0] = 0
        volumes[:, 3, 3, 1] = 0
        return volumes

    def test_zeros_of_some_subjects_are_kept_with_a_warning_that_counts(
        self, tmp_path: Path, volumes: NDArray[np.float32]
    ) -> None:
        save(tmp_path / "m", volumes)
        with pytest.warns(VoxstackWarning, match=r"^4 voxels of 'effect' within the mask.*zero_is_missing=True"):
            cohort = vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        np.testing.assert_array_equal(cohort["effect"].values, volumes)
        assert cohort["mask"].values[:2, :2, 0].all()
        assert not cohort["mask"].values[3, 3, 1]

    def test_zeros_are_missing_where_asked(self, tmp_path: Path, volumes: NDArray[np.float32]) -> None:
        save(tmp_path / "m", volumes)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cohort = vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS, zero_is_missing=True)
        np.testing.assert_array_equal(cohort["effect"].values, np.where(volumes == 0, np.nan, volumes))
        np.testing.assert_array_equal(cohort["n_valid"], (volumes != 0).sum(axis=0))
        np.testing.assert_array_equal(cohort["mask"], (volumes != 0).all(axis=0))
