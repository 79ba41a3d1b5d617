"""Appending gives the cohort that stacking all subjects at once does, and readers go on."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import voxstack as vx
import voxstack.store.building
import voxstack.store.layout
import voxstack.store.open
import voxstack.store.writer
from small_cohorts import AFFINE, MAPS, SHAPE, in_memory, noise, saved
from voxstack.covariates import decode
from voxstack.errors import StoreError, VoxstackWarning
from voxstack.store import keys

BOTH = {"effect": "effect", "variance": "variance"}


def holes(rng: np.random.Generator, shape: tuple[int, ...], missing: float, zeros: float) -> NDArray[np.float32]:
    """Maps with missing values and zeros anywhere but at one voxel."""
    volumes = rng.standard_normal(shape).astype("float32")
    volumes[rng.random(shape) < missing] = np.nan
    volumes[rng.random(shape) < zeros] = 0
    volumes[:, 1, 1, 1] = rng.uniform(1, 2, len(volumes))
    return volumes


COLUMNS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "runs": lambda rng, n: rng.integers(-3, 3, n),
    "weight": lambda rng, n: np.where(rng.random(n) < 0.4, np.nan, rng.normal(size=n)),
    "smoker": lambda rng, n: rng.random(n) < 0.5,
    "site": lambda rng, n: rng.choice(["Köln", "北京", "", "a b"], n),
    "hand": lambda rng, n: [rng.choice(["left", "right"]) if rng.random() < 0.6 else None for _ in range(n)],
    "group": lambda rng, n: pd.Categorical(rng.choice(["b", "a", None], n), categories=["c", "b", "a"]),
    "dose": lambda rng, n: pd.Categorical(rng.choice([5, 20], n), categories=[20, 0, 5], ordered=True),
}


@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_appending_is_stacking_all_at_once(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Values, mask, counts, covariates, and what is fitted to them; any chunks, whole or in part."""
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=3).filter(lambda sizes: sum(sizes) > 4))
    n, folder = sum(sizes), tmp_path_factory.mktemp("append")
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    maps = data.draw(st.sampled_from([["effect"], ["effect", "variance"]]))
    missing, zeros = data.draw(st.sampled_from([0, 0.1, 0.7])), data.draw(st.sampled_from([0, 0.2]))
    volumes = {name: holes(rng, (n, *SHAPE), missing, zeros) for name in maps}
    inside = rng.random(SHAPE) < 0.7
    inside[1, 1, 1] = True
    explicit = nib.Nifti1Image(inside.astype("uint8"), AFFINE)
    options: dict[str, Any] = {
        "mask": data.draw(st.sampled_from(["intersection", 0.5, explicit])),
        "zero_is_missing": data.draw(st.booleans()),
        "dtype": data.draw(st.sampled_from(["float32", "float64"])),
    }
    names = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), max_size=3, unique=True))
    table = in_memory(volumes["effect"], age=rng.normal(size=n), **{name: COLUMNS[name](rng, n) for name in names})
    for name in maps:
        table[name] = in_memory(volumes[name])["path"]
    table = table.drop(columns="path")

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", VoxstackWarning)  # zeros in some subjects
        patch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", data.draw(st.integers(1, 5)))
        patch.setattr("voxstack.plan.VOXELS_PER_SIDE", data.draw(st.sampled_from([3, 32])))
        whole = vx.stack(table, folder / "whole", maps={name: name for name in maps}, **options)
        for number, stop in enumerate(np.cumsum(sizes)):
            rows = table[stop - sizes[number] : stop]
            appended = vx.stack(rows, folder / "c", maps={name: name for name in maps}, append=number > 0, **options)

    told = appended.attrs["provenance"].pop("appended")
    assert [entry["subjects"] for entry in told] == sizes[1:]
    xr.testing.assert_identical(appended.load(), whole.load())
    for name in maps:
        expected = np.where(volumes[name] == 0, np.nan, volumes[name]) if options["zero_is_missing"] else volumes[name]
        expected = np.where(inside, expected, np.nan) if options["mask"] is explicit else expected
        np.testing.assert_array_equal(appended[name].values, expected)
    for name in ["age", *names]:
        column = decode(name, appended[name].variable)
        pd.testing.assert_series_equal(column, decode(name, whole[name].variable))
        assert column.isna().tolist() == table[name].isna().tolist()
    fitted = [vx.fit_glm(c, "~ age", variable="effect", missing="available") for c in (appended, whole)]
    tested = [vx.compute(vx.contrast(fit, "age")) for fit in fitted]
    for name in ("effect", "stat", "dof"):
        np.testing.assert_allclose(*(result[name] for result in tested), rtol=1e-7, atol=1e-12)


class TestCovariates:
    """Two tables that were typed separately, and the table of all rows."""

    def check(self, folder: Path, cases: dict[str, tuple[Any, Any]]) -> None:
        columns = {name: [pd.Series(part) for part in parts] for name, parts in cases.items()}
        whole = {name: pd.concat([p.astype(object) for p in parts], ignore_index=True).tolist() for name, parts in
                 columns.items()}  # fmt: skip
        vx.stack(in_memory(noise(2), **{name: parts[0] for name, parts in columns.items()}), folder / "c", maps=MAPS)
        table = in_memory(noise(2, seed=1), first=2, **{name: parts[1] for name, parts in columns.items()})
        cohort = vx.stack(table, folder / "c", maps=MAPS, append=True)
        found = {name: decode(name, cohort[name].variable).astype(object).tolist() for name in cases}
        assert {name: list(map(plain, values)) for name, values in found.items()} == {
            name: list(map(plain, values)) for name, values in whole.items()
        }

    def test_kinds_of_one_column_are_joined(self, tmp_path: Path) -> None:
        nan = np.nan
        self.check(
            tmp_path,
            {
                "whole then fractions": ([1, 2], [0.5, nan]),
                "fractions then whole": ([0.5, nan], [1, 2]),
                "whole then nullable": ([1, 2], pd.array([3, None], dtype="Int64")),
                "nullable then fractions": (pd.array([3, None], dtype="Int64"), [0.5, 1]),
                "truth then nullable": ([True, False], pd.array([True, None], dtype="boolean")),
                "text then longer text": (["a", "b"], ["abcdefgh", None]),
                "text then nothing": (["a", "b"], [nan, nan]),
                "nothing then text": ([nan, nan], ["a", "b"]),
                "whole then nothing": ([1, 2], [nan, nan]),
                "nothing then whole": ([nan, nan], [1, 2]),
                "nothing at all": ([nan, nan], [nan, nan]),
                "levels then nothing": (pd.Categorical(["b", "a"]), [nan, nan]),
                "nothing then levels": ([nan, nan], pd.Categorical(["b", "a"])),
                "dates": (pd.to_datetime(["2020-01-01", "2020-01-02"]).astype(str), ["2021-01-01", None]),
            },
        )

    def test_whole_numbers_and_truth_values_stay_what_they_are_beside_a_batch_without_any(self, tmp_path: Path) -> None:
        """Were they kept as text, a formula would take them for a factor."""
        numbers, truth = pd.array([1, None], dtype="Int64"), pd.array([True, None], dtype="boolean")
        no_numbers, no_truth = pd.array([None, None], dtype="Int64"), pd.array([None, None], dtype="boolean")
        self.check(
            tmp_path,
            {
                "numbers then none": (numbers, no_numbers),
                "none then numbers": (no_numbers, numbers),
                "truth then none": (truth, no_truth),
                "none then truth": (no_truth, truth),
                "numbers then an empty column": (numbers, [np.nan, np.nan]),
                "an empty column then truth": ([np.nan, np.nan], truth),
            },
        )

    def test_levels_keep_their_order_and_new_ones_follow(self, tmp_path: Path) -> None:
        cases: dict[str, tuple[Any, Any, list[Any]]] = {
            "same": (pd.Categorical(["a", "b"], ["b", "a"]), pd.Categorical(["a", "b"], ["b", "a"]), ["b", "a"]),
            "more": (pd.Categorical(["a", "b"], ["b", "a"]), pd.Categorical(["c", "a"], ["c", "a"]), ["b", "a", "c"]),
            "unused": (pd.Categorical(["a", "b"], ["b", "a"]), pd.Categorical(["a", "a"], ["d", "a"]), ["b", "a", "d"]),
            "text": (pd.Categorical(["a", None], ["b", "a"]), ["d", "c"], ["b", "a", "c", "d"]),
            "to text": (["z", "y"], pd.Categorical(["a", "b"], ["b", "a"]), ["b", "a", "y", "z"]),
            "numbers": (pd.Categorical([1, 2], [2, 1]), [3.0, np.nan], [2, 1, 3]),
            "ordered": (pd.Categorical(["a"] * 2, ["b", "a"], ordered=True), ["b", None], ["b", "a"]),
        }
        tables = [
            in_memory(noise(2), first=2 * part, **{name: case[part] for name, case in cases.items()}) for part in (0, 1)
        ]
        vx.stack(tables[0], tmp_path / "c", maps=MAPS)
        cohort = vx.stack(tables[1], tmp_path / "c", maps=MAPS, append=True)
        for name, (old, new, levels) in cases.items():
            column = decode(name, cohort[name].variable)
            assert column.cat.categories.tolist() == levels, name
            assert column.cat.ordered == (name == "ordered")
            assert list(map(plain, column)) == [plain(value) for part in (old, new) for value in part]

    def test_tables_as_text_are_typed_apart_and_still_join(self, tmp_path: Path) -> None:
        """What reads as whole numbers in one table may be fractions, or nothing, in the next."""
        table = saved(tmp_path / "m", noise(4)).assign(
            age=["20", "30", "40.5", "n/a"],
            runs=["1", "2", "", "3"],
            site=["a", "b", "n/a", ""],
            iq=["", "", "99", "100"],
        )
        for name, rows in {"old": table[:2], "new": table[2:], "all": table}.items():
            rows.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
        vx.stack(tmp_path / "old.tsv", tmp_path / "c", maps=MAPS)
        appended = vx.stack(tmp_path / "new.tsv", tmp_path / "c", maps=MAPS, append=True)
        whole = vx.stack(tmp_path / "all.tsv", tmp_path / "d", maps=MAPS)
        appended.attrs = whole.attrs
        xr.testing.assert_identical(appended.load(), whole.load())
        assert appended["age"].values[:3].tolist() == [20, 30, 40.5]
        assert appended["iq"].values[2:].tolist() == [99, 100]


def plain(value: Any) -> Any:
    """Missing values as None."""
    return None if pd.isna(value) else value


def test_provenance_lists_what_was_appended(tmp_path: Path) -> None:
    first = vx.stack(in_memory(noise(3)), tmp_path / "c", maps=MAPS, mask=0.5)
    vx.stack(in_memory(noise(2), first=3), tmp_path / "c", maps=MAPS, mask=0.5, append=True)
    cohort = vx.stack(in_memory(noise(4), first=5), tmp_path / "c", maps=MAPS, mask=0.5, append=True)
    told = cohort.attrs["provenance"]
    versions = told["versions"]
    assert told.pop("appended") == [{"subjects": 2, "versions": versions}, {"subjects": 4, "versions": versions}]
    assert versions["voxstack"] == vx.__version__
    assert told == first.attrs["provenance"]
    replaced = vx.stack(in_memory(noise(2)), tmp_path / "c", maps=MAPS, overwrite=True)
    assert "appended" not in replaced.attrs["provenance"]


def test_described_while_it_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files go between their listing and the look at their sizes; the counts are of the new cohort already."""
    vx.stack(in_memory(noise(2)), tmp_path / "c", maps=MAPS)
    all_keys = keys.all_keys

    def meanwhile(store: Any) -> list[str]:
        found = all_keys(store)
        monkeypatch.setattr("voxstack.store.keys.all_keys", all_keys)
        vx.stack(in_memory(noise(1), first=2), tmp_path / "c", maps=MAPS, append=True)
        return [*found, f"stack.partial/plan.json.{'0a' * 16}.partial"]

    monkeypatch.setattr("voxstack.store.keys.all_keys", meanwhile)
    told = vx.describe(tmp_path / "c")
    assert told["coverage"]["complete"] == told["coverage"]["maps"]["effect"]["complete"] == noise(1)[0].size


def test_a_cohort_that_begins_with_one_subject_has_chunks_of_many(tmp_path: Path) -> None:
    """Else one that grows night by night would be thousands of small files for ever."""
    volumes = noise(70)
    vx.stack(in_memory(volumes[:1]), tmp_path / "c", maps=MAPS)
    cohort = vx.stack(in_memory(volumes[1:], first=1), tmp_path / "c", maps=MAPS, append=True)
    assert vx.describe(tmp_path / "c")["chunks"][0] == 64
    assert cohort["effect"].chunks[0] == (64, 6)
    np.testing.assert_array_equal(cohort["effect"].values, volumes)


class TestReaders:
    """Who opened the cohort before keeps his subjects and their values."""

    volumes = noise(9)

    def table(self, first: int, stop: int) -> pd.DataFrame:
        return in_memory(self.volumes[first:stop], first=first, age=np.arange(first, stop) ** 2.0)

    def check(self, cohort: xr.Dataset, n: int) -> None:
        assert cohort["subject"].values.tolist() == [f"sub-{i}" for i in range(n)]
        np.testing.assert_array_equal(cohort["effect"].values, self.volumes[:n])
        np.testing.assert_array_equal(cohort["age"], np.arange(n) ** 2.0)
        assert (cohort["n_valid"] == n).all()

    @pytest.mark.usefixtures("small_chunks")
    @pytest.mark.parametrize("goal", ["append", "overwrite"])
    def test_before_during_and_after(self, tmp_path: Path, goal: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The chunk that is there in part is written anew meanwhile, or all of them are."""
        old = vx.stack(self.table(0, 4), tmp_path / "c", maps=MAPS)
        slope = np.linalg.lstsq(np.c_[np.ones(4), np.arange(4) ** 2.0], self.volumes[:4].reshape(4, -1))[0][1]
        effect = vx.contrast(vx.fit_glm(old, "~ age"), "age")["effect"]
        write: Any = vx.store.building.write_batch
        publish: Any = vx.store.layout.publish
        moments: list[str] = []

        def look(moment: str) -> None:
            moments.append(moment)
            self.check(old, 4)
            self.check(vx.open_cohort(tmp_path / "c"), 4)

        def writing(batch: Any) -> None:
            write(batch)
            look("written")

        def publishing(*arguments: Any, **named: Any) -> None:
            look("about to publish")
            publish(*arguments, **named)

        monkeypatch.setattr("voxstack.store.building.write_batch", writing)
        monkeypatch.setattr("voxstack.store.layout.publish", publishing)
        rows = self.table(4, 9) if goal == "append" else self.table(0, 9)[::-1]
        new = vx.stack(rows, tmp_path / "c", maps=MAPS, **{goal: True})
        assert moments == ["written"] * (2 if goal == "append" else 3) + ["about to publish"]
        self.check(new.sortby("subject"), 9)
        if goal == "append":
            self.check(old, 4)
            np.testing.assert_allclose(effect.values.ravel(), slope, rtol=1e-6, atol=1e-7)
            np.testing.assert_array_equal(old["effect"].isel(subject=[3, 0]), self.volumes[[3, 0]])
        else:
            with pytest.raises(StoreError, match="was replaced after it was opened"):
                effect.compute()

    @pytest.mark.usefixtures("small_chunks")
    def test_on_a_client(self, tmp_path: Path) -> None:
        with (
            LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
            Client(cluster),
        ):
            old = vx.stack(self.table(0, 4), tmp_path / "c", maps=MAPS)
            self.check(old, 4)
            vx.stack(self.table(4, 5), tmp_path / "c", maps=MAPS, append=True)
            new = vx.stack(self.table(5, 9), tmp_path / "c", maps=MAPS, append=True)
            self.check(old, 4)
            self.check(new, 9)
            vx.stack(self.table(2, 6), tmp_path / "c", maps=MAPS, overwrite=True)
            for reader in (old, new):
                with pytest.raises(StoreError, match="was replaced after it was opened"):
                    reader["effect"].compute()

    @pytest.mark.parametrize(("place", "times"), [("folder", 2), ("memory", 1), ("memory", 2)])
    def test_a_cohort_that_was_replaced_is_refused(self, tmp_path: Path, place: str, times: int) -> None:
        store = tmp_path / "c" if place == "folder" else f"memory://{tmp_path.name}/c"
        first = vx.stack(self.table(0, 4), store, maps=MAPS)
        second = vx.stack(self.table(4, 6), store, maps=MAPS, append=True)
        for number in range(times):
            new = vx.stack(self.table(0, 2 + number), store, maps=MAPS, overwrite=True)
        for reader in (first, second):
            with pytest.raises(StoreError, match="was replaced after it was opened"):
                reader["effect"].compute()
        self.check(new, 1 + times)

    @pytest.mark.parametrize("place", ["folder", "memory"])
    def test_a_reader_of_any_generation_goes_on(self, tmp_path: Path, place: str) -> None:
        store = tmp_path / "c" if place == "folder" else f"memory://{tmp_path.name}/c"
        readers = [vx.stack(self.table(0, 2), store, maps=MAPS)]
        readers += [vx.stack(self.table(stop - 2, stop), store, maps=MAPS, append=True) for stop in (4, 6)]
        for number, reader in enumerate(readers):
            self.check(reader, 2 * number + 2)

    @pytest.mark.parametrize("times", [1, 2])
    def test_opening_while_others_append(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        """Between reading the root and reading the labels that it names."""
        vx.stack(self.table(0, 4), tmp_path / "c", maps=MAPS)
        decoded: Any = voxstack.store.open.decode

        def late(flat: xr.Dataset) -> xr.Dataset:
            monkeypatch.setattr("voxstack.store.open.decode", decoded)
            for first in range(4, 4 + times):
                vx.stack(self.table(first, first + 1), tmp_path / "c", maps=MAPS, append=True)
            return decoded(flat)

        monkeypatch.setattr("voxstack.store.open.decode", late)
        self.check(vx.open_cohort(tmp_path / "c"), 4 + times)
