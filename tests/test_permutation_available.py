"""`permutation_test` of available cases against brute force: each voxel fitted to the subjects that it has."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

import brute_force
import voxstack as vx
from brute_force import METHODS, Case, Float, Integers
from permuted_cohorts import run
from random_cohorts import cohort_of, rechunked
from voxstack.errors import InputError

ALTERNATIVES = ("two-sided", "greater", "less")
DESIGNS = ("mean", "mean and slope", "groups", "groups and slope", "three groups", "mean, groups and slope")

SHAPE = (5, 3, 1)
seeds = st.integers(0, 2**32 - 1)
same = partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-8)
same_p = partial(np.testing.assert_allclose, rtol=1e-12, atol=0)


def design_of(rng: np.random.Generator, name: str, n: int) -> Float:
    ones, age, number = np.ones(n), rng.normal(1, 2, n), np.arange(n)
    groups = [number % 2 == group for group in range(2)]
    columns: dict[str, list[Any]] = {
        "mean": [ones],
        "mean and slope": [ones, age],
        "groups": groups,
        "groups and slope": [*groups, age],
        "three groups": [number % 3 == group for group in range(3)],
        "mean, groups and slope": [ones, *groups, age],
    }
    return np.column_stack(columns[name]).astype(float)


def patchy_maps(rng: np.random.Generator, n: int, share: float, mean: float) -> Float:
    """Noise about means, of which a share is missing at random, besides voxels that are special."""
    maps = rng.normal(size=(n, *SHAPE)) + mean
    maps[rng.random(maps.shape) < share] = np.nan
    maps[:, 0, 0, 0] = np.nan
    maps[:, 1, 0, 0] = 0
    maps[1:, 2, 0, 0] = np.nan
    maps[:, 3, 0, 0] = rng.normal(size=n)
    maps[::2, 4, 0, 0] = np.nan  # one of the groups
    return maps


def z_scores(y: Float, case: Case) -> Float:
    """z (b, v) in the direction that is tested; NaN where it cannot be, and 0 where that is so when relabelled.

    Data are relabelled with what they lack, then the model is fitted to the rows that have data.
    """
    X, Z = brute_force.divide(case.design, case.weights)
    moved, turned = brute_force.distinct(case)
    found = np.full((len(moved), y.shape[1]), np.nan)
    for voxel, column in enumerate(y.T):
        found[0, voxel] = one_score(column, X, Z, case, np.nan)
        if np.isnan(found[0, voxel]):
            continue
        for k, (permutation, sign) in enumerate(zip(moved[1:], turned[1:], strict=True), 1):
            response, effect, nuisance = relabelled_model(column, X, Z, permutation, sign, case.method)
            beside = rank_of(np.hstack([X, Z]), column) - rank_of(X, column) if case.method == "still-white" else 0
            found[k, voxel] = one_score(response, effect, nuisance, case, 0.0, beside)
    return found


def rank_of(regressors: Float, y: Float) -> int:
    """In the rows that y has."""
    rows = regressors[~np.isnan(y)]
    return int(np.linalg.matrix_rank(rows, tol=1e-9)) if rows.size else 0


def relabelled_model(
    y: Float, X: Float, Z: Float, permutation: Integers, sign: Integers, method: str
) -> tuple[Float, Float, Float]:
    """By table 2 of Winkler et al. 2014, with NaN for what is missing."""
    there = ~np.isnan(y)

    def residuals(regressors: Float) -> Float:
        left = np.full(len(y), np.nan)
        left[there] = brute_force.residuals(y[there, None], np.ascontiguousarray(regressors[there]))[:, 0]
        return left

    def relabel(values: Float) -> Float:
        new = np.empty_like(values)
        new[permutation] = sign * values
        return new

    if method in ("draper-stoneman", "dekker"):
        return y, sign[:, None] * X[permutation], Z
    if method == "manly":
        return relabel(y), X, Z
    if method == "still-white":
        return relabel(residuals(Z)), X, Z[:, :0]
    return relabel(residuals(np.hstack([X, Z]) if method == "ter-braak" else Z)), X, Z


def one_score(y: Float, X: Float, Z: Float, case: Case, nothing: float, beside: int = 0) -> float:
    """z of X; `beside` is the rank of what was taken out of the data before, and is not in Z."""
    there = ~np.isnan(y)
    y, X, Z = y[there, None], np.ascontiguousarray(X[there]), np.ascontiguousarray(Z[there])
    n, both, q = len(y), np.hstack([X, Z]), X.shape[1]
    rank = (int(np.linalg.matrix_rank(both, tol=1e-9)) if n else 0) + beside
    estimable = rank - (int(np.linalg.matrix_rank(Z, tol=1e-9)) if Z.size else 0) == q
    size = np.linalg.norm(y)
    known = n > rank and np.linalg.norm(brute_force.residuals(y, both)) > 1e-11 * size
    if np.isnan(nothing) and not (known and estimable):
        return np.nan
    if case.stat_type == "F" and not (n > rank and np.linalg.norm(brute_force.residuals(y, Z)) > 1e-9 * size):
        return -np.inf
    if n <= rank:
        return nothing
    dof = n - rank
    t = float(brute_force.statistic(y, X, Z, dof, case.stat_type)[0])
    if case.stat_type == "F":
        return float(stats.norm.isf(stats.f.sf(t, q, dof)))
    return float(case.score(np.sign(t) * stats.norm.isf(stats.t.sf(abs(t), dof))))


@pytest.mark.parametrize("method", METHODS)
@given(
    seed=seeds,
    name=st.sampled_from(DESIGNS),
    kind=st.sampled_from(["permute", "flip", "both"]),
    alternative=st.sampled_from(ALTERNATIVES),
    share=st.sampled_from([0.05, 0.2, 0.4]),
    precision=st.sampled_from(["mixed", "double"]),
)
@settings(deadline=None, max_examples=4)
def test_every_method_finds_what_brute_force_does(
    method: str, seed: int, name: str, kind: str, alternative: str, share: float, precision: str
) -> None:
    rng = np.random.default_rng(seed)
    n = {"permute": 5, "flip": 6, "both": 4}[kind]  # all relabellings of more would take long
    design = design_of(rng, name, n)
    made = rng.normal(size=(8, n)) @ design
    hypotheses: dict[str, Any] = {"t": made[0], "F": linalg.orth(made.T)[:, :2].T}
    maps = patchy_maps(rng, n, share, 1.0)
    for contrast, weights in hypotheses.items():
        case = Case(design, np.atleast_2d(weights), contrast, kind, brute_force.free(n), method, alternative)
        if len(brute_force.distinct(case)[0]) == 1:
            continue
        result = run(
            cohort_of(maps),
            design,
            {contrast: weights},
            missing="available",
            relabelling=kind,
            method=method,
            alternative=alternative,
            precision=precision,
        ).sel(contrast=contrast)
        scores = z_scores(maps.reshape(n, -1), case)
        maxima = np.nanmax(scores, axis=1, initial=-np.inf)
        assert result["n_relabellings"] == len(scores)
        same_p(result["p_uncorrected"].values.ravel(), brute_force.p_uncorrected(scores))
        # An F of 0, or a perfect fit, is one but for rounding, so that z is infinite or large, and has few digits.
        nulls = [np.sort(np.clip(null, -4, 4)) for null in (result["null_max"].values.ravel(), maxima)]
        np.testing.assert_allclose(*nulls, rtol=1e-6, atol=1e-6)
        same_p(result["voxel_p_fwe"].values.ravel(), brute_force.p_corrected(scores[0], maxima))


@pytest.mark.parametrize("names", [["cluster_extent", "cluster_mass"], ["cluster_mass", "tfce"]])
@pytest.mark.parametrize("kind", ["permute", "flip"])
@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_clusters_and_tfce_are_of_z(names: list[str], kind: str, alternative: str) -> None:
    """Small thresholds, so that many voxels reach them; an exhaustive test of groups, or of a mean."""
    rng = np.random.default_rng(len(alternative) + len(kind))
    n, tfce = 6, vx.TFCE(connectivity=18)
    design = design_of(rng, "groups" if kind == "permute" else "mean", n)
    weights = [-1, 1] if kind == "permute" else [1]
    maps = patchy_maps(rng, n, 0.1, 0.5)
    case = Case(design, np.atleast_2d(weights), "t", kind, brute_force.free(n), "freedman-lane", alternative)
    scores = z_scores(maps.reshape(n, -1), case)
    options = {"statistics": names, "cluster_forming_z": 0.5, "connectivity": 18, "tfce": tfce, "relabelling": kind}
    cohort = cohort_of(rechunked(maps, rng))
    result = run(cohort, design, {"c": weights}, missing="available", alternative=alternative, **options).isel(
        contrast=0
    )
    enhance = {
        "cluster_extent": partial(brute_force.clusters, threshold=0.5, connectivity=18, mass=False),
        "cluster_mass": partial(brute_force.clusters, threshold=0.5, connectivity=18, mass=True),
        "tfce": partial(brute_force.tfce, connectivity=18, E=tfce.E, H=tfce.H),
    }
    for name in names:
        maps_of = [enhance[name](np.nan_to_num(np.maximum(one, 0)).reshape(SHAPE)) for one in scores]
        maxima = np.max(maps_of, axis=(1, 2, 3))
        observed = np.where(np.isnan(scores[0].reshape(SHAPE)), np.nan, maps_of[0])
        same(np.abs(result[name]), observed)
        same(np.sort(result["null_max"].sel(statistic=name)), np.sort(maxima))
        same_p(result[f"{name}_p_fwe"].values, brute_force.p_corrected(observed, maxima))


@given(seed=seeds, precision=st.sampled_from(["mixed", "double"]))
@settings(deadline=None, max_examples=8)
def test_chunks_and_precision_change_nothing(seed: int, precision: str) -> None:
    rng = np.random.default_rng(seed)
    n = 14
    maps, design = patchy_maps(rng, n, 0.15, 2.0), design_of(rng, "groups and slope", n)
    hypotheses = {"t": [1, -1, 0], "F": [[1, -1, 0], [0, 0, 1]]}
    options = {"missing": "available", "n_permutations": 60, "joint": True}
    whole = run(cohort_of(maps), design, hypotheses, precision="double", **options)
    parts = run(cohort_of(rechunked(maps, rng)), design, hypotheses, precision=precision, **options)
    for name in ("p_uncorrected", "voxel_p_fwe", "voxel_p_fwe_joint"):
        np.testing.assert_array_equal(parts[name], whole[name])
    np.testing.assert_allclose(parts["null_max"], whole["null_max"], rtol=1e-12, atol=1e-12)


def test_statistics_are_those_of_the_fit_to_available_cases() -> None:
    rng = np.random.default_rng(1)
    maps = patchy_maps(rng, 30, 0.2, 3.0)
    cohort, design = cohort_of(maps), design_of(rng, "groups and slope", 30)
    hypotheses = {"difference": [1, -1, 0], "F": [[1, 0, 0], [0, 0, 1]]}
    result = run(cohort, design, hypotheses, missing="available", min_subjects=20, n_permutations=5)
    expected = vx.contrast(vx.fit_glm(cohort, design, missing="available", min_subjects=20), hypotheses)
    np.testing.assert_allclose(result["stat"], expected["stat"], rtol=1e-10)
    tested = expected["stat"].notnull().any("contrast").values
    np.testing.assert_array_equal(result["dof"].values[tested], expected["dof"].values[tested])
    assert np.unique(result["dof"].values[tested]).size > 5
    z = np.abs(expected["z_score"].sel(contrast="difference")).max()
    np.testing.assert_allclose(result["null_max"].sel(contrast="difference")[0, 0], z, rtol=1e-10)


def test_scale_of_the_statistic_is_refused() -> None:
    with pytest.raises(InputError, match="compared by z"):
        run(cohort_of(np.zeros((4, *SHAPE))), np.ones((4, 1)), [1], missing="available", scale="stat")


def test_no_effect_at_all_is_not_significant() -> None:
    """F is 0 where both groups have the same mean, and its z is -inf."""
    groups = np.arange(8) % 2
    maps = np.random.default_rng(0).normal(size=(8, 4, 1, 1))
    maps[:, 0, 0, 0] = [1, 1, 0, 0, 1, 1, np.nan, np.nan]
    design = np.column_stack([groups == 0, groups == 1]).astype(float)
    options = {"missing": "available", "joint": True}
    result = run(cohort_of(maps), design, {"F": [[1, -1]], "again": [[2, -2]]}, **options)
    for name in ("p_uncorrected", "voxel_p_fwe", "voxel_p_fwe_joint"):
        np.testing.assert_array_equal(result[name][:, 0, 0, 0], 1)


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 1e-2])
@pytest.mark.parametrize("missing", ["complete", "available"])
@pytest.mark.parametrize("holes", [False, True])
def test_no_p_is_below_the_least_one_however_large_t_is(noise: float, missing: str, holes: bool) -> None:
    """Of a mean of 100 every mirrored pair of relabellings is a tie, and the observed one is the largest."""
    maps = 100 + noise * np.random.default_rng(1).normal(size=(10, 4, 1, 1))
    if holes:
        maps[0, 2:] = np.nan
    options = {"statistics": ["voxel", "cluster_extent", "cluster_mass", "tfce"], "cluster_forming_z": 1.0}
    result = run(cohort_of(maps), np.ones((10, 1)), {"mean": [1]}, missing=missing, **options)
    for name in ("p_uncorrected", "voxel_p_fwe", "cluster_mass_p_fwe", "tfce_p_fwe"):
        assert float(result[name].min()) >= (1 if noise == 1e-6 else 2) / 1024, name
        assert noise == 1e-6 or float(result[name].min()) < 2.1 / 1024, name
