"""Cohen's d, partial R2 and confidence bounds: textbook formulas, statsmodels and SciPy, voxel by voxel."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

import voxstack as vx
from counted_reads import counted
from random_cohorts import SHAPE, cohort_of, people, random_maps, rechunked
from voxstack.errors import InputError
from voxstack.kernels.effect_sizes import partial_r2, t_quantile
from voxstack.models.blueprint import Cases, Estimate, Float, Model, Pass
from voxstack.models.registry import MODELS

BOTH = ("cohens_d", "partial_r2")
ADDED = ["cohens_d", "partial_r2", "ci_lower", "ci_upper"]

properties = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])
treatments = st.sampled_from(["complete", "available"])
alternatives = st.sampled_from(["two-sided", "greater", "less"])
levels = st.one_of(st.sampled_from([0.5, 0.9, 0.95, 0.999]), st.floats(0.05, 0.9999))


def study(rng: np.random.Generator, dtype: Any = np.float64) -> tuple[pd.DataFrame, NDArray[Any]]:
    """Covariates, and maps some of which depend on them."""
    table = people(rng, int(rng.integers(12, 35)))
    return table, random_maps(rng, table, dtype, log_mean=0.5)


def with_holes(maps: NDArray[Any], rng: np.random.Generator, share: float = 0.3) -> NDArray[Any]:
    """The same maps, with values missing in about half of the voxels."""
    holes = (rng.random(maps.shape) < share) & (rng.random(maps.shape[1:]) < 0.5)
    return np.where(holes, np.nan, maps)


def rss(y: Float, X: Float) -> float:
    """Residual sum of squares."""
    return float(np.sum((y - X @ np.linalg.lstsq(X, y)[0]) ** 2))


def without(X: Float, weights: Float) -> Float:
    """The model that is left if the hypothesis `weights @ beta = 0` holds: X on the null space of the weights."""
    _, _, rows = np.linalg.svd(np.atleast_2d(weights))
    return X @ rows[len(np.atleast_2d(weights)) :].T


def check(found: xr.DataArray, voxel: tuple[int, ...], expected: float, rtol: float) -> None:
    value = float(found.values[voxel])
    np.testing.assert_allclose(value, expected, rtol=0, atol=rtol * max(1, abs(expected)), err_msg=str(found.name))


class TestCohensD:
    @given(seeds, dtypes, treatments)
    @properties
    def test_of_a_mean_it_is_the_mean_over_the_standard_deviation(self, seed: int, dtype: Any, missing: Any) -> None:
        rng = np.random.default_rng(seed)
        _, maps = study(rng, dtype)
        maps = with_holes(maps, rng) if missing == "available" else maps
        fit = vx.fit_glm(cohort_of(rechunked(maps, rng)), "~ 1", missing=missing)
        d = vx.contrast(fit, "Intercept", effect_sizes="cohens_d")["cohens_d"].compute()
        for voxel in np.ndindex(SHAPE):
            y = maps[:, *voxel].astype(float)
            check(d[0], voxel, np.nanmean(y) / np.nanstd(y, ddof=1), 1e-10)

    @given(seeds, dtypes, treatments)
    @properties
    def test_of_two_groups_it_is_the_difference_over_the_pooled_standard_deviation(
        self, seed: int, dtype: Any, missing: Any
    ) -> None:
        rng = np.random.default_rng(seed)
        table, maps = study(rng, dtype)
        maps = with_holes(maps, rng, 0.1) if missing == "available" else maps
        table["group"] = rng.permutation(np.repeat(["a", "b"], [5, len(table) - 5]))
        hypotheses = {"~ group": "group[T.b]", "~ 0 + group": "group[b] - group[a]"}
        for formula, hypothesis in hypotheses.items():
            fit = vx.fit_glm(cohort_of(rechunked(maps, rng), table), formula, missing=missing)
            d = vx.contrast(fit, {"b-a": hypothesis}, effect_sizes=["cohens_d"])["cohens_d"].compute()
            for voxel in np.ndindex(SHAPE):
                y = maps[:, *voxel].astype(float)
                a, b = (y[(table["group"] == level) & ~np.isnan(y)] for level in "ab")
                if min(len(a), len(b)) < 2:
                    continue
                pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
                check(d[0], voxel, (b.mean() - a.mean()) / np.sqrt(pooled), 1e-10)

    def test_of_a_regressor_it_is_per_unit(self) -> None:
        table, maps = study(np.random.default_rng(1))
        years = vx.fit_glm(cohort_of(maps, table), "~ age + site")
        decades = vx.fit_glm(cohort_of(maps, table.assign(age=table["age"] / 10)), "~ age + site")
        d = [vx.contrast(fit, "age", effect_sizes="cohens_d")["cohens_d"].values for fit in (years, decades)]
        np.testing.assert_allclose(10 * d[0], d[1], rtol=1e-9)
        fitted = sm.OLS(maps[:, 0, 0, 0], years["design"].values).fit()
        age = years["regressor"].values.tolist().index("age")
        np.testing.assert_allclose(d[0][0, 0, 0, 0], fitted.params[age] / np.sqrt(fitted.mse_resid), rtol=1e-10)


class TestPartialR2:
    @given(seeds, dtypes, treatments, st.sampled_from([0, 3]))
    @properties
    def test_it_is_the_share_of_the_residuals_that_the_hypothesis_explains(
        self, seed: int, dtype: Any, missing: Any, log_mean: int
    ) -> None:
        rng = np.random.default_rng(seed)
        table, maps = study(rng, dtype)
        maps = (maps + 10**log_mean).astype(dtype)
        maps = with_holes(maps, rng) if missing == "available" else maps
        fit = vx.fit_glm(cohort_of(rechunked(maps, rng), table), "~ age + site", missing=missing)
        X = fit["design"].values
        p = X.shape[1]
        hypotheses = {"one": np.eye(p)[1], "t": rng.normal(size=p), "q = 1": rng.normal(size=(1, p))}
        hypotheses |= {"F": np.eye(p)[2:], "mixed": rng.normal(size=(3, p))}
        found = vx.contrast(fit, hypotheses, effect_sizes="partial_r2")["partial_r2"].compute()
        for voxel in np.ndindex(SHAPE):
            here = ~np.isnan(maps[:, *voxel])
            y, rows = maps[here, *voxel].astype(float), X[here]
            for name, weights in hypotheses.items():
                one = found.sel(contrast=name)
                if len(y) <= p or np.linalg.matrix_rank(rows) < p:
                    assert np.isnan(one.values[voxel])
                    continue
                left = rss(y, without(rows, weights))
                check(one, voxel, (left - rss(y, rows)) / left, 1e-9)

    def test_rows_that_repeat_others_change_nothing(self) -> None:
        table, maps = study(np.random.default_rng(2))
        fit = vx.fit_glm(cohort_of(maps, table), "~ age + site")
        b, c = "site[T.b]", "site[T.c]"
        hypotheses = {"site": [b, c], "again": [b, c, f"{b} - {c}", f"2 * {c}"]}
        found = vx.contrast(fit, hypotheses, effect_sizes="partial_r2")["partial_r2"].values
        np.testing.assert_allclose(found[0], found[1], rtol=1e-10)
        X = fit["design"].values
        left, y = rss(maps[:, 0, 0, 0], X[:, :2]), maps[:, 0, 0, 0]
        np.testing.assert_allclose(found[0, 0, 0, 0], (left - rss(y, X)) / left, rtol=1e-10)

    @given(f=st.floats(0, 1e300, allow_subnormal=False), dof_num=st.integers(1, 40), dof=st.integers(1, 10**6))
    @example(f=1e-290, dof_num=1, dof=10**6)
    @example(f=1e18, dof_num=1, dof=1)
    @settings(deadline=None, max_examples=200)
    def test_it_is_exact_near_0_and_near_1(self, f: float, dof_num: int, dof: int) -> None:
        explained = dof_num * Fraction(f)
        exact = explained / (explained + dof)
        (found,) = partial_r2(np.array([f]), dof_num, np.array([float(dof)]))
        assert 0 <= found <= 1
        assert abs(Fraction(found) - exact) <= exact * Fraction(1, 2**50) + Fraction(1, 10**305)

    def test_an_infinite_statistic_explains_everything(self) -> None:
        with np.errstate(all="raise"):
            found = partial_r2(np.array([0, np.inf, 1.7e308, np.nan]), 2, np.array([5.0, 5, 5, 5]))
        np.testing.assert_array_equal(found, [0, 1, 1, np.nan])


class TestConfidenceIntervals:
    @given(seeds, dtypes, treatments, levels)
    @properties
    def test_they_are_those_of_statsmodels(self, seed: int, dtype: Any, missing: Any, level: float) -> None:
        rng = np.random.default_rng(seed)
        table, maps = study(rng, dtype)
        maps = with_holes(maps, rng) if missing == "available" else maps
        fit = vx.fit_glm(cohort_of(rechunked(maps, rng), table), "~ age + site", missing=missing)
        X = fit["design"].values
        p = X.shape[1]
        hypotheses = {"one": np.eye(p)[rng.integers(p)], "t": rng.normal(size=p), "F": np.eye(p)[:2]}
        found = vx.contrast(fit, hypotheses, confidence=level).compute()
        for voxel in np.ndindex(SHAPE):
            here = ~np.isnan(maps[:, *voxel])
            estimable = here.sum() > p and np.linalg.matrix_rank(X[here]) == p
            for name in ("one", "t"):
                bounds = [found[bound].sel(contrast=name) for bound in ("ci_lower", "ci_upper")]
                expected = np.full(2, np.nan)
                if estimable:
                    test = sm.OLS(maps[here, *voxel].astype(float), X[here]).fit().t_test(hypotheses[name])
                    expected = test.conf_int(alpha=1 - level)[0]
                for bound, value in zip(bounds, expected, strict=True):
                    check(bound, voxel, value, 1e-8)
        assert np.isnan(found[["ci_lower", "ci_upper"]].sel(contrast="F").to_array()).all()

    @given(seeds, dtypes, treatments, levels, alternatives)
    @properties
    def test_they_are_those_of_the_t_tests_of_scipy(
        self, seed: int, dtype: Any, missing: Any, level: float, alternative: Any
    ) -> None:
        rng = np.random.default_rng(seed)
        table, maps = study(rng, dtype)
        maps = with_holes(maps, rng, 0.1) if missing == "available" else maps
        table["group"] = rng.permutation(np.repeat(["a", "b"], [6, len(table) - 6]))
        cohort = cohort_of(rechunked(maps, rng), table)
        results = [
            vx.contrast(vx.fit_glm(cohort, formula, missing=missing), {"it": name}, alternative=alternative,
                        confidence=level).compute()
            for formula, name in (("~ 1", "Intercept"), ("~ group", "group[T.b]"))
        ]  # fmt: skip
        for voxel in np.ndindex(SHAPE):
            y = maps[:, *voxel].astype(float)
            a, b = (y[(table["group"] == group) & ~np.isnan(y)] for group in "ab")
            if min(len(a), len(b)) < 2:
                continue
            tests = [
                stats.ttest_1samp(y[~np.isnan(y)], 0, alternative=alternative),
                stats.ttest_ind(b, a, alternative=alternative),
            ]
            for result, test in zip(results, tests, strict=True):
                for bound, value in zip(("ci_lower", "ci_upper"), test.confidence_interval(level), strict=True):
                    if np.isinf(value):
                        assert float(result[bound].values[0, *voxel]) == value
                    else:
                        check(result[bound][0], voxel, value, 1e-8)

    @pytest.mark.parametrize("tail", [5.6e-17, 1e-12, 1e-6, 0.01, 0.025, 0.3, 0.49, 0.5 - 1e-9, 0.5, 0.75, 0.9])
    def test_quantiles_are_exact_at_any_level(self, tail: float) -> None:
        # Of Cauchy's distribution and that of 2 degrees of freedom they are known in closed form.
        cauchy = 1 / np.tan(np.pi * tail) if tail < 0.1 else np.tan(np.pi * (0.5 - tail))
        closed = [cauchy, (1 - 2 * tail) / np.sqrt(2 * tail * (1 - tail))]
        np.testing.assert_allclose(t_quantile(tail, np.array([1.0, 2.0])), closed, rtol=1e-14)
        dof = np.array([3.0, 7.5, 30, 1000, 40_000])
        np.testing.assert_allclose(stats.t.sf(t_quantile(tail, dof), dof), tail, rtol=1e-11)

    def test_half_of_a_one_sided_interval_lies_on_either_side(self) -> None:
        table, maps = study(np.random.default_rng(3))
        fit = vx.fit_glm(cohort_of(maps, table), "~ age")
        found = vx.contrast(fit, "age", alternative="greater", confidence=0.5).compute()
        np.testing.assert_array_equal(found["ci_lower"], found["effect"])

    @pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
    def test_attributes_say_the_level_and_the_alternative(self, alternative: Any) -> None:
        table, maps = study(np.random.default_rng(4))
        fit = vx.fit_glm(cohort_of(maps, table), "~ age")
        found = vx.contrast(fit, "age", alternative=alternative, confidence=0.9)
        for bound in ("ci_lower", "ci_upper"):
            assert found[bound].attrs["confidence"] == 0.9
            assert found[bound].attrs["alternative"] == alternative
        assert found.attrs["provenance"]["confidence"] == 0.9


class TestWhatIsAskedFor:
    def test_nothing_else_is_in_the_result(self) -> None:
        table, maps = study(np.random.default_rng(5))
        fit = vx.fit_glm(cohort_of(maps, table), "~ age")
        plain = vx.contrast(fit, "age")
        always = list(plain.data_vars)
        assert not set(always) & set(ADDED)
        assert not {"effect_sizes", "confidence"} & set(plain.attrs["provenance"])
        for options, added in (
            ({"effect_sizes": "partial_r2"}, ADDED[1:2]),
            ({"effect_sizes": ["cohens_d"], "confidence": 0.9}, [ADDED[0], *ADDED[2:]]),
            ({"effect_sizes": BOTH, "confidence": 0.9}, ADDED),
        ):
            more = vx.contrast(fit, "age", **options)
            assert list(more.data_vars) == [*always, *added]
            xr.testing.assert_equal(more[always].compute(), plain.compute())
            for name in added:
                assert more[name].dims == ("contrast", "x", "y", "z")
                assert more[name].dtype == np.float64
                assert more[name].attrs["long_name"]

    def test_nothing_is_read_until_it_is_asked_for_and_then_once(self) -> None:
        table, maps = study(np.random.default_rng(6))
        lazy, reads = counted(da.from_array(maps, chunks=(5, 2, 1, 2)))
        fit = vx.fit_glm(cohort_of(lazy, table), "~ age")
        found = vx.contrast(fit, "age", effect_sizes=BOTH, confidence=0.95)
        assert not reads
        dask.compute(found, fit)
        assert set(reads.values()) == {1}

    @pytest.mark.parametrize("missing", ["complete", "available"])
    def test_what_has_no_statistic_has_none_of_them(self, missing: Any) -> None:
        """Outside the mask, where the residuals are rounding error, and but for partial R2 for F."""
        table, maps = study(np.random.default_rng(7))
        maps[:, 0, 0, 0] = 1234.5
        maps[:, 1, 0, 0] = 3 + 2.0 * (table["site"] == "b")
        mask = np.ones(SHAPE, dtype=bool)
        mask[2, 1, 1] = False
        fit = vx.fit_glm(cohort_of(maps, table, mask), "~ site", missing=missing)
        hypotheses = {"t": "site[T.b]", "F": ["site[T.b]", "site[T.c]"]}
        for alternative in ("two-sided", "greater", "less"):
            found = vx.contrast(fit, hypotheses, alternative=alternative, effect_sizes=BOTH, confidence=0.9).compute()
            none = np.isnan(found["stat"].sel(contrast="t").values)
            assert none.sum() == 3
            for name in ADDED:
                np.testing.assert_array_equal(np.isnan(found[name].sel(contrast="t")), none, err_msg=name)
            np.testing.assert_array_equal(np.isnan(found["partial_r2"].sel(contrast="F")), none)
            for name in ("cohens_d", "ci_lower", "ci_upper"):
                assert np.isnan(found[name].sel(contrast="F")).all()

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"effect_sizes": "hedges_g"}, "no effect size 'hedges_g'; voxstack has cohens_d, partial_r2"),
            ({"effect_sizes": ["cohens_d", "eta"]}, "'eta'"),
            ({"confidence": 95}, "between 0 and 1, such as 0.95, and not 95"),
            ({"confidence": 1.0}, "between 0 and 1"),
            ({"confidence": 0}, "between 0 and 1"),
            ({"confidence": True}, "between 0 and 1"),
            ({"confidence": float("nan")}, "not nan"),
            ({"confidence": "0.95"}, "not '0.95'"),
        ],
    )
    def test_what_there_is_not_is_refused_before_anything_is_read(self, options: dict[str, Any], says: str) -> None:
        table, maps = study(np.random.default_rng(8))
        lazy, reads = counted(da.from_array(maps, chunks=(5, 2, 1, 2)))
        with pytest.raises(InputError, match=says):
            vx.contrast(vx.fit_glm(cohort_of(lazy, table), "~ age"), "age", **options)
        assert not reads


# A mean of subjects whose variance is known: a model without a residual variance.


def _prepare(design: Float, cases: Cases) -> None:
    assert (design == 1).all()


def _mean(blocks: Sequence[NDArray[Any]], rows: slice, setup: None, previous: None) -> dict[str, Float]:
    y = blocks[0]
    return {"beta": y.mean(axis=0)[None], "dof": np.full(y.shape[1], len(y) - 1.0)}


def _never(first: Any, second: Any) -> Any:
    raise AssertionError("whole columns need no combining")


def _as_it_is(state: dict[str, Float], setup: None) -> dict[str, Float]:
    return state


def _variance_of_the_mean(setup: None) -> dict[str, Float]:
    return {"beta_covariance": np.full((1, 1), 0.25)}


def _known(fit: Mapping[str, Float], weights: Float, stat_type: Literal["t", "F"]) -> Estimate:
    effect = weights[0] @ fit["beta"]
    variance = np.full_like(effect, weights[0] @ fit["beta_covariance"] @ weights[0])
    return Estimate(effect, variance, effect / np.sqrt(variance), fit["dof"])


KNOWN = Model("known", ("map",), _prepare, (Pass(_mean, _never, _as_it_is),), {"complete": ("beta", "dof")},
              _variance_of_the_mean, _known, subjects="whole")  # fmt: skip


class TestOtherModels:
    def test_one_without_a_residual_variance_has_all_but_cohens_d(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(MODELS, "known", KNOWN)
        _, maps = study(np.random.default_rng(9))
        n = len(maps)
        fit = vx.fit_glm(cohort_of(maps), "~ 1", model="known")
        with pytest.raises(InputError, match=r"cohens_d needs the residual_variance of the fit.*'known', has none"):
            vx.contrast(fit, "Intercept", effect_sizes=["partial_r2", "cohens_d"])
        found = vx.contrast(fit, "Intercept", effect_sizes="partial_r2", confidence=0.9).compute()
        mean = maps.mean(axis=0)
        t = mean / 0.5
        np.testing.assert_allclose(found["partial_r2"][0], t**2 / (t**2 + n - 1), rtol=1e-12)
        lower, upper = stats.t.interval(0.9, n - 1, loc=mean, scale=0.5)
        np.testing.assert_allclose(found["ci_lower"][0], lower, rtol=1e-9)
        np.testing.assert_allclose(found["ci_upper"][0], upper, rtol=1e-9)

    def test_one_that_gives_a_residual_variance_has_cohens_d(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def median(blocks: Sequence[NDArray[Any]], rows: slice, setup: None, previous: None) -> dict[str, Float]:
            y = blocks[0]
            spread = np.median(np.abs(y - np.median(y, axis=0)), axis=0)
            return {**_mean(blocks, rows, setup, previous), "residual_variance": spread**2}

        maps_of = {"complete": ("beta", "dof", "residual_variance")}
        stage = Pass(median, _never, _as_it_is)
        model = Model("spread", ("map",), _prepare, (stage,), maps_of, _variance_of_the_mean, _known, subjects="whole")
        monkeypatch.setitem(MODELS, "spread", model)
        _, maps = study(np.random.default_rng(10))
        fit = vx.fit_glm(cohort_of(maps), "~ 1", model="spread")
        found = vx.contrast(fit, {"twice": "2 * Intercept"}, effect_sizes="cohens_d")["cohens_d"].values[0]
        np.testing.assert_allclose(found, 2 * maps.mean(axis=0) / stats.median_abs_deviation(maps, axis=0), rtol=1e-12)
