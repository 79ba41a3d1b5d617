"""The fitted tail of a null distribution, against distributions whose tails are known."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from voxstack.kernels.pvalues import corrected_p
from voxstack.kernels.tails import fit_tail, tail_p


def quantiles(distribution: Any, number: int) -> NDArray[np.float64]:
    """A sample without chance: that of equal steps of probability."""
    return np.asarray(distribution.isf((np.arange(number) + 0.5) / number))


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


@pytest.mark.parametrize("heaviness", [0.0, 0.1, 0.3])  # minus k
def test_p_values_of_the_tail_are_those_of_scipy_and_stay_above_0(heaviness: float) -> None:
    null = quantiles(stats.genpareto(heaviness), 4000)
    tail = fit_tail(null)
    assert tail is not None
    observed = tail.threshold + tail.scale * np.linspace(0, 30, 50)[1:]
    p = tail_p(observed, tail, np.full(observed.shape, np.nan))
    fitted = stats.genpareto(-tail.shape, loc=tail.threshold, scale=tail.scale)
    np.testing.assert_allclose(p, tail.share * fitted.sf(observed), rtol=1e-6)
    assert (np.diff(p) < 0).all()
    assert (p > 0).all()


def test_parameters_are_those_of_the_moments_of_what_lies_above_the_threshold() -> None:
    """a = m (m^2 / s^2 + 1) / 2 and k = (m^2 / s^2 - 1) / 2 (Hosking and Wallis 1987)."""
    null = quantiles(stats.genpareto(0.2), 10_000)
    tail = fit_tail(null)
    assert tail is not None
    above = null[null > tail.threshold] - tail.threshold
    ratio = above.mean() ** 2 / above.var(ddof=1)
    assert len(above) == 2500
    assert tail.share == 0.25
    assert tail.scale == pytest.approx(above.mean() * (ratio + 1) / 2, rel=1e-12)
    assert tail.shape == pytest.approx((ratio - 1) / 2, rel=1e-12)


def test_where_moments_say_that_a_distribution_ends_its_tail_is_exponential() -> None:
    ending = stats.genpareto(-0.1)
    null = quantiles(ending, 10_000)
    tail = fit_tail(null)
    assert tail is not None
    above = null[null > tail.threshold] - tail.threshold
    assert above.mean() ** 2 > above.var(ddof=1)
    assert tail.shape == 0
    assert tail.scale == pytest.approx(above.mean(), rel=1e-12)
    end = ending.support()[1]
    observed = np.array([end - 0.1, end, end + 5])
    p = tail_p(observed, tail, np.full(3, np.nan))
    np.testing.assert_allclose(p, tail.share * stats.expon.sf(observed, tail.threshold, tail.scale), rtol=1e-6)


@pytest.mark.parametrize(
    "distribution",
    [stats.uniform(), stats.beta(1, 1.5), stats.genpareto(1.0)],
    ids=["a sharp end", "an end", "no variance"],
)
def test_other_tails_are_not_fitted(distribution: Any) -> None:
    assert fit_tail(quantiles(distribution, 10_000)) is None


def test_of_many_relabellings_higher_thresholds_are_of_fewer_exceedances() -> None:
    """The 1,000 highest of 60,000 are exponential, those below lie far away from them."""
    highest = 10 + quantiles(stats.expon(), 1000)
    tail = fit_tail(np.concatenate([[10.0], np.linspace(0, 1, 58_999), highest]))
    assert tail is not None
    assert tail.threshold == 10
    assert tail.share == 1000 / 60_000
    assert tail.shape == 0
    assert tail.scale == pytest.approx(1, rel=1e-3)


def test_too_few_relabellings_are_not_fitted() -> None:
    """A quarter of them lies above the lowest threshold: that has to be 30."""
    assert fit_tail(quantiles(stats.expon(), 119)) is None
    tail = fit_tail(quantiles(stats.expon(), 120))
    assert tail is not None
    assert tail.share == 0.25
    assert fit_tail(np.ones(5000)) is None, "there is nothing above the threshold"


def test_what_is_no_tail_is_not_fitted() -> None:
    """Two values, as of a statistic that is mostly 0."""
    null = np.random.default_rng(0).choice([1.0, 2.0, 3.0], 4000)
    assert fit_tail(null) is None
