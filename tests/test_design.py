"""From covariates to a design matrix."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from voxstack.errors import DesignError, InputError


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
    with pytest.raises(DesignError, match=r"missing for 1 subjects: s3"):
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
