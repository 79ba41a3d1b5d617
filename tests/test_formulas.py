"""Splines, polynomials and codings of factors by their definitions, the contrasts of their regressors, and the way of
covariates through a store."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import BSpline, CubicSpline

import voxstack as vx
from small_cohorts import MAPS, noise, save
from voxstack.errors import DesignError, InputError, VoxstackWarning

Float = NDArray[np.float64]

N = 24
LEVELS = {"dose": ["none", "low", "mid", "high"], "site": ["b", "a", "c"], "year": [2021, 2019, 2020]}
seeds = st.integers(0, 2**32 - 1)


def people(seed: int = 0) -> pd.DataFrame:
    """Covariates of every type; those of the second group are missing for some."""
    rng = np.random.default_rng(seed)
    whole = {
        "age": rng.uniform(20, 80, N),
        "text": np.resize(["M", "F", "F", "M", "F"], N),
        "strings": pd.array(np.resize(["x", "y"], N).tolist(), dtype="string"),
        "flag": np.resize([True, False, False], N),
        "visit": np.resize([3, 1, 2], N),
        "nullable": pd.array(np.resize([3, 1, 2], N).tolist(), dtype="Int64"),
        "site": pd.Categorical(np.resize(["a", "b", "c", "b"], N), LEVELS["site"]),
        "dose": pd.Categorical(np.resize(LEVELS["dose"], N), LEVELS["dose"], ordered=True),
        "year": pd.Categorical(np.resize([2019, 2020, 2021], N), LEVELS["year"]),
        "half": pd.Categorical(np.resize([0.5, 1.0], N), [1.0, 0.5]),
        "truth": pd.Categorical(np.resize([True, False], N), [True, False]),
        "unused": pd.Categorical(np.resize(["q", "p"], N), ["z", "q", "y", "p"]),
    }
    names = ("age", "text", "site", "dose", "year", "half", "unused")
    some = {f"some_{name}": pd.Series(whole[name]) for name in names}
    some |= {"some_int": pd.Series(whole["nullable"]), "some_flag": pd.Series(whole["flag"]).astype("boolean")}
    some["some_words"] = pd.Series(whole["text"], dtype="str")
    for column in some.values():
        column[rng.choice(N, 3, replace=False)] = None
    return pd.DataFrame(whole | some).set_axis([f"sub-{i:02d}" for i in range(N)], axis=0)


TABLE = people()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The covariates with maps, stacked and opened again."""
    folder = tmp_path_factory.mktemp("stored")
    files = save(folder, noise(N)).set_index("participant_id")
    assert files.index.tolist() == TABLE.index.tolist()
    paths = [str(folder / path) for path in files["path"]]
    vx.stack(TABLE.assign(path=paths).rename_axis("participant_id"), folder / "cohort.zarr", maps=MAPS)
    return vx.open_cohort(folder / "cohort.zarr")


def quantile_knots(x: Float, inner: int) -> Float:
    return np.quantile(x, np.linspace(0, 1, inner + 2))


def b_spline(x: Float, df: int, degree: int) -> Float:
    """All basis functions but the first, on knots at quantiles (de Boor 1978)."""
    knots = np.pad(quantile_knots(x, df - degree), degree, mode="edge")
    return BSpline.design_matrix(x, knots, degree).toarray()[:, 1:]


def cardinal(x: Float, knots: Float, ends: str) -> Float:
    """Cubic splines that are 1 at one knot and 0 at the others: natural ones, or periodic ones."""
    values = np.eye(len(knots))
    if ends == "periodic":
        values = values[:, :-1]
        values[-1] = values[0]
    return CubicSpline(knots, values, bc_type=ends)(x)


def orthogonal(x: Any, degree: int) -> Float:
    """Orthonormal polynomials without the constant, with positive leading coefficients."""
    Q, R = np.linalg.qr(np.vander(np.asarray(x, float) - np.mean(x), degree + 1, increasing=True))
    return (Q * np.sign(np.diag(R)))[:, 1:]


AGE = TABLE["age"].to_numpy()
SITE = TABLE["site"].cat.codes.to_numpy()  # of b, a, c
DOSE = TABLE["dose"].cat.codes.to_numpy()
SEX = (TABLE["text"] == "M").to_numpy(float)

# Each formula, the names of its regressors but for the intercept, and what they are by definition.
DEFINED: dict[str, tuple[list[str], Float]] = {
    "bs(age, df=4)": ([f"bs(age, df=4)[{i}]" for i in (1, 2, 3, 4)], b_spline(AGE, 4, 3)),
    "bs(age, df=5, degree=2)": ([f"bs(age, df=5, degree=2)[{i}]" for i in range(1, 6)], b_spline(AGE, 5, 2)),
    "center(age)": (["center(age)"], AGE[:, None] - AGE.mean()),
    "scale(age)": (["scale(age)"], (AGE[:, None] - AGE.mean()) / AGE.std(ddof=1)),
    "poly(age, 3)": ([f"poly(age, 3)[{i}]" for i in (1, 2, 3)], orthogonal(AGE, 3)),
    "C(site)": (["C(site)[T.a]", "C(site)[T.c]"], np.array([[0, 0], [1, 0], [0, 1]])[SITE]),
    "C(site, contr.treatment(base='c'))": (
        [f"C(site, contr.treatment(base='c'))[T.{level}]" for level in "ba"],
        np.array([[1, 0], [0, 1], [0, 0]])[SITE],
    ),
    "C(site, contr.SAS)": (
        ["C(site, contr.SAS)[T.b]", "C(site, contr.SAS)[T.a]"],
        np.array([[1, 0], [0, 1], [0, 0]])[SITE],
    ),
    "C(site, contr.sum)": (
        ["C(site, contr.sum)[S.b]", "C(site, contr.sum)[S.a]"],
        np.array([[1, 0], [0, 1], [-1, -1]])[SITE],
    ),
    "C(dose, contr.helmert)": (
        [f"C(dose, contr.helmert)[H.{level}]" for level in ("low", "mid", "high")],
        np.array([[-1, -1, -1], [1, -1, -1], [0, 2, -1], [0, 0, 3]])[DOSE],
    ),
    "C(dose, contr.diff)": (
        [f"C(dose, contr.diff)[D.{level}]" for level in ("low", "mid", "high")],
        np.array([[-3, -2, -1], [1, -2, -1], [1, 2, -1], [1, 2, 3]])[DOSE] / 4,
    ),
    "C(dose, contr.poly)": ([f"C(dose, contr.poly)[.{power}]" for power in "LQC"], orthogonal(range(4), 3)[DOSE]),
    "C(dose, contr.poly(scores=[0, 5, 10, 40]))": (
        [f"C(dose, contr.poly(scores=[0, 5, 10, 40]))[.{power}]" for power in "LQC"],
        orthogonal([0, 5, 10, 40], 3)[DOSE],
    ),
    "C(text, contr.poly, levels=['M', 'F'])": (
        ["C(text, contr.poly, levels=['M', 'F'])[.L]"],
        orthogonal([0, 1], 1)[1 - SEX.astype(int)],
    ),
}


@pytest.mark.parametrize("term", DEFINED)
def test_regressors_are_what_they_are_by_definition(stored: xr.Dataset, term: str) -> None:
    names, expected = DEFINED[term]
    design = vx.make_design(stored, f"~ {term}")
    assert design["regressor"].values.tolist() == ["Intercept", *names]
    assert design["term"].values.tolist() == ["Intercept", *[term] * len(names)]
    np.testing.assert_allclose(design.values[:, 1:], expected, atol=1e-12)


@pytest.mark.parametrize("function", ["cr", "cc"])
@given(seed=seeds, df=st.integers(3, 6))
@settings(deadline=None, max_examples=15)
def test_natural_and_cyclic_splines_interpolate_at_their_knots(function: str, seed: int, df: int) -> None:
    x = np.random.default_rng(seed).uniform(-3, 9, 40)
    table = pd.DataFrame({"age": x}, index=[f"s{i}" for i in range(40)])
    natural = function == "cr"
    expected = cardinal(x, quantile_knots(x, df - 2 if natural else df - 1), "natural" if natural else "periodic")
    free = vx.make_design(table, f"~ 0 + {function}(age, df={df})")
    np.testing.assert_allclose(free, expected, atol=1e-9)

    # Centred, they go with an intercept and span the same functions.
    formula = f"~ {function}(age, df={df - 1}, constraints='center')"
    centred = vx.make_design(table, formula)
    np.testing.assert_allclose(centred.values[:, 1:].mean(axis=0), 0, atol=1e-12)
    assert np.linalg.matrix_rank(centred) == np.linalg.matrix_rank(np.hstack([centred, expected])) == df


@given(seed=seeds)
@settings(deadline=None, max_examples=15)
def test_what_is_computed_of_all_subjects_is_computed_of_the_subjects_of_the_design(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(N, 18, replace=False))
    cohort = vx.from_arrays({"effect": rng.normal(size=(N, 1, 1, 2))}, affine=np.eye(4), participants=TABLE)
    design = vx.make_design(
        cohort.isel(subject=chosen), "~ center(age) + bs(age, df=4) + poly(visit, 2) + C(dose, contr.sum)"
    )
    age = AGE[chosen]
    np.testing.assert_allclose(design.sel(regressor="center(age)"), age - age.mean(), atol=1e-12)
    np.testing.assert_allclose(design.values[:, 2:6], b_spline(age, 4, 3), atol=1e-12)
    polynomials = design.sel(regressor=["poly(visit, 2)[1]", "poly(visit, 2)[2]"])
    np.testing.assert_allclose(polynomials, orthogonal(TABLE["visit"].to_numpy()[chosen], 2), atol=1e-12)


class TestContrasts:
    @pytest.mark.parametrize("term", DEFINED)
    def test_regressors_can_be_named_in_contrasts(self, stored: xr.Dataset, term: str) -> None:
        names, _ = DEFINED[term]
        fit = vx.fit_glm(stored, f"~ {term} + flag")
        result = vx.contrast(fit, {"one": names[-1], "sum": f"{names[0]} - 2 * ({names[-1]} + flag) / 4"})
        first, last = (fit.beta.sel(regressor=name).values for name in (names[0], names[-1]))
        np.testing.assert_allclose(result.effect.sel(contrast="one"), last, atol=1e-12)
        expected = first - (last + fit.beta.sel(regressor="flag").values) / 2
        np.testing.assert_allclose(result.effect.sel(contrast="sum"), expected, atol=1e-12)

    @pytest.mark.parametrize("term", DEFINED)
    def test_a_term_stands_for_the_f_test_of_all_its_regressors(self, stored: xr.Dataset, term: str) -> None:
        names, columns = DEFINED[term]
        result = vx.contrast(vx.fit_glm(stored, f"~ flag + {term}"), {"term": term, "both": [term, "flag"]})
        y = stored.effect.values.reshape(N, -1).astype(float)
        constant, flag = np.ones((N, 1)), TABLE[["flag"]].to_numpy(float)

        def rss(*parts: Float) -> Float:
            X = np.hstack(parts)
            return ((y - X @ np.linalg.lstsq(X, y)[0]) ** 2).sum(axis=0)

        full, q = rss(constant, flag, columns), len(names)
        by_hand = {"term": (rss(constant, flag), q), "both": (rss(constant), q + 1)}
        for name, (reduced, rank) in by_hand.items():
            found = result.sel(contrast=name)
            if term in names and name == "term":  # the name of a regressor: its t test
                assert found.stat_type == "t"
                np.testing.assert_allclose(found.stat.values.ravel() ** 2, (reduced - full) / full * (N - 2 - q))
                continue
            assert (found.stat_type, found.dof_num, found.dof) == ("F", rank, N - 2 - q)
            np.testing.assert_allclose(found.stat.values.ravel(), (reduced - full) / rank / (full / (N - 2 - q)))

    def test_terms_of_interactions_and_of_factors_with_two_levels(self, stored: xr.Dataset) -> None:
        fit = vx.fit_glm(stored, "~ C(site, contr.sum) * text + age")
        site = "C(site, contr.sum)"
        assert sorted(set(fit["term"].values)) == [site, f"{site}:text", "Intercept", "age", "text"]
        result = vx.contrast(fit, [f"{site}:text", "text", "age", "Intercept"])
        assert result["stat_type"].values.tolist() == ["F", "F", "t", "t"]
        assert result["dof_num"].values.tolist() == [2, 1, 1, 1]
        single = vx.contrast(fit, "text[T.M]")
        np.testing.assert_allclose(result.stat.sel(contrast="text"), single.stat.isel(contrast=0) ** 2)

    def test_terms_are_kept_by_a_design_and_by_a_stored_fit(self, stored: xr.Dataset, tmp_path: Path) -> None:
        direct = vx.fit_glm(stored, "~ bs(age, df=4) + flag")
        handed = vx.fit_glm(stored, vx.make_design(stored, "~ bs(age, df=4) + flag"))
        vx.save_results(direct, tmp_path / "fit.zarr")
        reopened = vx.open_results(tmp_path / "fit.zarr")
        expected = vx.contrast(direct, "bs(age, df=4)").stat.values
        assert np.isfinite(expected).all()
        for fit in (handed, reopened, direct.isel(regressor=slice(None, None, -1))):
            np.testing.assert_allclose(vx.contrast(fit, "bs(age, df=4)").stat, expected, rtol=1e-10)

    def test_a_design_that_is_no_formula_has_no_terms(self, stored: xr.Dataset) -> None:
        design = vx.make_design(stored, "~ C(site)").to_pandas()
        with pytest.raises(DesignError, match=r"'C\(site\)' is not a regressor"):
            vx.contrast(vx.fit_glm(stored, design), "C(site)")

    def test_the_coefficients_of_effect_coding_are_deviations_from_the_mean_of_the_groups(
        self, stored: xr.Dataset
    ) -> None:
        fit = vx.fit_glm(stored, "~ C(site, contr.sum)")
        last = {"c": "- C(site, contr.sum)[S.b] - C(site, contr.sum)[S.a]"}
        effects = vx.contrast(fit, {"a": "C(site, contr.sum)[S.a]"} | last).effect.values
        means = {level: stored.effect.values[TABLE["site"] == level].mean(axis=0, dtype=float) for level in "abc"}
        grand = np.mean(list(means.values()), axis=0)
        np.testing.assert_allclose(effects, [means["a"] - grand, means["c"] - grand], atol=1e-6)


class TestStoredCovariates:
    """What a formula makes of a column does not depend on the way that the column took."""

    # Formula, and the levels that are compared with the first, or the regressors as they are.
    @pytest.mark.parametrize(
        ("formula", "regressors"),
        [
            ("~ text", ["text[T.M]"]),
            ("~ strings", ["strings[T.y]"]),
            ("~ flag", ["flag"]),
            ("~ C(flag)", ["C(flag)[T.True]"]),
            ("~ visit", ["visit"]),
            ("~ C(visit)", ["C(visit)[T.2]", "C(visit)[T.3]"]),
            ("~ nullable", ["nullable"]),
            ("~ C(nullable)", ["C(nullable)[T.2]", "C(nullable)[T.3]"]),
            ("~ site", ["site[T.a]", "site[T.c]"]),
            ("~ dose", ["dose[T.low]", "dose[T.mid]", "dose[T.high]"]),
            ("~ year", ["year[T.2019]", "year[T.2020]"]),
            ("~ half", ["half[T.0.5]"]),
            ("~ truth", ["truth[T.False]"]),
            ("~ unused", ["unused[T.p]"]),
            ("~ some_age", ["some_age"]),
            ("~ some_text", ["some_text[T.M]"]),
            ("~ some_words", ["some_words[T.M]"]),
            ("~ some_int", ["some_int"]),
            ("~ C(some_int)", ["C(some_int)[T.2]", "C(some_int)[T.3]"]),
            ("~ some_flag", ["some_flag"]),
            ("~ C(some_flag)", ["C(some_flag)[T.True]"]),
            ("~ some_site", ["some_site[T.a]", "some_site[T.c]"]),
            ("~ some_dose", ["some_dose[T.low]", "some_dose[T.mid]", "some_dose[T.high]"]),
            ("~ some_year", ["some_year[T.2019]", "some_year[T.2020]"]),
            ("~ some_half", ["some_half[T.0.5]"]),
            ("~ some_unused", ["some_unused[T.p]"]),
        ],
    )
    def test_regressors_are_those_of_the_table(self, stored: xr.Dataset, formula: str, regressors: list[str]) -> None:
        name = formula.removeprefix("~ ").removeprefix("C(").removesuffix(")")
        column = TABLE[name].dropna()
        expected = np.ones((len(column), 1))
        for regressor in regressors:
            level = regressor.partition("[T.")[2].removesuffix("]")
            values = column.astype(str) == level if level else column.astype(float)
            expected = np.column_stack([expected, values.to_numpy(float)])
        for source in (TABLE, stored):
            design = vx.make_design(source, formula, drop_missing=True)
            assert design["regressor"].values.tolist() == ["Intercept", *regressors]
            assert design["subject"].values.tolist() == column.index.tolist()
            np.testing.assert_array_equal(design, expected)

    def test_values_of_an_ordered_factor_keep_their_order_through_the_store(self, stored: xr.Dataset) -> None:
        by_hand = orthogonal(range(4), 3)[TABLE["some_dose"].cat.codes[TABLE["some_dose"].notna()]]
        for source in (TABLE, stored):
            design = vx.make_design(source, "~ C(some_dose, contr.poly)", drop_missing=True)
            np.testing.assert_allclose(design.values[:, 1:], by_hand, atol=1e-12)
        assert stored["some_dose"].attrs == {"levels": LEVELS["dose"], "ordered": True}
        assert stored["year"].attrs == {"levels": LEVELS["year"]}

    def test_factors_can_be_compared_by_their_own_values(self, stored: xr.Dataset) -> None:
        design = vx.make_design(stored, "~ I(year == 2020) + I(text == 'M') + C(year, contr.treatment(base=2020))")
        np.testing.assert_array_equal(design.values[:, 1], TABLE["year"] == 2020)
        np.testing.assert_array_equal(design.values[:, 2], TABLE["text"] == "M")
        assert design["regressor"].values[-1] == "C(year, contr.treatment(base=2020))[T.2019]"

    def test_pandas_arrays_as_coordinates_are_taken_as_they_are(self, stored: xr.Dataset) -> None:
        cohort = stored.assign_coords(group=("subject", TABLE["dose"].array))
        expected = vx.make_design(TABLE, "~ C(dose, contr.poly)")
        np.testing.assert_array_equal(vx.make_design(cohort, "~ C(group, contr.poly)"), expected)

    def test_levels_that_read_the_same_are_refused(self) -> None:
        table = pd.DataFrame({"k": pd.Categorical([1, "1", 1, "1"])})
        with pytest.raises(InputError, match=r"'k' has different levels that read the same: 1"):
            vx.from_arrays({"effect": np.ones((4, 1, 1, 1))}, affine=np.eye(4), participants=table)
        with pytest.raises(InputError, match="read the same"):
            vx.make_design(table, "~ k")

    def test_values_that_are_no_levels_are_refused_only_where_they_matter(self, stored: xr.Dataset) -> None:
        labels = [f"{label}-b" for label in stored["subject"].values]
        other = stored.assign_coords(subject=labels, site=("subject", np.resize(["d", "a"], N)))
        both = xr.concat([stored, other], "subject", data_vars="all", coords="minimal", compat="override", join="outer")
        assert vx.make_design(both, "~ age").sizes["subject"] == 2 * N
        with pytest.raises(InputError, match=r"'site' has the value d.*its levels b, a, c.*\.attrs\['levels'\]"):
            vx.make_design(both, "~ site")
        both["site"].attrs["levels"] = ["b", "a", "c", "d"]
        assert vx.make_design(both, "~ site").regressor.values[-1] == "site[T.d]"


class TestRefused:
    @pytest.mark.parametrize("formula", ["~ poly(flag, 2)", "~ poly(visit, 3)", "~ poly(visit / 10, 3)"])
    def test_a_polynomial_needs_more_values_than_its_degree(self, stored: xr.Dataset, formula: str) -> None:
        with pytest.raises(DesignError, match=r"more than [23] different values"):
            vx.make_design(stored, formula)

    def test_a_list_of_levels_that_leaves_out_subjects(self, stored: xr.Dataset) -> None:
        with pytest.raises(DesignError, match=r"subjects have others: 'c'"):
            vx.make_design(stored, "~ C(site, levels=['a', 'b'])")

    def test_a_base_that_is_no_level(self, stored: xr.Dataset) -> None:
        with pytest.raises(DesignError, match=r"'z'.* is not among"):
            vx.make_design(stored, "~ C(site, contr.treatment(base='z'))")

    def test_a_covariate_called_like_the_intercept(self) -> None:
        with pytest.raises(DesignError, match="several regressors called Intercept"):
            vx.make_design(TABLE.assign(Intercept=2.0), "~ Intercept + age")

    @pytest.mark.parametrize("formula", ["~ age", "~ bs(age, df=4)", "~ cr(age, df=3)", "~ center(age)"])
    @pytest.mark.parametrize("drop_missing", [False, True])
    def test_infinite_covariates_name_their_subjects(self, formula: str, drop_missing: bool) -> None:
        table = TABLE.copy()
        table.loc["sub-07", "age"] = np.inf
        with pytest.raises(DesignError, match=r"age is infinite for sub-07\."):
            vx.make_design(table, formula, drop_missing=drop_missing)

    @pytest.mark.parametrize("drop_missing", [False, True])
    def test_values_that_the_formula_itself_cannot_compute(self, drop_missing: bool) -> None:
        table = TABLE.copy()
        table.loc[["sub-03", "sub-05"], "age"] = -1.0
        with pytest.raises(DesignError, match=r"values in np.log\(age\) for sub-03, sub-05"):
            vx.make_design(table, "~ np.log(age)", drop_missing=drop_missing)

    def test_a_factor_of_which_all_subjects_have_one_level_is_told(self, stored: xr.Dataset) -> None:
        one_site = stored.isel(subject=np.flatnonzero(stored["site"] == "b"))
        with pytest.warns(VoxstackWarning, match="term site of the formula has no regressor"):
            design = vx.make_design(one_site, "~ age + site")
        assert design["regressor"].values.tolist() == ["Intercept", "age"]
