"""Subjects that a design leaves out, and voxels that too few subjects have."""

from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import voxstack as vx
from counted_reads import counted
from random_cohorts import SHAPE, cohort_of, rechunked
from small_cohorts import MAPS, noise, save
from voxstack.cli import cli
from voxstack.errors import DesignError, InputError, VoxstackWarning
from voxstack.kernels import least_squares

N = 20
seeds = st.integers(0, 2**32 - 1)
properties = settings(deadline=None, max_examples=15)
treatments = st.sampled_from(["complete", "available"])


def people(rng: np.random.Generator) -> pd.DataFrame:
    factors = {"sex": np.resize(["F", "M", "M"], N), "site": np.resize(["a", "b"], N)}
    table = pd.DataFrame({"age": rng.normal(50, 9, N), "iq": rng.normal(100, 15, N), **factors})
    return table.set_axis([f"s{i:02d}" for i in range(N)], axis=0)


def example(seed: int) -> tuple[np.random.Generator, pd.DataFrame, NDArray[np.float64], list[str]]:
    """A cohort of which some subjects lack a covariate of the model; they are listed."""
    rng = np.random.default_rng(seed)
    table = people(rng)
    lacking = rng.permutation(N)[: rng.integers(1, 7)]
    table.loc[table.index[lacking[::2]], "age"] = np.nan
    table.loc[table.index[lacking[1::2]], "sex"] = None
    table.loc[table.index[rng.permutation(N)[:3]], "iq"] = np.nan  # which the model does not use
    return rng, table, rng.normal(5, 1, (N, *SHAPE)), sorted(table.index[lacking])


def test_masks_of_subjects_that_are_left_out_do_not_count() -> None:
    """Cohorts with masks of their own, of which one lacks a covariate of the model: a fit and a test agree."""
    rng = np.random.default_rng(0)
    table, maps = people(rng), rng.normal(size=(N, *SHAPE))
    table.loc[table.index[N // 2 :], "age"] = np.nan
    one, other = cohort_of(maps[: N // 2], table[: N // 2]), cohort_of(maps[N // 2 :], table[N // 2 :])
    other["mask"][0] = False
    both = xr.concat([one, other], "subject", data_vars="all", coords="different", compat="equals", join="outer")
    design = vx.make_design(both, "~ age", drop_missing=True)
    fit, tested = vx.fit_glm(both, design), vx.permutation_test(both, design, "age", n_permutations=3)
    np.testing.assert_array_equal(fit["mask"], one["mask"])
    np.testing.assert_array_equal(tested["mask"], fit["mask"])


class TestDroppedSubjects:
    @given(seeds, treatments)
    @properties
    def test_a_fit_without_them_is_that_of_a_cohort_without_them(self, seed: int, missing: Any) -> None:
        rng, table, maps, dropped = example(seed)
        if missing == "available":
            maps[rng.random(maps.shape) < 0.1] = np.nan
        cohort = cohort_of(rechunked(maps, rng), table)
        kept = ~table.index.isin(dropped)
        without = cohort_of(maps[kept], table[kept])
        by_hand = np.column_stack([np.ones(kept.sum()), table["age"][kept], table["sex"][kept] == "M"]).astype(float)
        options = {"missing": missing, "drop_missing": True}
        fit, expected = vx.fit_glm(cohort, "~ age + sex", **options), vx.fit_glm(without, by_hand, missing=missing)
        assert fit.attrs["dropped_subjects"] == dropped
        assert fit.attrs["n_subjects"] == fit.sizes["subject"] == N - len(dropped)
        assert fit["subject"].values.tolist() == table.index[kept].tolist()
        np.testing.assert_array_equal(fit["design"], by_hand)
        result, reference = vx.contrast(fit, "age"), vx.contrast(expected, "x2")
        fit, expected, result, reference = dask.compute(fit, expected, result, reference)
        for name in ("beta", "residual_variance", "dof"):
            np.testing.assert_allclose(fit[name], expected[name], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(result["dof"], reference["dof"])
        np.testing.assert_allclose(result["stat"], reference["stat"], rtol=1e-8, atol=1e-10)
        for dataset in (fit, result):
            assert dataset.attrs["provenance"]["dropped_subjects"] == dropped

    def test_they_are_an_error_unless_asked_for(self) -> None:
        _, table, maps, dropped = example(1)
        cohort = cohort_of(maps, table)
        for make in (vx.make_design, vx.fit_glm):
            with pytest.raises(DesignError, match=rf"missing for {len(dropped)} subjects: {dropped[0]}.*drop_missing"):
                make(cohort, "~ age + sex")

    def test_a_covariate_that_the_formula_does_not_use_may_be_missing(self) -> None:
        _, table, maps, _ = example(2)
        assert table["iq"].isna().any()
        design = vx.make_design(cohort_of(maps, table), "~ site", drop_missing=True)
        assert design.attrs["dropped_subjects"] == []
        assert design["subject"].values.tolist() == table.index.tolist()
        assert "dropped_subjects" not in vx.make_design(cohort_of(maps, table), "~ site").attrs

    @given(seeds)
    @properties
    def test_a_design_that_says_who_was_dropped_fits_the_whole_cohort(self, seed: int) -> None:
        _, table, maps, dropped = example(seed)
        cohort = cohort_of(maps, table)
        design = vx.make_design(cohort, "~ center(age) + sex", drop_missing=True)
        assert design.attrs["dropped_subjects"] == dropped
        assert abs(design.sel(regressor="center(age)").values.mean()) < 1e-12
        fit = vx.fit_glm(cohort, design)
        direct = vx.fit_glm(cohort, "~ center(age) + sex", drop_missing=True)
        assert fit.attrs == direct.attrs
        np.testing.assert_array_equal(fit["beta"], direct["beta"])
        # A subject that is absent for no stated reason is an error, as is the same matrix without its list.
        lost = design["subject"].values[4]
        with pytest.raises(DesignError, match=rf"no row for {lost}\."):
            vx.fit_glm(cohort, design.drop_sel(subject=lost))
        with pytest.raises(DesignError, match=f"no row for {dropped[0]}"):
            vx.fit_glm(cohort, design.drop_attrs())

    def test_a_fit_lists_only_subjects_of_its_own_cohort(self) -> None:
        _, table, maps, dropped = example(3)
        cohort = cohort_of(maps, table)
        design = vx.make_design(cohort, "~ age + sex", drop_missing=True)
        some = cohort.isel(subject=np.flatnonzero(cohort["subject"] != dropped[0]))
        assert vx.fit_glm(some, design).attrs["dropped_subjects"] == dropped[1:]

    def test_rows_of_a_matrix_with_missing_values(self) -> None:
        _, table, maps, _ = example(4)
        matrix = table[["iq"]].assign(one=1.0)
        lacking = table.index[table["iq"].isna()].tolist()
        cohort = cohort_of(maps, table)
        with pytest.raises(DesignError, match=rf"in iq for {lacking[0]}"):
            vx.fit_glm(cohort, matrix)
        fit = vx.fit_glm(cohort, matrix, drop_missing=True)
        assert fit.attrs["dropped_subjects"] == lacking
        np.testing.assert_array_equal(fit["design"], matrix.drop(lacking))
        matrix.loc["s00", "iq"] = np.inf
        with pytest.raises(DesignError, match="infinite values in iq for s00"):
            vx.fit_glm(cohort, matrix, drop_missing=True)
        with pytest.raises(DesignError, match="no row for s19"):
            vx.fit_glm(cohort, matrix.drop("s19"), drop_missing=True)
        with pytest.raises(DesignError, match="No subject is left"):
            vx.fit_glm(cohort, matrix * np.nan, drop_missing=True)

    def test_no_one_left(self) -> None:
        _, table, maps, _ = example(5)
        with pytest.raises(DesignError, match="No subject is left: the covariate age"):
            vx.fit_glm(cohort_of(maps, table.assign(age=np.nan)), "~ age", drop_missing=True)

    def test_too_few_left(self) -> None:
        _, table, maps, _ = example(5)
        table.loc[table.index[2:], "age"] = np.nan
        with pytest.raises(DesignError, match=r"rank 2 and the cohort 2 subjects"):
            vx.fit_glm(cohort_of(maps, table), "~ age", drop_missing=True)

    @pytest.mark.parametrize("categories", [None, ["b", "c", "a"]])
    def test_a_level_that_loses_all_of_its_subjects_is_told_and_leaves_no_column(self, categories: Any) -> None:
        table = people(np.random.default_rng(6))
        table["site"] = np.resize(["a", "b", "a", "c"], N)
        table.loc[table["site"] == "b", "age"] = np.nan
        table["site"] = table["site"] if categories is None else pd.Categorical(table["site"], categories)
        with pytest.warns(VoxstackWarning, match="level b of 'site' no subject is left"):
            design = vx.make_design(table, "~ age + site", drop_missing=True)
        reference, other = ("a", "c") if categories is None else ("c", "a")
        assert design["regressor"].values.tolist() == ["Intercept", "age", f"site[T.{other}]"]
        expected = table["site"][design["subject"].values] != reference
        np.testing.assert_array_equal(design.sel(regressor=f"site[T.{other}]"), expected)

    def test_their_maps_cost_no_tasks_and_each_block_is_read_once(self) -> None:
        table = people(np.random.default_rng(7))
        maps = np.random.default_rng(7).normal(size=(N, *SHAPE))
        table.iloc[[0, 8, 9, 10, 11, 17], 0] = np.nan  # one chunk of subjects has none left
        lazy, reads = counted(da.from_array(maps, chunks=(4, 2, 2, 2)))
        cohort = cohort_of(lazy, table)
        fit = vx.fit_glm(cohort, "~ age", drop_missing=True)
        everyone = vx.fit_glm(cohort, "~ 1")
        assert len(fit["beta"].__dask_graph__()) == len(everyone["beta"].__dask_graph__())
        fit = fit.compute()
        assert set(reads.values()) == {1}
        kept = table["age"].notna().to_numpy()
        X = np.column_stack([np.ones(kept.sum()), table["age"][kept]])
        expected = np.linalg.lstsq(X, maps[kept].reshape(kept.sum(), -1))[0]
        np.testing.assert_allclose(fit["beta"].values.reshape(2, -1), expected, rtol=1e-9, atol=1e-11)


class TestMinSubjects:
    @given(seeds, st.sampled_from([np.float32, np.float64]))
    @properties
    def test_voxels_of_fewer_subjects_are_nan_and_others_are_as_they_were(self, seed: int, dtype: Any) -> None:
        rng = np.random.default_rng(seed)
        table = people(rng)
        maps = rng.normal(3, 1, (N, *SHAPE)).astype(dtype)
        maps[rng.random(maps.shape) < rng.choice([0, 0.3, 0.6], SHAPE)] = np.nan
        least = int(rng.integers(1, N + 1))
        cohort = cohort_of(rechunked(maps, rng), table)
        fit = vx.fit_glm(cohort, "~ age + sex", missing="available", min_subjects=least)
        result = vx.contrast(fit, {"age": "age", "F": ["age", "sex[T.M]"]})
        fit, result = dask.compute(fit, result)
        X = fit["design"].values
        for voxel in np.ndindex(SHAPE):
            there = np.isfinite(maps[:, *voxel])
            n = int(there.sum())
            beta = fit["beta"].values[:, *voxel]
            if n < least or n <= 3 or np.linalg.matrix_rank(X[there]) < 3:
                values = [fit[name].values[..., *voxel] for name in fit.data_vars if name != "design"]
                values += [result[name].values[..., *voxel] for name in result.data_vars]
                assert all(np.isnan(value).all() for value in values)
                assert np.isnan(result["dof"].values[voxel])
                continue
            expected, rss, *_ = np.linalg.lstsq(X[there], maps[there, *voxel].astype(float))
            np.testing.assert_allclose(beta, expected, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(fit["residual_variance"].values[voxel], rss[0] / (n - 3), rtol=1e-6)
            assert fit["dof"].values[voxel] == result["dof"].values[voxel] == n - 3
        assert fit.attrs["min_subjects"] == least
        assert result.attrs["provenance"]["min_subjects"] == fit.attrs["provenance"]["min_subjects"] == least

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"min_subjects": 5}, r"min_subjects=5 goes with missing='available'"),
            ({"min_subjects": 0, "missing": "available"}, "whole number of at least 1, not 0"),
            ({"min_subjects": -3, "missing": "available"}, "at least 1, not -3"),
            ({"min_subjects": 2.5, "missing": "available"}, r"not 2\.5"),
            ({"min_subjects": True, "missing": "available"}, "not True"),
            ({"min_subjects": "all", "missing": "available"}, "not 'all'"),
            ({"min_subjects": N + 1, "missing": "available"}, f"is {N + 1}, but the model has only {N} subjects"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, options: dict[str, Any], says: str) -> None:
        table = people(np.random.default_rng(0))
        with pytest.raises(InputError, match=says):
            vx.fit_glm(cohort_of(np.ones((N, *SHAPE)), table), "~ age", **options)

    def test_dropped_subjects_do_not_count(self) -> None:
        _, table, maps, dropped = example(8)
        cohort, n = cohort_of(maps, table), N - len(dropped)
        options: dict[str, Any] = {"missing": "available", "drop_missing": True}
        fit = vx.fit_glm(cohort, "~ age + sex", min_subjects=np.int64(n), **options)
        assert np.isfinite(fit["beta"].values).all()
        with pytest.raises(InputError, match=f"only {n} subjects"):
            vx.fit_glm(cohort, "~ age + sex", min_subjects=n + 1, **options)


class TestSharedWay:
    @given(seeds)
    @properties
    def test_voxels_that_miss_nobody_are_bit_identical_to_complete_cases(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        table = people(rng)
        maps = rng.normal(1e3, 1, (N, *SHAPE))
        maps[rng.random(maps.shape) < rng.choice([0, 0.2], SHAPE)] = np.nan
        cohort = cohort_of(rechunked(maps, rng), table)
        complete, available = (
            vx.fit_glm(cohort, "~ age * sex", missing=missing).compute() for missing in ("complete", "available")
        )
        whole = np.isfinite(maps).all(axis=0)
        for name in ("beta", "residual_variance", "dof"):
            np.testing.assert_array_equal(available[name].values[..., whole], complete[name].values[..., whole])
        for voxel in np.argwhere(whole):
            np.testing.assert_array_equal(available["beta_covariance"][..., *voxel], complete["beta_covariance"])

    def test_only_voxels_that_miss_somebody_are_reduced_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        one_by_one, merged = [], []
        reduce_incomplete, merge_incomplete = least_squares._reduce_incomplete, least_squares._merge_incomplete

        def reduced(y: Any, rows: Any, use_pivot: Any, voxels: Any, *others: Any) -> None:
            one_by_one.append(voxels.size)
            reduce_incomplete(y, rows, use_pivot, voxels, *others)

        def merge(R: Any, *others: Any) -> None:
            merged.append(len(R))
            merge_incomplete(R, *others)

        monkeypatch.setattr(least_squares, "_reduce_incomplete", reduced)
        monkeypatch.setattr(least_squares, "_merge_incomplete", merge)
        table = people(np.random.default_rng(9))
        maps = np.random.default_rng(9).normal(size=(N, *SHAPE))
        maps[2, 0] = np.nan  # 4 voxels of the first chunk of subjects
        maps[15, 0, 0, 0] = maps[16, 2, 1, 1] = np.nan  # 2 of the last, one of which was among these
        lazy = da.from_array(maps, chunks=(5, *SHAPE))
        vx.fit_glm(cohort_of(lazy, table), "~ age", missing="available")["beta"].compute(scheduler="sync")
        assert sorted(one_by_one) == [2, 4]
        assert sum(merged) == 4 + 4 + 5  # with the second and third chunk 4, with the last one 5

        one_by_one.clear(), merged.clear()
        lazy = da.from_array(np.nan_to_num(maps), chunks=(5, *SHAPE))
        vx.fit_glm(cohort_of(lazy, table), "~ age", missing="available")["beta"].compute(scheduler="sync")
        assert not one_by_one
        assert not merged


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    maps = noise(12)
    maps[:9, 0, 0, 0] = np.nan
    table = save(folder, maps).assign(age=np.arange(12.0) ** 1.5, site=np.resize(["a", "b"], 12))
    table.loc[[1, 7], "age"] = np.nan
    table["path"] = [str(folder / path) for path in table["path"]]
    vx.stack(table, folder / "c.zarr", maps=MAPS, mask=0.2)
    return folder / "c.zarr"


class TestCommandLine:
    def fit(self, store: Path, folder: Path, *options: str) -> Result:
        arguments = ["fit", str(store), "--output", str(folder), *options]
        return CliRunner(env={"COLUMNS": "200"}).invoke(cli, arguments)

    def test_says_who_is_left_out_and_describes_the_design(self, store: Path, tmp_path: Path) -> None:
        told = self.fit(store, tmp_path, "--design", "~ age + site", "--contrast", "age", "--drop-missing")
        assert told.exit_code == 0, told.output
        assert told.stderr.splitlines()[0] == "Left out 2 subjects for a missing covariate: sub-01, sub-07"
        design = vx.make_design(vx.open_cohort(store), "~ age + site", drop_missing=True)
        lines = told.stdout.splitlines()
        assert lines[0] == f"10 subjects, condition number {design.attrs['condition_number']:.4g}"
        rows = [line.rsplit(maxsplit=1) for line in lines[2:5]]
        inflation = design["variance_inflation"].values[1:]
        assert rows == [["Intercept", "-"], ["age", f"{inflation[0]:.4g}"], ["site[T.b]", f"{inflation[1]:.4g}"]]
        results = vx.open_results(tmp_path / "results.zarr")
        assert results.attrs["provenance"]["dropped_subjects"] == ["sub-01", "sub-07"]
        assert results["dof"].item() == 7

    def test_quiet_still_says_who_is_left_out(self, store: Path, tmp_path: Path) -> None:
        told = self.fit(store, tmp_path, "--design", "~ age", "--contrast", "age", "--drop-missing", "--quiet")
        assert told.stdout == ""
        assert "sub-01, sub-07" in told.stderr

    def test_min_subjects(self, store: Path, tmp_path: Path) -> None:
        options = ("--design", "~ site", "--contrast", "site[T.b]", "--missing", "available")
        means = []
        for least in ("3", "4"):
            told = self.fit(store, tmp_path / least, *options, "--min-subjects", least)
            assert told.exit_code == 0, told.output
            means.append(vx.open_results(tmp_path / least / "results.zarr")["effect"].values[0, 0, 0, 0])
        assert np.isfinite(means[0])
        assert np.isnan(means[1])

    def test_terms_with_commas_as_f_contrasts(self, store: Path, tmp_path: Path) -> None:
        options = ("--design", "~ bs(age, df=4) + site", "--drop-missing", "--f-contrast", "age=bs(age, df=4)")
        told = self.fit(store, tmp_path, *options, "--f-contrast", "all=bs(age, df=4), site")
        assert told.exit_code == 0, told.output
        results = vx.open_results(tmp_path / "results.zarr")
        assert results["dof_num"].values.tolist() == [4, 5]
        assert (tmp_path / "contrast-age_stat-F_statmap.nii.gz").exists()
