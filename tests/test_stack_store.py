"""What `stack` refuses, and what becomes of the store meanwhile."""

import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster

import voxstack as vx
from small_cohorts import AFFINE, MAPS, SHAPE, break_inside, content, noise, save
from voxstack.errors import GridMismatch, InputError, StoreError
from voxstack.store.writer import write_batch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "maps", noise(5))
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


@pytest.mark.parametrize("lost", ["", "n/a"])
def test_a_store_whose_subjects_have_lost_their_labels(folder: Path, lost: str) -> None:
    vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
    zarr.open_array(folder / "c.zarr" / "subject")[1] = lost
    with pytest.raises(StoreError, match=r"c\.zarr is damaged: subjects have lost their labels"):
        vx.open_cohort(folder / "c.zarr")


class TestRefused:
    def test_lattices_that_differ_name_all_their_files(self, tmp_path: Path) -> None:
        save(tmp_path / "m", noise(6))
        moved = AFFINE.copy()
        moved[0, 3] += 0.01
        nib.Nifti1Image(noise(1)[0], moved).to_filename(tmp_path / "m" / "sub-02_effect.nii.gz")
        nib.Nifti1Image(noise(1)[0, 1:], AFFINE).to_filename(tmp_path / "m" / "sub-05_effect.nii.gz")
        with pytest.raises(GridMismatch) as error:
            vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        told = str(error.value)
        assert re.findall(r"sub-0\d_effect", told) == ["sub-00_effect", "sub-02_effect", "sub-05_effect"]
        assert "4 x 5 x 3 voxels of 2 x 2.5 x 3 mm" in told
        assert "3 x 5 x 3 voxels" in told
        assert not (tmp_path / "c.zarr").exists()

    def test_lattices_within_the_tolerance_are_one(self, tmp_path: Path) -> None:
        images = [nib.Nifti1Image(volume, AFFINE + np.eye(4, k=3) * 4e-4 * i) for i, volume in enumerate(noise(3))]
        table = pd.DataFrame({"participant_id": list("abc"), "image": images})
        cohort = vx.stack(table, tmp_path / "c.zarr", maps={"effect": "image"})
        np.testing.assert_array_equal(cohort["effect"].values, noise(3))

    def test_all_bad_files_are_reported_together(self, tmp_path: Path) -> None:
        save(tmp_path / "m", noise(7))
        paths = [tmp_path / "m" / f"sub-{i:02d}_effect.nii.gz" for i in range(7)]
        paths[0].unlink()
        paths[2].write_bytes(paths[2].read_bytes()[:-20])
        paths[3].write_text("not an image")
        nib.Nifti1Image(noise(2).transpose(1, 2, 3, 0), AFFINE).to_filename(paths[4])
        nib.Nifti1Image(noise(1)[0] + 1j, AFFINE).to_filename(paths[5])
        nib.Nifti1Image(noise(1)[0], AFFINE * 2).to_filename(paths[6])
        with pytest.raises(InputError, match="5 images cannot be used") as error:
            vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        told = str(error.value)
        for number, reason in [(0, "no such"), (2, "truncated"), (3, "not a"), (4, "2 volumes"), (5, "complex")]:
            assert re.search(rf"sub-0{number}: .*sub-0{number}_effect\.nii\.gz.*{reason}", told)
        assert re.search(r"1 images? lies? on another lattice|sub-06: .*voxels", told)
        assert "sub-01:" not in told
        assert "Nothing was written" in told
        assert not (tmp_path / "c.zarr").exists()

    @pytest.mark.parametrize(
        ("value", "options", "says"),
        [
            (np.nan, {}, r"sub-01: .*sub-01_effect\.nii\.gz has no data: every voxel is missing"),
            (0, {"zero_is_missing": True}, r"sub-01: .* has no data"),
            (np.inf, {}, r"sub-01: .*sub-01_effect\.nii\.gz holds 60 infinite values in float32"),
            (-np.inf, {"dtype": "float64"}, r"sub-01: .* holds 60 infinite values in float64"),
        ],
    )
    def test_maps_without_usable_values(self, tmp_path: Path, value: float, options: Any, says: str) -> None:
        volumes = noise(3)
        volumes[1] = value
        save(tmp_path / "m", volumes)
        with pytest.raises(InputError, match=says):
            vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS, **options)
        assert not (tmp_path / "c.zarr" / "zarr.json").exists()

    @pytest.mark.filterwarnings("ignore:overflow encountered")
    def test_values_beyond_the_stored_type(self, tmp_path: Path) -> None:
        volumes = noise(2).astype("float64")
        volumes[1, 0, 0, 0] = 1e300
        save(tmp_path / "m", volumes)
        with pytest.raises(InputError, match=r"sub-01: .* holds 1 infinite values in float32"):
            vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        cohort = vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS, dtype="float64")
        assert cohort["effect"].values[1, 0, 0, 0] == 1e300

    def test_no_data_inside_an_explicit_mask(self, tmp_path: Path) -> None:
        volumes = noise(3)
        volumes[1, 2:] = np.nan
        save(tmp_path / "m", volumes)
        mask = np.zeros(SHAPE, "uint8")
        mask[2:] = 1
        with pytest.raises(InputError, match=r"sub-01: .* has no data inside the mask"):
            vx.stack(
                tmp_path / "m" / "participants.tsv",
                tmp_path / "c.zarr",
                maps=MAPS,
                mask=nib.Nifti1Image(mask, AFFINE),
            )

    def test_other_types_of_store(self, folder: Path) -> None:
        with pytest.raises(InputError, match="dtype must be"):
            vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS, dtype="int16")
        assert not (folder / "c.zarr").exists()


class TestPublishing:
    def test_an_existing_store_is_left_alone(self, folder: Path) -> None:
        table = folder / "maps" / "participants.tsv"
        vx.stack(table, folder / "c.zarr", maps=MAPS)
        before = content(folder / "c.zarr")
        with pytest.raises(StoreError, match=r"c\.zarr exists already.*overwrite=True"):
            vx.stack(table, folder / "c.zarr", maps=MAPS)
        assert content(folder / "c.zarr") == before

    def test_overwrite_replaces_a_cohort_and_leaves_nothing_behind(self, folder: Path) -> None:
        vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
        save(folder / "other", noise(3, seed=9))
        cohort = vx.stack(folder / "other" / "participants.tsv", folder / "c.zarr", maps=MAPS, overwrite=True)
        np.testing.assert_array_equal(cohort["effect"].values, noise(3, seed=9))
        assert {path.name for path in folder.iterdir()} == {"maps", "other", "c.zarr"}

    @pytest.mark.parametrize("options", [{"append": True}, {"overwrite": True}])
    def test_files_of_users_stay_whatever_their_ending(self, folder: Path, options: Any) -> None:
        vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
        (folder / "c.zarr" / "notes.partial").write_text("mine")
        (folder / "c.zarr" / "download.nii.gz.partial").write_text("mine")
        left = folder / "c.zarr" / "effect" / f"zarr.json.{'0f' * 16}.partial"  # of a process that was killed
        left.write_text("{")
        table = pd.read_csv(folder / "maps" / "participants.tsv", sep="\t")
        table["participant_id"] = "more-" + table["participant_id"]
        table["path"] = [str(folder / "maps" / path) for path in table["path"]]
        vx.stack(table, folder / "c.zarr", maps=MAPS, **options)
        assert (folder / "c.zarr" / "notes.partial").read_text() == "mine"
        assert (folder / "c.zarr" / "download.nii.gz.partial").read_text() == "mine"
        assert not left.exists()

    def test_the_old_cohort_stays_if_the_new_one_fails_half_way(self, folder: Path) -> None:
        vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
        before, old = content(folder / "c.zarr"), vx.open_cohort(folder / "c.zarr")
        volumes = noise(3, (20, 40, 40))
        save(folder / "other", volumes)
        good = (folder / "other" / "sub-01_effect.nii.gz").read_bytes()
        break_inside(folder / "other" / "sub-01_effect.nii.gz")
        with pytest.raises(InputError, match=r"sub-01_effect\.nii\.gz"):
            vx.stack(folder / "other" / "participants.tsv", folder / "c.zarr", maps=MAPS, overwrite=True)
        assert before.items() <= content(folder / "c.zarr").items()
        xr.testing.assert_identical(vx.open_cohort(folder / "c.zarr").load(), old.load())
        (folder / "other" / "sub-01_effect.nii.gz").write_bytes(good)
        cohort = vx.stack(folder / "other" / "participants.tsv", folder / "c.zarr", maps=MAPS, overwrite=True)
        np.testing.assert_array_equal(cohort["effect"].values, volumes)
        assert {path.name for path in folder.iterdir()} == {"maps", "other", "c.zarr"}

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_what_is_no_cohort_is_never_overwritten(self, folder: Path, overwrite: bool) -> None:
        (folder / "file").write_text("mine")
        (folder / "thesis").mkdir()
        (folder / "thesis" / "chapter.txt").write_text("years of work")
        zarr.open_group(folder / "group.zarr", mode="w", attributes={"other": True})
        before = content(folder)
        for name in ("file", "thesis", "group.zarr"):
            with pytest.raises(StoreError, match=name):
                vx.stack(folder / "maps" / "participants.tsv", folder / name, maps=MAPS, overwrite=overwrite)
        assert content(folder) == before

    def test_a_result_is_not_overwritten_with_a_cohort(self, folder: Path) -> None:
        cohort = vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
        vx.save_results(vx.fit_glm(cohort, "~ 1"), folder / "r.zarr")
        before = content(folder / "r.zarr")
        with pytest.raises(StoreError, match="it is a fit"):
            vx.stack(folder / "maps" / "participants.tsv", folder / "r.zarr", maps=MAPS, overwrite=True)
        assert content(folder / "r.zarr") == before

    def test_an_empty_folder_is_taken(self, folder: Path) -> None:
        (folder / "c.zarr").mkdir()
        assert vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS).sizes["subject"] == 5

    def test_a_stopped_stacking_is_no_cohort_and_can_be_called_again(self, tmp_path: Path) -> None:
        save(tmp_path / "m", noise(3, (20, 40, 40)))
        broken = tmp_path / "m" / "sub-02_effect.nii.gz"
        good = broken.read_bytes()
        break_inside(broken)
        with pytest.raises(InputError, match=r"sub-02_effect\.nii\.gz"):
            vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        assert (tmp_path / "c.zarr" / "stack.partial").exists()
        assert not (tmp_path / "c.zarr" / "zarr.json").exists()
        with pytest.raises(StoreError, match=r"c\.zarr is not finished.*Call stack again"):
            vx.open_cohort(tmp_path / "c.zarr")
        broken.write_bytes(good)
        vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "fresh.zarr", maps=MAPS)
        assert content(tmp_path / "c.zarr") == content(tmp_path / "fresh.zarr")
        assert "stack.partial" not in content(tmp_path / "c.zarr")

    def test_root_metadata_are_the_last_key_written(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written: list[str] = []
        replace = Path.replace

        def recording(temporary: Path, target: Path) -> Path:
            written.append(Path(target).relative_to(folder / "c.zarr").as_posix())
            return replace(temporary, target)

        monkeypatch.setattr(Path, "replace", recording)
        vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
        assert written.count("zarr.json") == 1
        assert written[-1] == "zarr.json"
        assert set(written) >= {"effect/c/0/0/0/0", "mask/zarr.json", "subject/c/0"}
        consolidated = json.loads((folder / "c.zarr" / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
        assert {"effect", "mask", "n_valid", "subject", "x", "y", "z"} <= set(consolidated)

    def test_what_is_no_cohort_cannot_be_opened(self, folder: Path) -> None:
        with pytest.raises(StoreError, match=r"There is no cohort at .*nowhere\.zarr"):
            vx.open_cohort(folder / "nowhere.zarr")
        with pytest.raises(StoreError, match=r"maps is not a voxstack cohort: it has no zarr\.json"):
            vx.open_cohort(folder / "maps")
        zarr.open_group(folder / "g.zarr", mode="w")
        with pytest.raises(StoreError, match=r"g\.zarr is not a voxstack cohort"):
            vx.open_cohort(folder / "g.zarr")

    def test_a_newer_cohort_asks_for_an_upgrade(self, folder: Path) -> None:
        vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS)
        root = folder / "c.zarr" / "zarr.json"
        metadata = json.loads(root.read_text())
        metadata["attributes"]["schema_version"] = 99
        root.write_text(json.dumps(metadata))
        with pytest.raises(StoreError, match="newer voxstack"):
            vx.open_cohort(folder / "c.zarr")


class TestRepeatable:
    def test_bytes_depend_on_the_data_alone(self, tmp_path: Path) -> None:
        """Not on the folder, the time, or the number of threads."""
        stores = []
        for name, threads in (("one", 1), ("another/place", 4)):
            table = save(tmp_path / name, noise(70)).assign(age=range(70), sex=["F", "M"] * 35)
            table["path"] = [str(tmp_path / name / path) for path in table["path"]]
            with dask.config.set(num_workers=threads):
                vx.stack(table, tmp_path / name / "c.zarr", maps=MAPS)
            stores.append(content(tmp_path / name / "c.zarr"))
        assert stores[0] == stores[1]

    def test_no_path_host_or_time_in_the_metadata(self, folder: Path) -> None:
        mask = nib.Nifti1Image(np.ones(SHAPE, "uint8"), AFFINE)
        mask.to_filename(folder / "brain.nii")
        vx.stack(folder / "maps" / "participants.tsv", folder / "c.zarr", maps=MAPS, mask=str(folder / "brain.nii"))
        files = [path for path in (folder / "c.zarr").rglob("*") if path.name == "zarr.json"]
        assert len(files) > 6
        for path in files:
            text = path.read_text()
            json.loads(text)
            assert str(folder) not in text
            assert folder.name not in text
            assert platform.node() not in text
            assert not re.search(r"20[2-9]\d-[01]\d|[0-2]\d:[0-5]\d:[0-5]\d", text)
        provenance = vx.open_cohort(folder / "c.zarr").attrs["provenance"]
        assert provenance["mask"] == "brain.nii"
        assert provenance["versions"]["voxstack"] == vx.__version__

    def test_worker_processes_write_the_same_bytes(self, tmp_path: Path, cluster: LocalCluster) -> None:
        volumes = noise(130)
        volumes[3, 0] = np.nan
        nib.Nifti1Image(volumes.transpose(1, 2, 3, 0), AFFINE).to_filename(tmp_path / "all.nii.gz")
        images = [nib.Nifti1Image(volume, AFFINE) for volume in volumes]
        table = pd.DataFrame({"participant_id": [f"s{i}" for i in range(130)], "image": images})
        maps = {"effect": "image", "other": tmp_path / "all.nii.gz"}
        vx.stack(table, tmp_path / "threads.zarr", maps=maps, mask=0.5)
        with Client(cluster):
            vx.stack(table, tmp_path / "processes.zarr", maps=maps, mask=0.5)
        assert content(tmp_path / "processes.zarr") == content(tmp_path / "threads.zarr")

    def test_a_repaired_file_is_read_again_by_the_same_workers(self, tmp_path: Path, cluster: LocalCluster) -> None:
        volumes = noise(3, (20, 40, 40))
        save(tmp_path / "m", volumes)
        broken = tmp_path / "m" / "sub-01_effect.nii.gz"
        good = broken.read_bytes()
        break_inside(broken)
        with Client(cluster):
            with pytest.raises(InputError, match=r"sub-01_effect\.nii\.gz") as kept:
                vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
            broken.write_bytes(good)
            cohort = vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
            np.testing.assert_array_equal(cohort["effect"].values, volumes)
        assert kept.value is not None


class TestTwoAtOnce:
    def test_a_second_writer_is_refused(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        participants, store = folder / "maps" / "participants.tsv", folder / "cohort.zarr"
        refused: list[str] = []
        write = write_batch

        def while_writing(batch: Any) -> Any:
            if not refused:
                refused.append("")
                with pytest.raises(StoreError, match="being written by another call") as second:
                    vx.stack(participants, store, maps=MAPS)
                refused[0] = str(second.value)
            return write(batch)

        monkeypatch.setattr("voxstack.store.building.write_batch", while_writing)
        cohort = vx.stack(participants, store, maps=MAPS)
        assert refused[0]
        assert cohort.sizes["subject"] == 5
        assert not list(folder.glob("*.lock"))

    def test_a_cohort_that_was_replaced_is_not_read_under_its_old_labels(self, folder: Path) -> None:
        participants, store = folder / "maps" / "participants.tsv", folder / "cohort.zarr"
        old = vx.stack(participants, store, maps=MAPS)
        table = pd.read_csv(participants, sep="\t").iloc[::-1]
        table["path"] = [str(folder / "maps" / path) for path in table["path"]]
        new = vx.stack(table, store, maps=MAPS, overwrite=True)
        with pytest.raises(StoreError, match="was replaced after it was opened"):
            old["effect"].compute()
        np.testing.assert_array_equal(new["effect"].sel(subject="sub-00"), noise(5)[0])
