"""make_design, fit_glm and contrast against statsmodels, voxel by voxel, for any chunks of NumPy and Dask arrays."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

import voxstack as vx
from counted_reads import counted
from random_cohorts import SHAPE, cohort_of, people, random_maps, rechunked
from voxstack.errors import DesignError, GridMismatch, InputError, VoxstackWarning

Float = NDArray[np.float64]

properties = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 2**32 - 1)
FORMULAS = [
    "~ age",
    "~ age + sex",
    "~ C(site) * age",
    "~ sex * age + C(site)",
    "~ 0 + C(site) + age",
    "~ 0 + age + iq",
    "~ age + I(age ** 2) + iq:sex",
    "~ 0 + sex:C(site)",
]
formulas, dtypes = st.sampled_from(FORMULAS), st.sampled_from([np.float32, np.float64])
treatments = st.sampled_from(["complete", "available"])
alternatives = st.sampled_from(["two-sided", "greater", "less"])
MAPS = ("effect", "variance", "stat", "z_score", "p_value")


def example(seed: int, n: int, log_mean: float = 0) -> tuple[np.random.Generator, pd.DataFrame, Float]:
    rng = np.random.default_rng(seed)
    table = people(rng, n)
    return rng, table, random_maps(rng, table, np.float64, log_mean)


def reference(
    y: NDArray[Any], X: Float, weights: Float, stat_type: str, alternative: str = "two-sided"
) -> dict[str, float]:
    """What statsmodels says of one voxel and one contrast.

    Where the constant is in the column space of X the data are shifted by a multiple of it, as is the hypothesis, so
    that the reference itself loses nothing to a large mean.
    """
    y = y.astype(np.float64)
    ones = np.round(np.linalg.lstsq(X, np.ones(len(X)))[0])
    shift = y[0] if np.array_equal(X @ ones, np.ones(len(X))) else 0.0
    fitted = sm.OLS(y - shift, X).fit()
    weights = np.atleast_2d(weights)
    offset = weights @ ones * shift
    if stat_type == "F":
        test = fitted.f_test((weights, -offset))
        p = float(test.pvalue)
        none = {"effect": np.nan, "variance": np.nan}
        return {**none, "stat": float(test.fvalue), "p_value": p, "z_score": float(stats.norm.isf(p))}
    test = fitted.t_test((weights, -offset))
    t, dof = test.tvalue.item(), test.df_denom
    tails = {"two-sided": 2 * stats.t.sf(abs(t), dof), "greater": stats.t.sf(t, dof), "less": stats.t.cdf(t, dof)}
    return {
        "effect": test.effect.item() + offset.item(),
        "variance": test.sd.item() ** 2,
        "stat": t,
        "p_value": float(tails[alternative]),
        "z_score": float(np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), dof))),
    }


def check(result: xr.Dataset, name: str, voxel: tuple[int, int, int], expected: dict[str, float], rtol: float) -> None:
    for variable, value in expected.items():
        found = result[variable].sel(contrast=name).values[voxel]
        np.testing.assert_allclose(found, value, rtol=0, atol=rtol * max(1, abs(value)), err_msg=f"{variable} {name}")


@given(seeds, formulas, dtypes, st.sampled_from([-2, 0, 3, 6]), alternatives, st.booleans())
@settings(deadline=None, max_examples=30)
def test_contrasts_equal_statsmodels(
    seed: int, formula: str, dtype: type, log_mean: int, alternative: str, lazy: bool
) -> None:
    rng = np.random.default_rng(seed)
    table = people(rng, int(rng.integers(12, 40)))
    maps = random_maps(rng, table, dtype, log_mean)
    fit = vx.fit_glm(cohort_of(rechunked(maps, rng) if lazy else maps, table), formula)

    # The columns, whatever their order, are those of another package.
    model = smf.ols(f"y {formula}", table.assign(y=0.0))
    regressors = fit["regressor"].values.tolist()
    assert sorted(regressors) == sorted(model.exog_names)
    X = pd.DataFrame(model.exog, columns=model.exog_names)[regressors].to_numpy()
    np.testing.assert_allclose(fit["design"].values, X, rtol=1e-15)

    p = len(regressors)
    hypotheses = {"one": np.eye(p)[rng.integers(p)], "t": rng.normal(size=p), "F": rng.normal(size=(min(p, 3), p))}
    result = vx.contrast(fit, hypotheses, alternative=alternative)
    assert result["stat_type"].values.tolist() == ["t", "t", "F"]
    assert result["dof_num"].values.tolist() == [1, 1, min(p, 3)]
    assert result["dof"].values.tolist() == [len(table) - p] * 3
    assert result["p_value"].attrs["alternative"] == alternative
    result = result.compute()
    rtol = 1e-5 if dtype == np.float32 else 1e-10 * np.linalg.cond(X / np.linalg.norm(X, axis=0))
    for voxel in list(np.ndindex(SHAPE))[::3]:
        for name, weights in hypotheses.items():
            stat_type = "F" if name == "F" else "t"
            check(result, name, voxel, reference(maps[:, *voxel], X, weights, stat_type, alternative), rtol)


@given(seeds, formulas, treatments)
@properties
def test_no_answer_depends_on_chunks(seed: int, formula: str, missing: str) -> None:
    rng = np.random.default_rng(seed)
    table = people(rng, int(rng.integers(15, 40)))
    maps = random_maps(rng, table, np.float64, 2)
    if missing == "available":
        maps[rng.random(maps.shape) < 0.05] = np.nan
    results = []
    for array in (maps, rechunked(maps, rng), rechunked(maps, rng)):
        fit = vx.fit_glm(cohort_of(array, table), formula, missing=missing)
        p = fit.sizes["regressor"]
        hypotheses = {"t": np.linspace(-1, 2, p), "F": np.eye(p)[:2]}
        results.append(dask.compute(fit, vx.contrast(fit, hypotheses)))
    (fit, tested), *others = results
    assert np.isfinite(tested["stat"]).any()
    for other_fit, other_tested in others:
        for one, other in ((fit, other_fit), (tested, other_tested)):
            for name, variable in one.data_vars.items():
                size = np.maximum(1, np.abs(variable.values))
                np.testing.assert_array_equal(np.isnan(variable), np.isnan(other[name]))
                difference = np.nan_to_num((variable - other[name]).values / size)
                assert np.abs(difference).max() < 1e-12, name
        np.testing.assert_allclose(other_fit["residual_variance"], fit["residual_variance"], rtol=1e-12)


@given(seeds, formulas, dtypes, treatments)
@properties
def test_missing_data_equal_statsmodels_on_the_subjects_that_count(
    seed: int, formula: str, dtype: type, missing: str
) -> None:
    """Available cases are each voxel's own subjects; complete ones leave out any voxel that some subject lacks."""
    rng = np.random.default_rng(seed)
    table = people(rng, int(rng.integers(12, 30)))
    maps = random_maps(rng, table, dtype, 3)
    maps[rng.random(maps.shape) < rng.choice([0, 0.2, 0.7], size=SHAPE)] = np.nan
    maps[:, 0, 0, 0] = np.nan
    fit = vx.fit_glm(cohort_of(rechunked(maps, rng), table), formula, missing=missing)
    X = fit["design"].values
    p = X.shape[1]
    hypotheses = {"t": rng.normal(size=p), "F": rng.normal(size=(min(2, p), p))}
    fit, result = dask.compute(fit, vx.contrast(fit, hypotheses))
    assert result["dof"].dims == (("contrast",) if missing == "complete" else ("x", "y", "z"))
    for x, y, z in np.ndindex(SHAPE):
        there = ~np.isnan(maps[:, x, y, z])
        dof = int(there.sum()) - p
        solvable = dof > 0 and np.linalg.matrix_rank(X[there]) == p
        if not (there.all() if missing == "complete" else solvable):
            assert np.isnan([result[name].values[:, x, y, z] for name in MAPS]).all()
            assert np.isnan(fit["beta"].values[:, x, y, z]).all()
            assert np.isnan([fit[name].values[x, y, z] for name in ("dof", "residual_variance")]).all()
            continue
        assert fit["dof"].values[x, y, z] == dof
        condition = np.linalg.cond(X[there] / np.linalg.norm(X[there], axis=0))
        for name, weights in hypotheses.items():
            expected = reference(maps[there, x, y, z], X[there], weights, name)
            check(result, name, (x, y, z), expected, 1e-5 if dtype == np.float32 else 1e-10 * condition)
    if missing == "available":
        np.testing.assert_array_equal(result["dof"].values, fit["dof"].values)


@given(seeds)
@settings(deadline=None, max_examples=5)
def test_a_mask_narrows_the_mask_of_the_cohort(seed: int) -> None:
    rng, table, maps = example(seed, 12)
    own, given_mask = (rng.random(SHAPE) < 0.9 for _ in range(2))
    cohort = cohort_of(rechunked(maps, rng), table, own)
    everywhere = vx.contrast(vx.fit_glm(cohort_of(maps, table), "~ age"), "age").compute()
    labelled = cohort["mask"].copy(data=given_mask)
    for mask in (given_mask, given_mask.astype(np.float32), labelled, labelled.transpose("z", "x", "y")):
        result = vx.contrast(vx.fit_glm(cohort, "~ age", mask=mask), "age").compute()
        np.testing.assert_array_equal(result["mask"], own & given_mask)
        for name in MAPS:
            expected = np.where(own & given_mask, everywhere[name].values, np.nan)
            np.testing.assert_allclose(result[name], expected, rtol=1e-10, atol=1e-12)


def test_rows_of_a_design_are_matched_by_label() -> None:
    _, table, maps = example(1, 20, 1)
    cohort = cohort_of(maps, table)
    frame = pd.DataFrame({"one": 1.0, "age": table["age"], "male": (table["sex"] == "M").astype(float)})
    shuffled = frame.sample(frac=1, random_state=2)
    assert shuffled.index.tolist() != frame.index.tolist()
    more = pd.concat([shuffled, pd.DataFrame([[1, 99, 0.0]], columns=frame.columns, index=["someone-else"])])
    labelled = vx.make_design(more.drop("someone-else"), more.drop("someone-else"))
    for design in (shuffled, more, labelled):
        result = vx.contrast(vx.fit_glm(cohort, design), ["age", "male"]).compute()
        for voxel in np.ndindex(SHAPE):
            expected = reference(maps[:, *voxel], frame.to_numpy(), np.array([0, 0, 1]), "t")
            check(result, "male", voxel, expected, 1e-10)
    with pytest.raises(DesignError, match=str(shuffled.index[3])):
        vx.fit_glm(cohort, shuffled.drop(shuffled.index[3]))


def test_a_rank_deficient_design_names_its_columns_and_refuses_what_it_cannot_estimate() -> None:
    rng, table, maps = example(2, 25, 3)
    frame = pd.DataFrame({"one": 1.0, "age": table["age"], "iq": table["iq"]})
    frame["both"] = frame["age"] + frame["iq"]
    frame["male"] = (table["sex"] == "M").astype(float)
    with pytest.warns(VoxstackWarning, match="both") as caught:
        fit = vx.fit_glm(cohort_of(rechunked(maps, rng), table), frame)
    assert "male" not in str(caught[0].message)
    for name, refused in {"age": "age", "total": "age + iq", "joint": ["male", "both"]}.items():
        with pytest.raises(DesignError, match=f"'{name}'"):
            vx.contrast(fit, {name: refused})
    hypotheses = {"male": "male", "difference": "age - iq", "F": ["age + both", "male"]}
    result = vx.contrast(fit, hypotheses).compute()
    assert (result["dof"] == 25 - 4).all()
    # The same model without the column that adds nothing: age stands for age + both, and iq for iq + both.
    X = frame.drop(columns="both").to_numpy()
    weights = {"male": [0, 0, 0, 1], "difference": [0, 1, -1, 0], "F": [[0, 1, 0, 0], [0, 0, 0, 1]]}
    for voxel in np.ndindex(SHAPE):
        for name, vector in weights.items():
            expected = reference(maps[:, *voxel], X, np.array(vector), "F" if name == "F" else "t")
            check(result, name, voxel, expected, 1e-9)


def test_nothing_is_computed_until_it_is_asked_for() -> None:
    def refuse(block: Float) -> Float:
        raise RuntimeError("the data were read")

    _, table, maps = example(3, 12)
    lazy = da.from_array(maps, chunks=(5, 2, 2, 2)).map_blocks(refuse, dtype=np.float64, meta=np.empty((0,) * 4))
    cohort = cohort_of(lazy, table)
    for missing in ("complete", "available"):
        fit = vx.fit_glm(cohort, "~ age * sex", missing=missing)
        result = vx.contrast(fit, {"age": "age", "F": ["age", "sex[T.M]"]})
        assert repr(fit)
        assert result._repr_html_()
        with pytest.raises(RuntimeError, match="the data were read"):
            result["stat"].compute()


@pytest.mark.parametrize("missing", ["complete", "available"])
def test_variables_computed_together_read_each_block_once_and_none_outside_the_mask(missing: str) -> None:
    _, table, maps = example(4, 12)
    lazy, reads = counted(da.from_array(maps, chunks=(5, 1, 2, 1)))
    mask = np.ones(SHAPE, dtype=bool)
    mask[1] = False
    fit = vx.fit_glm(cohort_of(lazy, table), "~ age * sex", missing=missing, mask=mask)
    first, second = vx.contrast(fit, ["age", "sex[T.M]"]), vx.contrast(fit, {"F": ["age", "age:sex[T.M]"]})
    assert not reads
    dask.compute(fit["beta"], fit["residual_variance"], first["stat"], first["p_value"], second["z_score"], second)
    inside = [(n, x, 0, z) for n in range(3) for x in (0, 2) for z in range(2)]
    assert reads == Counter(inside)


def test_repeated_rows_of_an_f_contrast_count_once() -> None:
    _, table, maps = example(5, 18)
    fit = vx.fit_glm(cohort_of(maps, table), "~ C(site) + age")
    b, c = "C(site)[T.b]", "C(site)[T.c]"
    hypotheses = {"site": [b, c], "again": [b, b, c], "pairs": [f"{b} - {c}", b, f"1000 * {c}", f"{c} - {b}"]}
    result = vx.contrast(fit, hypotheses).compute()
    assert result["dof_num"].values.tolist() == [2, 2, 2]
    X = fit["design"].values
    for voxel in np.ndindex(SHAPE):
        expected = reference(maps[:, *voxel], X, np.array([[0, 1, 0, 0], [0, 0, 1, 0]]), "F")
        for name in hypotheses:
            check(result, name, voxel, expected, 1e-9)


@pytest.mark.parametrize("missing", ["complete", "available"])
def test_without_residual_variance_there_is_an_effect_but_no_statistic(missing: str) -> None:
    _, table, maps = example(6, 16)
    maps[:, 0, 0, 0] = 1234.5
    maps[:, 1, 0, 0] = 3.0 + 2.0 * (table["sex"] == "M")
    fit = vx.fit_glm(cohort_of(da.from_array(maps, chunks=(5, 2, 2, 2)), table), "~ sex", missing=missing)
    fit, result = dask.compute(fit, vx.contrast(fit, {"sex": "sex[T.M]", "mean": "Intercept", "F": ["sex[T.M]"]}))
    flat = np.zeros(SHAPE, dtype=bool)
    flat[:2, 0, 0] = True
    np.testing.assert_array_equal(fit["residual_variance"].values == 0, flat)
    for name in ("stat", "z_score", "p_value"):
        np.testing.assert_array_equal(np.isnan(result[name].values), np.broadcast_to(flat, (3, *SHAPE)))
    effects = result["effect"].values[:, :2, 0, 0]
    np.testing.assert_allclose(effects[:2], [[0, 2], [1234.5, 3]], rtol=1e-13, atol=1e-12)
    np.testing.assert_array_equal(result["variance"].values[:2, :2, 0, 0], 0)


@pytest.mark.parametrize("dtype", [">f4", "f2", "i2"])
def test_other_number_types_are_fitted_in_double_precision(dtype: str) -> None:
    rng = np.random.default_rng(7)
    table = people(rng, 12)
    maps = (100 * rng.normal(size=(12, *SHAPE))).astype(dtype)
    for array in (maps, da.from_array(maps, chunks=(5, 3, 1, 2))):
        result = vx.contrast(vx.fit_glm(cohort_of(array, table), "~ age"), "age").compute()
        X = np.column_stack([np.ones(12), table["age"]])
        for voxel in np.ndindex(SHAPE):
            check(result, "age", voxel, reference(maps[:, *voxel], X, np.array([0, 1]), "t"), 1e-10)


@pytest.mark.parametrize("missing", ["complete", "available"])
@pytest.mark.parametrize(
    "change",
    [
        lambda fit: fit.assign(beta=fit["beta"].compute()),
        lambda fit: fit.assign(residual_variance=fit["residual_variance"].chunk(z=2)),
        lambda fit: fit.chunk(regressor=1),
        lambda fit: fit.isel(regressor=[1, 0]),
        lambda fit: fit.transpose("z", "y", "x", ...),
        lambda fit: fit.compute(),
    ],
    ids=[
        "beta in memory",
        "other chunks",
        "regressors in chunks",
        "regressors in another order",
        "transposed",
        "whole",
    ],
)
def test_the_same_fit_in_another_form_gives_the_same_contrast(change: Callable[..., xr.Dataset], missing: str) -> None:
    _, table, maps = example(8, 12)
    cohort = cohort_of(da.from_array(maps, chunks=(5, 1, 2, 1)), table)
    result = vx.contrast(change(vx.fit_glm(cohort, "~ age", missing=missing)), "age").compute()
    X = np.column_stack([np.ones(12), table["age"]])
    for voxel in np.ndindex(SHAPE):
        check(result, "age", voxel, reference(maps[:, *voxel], X, np.array([0, 1]), "t"), 1e-10)


def test_what_cannot_be_fitted_is_refused_by_its_name() -> None:
    _, table, maps = example(9, 12)
    two = vx.from_arrays({"thickness": maps, "area": 2 * maps}, affine=np.eye(4), participants=table)
    elsewhere = vx.from_arrays({"map": maps}, affine=np.diag([2, 2, 2, 1]))
    plain = xr.DataArray(np.ones(SHAPE, bool), {d: two[d].values for d in "xyz"}, dims=("x", "y", "z"))
    vx.fit_glm(two, "~ age", variable="area", mask=plain.assign_coords(x=plain.x + 1e-7))
    vx.fit_glm(two, "~ age", variable="area", mask=plain.drop_vars(["x", "y", "z"]))
    refused: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (InputError, "thickness", {}),
        (InputError, "volume", {"variable": "volume"}),
        (InputError, "robust", {"variable": "area", "model": "robust"}),
        (InputError, "pairwise", {"variable": "area", "missing": "pairwise"}),
        (DesignError, "height", {"variable": "area", "design": "~ height"}),
        (DesignError, "no degrees of freedom", {"variable": "area", "design": np.eye(12)}),
        (InputError, r"shape \(3, 2\)", {"variable": "area", "mask": np.ones((3, 2), dtype=bool)}),
        (InputError, "No voxel", {"variable": "area", "mask": np.zeros(SHAPE, dtype=bool)}),
        (GridMismatch, "lattices", {"variable": "area", "mask": elsewhere["mask"]}),
        (GridMismatch, "lattices", {"variable": "area", "mask": plain.assign_coords(x=plain.x + 0.01)}),
    ]
    for error, name, arguments in refused:
        with pytest.raises(error, match=name):
            vx.fit_glm(two, **({"design": "~ age"} | arguments))
    area, thickness = (vx.fit_glm(two, "~ age", variable=name) for name in ("area", "thickness"))
    with pytest.raises(DesignError, match="no degrees of freedom"):
        vx.fit_glm(two.isel(subject=slice(0, 2)), "~ age", variable="area")
    with pytest.raises(InputError, match="both"):
        vx.contrast(area, "age", alternative="both")
    with pytest.raises(DesignError, match="sex"):
        vx.contrast(area, "sex")
    doubled, single = vx.contrast(area, "age").compute(), vx.contrast(thickness, "age").compute()
    np.testing.assert_allclose(doubled["effect"], 2 * single["effect"], rtol=1e-12)
