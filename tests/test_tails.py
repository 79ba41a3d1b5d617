"""The fitted tail of a null distribution, against distributions whose tails are known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from voxstack.kernels.pvalues import corrected_p
from voxstack.kernels.tails import fit_tail, tail_p


def maxima_of_normals(rng: np.random.Generator, number: int, voxels: int = 1000) -> NDArray[np.float64]:
    return np.asarray(stats.norm.ppf(rng.random(number) ** (1 / voxels)))


@pytest.mark.parametrize("shape", [-0.2, -0.1, 0.0])
def test_parameters_of_a_pareto_distribution_are_found(shape: float) -> None:
    rng = np.random.default_rng(3)
    null = stats.genpareto(-shape, scale=2.0).rvs(10_000, random_state=rng)  # SciPy's shape is -k
    tail = fit_tail(null)
    assert tail is not None
    assert 0.05 <= tail.share <= 0.25
    assert tail.shape == pytest.approx(shape, abs=0.05)
    # Above a threshold u the distribution is of the same shape, and of scale a - k u.
    assert tail.scale == pytest.approx(2.0 - shape * tail.threshold, rel=0.1)


def test_small_p_values_are_neither_too_small_nor_those_of_counting() -> None:
    """Of maxima of 1000 normal values the tail is known; counting 500 of them cannot go below 0.002."""
    true = np.array([0.05, 0.01, 1e-3, 1e-4])
    observed = stats.norm.ppf((1 - true) ** (1 / 1000))
    found = []
    for seed in range(60):
        null = maxima_of_normals(np.random.default_rng(seed), 500)
        tail = fit_tail(null)
        assert tail is not None
        found.append(tail_p(observed, tail, corrected_p(observed, null)))
    ratio = np.median(found, axis=0) / true
    assert (ratio > 0.8).all()
    assert (ratio < [1.3, 1.5, 3, 6]).all()
    assert np.quantile(np.array(found)[:, 3], 0.9) < 1 / 500


def test_below_the_threshold_p_values_are_counted() -> None:
    null = maxima_of_normals(np.random.default_rng(1), 1000)
    tail = fit_tail(null)
    assert tail is not None
    observed = np.array([np.nan, -1.0, tail.threshold - 1e-6, tail.threshold + 1e-6])
    counted = corrected_p(observed, null)
    p = tail_p(observed, tail, counted)
    np.testing.assert_array_equal(p[:3], counted[:3])
    assert p[3] == pytest.approx(tail.share, rel=1e-4)


def test_p_values_fall_with_the_statistic_and_stay_above_0() -> None:
    null = np.minimum(maxima_of_normals(np.random.default_rng(2), 300), 4.0)  # moments say that it ends soon
    tail = fit_tail(null)
    assert tail is None or tail.shape <= 0
    null = np.random.default_rng(5).beta(2, 3, 2000)
    tail = fit_tail(null)
    if tail is not None:
        p = tail_p(np.linspace(tail.threshold, 3.0, 50), tail, np.full(50, 1.0))
        assert (np.diff(p) < 0).all()
        assert (p > 0).all()


def test_too_few_relabellings_are_not_fitted() -> None:
    assert fit_tail(np.arange(100.0)) is None
    assert fit_tail(np.ones(5000)) is None, "there is nothing above the threshold"


def test_what_is_no_tail_is_not_fitted() -> None:
    """Two values, as of a statistic that is mostly 0."""
    null = np.random.default_rng(0).choice([1.0, 2.0, 3.0], 4000)
    assert fit_tail(null) is None
