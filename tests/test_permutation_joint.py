"""Correction across contrasts against brute force: every relabelling, fitted by the book."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats

import brute_force
from brute_force import Case, Float
from permuted_cohorts import SHAPE, random_design, random_maps, run
from random_cohorts import cohort_of
from voxstack.errors import DesignError

ALTERNATIVES = ("two-sided", "greater", "less")
same_p = partial(np.testing.assert_allclose, rtol=1e-12, atol=0)


def surprise(statistic: Float, case: Case) -> Float:
    """-log p of voxels, at the contrast's own alternative."""
    if case.stat_type == "F":
        return -stats.f.logsf(statistic, len(case.weights), case.dof)
    if case.alternative == "two-sided":
        return -stats.t.logsf(np.abs(statistic), case.dof) - np.log(2)
    return -stats.t.logsf(case.score(statistic), case.dof)


TWO_BY_TWO = np.array([[1, a, b] for a in (0.0, 1) for b in (0.0, 1) for _ in range(2)])


@pytest.mark.parametrize("method", ["freedman-lane", "dekker", "manly", "ter-braak"])
@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_joint_correction_is_by_the_least_p_of_all_contrasts(method: str, alternative: str) -> None:
    rng = np.random.default_rng(6)
    design = TWO_BY_TWO[[0, 1, 2, 4, 6, 7]]
    maps = rng.normal(size=(6, *SHAPE))
    maps[:, 1:3] += 2 * design[:, 1, None, None, None]
    hypotheses = {"t": [0, 1, 0], "another t": [0, 0, 1], "F": [[0, 1, 0], [0, 0, 1]]}
    options: dict[str, Any] = {"relabelling": "permute", "method": method, "alternative": alternative, "joint": True}
    result = run(cohort_of(maps), design, hypotheses, **options)
    levels = brute_force.free(6)
    together = brute_force.relabellings(design, levels, "permute")
    found = []
    for name, weights in hypotheses.items():
        case = Case(design, np.atleast_2d(np.array(weights, float)), name[-1], "permute", levels, method, alternative)
        found.append(surprise(brute_force.all_statistics(maps.reshape(6, -1), case, together), case))
    maxima = np.max([one.max(axis=1) for one in found], axis=0)
    for name, one in zip(hypotheses, found, strict=True):
        p = result["voxel_p_fwe_joint"].sel(contrast=name).values.ravel()
        same_p(p, brute_force.p_corrected(one[0], maxima))


@pytest.mark.parametrize("mean", [1, 1e4])
@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_across_one_contrast_joint_correction_is_its_own(alternative: str, mean: float) -> None:
    """Also where mirrored relabellings have large statistics, which are equal but for rounding."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        maps, design = random_maps(rng, 6, mean), random_design(rng, "mean and slope", 6)
        for weights in ([1, 0], [[1, 0], [0, 1]]):
            options: dict[str, Any] = {"relabelling": "flip", "alternative": alternative, "joint": True}
            result = run(cohort_of(maps), design, {"C": weights}, **options)
            np.testing.assert_array_equal(result["voxel_p_fwe_joint"], result["voxel_p_fwe"])


def test_whole_maps_are_corrected_across_contrasts_by_their_maxima() -> None:
    rng = np.random.default_rng(7)
    maps, design = random_maps(rng, 6), np.column_stack([np.ones(6), rng.normal(size=(6, 2))])
    hypotheses = {"one": [0, 1, 0], "other": [0, 0, 1]}
    names = ["cluster_extent", "cluster_mass", "tfce"]
    result = run(cohort_of(maps), design, hypotheses, statistics=names, cluster_forming_z=1, joint=True)
    for name in names:
        maxima = result["null_max"].sel(statistic=name).values.max(axis=0)
        expected = brute_force.p_corrected(np.abs(result[name].values), maxima)
        same_p(result[f"{name}_p_fwe_joint"].values, expected)
        assert (result[f"{name}_p_fwe_joint"].values > result[f"{name}_p_fwe"].values).any()


@pytest.mark.parametrize("method", ["draper-stoneman", "still-white"])
def test_contrasts_are_not_joined_by_relabellings_of_their_own(method: str) -> None:
    """These methods relabel what a contrast tests: either factor 70 times, but in other ways."""
    maps = np.random.default_rng(8).normal(size=(8, *SHAPE))
    with pytest.raises(DesignError, match="share their relabellings"):
        run(cohort_of(maps), TWO_BY_TWO, {"t": [0, 1, 0], "another t": [0, 0, 1]}, method=method, joint=True)
