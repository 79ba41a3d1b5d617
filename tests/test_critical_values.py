"""Critical values against SciPy's quantiles, and the false discovery rate against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxstack.kernels.critical import critical_f, critical_t, critical_z
from voxstack.kernels.false_discovery import critical_p
from voxstack.kernels.pvalues import ALTERNATIVES, Alternative, f_to_p, t_to_p, z_to_p

levels = st.floats(1e-12, 0.999)


@settings(deadline=None)
@given(p=levels, dof=st.integers(1, 500))
@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_critical_values_have_the_p_that_was_asked_for(alternative: Alternative, p: float, dof: int) -> None:
    z, t = critical_z(p, alternative), critical_t(p, dof, alternative)
    assert z_to_p(z, alternative) == pytest.approx(p, rel=1e-9)
    assert t_to_p([t], [dof], alternative)[0] == pytest.approx(p, rel=1e-9)
    if alternative == "two-sided":
        assert z == pytest.approx(stats.norm.isf(p / 2), abs=1e-9)
        assert t == pytest.approx(stats.t.isf(p / 2, dof), rel=1e-6, abs=1e-9)


@settings(deadline=None)
@given(p=levels, dof_num=st.integers(1, 20), dof=st.integers(1, 500))
def test_critical_values_of_f(p: float, dof_num: int, dof: int) -> None:
    f = critical_f(p, dof_num, dof)
    assert f_to_p([f], [dof_num], [dof])[0] == pytest.approx(p, rel=1e-9)
    if p > 1e-6:  # beyond, SciPy's quantiles lose digits
        assert f == pytest.approx(stats.f.isf(p, dof_num, dof), rel=1e-7)


def test_nothing_reaches_p_of_0() -> None:
    assert critical_z(0.0, "two-sided") == critical_t(0.0, 5, "greater") == critical_f(0.0, 2, 9) == np.inf
    assert critical_z(0.0, "less") == -np.inf


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 300), rate=st.sampled_from([0.01, 0.05, 0.2]))
def test_false_discovery_rate_rejects_what_its_adjusted_p_rejects(seed: int, m: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(m) ** rng.integers(1, 10)
    adjusted = stats.false_discovery_control(p)
    np.testing.assert_array_equal(p <= critical_p(p, rate), adjusted <= rate)


def test_false_discovery_rate_counts_ties_with_its_steps() -> None:
    # The second p lies on its step, 0.05 * 2 / 3, but for rounding.
    p = np.array([0.9, 0.1 / 3 * (1 + 1e-15), 0.02])
    assert critical_p(p, 0.05) == pytest.approx(0.1 / 3)
    assert critical_p(np.array([0.9, 0.04, 0.02]), 0.05) == 0
    assert critical_p(np.array([]), 0.05) == 0
