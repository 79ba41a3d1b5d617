"""Tails of t and F and their z: against scipy.stats where it is exact, against closed forms in the far tails."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from voxstack.kernels.pvalues import f_to_p, f_to_z, t_to_p, t_to_z, z_to_log10p

properties = settings(deadline=None, max_examples=40)
DOFS = [1, 2, 3, 4, 7.5, 11, 30, 200, 5000]


def log_t_tail(t: float, dof: int) -> float:
    """log P(T >= t) for an even number of degrees of freedom (Abramowitz and Stegun 26.7.4), in 2,500 digits."""
    with localcontext(prec=2500):
        square = Decimal(t) ** 2
        cosine = dof / (dof + square)  # of theta = atan(t / sqrt(dof)), squared
        term = total = Decimal(1)
        for k in range(1, dof // 2):
            term *= cosine * (2 * k - 1) / (2 * k)
            total += term
        return float(((1 - (square / (dof + square)).sqrt() * total) / 2).ln())


def log_f_tail(f: float, dof_num: int, dof: int) -> float:
    """log P(F >= f) for an even numerator: a finite sum of positive terms (DLMF 8.17.21)."""
    x = Fraction(dof) / (dof + dof_num * Fraction(f))
    a = Fraction(dof, 2)
    with localcontext(prec=60):
        term = total = Decimal(1)
        for j in range(1, dof_num // 2):
            term *= _decimal((a + j - 1) / j * (1 - x))
            total += term
        return float(_decimal(a) * _decimal(x).ln() + total.ln())


def log_normal_tail(z: float) -> float:
    """log P(Z >= z) for z > 5 by the continued fraction of Mills' ratio (DLMF 7.9.3), in 50 digits."""
    with localcontext(prec=50):
        fraction = Decimal(z)
        for k in range(400, 0, -1):
            fraction = Decimal(z) + k / fraction
        log_density = (
            -(Decimal(z) ** 2) / 2 - (2 * Decimal("3.14159265358979323846264338327950288419716939937511")).ln() / 2
        )
        return float(log_density - fraction.ln())


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def test_t_of_few_degrees_of_freedom_has_its_closed_form() -> None:
    t = np.array([0.1, 0.9, 1.0, 1.5, 3.0, 50.0, 1e4, 1e9])
    root = np.sqrt(2 + t**2)
    sine = t / np.sqrt(4 + t**2)
    below_one = 4 / (4 + t**2) / (1 + sine)  # 1 - sine, without cancellation
    np.testing.assert_allclose(t_to_p(t, 1, "greater"), np.arctan2(1, t) / np.pi, rtol=1e-14)
    np.testing.assert_allclose(t_to_p(t, 2, "greater"), 1 / (root * (root + t)), rtol=1e-14)
    np.testing.assert_allclose(t_to_p(t, 4, "greater"), below_one**2 * (2 + sine) / 4, rtol=1e-13)


def test_small_statistics_of_one_degree_of_freedom_keep_their_digits() -> None:
    t = np.logspace(-16, -1, 2001)
    np.testing.assert_allclose(t_to_p(t, 1, "greater"), np.arctan2(1, t) / np.pi, rtol=1e-14)
    np.testing.assert_allclose(f_to_p(t**2, 1, 1), 2 * np.arctan2(1, t) / np.pi, rtol=1e-14)
    slope = np.sqrt(2 / np.pi)  # of z at t = 0: the ratio of the two densities
    np.testing.assert_allclose(t_to_z(t[t < 1e-5], 1), slope * t[t < 1e-5], rtol=0, atol=1e-14)


@pytest.mark.parametrize("dof", DOFS)
def test_p_of_t_equals_scipy_for_every_alternative(dof: float) -> None:
    t = np.concatenate([np.linspace(-12, 12, 49), [-0.0]])
    student = stats.t(dof)
    np.testing.assert_allclose(t_to_p(t, dof, "greater"), student.sf(t), rtol=1e-12)
    np.testing.assert_allclose(t_to_p(t, dof, "less"), student.cdf(t), rtol=1e-12)
    np.testing.assert_allclose(t_to_p(t, dof, "two-sided"), 2 * student.sf(np.abs(t)), rtol=1e-12)


@pytest.mark.parametrize("dof", DOFS)
def test_z_of_t_has_the_same_tail(dof: float) -> None:
    t = np.linspace(-12, 12, 49)
    expected = np.sign(t) * stats.norm.isf(stats.t.sf(np.abs(t), dof))
    np.testing.assert_allclose(t_to_z(t, dof), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dof", DOFS)
@pytest.mark.parametrize("dof_num", [1, 2, 3, 10, 150])
def test_p_and_z_of_f_equal_scipy(dof_num: int, dof: float) -> None:
    f = np.array([1e-6, 0.02, 0.3, 0.9, 1.0, 1.1, 2.0, 5.0, 30.0])
    upper, lower = stats.f.sf(f, dof_num, dof), stats.f.cdf(f, dof_num, dof)
    representable = (upper > 1e-200) & (lower > 1e-200)  # scipy fails beyond
    assert representable.sum() >= 5
    f, upper, lower = f[representable], upper[representable], lower[representable]
    np.testing.assert_allclose(f_to_p(f, dof_num, dof), upper, rtol=1e-11)
    expected = np.where(upper < 0.5, stats.norm.isf(upper), stats.norm.ppf(lower))
    np.testing.assert_allclose(f_to_z(f, dof_num, dof), expected, rtol=1e-11, atol=1e-12)


def test_f_with_two_numerator_degrees_has_its_closed_form() -> None:
    f = np.array([0, 1e-12, 0.4, 1, 7, 300, 1e6])
    for dof in (1, 5, 38, 1000):
        with np.errstate(under="ignore"):
            expected = np.exp(-dof / 2 * np.log1p(2 * f / dof))
        representable = expected > 1e-300
        np.testing.assert_allclose(f_to_p(f, 2, dof)[representable], expected[representable], rtol=1e-12)


@pytest.mark.parametrize(("t", "dof"), [(1e30, 24), (80.0, 1000), (1e4, 200), (1e9, 200), (41.5, 5000), (300.0, 400)])
def test_z_of_t_is_exact_where_p_underflows(t: float, dof: int) -> None:
    expected = log_t_tail(t, dof)
    assert expected < math.log(1e-290)
    z, negative = t_to_z(np.array([t, -t]), dof).tolist()
    assert log_normal_tail(z) == pytest.approx(expected, rel=1e-13)
    assert negative == -z


@pytest.mark.parametrize(
    ("f", "dof_num", "dof"),
    [(1e6, 2, 150), (1e40, 2, 60), (900.0, 4, 1201), (35.0, 60, 5000), (1e5, 200, 340), (14.0, 200, 40_000)],
)
def test_z_of_f_is_exact_where_p_underflows(f: float, dof_num: int, dof: int) -> None:
    expected = log_f_tail(f, dof_num, dof)
    assert expected < math.log(1e-290)
    (z,) = f_to_z(np.array([f]), dof_num, dof).tolist()
    assert log_normal_tail(z) == pytest.approx(expected, rel=1e-13)


@given(dof=st.integers(40, 2000), exponent=st.floats(-700, -600))
@properties
def test_z_grows_without_a_step_where_the_logarithm_takes_over(dof: int, exponent: float) -> None:
    # F(2, d) has p = (1 + 2 f / d) ** (-d / 2): the statistic of any p is known.
    log_p = exponent + np.linspace(0, -1, 1001)
    f = dof / 2 * np.expm1(-2 * log_p / dof)
    z = f_to_z(f, 2, dof)
    slope = np.diff(z) / np.diff(log_p)
    # d log sf / dz = -hazard, which lies between z and z + 1 / z.
    middle = (z[1:] + z[:-1]) / 2
    assert (slope < 0).all()
    np.testing.assert_allclose(-1 / slope, middle + 1 / middle, rtol=1e-5)


@pytest.mark.parametrize("dof", [30, 100, 1500])
def test_z_of_t_grows_across_the_switch_to_logarithms(dof: int) -> None:
    t = stats.t.isf(1e-290, dof) * np.linspace(0.98, 1.02, 2001)
    tail = t_to_p(t, dof, "greater")
    assert tail.max() > 1e-290 > tail.min()
    z = t_to_z(t, dof)
    growth = np.diff(z)
    assert (growth > 0).all()
    # A step of 1e-12 at the switch would show.
    assert np.abs(np.diff(growth[1:] / growth[:-1])).max() < 1e-8


@given(t=st.lists(st.floats(-50, 50), min_size=1), dof=st.floats(1, 1e5))
@properties
def test_t_is_symmetric_and_its_alternatives_add_up(t: list[float], dof: float) -> None:
    values = np.array(t)
    greater, less, two_sided = (t_to_p(values, dof, a) for a in ("greater", "less", "two-sided"))
    np.testing.assert_array_equal(greater, t_to_p(-values, dof, "less"))
    np.testing.assert_array_equal(two_sided, t_to_p(-values, dof, "two-sided"))
    # Subnormal p-values have few digits.
    np.testing.assert_allclose(two_sided, np.minimum(1, 2 * np.minimum(greater, less)), rtol=1e-12, atol=1e-310)
    np.testing.assert_allclose(greater + less, 1, rtol=0, atol=1e-15)
    z = t_to_z(values, dof)
    np.testing.assert_array_equal(t_to_z(-values, dof), -z)
    assert (z * values >= 0).all()
    assert (z[np.abs(values) > 1e-9] != 0).all()


@given(f=st.floats(1e-3, 1e3), dof_num=st.integers(1, 50), dof=st.integers(1, 50))
@properties
def test_z_of_f_changes_sign_with_the_reciprocal(f: float, dof_num: int, dof: int) -> None:
    # 1 / F(a, b) is F(b, a); 1 / f is rounded, which z feels by its slope.
    np.testing.assert_allclose(f_to_z(f, dof_num, dof), -f_to_z(1 / f, dof, dof_num), rtol=1e-10, atol=1e-10)


@given(t=st.floats(0, 40), dof=st.integers(1, 500))
@properties
def test_f_of_one_numerator_degree_is_t_squared(t: float, dof: int) -> None:
    np.testing.assert_allclose(f_to_p(t**2, 1, dof), t_to_p(t, dof, "two-sided"), rtol=1e-11)


def test_no_statistic_gives_no_p_and_no_z() -> None:
    nan, values = np.nan, np.array([1.0, np.nan, -2.0])
    for alternative in ("two-sided", "greater", "less"):
        assert np.isnan(t_to_p(values, 10, alternative)).tolist() == [False, True, False]
        assert np.isnan(t_to_p(np.ones(3), np.array([10, nan, 10]), alternative)).tolist() == [False, True, False]
        assert np.isnan(z_to_log10p(values, alternative)).tolist() == [False, True, False]
    assert np.isnan(t_to_z(values, np.array([10, 10, nan]))).tolist() == [False, True, True]
    for function in (f_to_p, f_to_z):
        assert np.isnan(function(np.abs(values), 2, np.array([10, 10, nan]))).tolist() == [False, True, True]


def test_null_statistics_have_p_of_one_or_a_half() -> None:
    assert [float(t_to_p(0.0, 9, a)) for a in ("two-sided", "greater", "less")] == [1.0, 0.5, 0.5]
    assert float(t_to_z(0.0, 9)) == 0.0
    assert float(f_to_p(0.0, 3, 9)) == 1.0
    assert float(f_to_z(0.0, 3, 9)) == -np.inf


def test_degrees_of_freedom_broadcast_with_the_statistics() -> None:
    t, dof = np.array([0.5, 2.0, -3.0]), np.array([3.0, 30.0, 300.0])
    each = [float(t_to_z(a, b)) for a, b in zip(t, dof, strict=True)]
    np.testing.assert_array_equal(t_to_z(t, dof), each)
    table: NDArray[np.float64] = f_to_p(np.abs(t)[:, None], 2, dof[None])
    np.testing.assert_allclose(table, stats.f.sf(np.abs(t)[:, None], 2, dof[None]), rtol=1e-12)


def test_log10_p_of_z_is_finite_and_exact_where_p_underflows() -> None:
    z = np.array([-3.0, -0.5, 0.0, 0.7, 2.0, 8.0, 30.0])
    np.testing.assert_allclose(z_to_log10p(z, "greater"), -np.log10(stats.norm.sf(z)), rtol=1e-12)
    expected = np.where(z < 0, -np.log10(stats.norm.cdf(z)), -np.log1p(-stats.norm.sf(z)) / np.log(10))
    np.testing.assert_allclose(z_to_log10p(z, "less"), expected, rtol=1e-12)
    np.testing.assert_allclose(
        z_to_log10p(z, "two-sided"), -np.log10(2 * stats.norm.sf(np.abs(z))), rtol=1e-12, atol=1e-15
    )
    for far in (40.0, 500.0, 1e6):
        one_sided = -log_normal_tail(far) / math.log(10)
        assert float(z_to_log10p(far, "greater")) == pytest.approx(one_sided, rel=1e-14)
        assert float(z_to_log10p(-far, "less")) == pytest.approx(one_sided, rel=1e-14)
        assert float(z_to_log10p(-far, "two-sided")) == pytest.approx(one_sided - math.log10(2), rel=1e-14)


def test_log10_p_is_never_negative_not_even_by_its_sign() -> None:
    z = np.array([-np.inf, -40.0, -1e-17, 0.0, 1e-17])
    for alternative in ("two-sided", "greater"):
        assert not np.signbit(z_to_log10p(z, alternative)).any()
    assert float(z_to_log10p(0.0, "two-sided")) == 0.0
    assert float(z_to_log10p(-np.inf, "greater")) == 0.0
