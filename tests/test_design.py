"""From covariates to a design matrix."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import voxstack as vx
from voxstack.errors import DesignError, InputError, VoxstackWarning

seeds = st.integers(0, 2**32 - 1)


def cohort(table: pd.DataFrame) -> xr.Dataset:
    maps = np.random.default_rng(0).standard_normal((len(table), 2, 2, 2))
    return vx.from_arrays({"effect": maps}, affine=np.eye(4), participants=table)


@pytest.fixture
def table() -> pd.DataFrame:
    site = pd.Categorical(list("abcabcab"), categories=["c", "b", "a"])
    return pd.DataFrame({"age": np.arange(8.0) ** 2, "site": site}, index=[f"s{i}" for i in range(8)])


def test_levels_keep_their_order_from_table_to_cohort(table: pd.DataFrame) -> None:
    direct, through = vx.make_design(table, "~ site"), vx.make_design(cohort(table), "~ site")
    assert through["regressor"].values.tolist() == ["Intercept", "site[T.b]", "site[T.a]"]
    np.testing.assert_array_equal(direct, through)


def test_levels_keep_their_order_through_a_store(table: pd.DataFrame, tmp_path: Path) -> None:
    small = vx.simulate_cohort(tmp_path / "cohort", n_subjects=8, resolution=18)
    paths = pd.read_csv(small / "participants.tsv", sep="\t")["effect_path"]
    listed = table.assign(path=[str(small / path) for path in paths]).rename_axis("participant_id")
    stored = vx.stack(listed, tmp_path / "cohort.zarr", maps={"effect": "path"})
    assert vx.make_design(stored, "~ site")["regressor"].values.tolist() == ["Intercept", "site[T.b]", "site[T.a]"]


@pytest.mark.parametrize("formula", ["", " ", "~", "~ "])
def test_an_empty_formula_is_refused(table: pd.DataFrame, formula: str) -> None:
    with pytest.raises(DesignError, match="empty"):
        vx.make_design(table, formula)


@pytest.mark.parametrize(
    "formula", ["~ site", "~ center(age)", "~ poly(age, 2)", "~ np.log(age + 1)", "~ bs(age, df=4)"]
)
def test_missing_covariates_name_their_subjects(table: pd.DataFrame, formula: str) -> None:
    table.loc["s3", ["age", "site"]] = np.nan
    with pytest.raises(DesignError, match=r"missing for 1 subject: s3"):
        vx.make_design(table, formula)


def test_concatenated_cohorts_are_fitted_where_both_have_data(table: pd.DataFrame) -> None:
    one, other = cohort(table), cohort(table.set_axis([f"t{i}" for i in range(8)], axis=0))
    one["mask"][0, 0, 0] = False
    both = xr.concat([one, other], "subject", data_vars="all", coords="different", compat="equals", join="outer")
    beta = vx.fit_glm(both, "~ age").beta.isel(regressor=0).values
    assert np.isnan(beta[0, 0, 0])
    assert np.isfinite(beta).sum() == 7


def test_a_subject_counts_once(table: pd.DataFrame) -> None:
    twice = cohort(table).isel(subject=[0, 0, 1, 2, 3, 4])
    with pytest.raises(InputError, match="s0 more than once"):
        vx.fit_glm(twice, "~ age")


def by_regression(X: NDArray[np.float64], column: int) -> float:
    """The definition: R2 of a column's regression on the others, about the mean where these span the constant."""
    return float(1 / (1 - sm.OLS(X[:, column], np.delete(X, column, axis=1)).fit().rsquared))


class TestDiagnostics:
    @given(seeds, st.sampled_from(["~ a + b + c", "~ 0 + a + b + c", "~ C(g) * a + b", "~ 0 + C(g) + a"]))
    @settings(deadline=None, max_examples=40)
    def test_they_equal_those_of_statsmodels_and_numpy(self, seed: int, formula: str) -> None:
        rng = np.random.default_rng(seed)
        n = int(rng.integers(12, 60))
        columns = rng.normal(rng.uniform(-3, 3, 3), 10 ** rng.uniform(-3, 3, 3), (n, 3)) @ rng.normal(size=(3, 3))
        people = pd.DataFrame(columns, columns=list("abc")).assign(g=np.resize(["p", "q", "r"], n))
        design = vx.make_design(people, formula)
        X = design.values
        unit = X / np.linalg.norm(X, axis=0)
        condition = np.linalg.cond(unit)
        np.testing.assert_allclose(design.attrs["condition_number"], condition, rtol=1e-13 * condition)
        for number, regressor in enumerate(design["regressor"].values):
            found = design["variance_inflation"].sel(regressor=regressor).item()
            if regressor == "Intercept":
                assert np.isnan(found)
                continue
            np.testing.assert_allclose(found, by_regression(unit * np.sqrt(n), number), rtol=1e-11 * condition**2)

    def test_the_units_and_means_of_columns_cost_no_digits(self) -> None:
        z = np.array([-3, -2, -1, -1, 0, 0, 1, 2, 2, 2.0])
        w = z + np.array([1, 0, -1, 0, 1, 0, 0, -1, 0, 0])
        assert z.sum() == w.sum() == 0
        exact = 1 / (1 - (z @ w) ** 2 / (z @ z) / (w @ w))
        for mean, unit in ((0, 1), (2.0**20, 2.0**-60), (-(2.0**23), 2.0**70)):
            matrix = np.column_stack([np.ones(10), (z + mean) * unit, w / unit])
            design = vx.make_design(pd.DataFrame(index=range(10)), matrix)
            tolerance = 1e-14 * max(1, abs(mean))
            np.testing.assert_allclose(design["variance_inflation"], [np.nan, exact, exact], rtol=tolerance)

    def test_raw_powers_whose_squared_matrix_is_singular_in_double_precision(self) -> None:
        x = np.linspace(100, 101, 40)
        matrix = np.column_stack([np.ones(40), x, x**2, x**3])
        design = vx.make_design(pd.DataFrame(index=range(40)), matrix)
        assert design.attrs["condition_number"] > 1e8
        # Of x^3 on 1, x, x^2 what is left is the monic polynomial of degree 3, computed here without cancellation.
        powers = np.vander(x - 100.5, 4, increasing=True)
        rest = powers[:, 3] - powers[:, :3] @ np.linalg.lstsq(powers[:, :3], powers[:, 3])[0]
        exact = np.sum((x**3 - (x**3).mean()) ** 2) / (rest @ rest)
        np.testing.assert_allclose(design["variance_inflation"].values[3], exact, rtol=1e-5)

    def test_columns_that_depend_on_each_other_are_infinite_and_others_are_as_without_them(self) -> None:
        rng = np.random.default_rng(3)
        people = pd.DataFrame(rng.normal(size=(30, 3)), columns=list("abc"))
        frame = people.assign(one=1.0, both=people["a"] - 2 * people["b"], nought=0.0)
        design = vx.make_design(people, frame)
        inflation = design["variance_inflation"].to_series()
        assert np.isinf(inflation[["a", "b", "both", "nought"]]).all()
        assert np.isnan(inflation["one"])
        reference = by_regression(frame[["a", "b", "c", "one"]].to_numpy(), 2)
        np.testing.assert_allclose(inflation["c"], reference)
        assert design.attrs["condition_number"] == np.inf

    def test_a_constant_that_others_add_up_to_is_no_number(self) -> None:
        people = pd.DataFrame({"g": np.resize(["p", "q"], 9), "age": np.arange(9.0) ** 2})
        frame = vx.make_design(people, "~ 0 + C(g) + age").to_pandas().assign(one=2.0)
        inflation = vx.make_design(people, frame)["variance_inflation"].to_series()
        assert np.isnan(inflation["one"])
        assert np.isinf(inflation[["C(g)[p]", "C(g)[q]"]]).all()
        reference = by_regression(frame[["C(g)[p]", "age", "one"]].to_numpy(), 1)
        np.testing.assert_allclose(inflation["age"], reference)

    def test_a_fit_carries_them_also_where_they_are_infinite(self, table: pd.DataFrame, tmp_path: Path) -> None:
        frame = vx.make_design(table, "~ age + site").to_pandas().assign(twice=2 * table["age"])
        with pytest.warns(VoxstackWarning, match="twice"):
            fit = vx.fit_glm(cohort(table), frame)
        vx.save_results(fit, tmp_path / "fit.zarr")
        assert "Infinity" not in (tmp_path / "fit.zarr" / "zarr.json").read_text()
        for dataset in (fit, vx.open_results(tmp_path / "fit.zarr")):
            assert dataset["condition_number"].item() == np.inf
            infinite = np.isinf(dataset["variance_inflation"])
            assert dataset["regressor"].values[infinite].tolist() == ["age", "twice"]
            assert dataset["design"].dims == ("subject", "regressor")

    def test_they_are_those_of_the_rows_that_are_used(self, table: pd.DataFrame) -> None:
        design = vx.make_design(table, "~ age")
        some = cohort(table).isel(subject=[0, 1, 4, 7])
        found = vx.fit_glm(some, design)["condition_number"].item()
        X = design.values[[0, 1, 4, 7]]
        np.testing.assert_allclose(found, np.linalg.cond(X / np.linalg.norm(X, axis=0)))


def test_a_single_column_is_no_design(table: pd.DataFrame) -> None:
    design = vx.make_design(cohort(table), "~ age")
    with pytest.raises(DesignError, match="dimensions"):
        vx.make_design(cohort(table), design.sel(regressor="age"))


class TestFormulaOfAMatrix:
    """A design says its formula as long as it is what the formula gave: results and reports repeat it."""

    def fitted(self, table: pd.DataFrame, design: xr.DataArray) -> object:
        return vx.fit_glm(cohort(table), design).attrs["provenance"].get("formula")

    def test_it_is_kept_by_what_does_not_change_the_matrix(self, table: pd.DataFrame) -> None:
        design = vx.make_design(cohort(table), "~ age + site")
        turned = design.isel(subject=slice(None, None, -1), regressor=[2, 0, 1, 3])
        again = vx.make_design(cohort(table), design)
        for same in (design, design.copy(deep=True), turned, again, vx.make_design(cohort(table), again)):
            assert self.fitted(table, same) == "~ age + site"
        xr.testing.assert_identical(again, design)

    def test_another_matrix_has_lost_it(self, table: pd.DataFrame) -> None:
        design = vx.make_design(cohort(table), "~ age + site")
        others = [
            design.isel(regressor=[0, 1]),
            design.copy(data=design.values[::-1]),
            design.assign_coords(regressor=["Intercept", "a", "b", "c"]),
            (2 * design).assign_attrs(design.attrs),
            xr.DataArray(design.values, design.coords, attrs={"formula": "~ age"}),
        ]
        for other in others:
            assert self.fitted(table, other) is None
            assert "formula" not in vx.make_design(cohort(table), other).attrs
