"""A new model is a blueprint of array functions and one registry entry: three toys, against plain NumPy."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import voxstack as vx
from counted_reads import counted
from random_cohorts import SHAPE, rechunked
from voxstack.errors import InputError
from voxstack.models.blueprint import Cases, Estimate, Float, Model, Pass
from voxstack.models.registry import MODELS

CLIP = 1.3  # residual standard deviations beyond which a subject counts less

properties = settings(deadline=None, max_examples=10)
seeds = st.integers(0, 2**32 - 1)


def _design(design: Float, cases: Cases) -> dict[str, Any]:
    return {"X": design}


def _add(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {name: first[name] + second[name] for name in first}


def _sums(y: Float, X: Float, weights: Float) -> dict[str, Any]:
    return {"XWX": np.einsum("np,nv,nq->vpq", X, weights, X), "XWy": np.einsum("np,nv->vp", X, weights * y)}


def _coefficients(state: Mapping[str, Any]) -> Float:
    return np.linalg.solve(state["XWX"], state["XWy"][..., None])[..., 0].T


def _wald(fit: Mapping[str, Float], weights: Float, stat_type: Literal["t", "F"]) -> Estimate:
    assert stat_type == "t"
    covariance = np.broadcast_to(np.atleast_3d(fit["beta_covariance"]), (*[weights.shape[1]] * 2, fit["dof"].size))
    scale = fit.get("residual_variance", np.ones(fit["dof"].size))
    effect = weights[0] @ fit["beta"]
    variance = scale * np.einsum("p,pqv,q->v", weights[0], covariance, weights[0])
    return Estimate(effect, variance, effect / np.sqrt(variance), fit["dof"])


# Least squares, then once more with large residuals weighed down, then the residuals of that: three passes.


def _equal(blocks: Sequence[NDArray[Any]], rows: slice, setup: Any, previous: None) -> dict[str, Any]:
    y, X = blocks[0].astype(float), setup["X"][rows]
    return _sums(y, X, np.ones_like(y)) | {"yy": (y * y).sum(axis=0)}


def _first_guess(state: Mapping[str, Any], setup: Any) -> dict[str, Float]:
    beta = _coefficients(state)
    rss = state["yy"] - np.einsum("pv,vp->v", beta, state["XWy"])
    n, p = setup["X"].shape
    return {"beta": beta, "sd": np.sqrt(rss / (n - p))}


def _clipped(blocks: Sequence[NDArray[Any]], rows: slice, setup: Any, previous: Any) -> dict[str, Any]:
    y, X = blocks[0].astype(float), setup["X"][rows]
    size = np.abs(y - X @ previous["beta"]) / previous["sd"]
    return _sums(y, X, np.minimum(1, CLIP / size))


def _second_guess(state: Mapping[str, Any], setup: Any) -> Float:
    return _coefficients(state)


def _squares(blocks: Sequence[NDArray[Any]], rows: slice, setup: Any, previous: Float) -> dict[str, Any]:
    residuals = blocks[0] - setup["X"][rows] @ previous
    return {"rss": (residuals**2).sum(axis=0), "chunks": 1, "beta": previous}


def _add_squares(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {"rss": first["rss"] + second["rss"], "chunks": first["chunks"] + second["chunks"], "beta": first["beta"]}


def _robust_maps(state: Mapping[str, Any], setup: Any) -> dict[str, Float]:
    n, p = setup["X"].shape
    dof = np.full(state["rss"].size, float(n - p))
    return {"beta": state["beta"], "residual_variance": state["rss"] / dof, "dof": dof}


def _inverse(setup: Any) -> dict[str, Float]:
    return {"beta_covariance": np.linalg.inv(setup["X"].T @ setup["X"])}


ROBUST = Model(
    name="robust",
    needs=("map",),
    prepare=_design,
    passes=(Pass(_equal, _add, _first_guess), Pass(_clipped, _add, _second_guess),
            Pass(_squares, _add_squares, _robust_maps)),
    maps={"complete": ("beta", "residual_variance", "dof")},
    shared=_inverse,
    contrast=_wald,
)  # fmt: skip


def robust(y: Float, X: Float) -> tuple[Float, Float]:
    """Coefficients and residual variance of one voxel, all subjects at once."""
    n, p = X.shape
    residuals = y - X @ np.linalg.lstsq(X, y)[0]
    weights = np.minimum(1, CLIP / np.abs(residuals) * np.sqrt(residuals @ residuals / (n - p)))
    root = np.sqrt(weights)
    beta = np.linalg.lstsq(X * root[:, None], y * root)[0]
    return beta, ((y - X @ beta) ** 2).sum() / (n - p)


# The median of each group: no sum of chunks gives it, so it asks for all subjects at once.


def _medians(blocks: Sequence[NDArray[Any]], rows: slice, setup: Any, previous: None) -> dict[str, Float]:
    X = setup["X"][rows]
    assert len(blocks[0]) == len(X) == len(setup["X"])
    beta = np.stack([np.median(blocks[0][column == 1], axis=0) for column in X.T])
    spread = np.median(np.abs(blocks[0] - X @ beta), axis=0)
    return {"beta": beta, "residual_variance": spread**2, "dof": np.full(spread.size, len(X) - X.shape[1], float)}


def _never(first: Any, second: Any) -> Any:
    raise AssertionError("whole columns need no combining")


def _as_it_is(state: dict[str, Float], setup: Any) -> dict[str, Float]:
    return state


MEDIAN = Model(
    name="median",
    needs=("map",),
    prepare=_design,
    passes=(Pass(_medians, _never, _as_it_is),),
    maps={"complete": ("beta", "residual_variance", "dof")},
    shared=_inverse,
    contrast=_wald,
    subjects="whole",
)


# Weights of one over each subject's own variance, which is a second map of the cohort.


def _precise(blocks: Sequence[NDArray[Any]], rows: slice, setup: Any, previous: None) -> dict[str, Any]:
    y, variance = blocks
    return _sums(y, setup["X"][rows], 1 / variance)


def _meta_maps(state: Mapping[str, Any], setup: Any) -> dict[str, Float]:
    covariance = np.linalg.inv(state["XWX"]).transpose(1, 2, 0)
    n, p = setup["X"].shape
    dof = np.full(len(state["XWX"]), float(n - p))
    return {"beta": _coefficients(state), "beta_covariance": covariance, "dof": dof}


def _nothing(setup: Any) -> dict[str, Float]:
    return {}


META = Model(
    name="meta",
    needs=("map", "variance"),
    prepare=_design,
    passes=(Pass(_precise, _add, _meta_maps),),
    maps={"complete": ("beta", "dof", "beta_covariance")},
    shared=_nothing,
    contrast=_wald,
)


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for model in (ROBUST, MEDIAN, META):
            patch.setitem(MODELS, model.name, model)
        yield


def people(rng: np.random.Generator) -> pd.DataFrame:
    n = int(rng.integers(10, 30))
    table = pd.DataFrame({"age": rng.normal(size=n), "group": np.resize(["a", "b", "c"], n)})
    return table.sample(frac=1, random_state=int(rng.integers(1 << 30))).set_axis([f"s{i}" for i in range(n)])


def cohort_of(table: pd.DataFrame, **maps: Any) -> xr.Dataset:
    return vx.from_arrays(maps, affine=np.eye(4), mask=np.ones(SHAPE, dtype=bool), participants=table)


def t_of(beta: Float, weights: Float, variance: float) -> dict[str, float]:
    effect = float(weights @ beta)
    return {"effect": effect, "variance": variance, "stat": effect / variance**0.5}


def check(result: xr.Dataset, voxel: tuple[int, ...], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert float(result[name].values[0, *voxel]) == pytest.approx(value, rel=1e-9, abs=1e-9), name


@given(seed=seeds, dtype=st.sampled_from([np.float32, np.float64]))
@properties
def test_a_pass_gets_what_the_pass_before_found(seed: int, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    table = people(rng)
    maps = rng.standard_t(3, size=(len(table), *SHAPE)).astype(dtype)
    fit = vx.fit_glm(cohort_of(table, map=rechunked(maps, rng)), "~ age + group", model="robust")
    weights = rng.normal(size=4)
    fit, result = dask.compute(fit, vx.contrast(fit, {"some": weights}))
    assert fit.attrs["model"] == "robust"
    X = fit["design"].values
    unscaled = weights @ np.linalg.inv(X.T @ X) @ weights
    for voxel in np.ndindex(SHAPE):
        beta, residual_variance = robust(maps[:, *voxel].astype(float), X)
        np.testing.assert_allclose(fit["beta"].values[:, *voxel], beta, rtol=0, atol=1e-10)
        assert float(fit["residual_variance"].values[voxel]) == pytest.approx(residual_variance, rel=1e-10)
        check(result, voxel, t_of(beta, weights, residual_variance * unscaled))


@given(seed=seeds)
@properties
def test_a_model_of_whole_columns_gets_all_subjects_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = people(rng)
    maps = rng.normal(size=(len(table), *SHAPE))
    fit = vx.fit_glm(cohort_of(table, map=rechunked(maps, rng)), "~ 0 + group", model="median")
    fit, result = dask.compute(fit, vx.contrast(fit, {"difference": "group[a] - group[c]"}))
    group = table["group"].to_numpy()
    sizes = table["group"].value_counts()
    for voxel in np.ndindex(SHAPE):
        y = maps[:, *voxel]
        medians = pd.Series(y).groupby(group).median()
        spread = np.median(np.abs(y - medians[group].to_numpy())) ** 2
        variance = float(spread * (1 / sizes["a"] + 1 / sizes["c"]))
        np.testing.assert_allclose(fit["beta"].values[:, *voxel], medians[["a", "b", "c"]])
        check(result, voxel, t_of(medians.to_numpy(), np.array([1, 0, -1]), variance))


@given(seed=seeds)
@properties
def test_a_model_may_need_a_second_map_of_other_chunks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = people(rng)
    maps = rng.normal(size=(len(table), *SHAPE))
    variance = rng.uniform(0.1, 3, size=maps.shape)
    maps[0, 1, 1, 1] = np.nan
    cohort = cohort_of(table, effect=rechunked(maps, rng), variance=rechunked(variance, rng))
    fit = vx.fit_glm(cohort, "~ age", variable="effect", model="meta", mask=~np.isnan(maps[0]))
    fit, result = dask.compute(fit, vx.contrast(fit, "age"))
    X = fit["design"].values
    for voxel in np.ndindex(SHAPE):
        if voxel == (1, 1, 1):
            assert np.isnan(fit["beta"].values[:, *voxel]).all()
            continue
        root = 1 / np.sqrt(variance[:, *voxel])
        beta = np.linalg.lstsq(X * root[:, None], maps[:, *voxel] * root)[0]
        covariance = np.linalg.inv((X * root[:, None] ** 2).T @ X)
        np.testing.assert_allclose(fit["beta"].values[:, *voxel], beta, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fit["beta_covariance"].values[..., *voxel], covariance, rtol=1e-9)
        check(result, voxel, t_of(beta, np.array([0, 1]), covariance[1, 1]))


def test_a_cohort_without_the_second_map_is_refused_by_its_name() -> None:
    table = people(np.random.default_rng(0))
    cohort = cohort_of(table, effect=np.ones((len(table), *SHAPE)))
    with pytest.raises(InputError, match="'meta' needs the map variance"):
        vx.fit_glm(cohort, "~ age", model="meta")


def test_a_way_of_missing_that_a_model_does_not_know_is_refused() -> None:
    table = people(np.random.default_rng(0))
    cohort = cohort_of(table, effect=np.ones((len(table), *SHAPE)))
    with pytest.raises(InputError, match="available"):
        vx.fit_glm(cohort, "~ age", model="robust", missing="available")


def test_each_pass_reads_each_block_once() -> None:
    rng = np.random.default_rng(1)
    table = people(rng)
    maps = da.from_array(rng.normal(size=(len(table), *SHAPE)), chunks=(4, 2, 1, 2))
    lazy, reads = counted(maps)
    fit = vx.fit_glm(cohort_of(table, map=lazy), "~ age", model="robust")
    result = vx.contrast(fit, ["age", "Intercept"])
    assert not reads
    dask.compute(fit, result)
    assert reads == Counter(dict.fromkeys(np.ndindex(maps.numblocks), 3))


def test_what_blocks_share_may_be_any_value() -> None:
    """A tuple that begins with a function is a task to Dask, but here it is what the model prepared."""

    def prepare(design: Float, cases: Cases) -> Any:
        return np.median, design

    def partial(blocks: Sequence[NDArray[Any]], rows: slice, setup: Any, previous: None) -> dict[str, Float]:
        centre, X = setup
        y = blocks[0]
        zero = np.zeros(y.shape[1])
        return {"beta": centre(y, axis=0)[None], "residual_variance": zero, "dof": zero + len(X) - 1}

    def shared(setup: Any) -> dict[str, Float]:
        return {"beta_covariance": np.eye(1)}

    rng = np.random.default_rng(4)
    table = people(rng)
    maps = rng.normal(size=(len(table), *SHAPE))
    stage = Pass(partial, _never, _as_it_is)
    model = Model("tuple", ("map",), prepare, (stage,), MEDIAN.maps, shared, _wald, subjects="whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tuple", model)
        fit = vx.fit_glm(cohort_of(table, map=rechunked(maps, rng)), "~ 1", model="tuple").compute()
    np.testing.assert_allclose(fit["beta"].values[0], np.median(maps, axis=0))


def test_the_registry_is_all_that_the_engine_knows() -> None:
    table = people(np.random.default_rng(2))
    cohort = cohort_of(table, map=np.random.default_rng(3).normal(size=(len(table), *SHAPE)))
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(MODELS, "median")
        with pytest.raises(InputError, match="median"):
            vx.fit_glm(cohort, "~ 0 + group", model="median")
    assert vx.fit_glm(cohort, "~ 0 + group", model="median").attrs["model"] == "median"
