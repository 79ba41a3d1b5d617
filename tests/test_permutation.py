"""`permutation_test` against brute force: every relabelling, fitted by the book."""

import itertools
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

import brute_force
import voxstack as vx
from brute_force import METHODS, Case, Float
from permuted_cohorts import SHAPE, random_design, random_maps, run
from random_cohorts import cohort_of
from voxstack.errors import DesignError

KINDS = ("permute", "flip", "both")
ALTERNATIVES = ("two-sided", "greater", "less")
DESIGNS = (
    "mean",
    "slope",
    "mean and slope",
    "mean and two slopes",
    "groups",
    "groups and slope",
    "three groups",
    "mean, groups and slope",  # of rank 3
)
BLOCKS: dict[str, tuple[dict[str, bool], list[Any]]] = {
    "within": ({"within": True, "whole": False}, [1, 1, 2, 2, 2, 1]),
    "whole": ({"within": False, "whole": True}, [1, 2, 3, 3, 2, 1]),
    "both": ({"within": True, "whole": True}, [1, 2, 3, 3, 2, 1]),
    "nested": ({}, [[-1, 1, 1], [-1, 1, 2], [-1, 2, 3], [-1, 2, 4], [-1, 1, 5], [-1, -3, 6]]),
}

seeds = st.integers(0, 2**32 - 1)
same = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
same_p = partial(np.testing.assert_allclose, rtol=1e-12, atol=0)


def ratio(statistic: Float, case: Case) -> Float:
    """r or R, for which it does not matter whether a t without residuals is infinite or huge."""
    if case.stat_type == "F":
        return 1 - 1 / (1 + statistic * len(case.weights) / case.dof)
    return np.sin(np.arctan(statistic / np.sqrt(case.dof)))


def check(result: xr.Dataset, name: str, maps: Float, case: Case) -> None:
    """Statistic, null distribution and p-values of voxels."""
    found = result.sel(contrast=name)
    scores = case.score(brute_force.all_statistics(maps.reshape(len(maps), -1), case))
    maxima = np.nanmax(scores, axis=1)
    assert found["n_relabellings"] == len(maxima)
    assert found["relabelling"] == case.kind
    same(case.score(found["stat"].values.ravel()), scores[0])
    null = found["null_max"].sel(statistic="voxel").values
    assert np.isnan(null[len(maxima) :]).all()
    same(ratio(null[0], case), ratio(maxima[0], case))
    same(np.sort(ratio(null[: len(maxima)], case)), np.sort(ratio(maxima, case)))
    same_p(found["p_uncorrected"].values.ravel(), brute_force.p_uncorrected(scores))
    same_p(found["voxel_p_fwe"].values.ravel(), brute_force.p_corrected(scores[0], maxima))


def levels_of(blocks: str | None, n: int) -> tuple[Any, vx.Blocks | None]:
    """For brute force, and for `permutation_test`."""
    if blocks is None:
        return brute_force.free(n), None
    options, labels = BLOCKS[blocks]
    levels = brute_force.one_level(labels, **options) if options else np.array(labels)
    return levels, vx.Blocks(np.array(labels), **options)


# ----- voxels


@pytest.mark.parametrize("method", METHODS)
@given(
    seed=seeds,
    name=st.sampled_from(DESIGNS),
    kind=st.sampled_from(KINDS),
    alternative=st.sampled_from(ALTERNATIVES),
    blocks=st.sampled_from([None, *BLOCKS]),
    values=st.sampled_from(["normal", "whole numbers", "large means"]),
    precision=st.sampled_from(["mixed", "double"]),
)
@settings(deadline=None, max_examples=7)
def test_every_method_finds_what_brute_force_does(
    method: str, seed: int, name: str, kind: str, alternative: str, blocks: str | None, values: str, precision: str
) -> None:
    """Several contrasts at once, among them of rank 2; large means, of 10,000 standard deviations, are nuisance."""
    rng = np.random.default_rng(seed)
    n = 6 if blocks else 5
    design = random_design(rng, name, n)
    # What is made of the rows of a design can be estimated; with weights of sum 0 it does not depend on the mean.
    some = rng.normal(size=(8, n))
    large = values == "large means" and name not in ("mean", "slope")  # in which they are no nuisance
    if large:
        some -= some.mean(axis=1, keepdims=True)
    made = some @ design
    hypotheses: dict[str, Any] = {"t": made[0], "another t": made[1], "F": linalg.orth(made.T)[:, :2].T}
    levels, given_blocks = levels_of(blocks, n)
    cases = {
        key: Case(design, np.atleast_2d(weights), key[-1], kind, levels, method, alternative)
        for key, weights in hypotheses.items()
    }
    counts = [len(brute_force.distinct(case)[0]) for case in cases.values()]
    maps = random_maps(rng, n, 1e4 if large and (method != "manly" or kind == "permute") else 1)
    maps = np.round(maps) if values == "whole numbers" else maps
    options: dict[str, Any] = {"alternative": alternative, "method": method, "relabelling": kind}
    options |= {"blocks": given_blocks, "precision": precision}
    if min(counts) == 1:
        with pytest.raises(DesignError, match="no relabelling but the identity"):
            run(cohort_of(maps), design, hypotheses, **options)
        return
    result = run(cohort_of(maps), design, hypotheses, **options)
    for key, case in cases.items():
        check(result, key, maps, case)


@pytest.mark.parametrize("mean", [1e2, 1e4])
@pytest.mark.parametrize(
    ("kind", "method"), [("both", "freedman-lane"), ("permute", "manly"), ("flip", "freedman-lane")]
)
def test_large_statistics_are_told_apart(kind: str, method: str, mean: float) -> None:
    """Tests of means that are far from 0. Nearly equal statistics count as equal only where rounding can explain it."""
    rng = np.random.default_rng(5)
    design = random_design(rng, "groups and slope", 6 if kind == "permute" else 5)
    maps = random_maps(rng, len(design), mean)
    y = maps.reshape(len(maps), -1)
    hypotheses = {"t": [1, 1, 0], "F": [[1, 0, 0], [0, 1, 0]]}
    result = run(cohort_of(maps), design, hypotheses, relabelling=kind, method=method, alternative="greater")
    for name, weights in hypotheses.items():
        weights_2d = np.atleast_2d(np.array(weights, dtype=float))
        case = Case(design, weights_2d, name, kind, brute_force.free(len(design)), method, "greater")
        scores = brute_force.all_statistics(y, case)
        found = result.sel(contrast=name)
        same(found["stat"].values.ravel(), scores[0])
        distance = np.abs(scores[1:] / scores[0] - 1)
        clear = ~((distance > 1e-9) & (distance < 1e-6 * mean / 100)).any(axis=0) & ~np.isnan(scores[0])
        assert clear.mean() > 0.5
        same_p(found["p_uncorrected"].values.ravel()[clear], brute_force.p_uncorrected(scores)[clear])


@pytest.mark.parametrize("method", METHODS)
def test_mirrored_relabellings_are_ties_however_large_the_mean(method: str) -> None:
    """A flip of all signs changes no squares, and there is no other relabelling of nearly the same statistic."""
    rng = np.random.default_rng(4)
    mean = 1e2 if method == "manly" else 1e4  # whose data keep what they have of the mean
    design, maps = random_design(rng, "mean and slope", 6), random_maps(rng, 6, mean)
    result = run(cohort_of(maps), design, {"t": [0, 1]}, relabelling="flip", method=method)
    check(result, "t", maps, Case(design, np.array([[0.0, 1]]), "t", "flip", brute_force.free(6), method))


@pytest.mark.parametrize("method", METHODS)
def test_data_of_two_values_that_a_relabelled_model_explains(method: str) -> None:
    """As of lesions. What nuisance regressors explain leaves nothing to test; what the model explains is infinite."""
    rng = np.random.default_rng(0)
    group, sex = np.repeat([0.0, 1], 4), np.tile([0.0, 1], 4)
    design = np.column_stack([np.ones(8), group, sex])
    maps = rng.integers(0, 2, (8, *SHAPE)).astype(float)
    result = run(cohort_of(maps), design, {"t": [0, 1, 0]}, method=method, alternative="greater")
    case = Case(design, np.array([[0.0, 1, 0]]), "t", "permute", brute_force.free(8), method, "greater")
    check(result, "t", maps, case)


def test_flips_or_permutations_are_chosen_by_what_is_tested() -> None:
    rng = np.random.default_rng(1)
    maps, age = random_maps(rng, 6), np.array([-3.0, 1, 2, -1, 0, 1])
    design = np.column_stack([np.ones(6), age])
    hypotheses = {"t": [1, 0], "age t": [0, 1], "F": [[1, 0], [0, 1]]}
    result = run(cohort_of(maps), design, hypotheses)
    assert result["relabelling"].values.tolist() == ["flip", "permute", "permute"]
    assert result["n_relabellings"].values.tolist() == [64, 360, 360]
    assert result["exhaustive"].all()
    for (name, weights), kind in zip(hypotheses.items(), result["relabelling"].values, strict=True):
        case = Case(design, np.atleast_2d(np.array(weights, float)), name[-1], kind, brute_force.free(6))
        check(result, name, maps, case)
    # An age that is not about 0 is part of what the mean is, whose permutations then change it.
    shifted = run(cohort_of(maps), design + np.array([0, 1]), {"t": [1, 0]})
    assert shifted["relabelling"] == "permute"
    # Between families, where a group does not vary within them, there is nothing to permute.
    families = vx.Blocks([1, 1, 2, 2, 3, 3])
    between = run(cohort_of(maps), np.repeat([[1.0, 0], [0, 1], [1, 0]], 2, axis=0), {"t": [1, -1]}, blocks=families)
    assert between["relabelling"] == "flip"


def test_paired_differences_are_a_test_of_pairs() -> None:
    """Exchanges within pairs, beside the pairs' effects, flip the signs of differences."""
    rng = np.random.default_rng(2)
    maps = rng.normal(1, 1, (12, *SHAPE))
    people = pd.DataFrame({"pair": np.tile(list("fcbead"), 2), "when": np.repeat(["before", "after"], 6)})
    people.index = [f"sub-{i}" for i in rng.permutation(12)]
    paired = run(cohort_of(maps, participants=people), "~ when + C(pair)", "when[T.before]", blocks="pair")
    differences = maps[:6] - maps[6:]
    single = run(cohort_of(differences), np.ones((6, 1)), {"mean": [1]})
    assert paired["n_relabellings"].values == single["n_relabellings"].values == 64
    assert single["relabelling"].values == "flip"
    assert paired["relabelling"].values == "permute"
    same(paired["stat"].values, single["stat"].values)
    for name in ("p_uncorrected", "voxel_p_fwe"):
        same_p(paired[name].values, single[name].values)
    same(np.sort(paired["null_max"].values), np.sort(single["null_max"].values))


def test_subjects_that_the_design_leaves_out_are_not_there() -> None:
    rng = np.random.default_rng(3)
    maps = random_maps(rng, 9)
    people = pd.DataFrame({"age": rng.normal(size=9), "site": list("aabbabbab")}, index=list("ABCDEFGHI"))
    people.loc[["C", "F", "I"], "age"] = np.nan
    maps[2, 4] = np.nan  # of a subject that does not count
    kept = people["age"].notna().to_numpy()
    cohort = cohort_of(maps, participants=people)
    design = vx.make_design(cohort, "~ age + C(site)", drop_missing=True)
    result = run(cohort, design, {"t": "age"}, blocks="site")
    site = (people.loc[kept, "site"] == "b").to_numpy()
    matrix = np.column_stack([np.ones(6), people.loc[kept, "age"], site])
    levels = brute_force.one_level(site + 1, within=True, whole=False)
    check(result, "t", maps[kept], Case(matrix, np.array([[0.0, 1, 0]]), "t", "permute", levels))
    assert np.isfinite(result["stat"].values[0, 4]).all()


def test_as_many_permutations_as_there_are_make_the_test_exact() -> None:
    rng = np.random.default_rng(5)
    maps, age = random_maps(rng, 5), rng.normal(size=5)
    design = np.column_stack([np.ones(5), age])
    runs = {n: run(cohort_of(maps), design, {"t": [0, 1]}, n_permutations=n, seed=9) for n in (119, 120, 121, 5000)}
    assert [result["n_relabellings"].item() for result in runs.values()] == [119, 120, 120, 120]
    assert [result["exhaustive"].item() for result in runs.values()] == [False, True, True, True]
    case = Case(design, np.array([[0.0, 1]]), "t", "permute", brute_force.free(5))
    check(runs[120], "t", maps, case)
    check(runs[5000], "t", maps, case)
    same(runs[119]["null_max"], runs[120]["null_max"][:, :, :119])


# ----- whole maps


@given(
    seed=seeds,
    stat_type=st.sampled_from("tF"),
    alternative=st.sampled_from(ALTERNATIVES),
    sides=st.sampled_from(["signed", "absolute"]),
    scale=st.sampled_from(["z", "stat"]),
    connectivity=st.sampled_from([6, 18, 26]),
    by_p=st.booleans(),
)
@settings(deadline=None, max_examples=15)
def test_clusters_and_tfce_are_those_of_brute_force(
    seed: int, stat_type: str, alternative: str, sides: str, scale: str, connectivity: int, by_p: bool
) -> None:
    rng = np.random.default_rng(seed)
    kind, n = ("flip", 6) if stat_type == "t" else ("permute", 5)
    design = random_design(rng, "mean and slope", n)
    weights = rng.normal(size=(2 if stat_type == "F" else 1, 2))
    case = Case(design, weights, stat_type, kind, brute_force.free(n), "freedman-lane", alternative)
    maps, mask = random_maps(rng, n), rng.random(SHAPE) < 0.8
    z = rng.uniform(0.5, 1.5)
    tfce = vx.TFCE(E=rng.uniform(0.3, 1.2), H=rng.uniform(0.5, 2.5), connectivity=connectivity)
    names = ["cluster_extent", "cluster_mass", "tfce"]
    result = run(
        cohort_of(maps, mask=mask),
        design,
        {"C": weights if stat_type == "F" else weights[0]},
        statistics=names,
        relabelling=kind,
        alternative=alternative,
        two_sided_clusters=sides,
        scale=scale,
        connectivity=connectivity,
        tfce=tfce,
        **({"cluster_forming_p": stats.norm.sf(z)} if by_p else {"cluster_forming_z": z}),
    ).sel(contrast="C")

    values = brute_force.all_statistics(maps.reshape(n, -1), case)
    values[:, ~mask.ravel()] = np.nan
    values = case.to_z(values) if scale == "z" else values
    threshold = z
    if scale == "stat":
        tail = stats.norm.sf(z)
        threshold = stats.t.isf(tail, case.dof) if stat_type == "t" else stats.f.isf(tail, 2, case.dof)
    looked_at = "greater" if stat_type == "F" else sides if alternative == "two-sided" else alternative
    clusters = partial(brute_force.clusters, threshold=threshold, connectivity=connectivity)
    enhance = {
        "cluster_extent": partial(clusters, mass=False),
        "cluster_mass": partial(clusters, mass=True),
        "tfce": partial(brute_force.tfce, connectivity=connectivity, E=tfce.E, H=tfce.H),
    }
    assert "voxel_p_fwe" not in result
    for name in names:
        maps_of = [brute_force.two_sides(enhance[name], one.reshape(SHAPE), looked_at) for one in values]
        maxima = np.max(maps_of, axis=(1, 2, 3))
        observed = np.where(np.isnan(values[0].reshape(SHAPE)), np.nan, maps_of[0])
        same(np.abs(result[name]), observed)
        if name == "tfce":  # has the sign of what is enhanced
            signed = np.sign(values[0]).reshape(SHAPE)
            np.testing.assert_array_equal(np.sign(result[name]), np.where(observed == 0, 0, signed))
        null = result["null_max"].sel(statistic=name)
        same(null[0], maxima[0])
        same(np.sort(null), np.sort(maxima))
        same_p(result[f"{name}_p_fwe"].values, brute_force.p_corrected(observed, maxima))


@pytest.mark.parametrize("dh", [None, "auto", 0.5])
def test_tfce_of_t_where_a_relabelling_separates_the_data_perfectly(dh: Any) -> None:
    """Binary data: t is infinite under some relabellings, which are the largest."""
    rng = np.random.default_rng(2)
    maps = rng.integers(0, 2, (6, 4, 3, 2)).astype(float)
    group = np.array([0, 0, 0, 1, 1, 1.0])
    maps[:, 0, 0, 0] = [0, 0, 1, 1, 1, 0]
    design = np.column_stack([np.ones(6), group])
    options = {"statistics": ["voxel", "tfce"], "tfce": vx.TFCE(dh=dh), "scale": "stat"}
    result = run(cohort_of(maps), design, {"group": [0, 1]}, **options).sel(contrast="group")
    null = result["null_max"].sel(statistic="tfce").values
    assert np.isfinite(null).all()
    perfect = [
        any(np.ptp(y[list(b)]) == np.ptp(np.delete(y, list(b))) == 0 < np.ptp(y) for y in maps.reshape(6, -1).T)
        for b in itertools.combinations(range(6), 3)
    ]
    assert 0 < sum(perfect) == (null > 1e3).sum()


@pytest.mark.parametrize("precision", ["mixed", "double"])
@pytest.mark.parametrize("names", [["cluster_extent"], ["cluster_mass", "tfce"]])
def test_parts_of_the_mask_without_anything_to_test(precision: str, names: list[str]) -> None:
    """Background of zeros in a loose mask, in chunks of its own; and a cohort that has nothing else."""
    maps = np.random.default_rng(0).normal(size=(8, 6, 5, 4))
    maps[:, 3:] = 0
    options = {"statistics": names, "cluster_forming_p": 0.3, "precision": precision, "n_permutations": 60}
    whole = run(cohort_of(maps[:, :3]), np.ones((8, 1)), {"mean": [1]}, **options)
    parts = run(cohort_of(maps).chunk({"x": 3}), np.ones((8, 1)), {"mean": [1]}, **options)
    for name in [*names, *(f"{name}_p_fwe" for name in names)]:
        np.testing.assert_allclose(parts[name].isel(x=slice(3)), whole[name])
        assert parts[name].isel(x=slice(3, None)).isnull().all()
    np.testing.assert_allclose(parts["null_max"], whole["null_max"])
    nothing = run(cohort_of(0 * maps), np.ones((8, 1)), {"mean": [1]}, **options)
    assert nothing[f"{names[0]}_p_fwe"].isnull().all()
