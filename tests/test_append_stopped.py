"""Appending that was stopped, and gone on with; and calls that were stopped when their cohort was just published."""

import json
import shutil
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
import voxstack.store.writer
from small_cohorts import AFFINE, MAPS, SHAPE, break_inside, content, in_memory, noise, saved
from voxstack.errors import InputError, StoreError, VoxstackWarning

LARGE = (20, 40, 40)  # images in which a damage is not seen when the headers are checked


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Files of 11 subjects, and a store with 4 of them."""
    folder = tmp_path_factory.mktemp("stopped")
    table = saved(folder / "m", noise(11, LARGE), age=np.arange(11.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", 3)
        vx.stack(table[:4], folder / "c", maps=MAPS)
    return folder, table


class TestStopped:
    """An image that cannot be read stops a call after its first batches, of three subjects each."""

    @pytest.fixture
    def table(self, made: tuple[Path, pd.DataFrame], tmp_path: Path, small_chunks: None) -> pd.DataFrame:
        """The files, in the folder of the test, and in "c" and "undisturbed" the store."""
        shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
        shutil.copytree(made[0] / "c", tmp_path / "undisturbed")
        return made[1].assign(path=[path.replace(str(made[0]), str(tmp_path)) for path in made[1]["path"]])

    @pytest.fixture
    def reads(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Labels of the subjects whose images are read."""
        read: Any = voxstack.store.writer.read_maps
        labels: list[str] = []

        def recording(sources: Any, orders: Any) -> Any:
            labels.extend(Path(source.image).name.removesuffix(".nii.gz") for source in sources)
            return read(sources, orders)

        monkeypatch.setattr("voxstack.store.writer.read_maps", recording)
        return labels

    def stop(self, rows: pd.DataFrame, store: Path, **options: Any) -> None:
        """A call that fails in its last batch, whose last image is mended afterwards."""
        broken = Path(rows["path"].iloc[-1])
        good, time = broken.read_bytes(), broken.stat()
        break_inside(broken)
        with pytest.raises(InputError, match=broken.name.replace(".", r"\.")):
            vx.stack(rows, store, maps=MAPS, **options)
        broken.write_bytes(good)
        assert broken.stat().st_mtime_ns > time.st_mtime_ns

    def test_called_again_it_goes_on(self, tmp_path: Path, table: pd.DataFrame, reads: list[str]) -> None:
        before = vx.open_cohort(tmp_path / "c").load()
        self.stop(table[4:], tmp_path / "c", append=True)
        xr.testing.assert_identical(vx.open_cohort(tmp_path / "c").load(), before)
        reads.clear()
        vx.stack(table[4:], tmp_path / "c", maps=MAPS, append=True)
        assert sorted(reads) == ["sub-10", "sub-9"]  # the third batch, after those of 4 and 5, and of 6 to 8
        vx.stack(table[4:], tmp_path / "undisturbed", maps=MAPS, append=True)
        assert content(tmp_path / "c") == content(tmp_path / "undisturbed")

    def test_files_that_have_changed_since_are_read_again(
        self, tmp_path: Path, table: pd.DataFrame, reads: list[str]
    ) -> None:
        self.stop(table[4:], tmp_path / "c", append=True)
        nib.Nifti1Image(noise(1, LARGE, seed=7)[0], AFFINE).to_filename(table["path"][7])
        reads.clear()
        cohort = vx.stack(table[4:], tmp_path / "c", maps=MAPS, append=True)
        assert sorted(reads) == ["sub-10", "sub-6", "sub-7", "sub-8", "sub-9"]
        vx.stack(table[4:], tmp_path / "undisturbed", maps=MAPS, append=True)
        assert content(tmp_path / "c") == content(tmp_path / "undisturbed")
        np.testing.assert_array_equal(cohort["effect"].sel(subject="sub-7"), noise(1, LARGE, seed=7)[0])

    def test_covariates_may_be_mended_without_reading_anything_again(
        self, tmp_path: Path, table: pd.DataFrame, reads: list[str]
    ) -> None:
        self.stop(table[4:], tmp_path / "c", append=True)
        reads.clear()
        cohort = vx.stack(table[4:].assign(age=-1.0), tmp_path / "c", maps=MAPS, append=True)
        assert sorted(reads) == ["sub-10", "sub-9"]
        assert cohort["age"].values.tolist() == [0, 1, 2, 3, *[-1] * 7]
        vx.stack(table[4:].assign(age=-1.0), tmp_path / "undisturbed", maps=MAPS, append=True)
        assert content(tmp_path / "c") == content(tmp_path / "undisturbed")

    def test_another_fraction_needs_no_reading_either(
        self, tmp_path: Path, table: pd.DataFrame, reads: list[str]
    ) -> None:
        self.stop(table[:7], tmp_path / "new")
        reads.clear()
        vx.stack(table[:7], tmp_path / "new", maps=MAPS, mask=0.5)
        assert reads == ["sub-6"]
        vx.stack(table[:7], tmp_path / "other", maps=MAPS, mask=0.5)
        assert content(tmp_path / "new") == content(tmp_path / "other")

    @pytest.mark.parametrize(
        ("rows", "options"),
        [
            (slice(4, 10), {"append": True}),
            (slice(8, 9), {"append": True}),
            (slice(4, 11), {"overwrite": True}),
        ],
        ids=["fewer", "one", "the same in its place"],
    )
    def test_another_request_warns_and_begins_anew(
        self, tmp_path: Path, table: pd.DataFrame, rows: slice, options: dict[str, Any]
    ) -> None:
        self.stop(table[4:], tmp_path / "c", append=True)
        with pytest.warns(VoxstackWarning, match="other subjects, or with other options, to .*begins anew") as warned:
            cohort = vx.stack(table[rows], tmp_path / "c", maps=MAPS, **options)
        assert warned[0].filename == __file__
        vx.stack(table[rows], tmp_path / "undisturbed", maps=MAPS, **options)
        assert content(tmp_path / "c") == content(tmp_path / "undisturbed")
        first = 4 if "append" in options else 0
        np.testing.assert_array_equal(cohort["effect"][first:], noise(11, LARGE)[rows])

    def test_subjects_in_another_order_are_read_again(self, tmp_path: Path, table: pd.DataFrame) -> None:
        self.stop(table[4:], tmp_path / "c", append=True)
        for name in ("c", "undisturbed"):
            cohort = vx.stack(table[:3:-1], tmp_path / name, maps=MAPS, append=True)
        assert content(tmp_path / "c") == content(tmp_path / "undisturbed")
        np.testing.assert_array_equal(cohort["effect"][4:], noise(11, LARGE)[:3:-1])

    @pytest.mark.parametrize("changed", [{"smoothing_fwhm": 4}, {"maps": {"other": "path"}}])
    def test_other_options_warn_and_begin_anew(
        self, tmp_path: Path, table: pd.DataFrame, changed: dict[str, Any]
    ) -> None:
        options = {"maps": MAPS, **changed}
        self.stop(table[:7], tmp_path / "new")
        with pytest.raises(StoreError, match=r"no cohort at .*new to append to\. The one .* is not finished"):
            vx.stack(table[7:], tmp_path / "new", maps=MAPS, append=True)
        with pytest.warns(VoxstackWarning, match="begins anew"):
            vx.stack(table[:7], tmp_path / "new", **options)
        vx.stack(table[:7], tmp_path / "other", **options)
        assert content(tmp_path / "new") == content(tmp_path / "other")

    def test_no_voxel_left_leaves_the_cohort_and_the_next_append_works(self, tmp_path: Path) -> None:
        """Found out when everything has been counted; the last chunk holds the new subject by then."""
        alone = np.full(SHAPE, np.nan, "float32")
        alone[0] = 1
        others = noise(1)[0]
        others[0] = np.nan
        vx.stack(in_memory(others[None]), tmp_path / "d", maps=MAPS)
        before = vx.open_cohort(tmp_path / "d").load()
        with pytest.raises(InputError, match="No voxel is left in the mask"):
            vx.stack(in_memory(alone[None], first=1), tmp_path / "d", maps=MAPS, append=True)
        xr.testing.assert_identical(vx.open_cohort(tmp_path / "d").load(), before)
        cohort = vx.stack(in_memory(others[None] + 1, first=2), tmp_path / "d", maps=MAPS, append=True)
        np.testing.assert_array_equal(cohort["effect"].values, np.stack([others, others + 1]))


@pytest.mark.usefixtures("small_chunks")
class TestLate:
    """Tasks of a call that was killed run on while the next call writes."""

    def test_one_that_is_late_marks_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its call was there when it began to write, and is not when its chunks are written."""
        refuse: Any = voxstack.store.writer._refuse
        plan, marks = (tmp_path / "c" / "stack.partial" / name for name in ("plan.json", "marks"))

        def begun_by_another(*arguments: Any) -> None:
            refuse(*arguments)
            plan.write_text(json.dumps({**json.loads(plan.read_text()), "run": "that of the next call"}))

        monkeypatch.setattr("voxstack.store.writer._refuse", begun_by_another)
        with pytest.raises(StoreError, match="c is not being written by this call any more"):
            vx.stack(in_memory(noise(2)), tmp_path / "c", maps=MAPS)
        assert not marks.exists()

    @pytest.mark.parametrize("held", [bytes(range(16)), None], ids=["other sources", "nothing"])
    def test_marks_of_others_are_not_published(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: bytes | None
    ) -> None:
        write: Any = voxstack.store.writer.write_batch
        mark = tmp_path / "c" / "stack.partial" / "marks" / "0"
        table = saved(tmp_path / "m", noise(4))

        def and_another(batch: Any) -> None:
            write(batch)
            if batch.number == 1:
                mark.unlink()
                if held is not None:
                    mark.write_bytes(held)

        with monkeypatch.context() as patch, dask.config.set(num_workers=1):
            patch.setattr("voxstack.store.building.write_batch", and_another)
            with pytest.raises(StoreError, match=r"Another call has been writing to .*c meanwhile.*Call again"):
                vx.stack(table, tmp_path / "c", maps=MAPS)
        with pytest.raises(StoreError, match="is not finished"):
            vx.open_cohort(tmp_path / "c")
        vx.stack(table, tmp_path / "c", maps=MAPS)
        vx.stack(table, tmp_path / "undisturbed", maps=MAPS)
        assert content(tmp_path / "c") == content(tmp_path / "undisturbed")


class TestStoppedAtItsFirstFile:
    """Killed while it looked whether workers see the folder, or wrote its first key."""

    @pytest.mark.parametrize("name", [f"visible.{'0a' * 16}.partial", f"results.partial.{'0a' * 16}.partial"])
    def test_called_again_it_goes_on(self, tmp_path: Path, name: str) -> None:
        result = vx.fit_glm(vx.from_arrays({"effect": noise(5)}, affine=AFFINE), "~ 1").compute()
        for folder in ("c", "r"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / name).touch()
        cohort = vx.stack(in_memory(noise(3)), tmp_path / "c", maps=MAPS)
        np.testing.assert_array_equal(cohort["effect"].values, noise(3))
        vx.save_results(result, tmp_path / "r")
        xr.testing.assert_identical(vx.open_results(tmp_path / "r").compute(), result)
        assert not list(tmp_path.rglob("*.partial"))

    def test_a_download_of_another_program_is_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "sub-01.nii.gz.partial").write_text("mine")
        with pytest.raises(StoreError, match="is a folder with other files in it"):
            vx.stack(in_memory(noise(3)), tmp_path / "c", maps=MAPS)
        assert (tmp_path / "c" / "sub-01.nii.gz.partial").read_text() == "mine"


class TestStoppedBehindPublishing:
    """A call that was stopped when its cohort was published, before what it had replaced was removed."""

    class Stopped(BaseException):
        """As by SIGKILL."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        volumes = noise(3)
        volumes[0, 0] = np.nan
        saved(tmp_path / "m", volumes)
        return tmp_path

    def table(self, place: Path) -> pd.DataFrame:
        labels = [f"sub-{i}" for i in range(3)]
        paths = [str(place / "m" / f"{label}.nii.gz") for label in labels]
        return pd.DataFrame({"participant_id": labels, "path": paths, "age": [1.0, 2.0, 3.0]})

    def stop(self, table: pd.DataFrame, store: Path, **options: Any) -> None:
        def stop(_: Any) -> None:
            raise self.Stopped

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("voxstack.store.building.tidy", stop)
            with pytest.raises(self.Stopped):
                vx.stack(table, store, maps=MAPS, mask=0.5, **options)

    @pytest.mark.parametrize("goal", ["new", "append", "overwrite"])
    def test_the_same_call_has_nothing_left_to_read(
        self, place: Path, goal: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {} if goal == "new" else {goal: True}
        for name in ("c", "undisturbed") if options else ():
            vx.stack(in_memory(noise(2), first=9, age=0.5), place / name, maps=MAPS, mask=0.5)
        vx.stack(self.table(place), place / "undisturbed", maps=MAPS, mask=0.5, **options)
        self.stop(self.table(place), place / "c", **options)
        assert content(place / "c") != content(place / "undisturbed")
        monkeypatch.setattr("voxstack.store.writer.read_maps", None)
        vx.stack(self.table(place), place / "c", maps=MAPS, mask=0.5, **options)
        assert content(place / "c") == content(place / "undisturbed")

    @pytest.mark.parametrize("change", ["image", "fraction", "covariate", "covariates"])
    def test_a_call_that_replaces_it_by_something_else_does(self, place: Path, change: str) -> None:
        vx.stack(in_memory(noise(2)), place / "c", maps=MAPS)
        table, mask = self.table(place), 0.5
        self.stop(table, place / "c", overwrite=True)
        if change == "image":
            nib.Nifti1Image(noise(1, seed=8)[0], AFFINE).to_filename(table["path"][1])
        elif change == "fraction":
            mask = 1.0
        else:
            table = table.assign(age=[4.0, 5.0, 6.0]) if change == "covariate" else table.drop(columns="age")
        cohort = vx.stack(table, place / "c", maps=MAPS, mask=mask, overwrite=True)
        expected = vx.stack(table, place / "expected", maps=MAPS, mask=mask)
        xr.testing.assert_identical(cohort.load(), expected.load())

    def test_a_call_for_something_else_in_its_place_is_refused(self, place: Path) -> None:
        self.stop(self.table(place), place / "c")
        before = vx.open_cohort(place / "c").load()
        for other in (self.table(place).assign(age=0.0), self.table(place).drop(columns="age"), self.table(place)[:2]):
            with pytest.raises(StoreError, match="exists already"):
                vx.stack(other, place / "c", maps=MAPS, mask=0.5)
        with pytest.raises(StoreError, match="exists already"):
            vx.stack(self.table(place), place / "c", maps=MAPS, mask=1.0)
        xr.testing.assert_identical(vx.open_cohort(place / "c").load(), before)
        cohort = vx.stack(in_memory(noise(1), first=3, age=9.0), place / "c", maps=MAPS, mask=0.5, append=True)
        assert cohort.sizes["subject"] == 4
