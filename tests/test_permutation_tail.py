"""`permutation_test(tail="gpd")`: the tail of the largest z, for one contrast and for several, whoever is missing."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

import voxstack as vx
from permuted_cohorts import run
from random_cohorts import cohort_of
from voxstack.kernels.pvalues import corrected_p
from voxstack.kernels.tails import fit_tail, tail_p

SHAPE, N = (6, 5, 4), 16


@pytest.fixture(scope="module")
def cohort() -> Any:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(N, *SHAPE))
    maps[:8, 2, 2, :2] += [6.0, 3.0]
    return cohort_of(maps)


DESIGN = np.column_stack([np.ones(N), np.arange(N) < 8, np.sin(np.arange(N))]).astype(float)
HYPOTHESES = {"group": [0, 1, 0], "wave": [0, 0, 1]}
OPTIONS: dict[str, Any] = {"n_permutations": 1000, "tail": "gpd"}


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_voxels_have_the_tail_of_the_largest_z(cohort: Any, alternative: Any) -> None:
    """And not of the largest r, which ends at 1 as no fitted tail does."""
    result = run(cohort, DESIGN, HYPOTHESES, alternative=alternative, **OPTIONS).sel(contrast="group")

    def deviates(t: Any) -> Any:
        return stats.norm.isf(2 * stats.t.sf(np.abs(t), N - 3) if alternative == "two-sided" else stats.t.sf(t, N - 3))

    null = deviates(result["null_max"].sel(statistic="voxel").values)
    observed = deviates(result["stat"].values)
    tail = fit_tail(null)
    assert tail is not None
    expected = tail_p(observed, tail, corrected_p(observed, null))
    np.testing.assert_allclose(result["voxel_p_fwe"], expected, rtol=1e-6)
    assert result["voxel_p_fwe"].min() < 1e-3
    assert result["tail_shape"].sel(statistic="voxel") == pytest.approx(tail.shape)


def test_available_cases_of_all_subjects_are_complete_ones(cohort: Any) -> None:
    complete = run(cohort, DESIGN, HYPOTHESES, joint=True, **OPTIONS)
    available = run(cohort, DESIGN, HYPOTHESES, joint=True, missing="available", **OPTIONS)
    for name in ("voxel_p_fwe", "voxel_p_fwe_joint"):
        np.testing.assert_allclose(available[name], complete[name], rtol=1e-5)


@pytest.mark.parametrize("alternative", ["two-sided", "less"])
def test_more_contrasts_do_not_make_p_smaller(alternative: Any) -> None:
    """Though each tail is fitted by itself; also of maps."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        maps = rng.normal(size=(N, *SHAPE))
        maps[:8, 2, 2, :2] -= 4
        options = {"statistics": ["voxel", "tfce"], "alternative": alternative, "joint": True, **OPTIONS}
        result = run(cohort_of(maps), DESIGN, HYPOTHESES, **options)
        for name in ("voxel_p_fwe", "tfce_p_fwe"):
            assert (result[f"{name}_joint"] >= result[name]).all()
        assert (result["voxel_p_fwe_joint"].sel(contrast="group") > result["voxel_p_fwe"].sel(contrast="group")).any()


def test_exhaustive_tests_are_counted(cohort: Any) -> None:
    few = cohort.isel(subject=slice(5, 11))
    counted, fitted = (
        vx.permutation_test(few, "~ 1", "Intercept", joint=True, tail=tail) for tail in ("counts", "gpd")
    )
    for name in ("voxel_p_fwe", "voxel_p_fwe_joint"):
        np.testing.assert_array_equal(fitted[name], counted[name])
    assert fitted["tail_shape"].isnull().all()
