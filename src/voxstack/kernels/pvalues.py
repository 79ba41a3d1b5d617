"""Tails of t and F, and the z of the same probability, exact where p underflows.

Both are incomplete beta functions, which are evaluated by a continued fraction on the side where they are small
(Didonato and Morris 1992, ACM Transactions on Mathematical Software 18:360). A p-value below 1e-308 is 0 in double
precision, but its logarithm and its z are ordinary numbers: there z comes from the logarithm of the tail.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from voxstack.kernels.jit import jit

Float = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "greater", "less")

TIE = 1e-10
"""Relative difference below which two values of a statistic are the same but for rounding, in double precision.

Relabellings that mirror each other give statistics that are equal in exact arithmetic; counted with a bare >= some of
them are lost. Rounding errors are below 1e-12.
"""

_UNDERFLOW = 1e-290


def counted_p(counts: NDArray[np.int64], number: int) -> Float:
    """p-values of counts of relabellings, the identity among them, that reach the observed value: counts / number.

    The least p-value is 1 / number (Phipson and Smyth 2010, Statistical Applications in Genetics and Molecular Biology
    9:39, for relabellings drawn at random; exact where all distinct ones are run).
    """
    return np.asarray(counts / number)


def corrected_p(observed: Float, maxima: Float, tie: float | Float = TIE) -> Float:
    """p-values corrected for all voxels: the share of relabellings whose maximum reaches the observed value.

    Parameters
    ----------
    observed
        Of any shape; NaN gives NaN.
    maxima : (b,) float64
        Of each relabelling, the identity included (Westfall and Young 1993, Resampling-Based Multiple Testing).
    tie
        Difference below which both are the same.
    """
    ordered = np.sort(maxima)
    counts = len(ordered) - np.searchsorted(ordered, observed - tie, side="left")
    return np.where(np.isnan(observed), np.nan, counted_p(counts, len(ordered)))


def critical_maximum(maxima: Float, level: float) -> float:
    """The largest value whose corrected p is above a level; -inf where there is none.

    Parameters
    ----------
    maxima : (b,) float64
        As of `corrected_p`.
    level
        Of p.
    """
    allowed = int(np.floor(level * len(maxima) * (1 + TIE)))
    return float(np.sort(maxima)[::-1][allowed]) if allowed < len(maxima) else -np.inf


def t_to_p(t: ArrayLike, dof: ArrayLike, alternative: Alternative) -> Float:
    """p-value of t: (v,) from (v,) and (v,) or ().

    Parameters
    ----------
    alternative
        "two-sided": P(\\|T\\| >= \\|t\\|); "greater": P(T >= t); "less": P(T <= t).
    """
    return t_to_z_and_p(t, dof, alternative)[1]


def t_to_z(t: ArrayLike, dof: ArrayLike) -> Float:
    """The normal deviate with the same tail and sign as t: (v,) from (v,) and (v,) or ()."""
    return t_to_z_and_p(t, dof, "two-sided")[0]


def t_to_z_and_p(t: ArrayLike, dof: ArrayLike, alternative: Alternative) -> tuple[Float, Float]:
    """`t_to_z` and `t_to_p` together, from one evaluation of the tail."""
    t, dof = np.broadcast_arrays(np.asarray(t, float), np.asarray(dof, float))
    with np.errstate(over="ignore"):
        both, _, log_both = _beta_tails(t * t, 1.0, dof)  # P(|T| >= |t|)
    tail = both / 2
    z = np.copysign(_upper_z(tail, log_both - np.log(2.0)), t)
    if alternative == "two-sided":
        return z, both
    return z, np.where(t >= 0 if alternative == "greater" else t <= 0, tail, 1 - tail)


def f_to_p(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> Float:
    """P(F >= f): (v,) from (v,) and (v,) or ()."""
    return f_to_z_and_p(f, dof_num, dof)[1]


def f_to_z(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> Float:
    """isf(P(F >= f)): the normal deviate with the same upper tail as F, negative where p > 0.5."""
    return f_to_z_and_p(f, dof_num, dof)[0]


def f_to_z_and_p(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> tuple[Float, Float]:
    """`f_to_z` and `f_to_p` together, from one evaluation of the tails."""
    upper, lower, log_upper = _beta_tails(f, dof_num, dof)
    return np.where(upper < 0.5, _upper_z(upper, log_upper), special.ndtri(lower)), upper


def z_to_p(z: ArrayLike, alternative: Alternative) -> Float:
    """p-value of a normal deviate."""
    z = np.asarray(z, float)
    if alternative == "two-sided":
        return np.asarray(2 * special.ndtr(-np.abs(z)))
    return np.asarray(special.ndtr(-z if alternative == "greater" else z))


def z_to_log10p(z: ArrayLike, alternative: Alternative) -> Float:
    """-log10 of the p-value of a normal deviate, finite where p itself underflows; never negative."""
    z = np.asarray(z, float)
    if alternative == "two-sided":
        log_p = np.minimum(special.log_ndtr(-np.abs(z)) + np.log(2.0), 0.0)
    else:
        log_p = special.log_ndtr(-z if alternative == "greater" else z)
    # 0 minus, so that p = 1 gives 0 and not -0.
    result: Float = 0.0 - log_p / np.log(10.0)
    return result


def log10p_to_z(log10_p: ArrayLike) -> Float:
    """The normal deviate whose upper tail is p, from -log10 p."""
    z: Float = -special.ndtri_exp(-np.log(10.0) * np.asarray(log10_p, float))
    return z


def _upper_z(tail: Float, log_tail: Float) -> Float:
    """The normal deviate with this upper tail."""
    z: Float = -special.ndtri(tail)
    far = tail < _UNDERFLOW
    return np.where(far, -special.ndtri_exp(np.where(far, log_tail, 0.0)), z) if far.any() else z


def _beta_tails(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> tuple[Float, Float, Float]:
    """Upper and lower tail of F, and the logarithm of the upper one; t squared is F with dof_num 1."""
    f, dof_num, dof = np.broadcast_arrays(np.asarray(f, float), np.asarray(dof_num, float), np.asarray(dof, float))
    a, b = dof / 2, dof_num / 2
    log_beta = _shared_log_beta(a.ravel(), b.ravel())
    upper, lower, log_upper = (np.empty(f.size) for _ in range(3))
    ratio = np.ascontiguousarray(dof_num * f / dof).ravel()
    _incomplete_beta(a.ravel(), b.ravel(), ratio, log_beta, upper, lower, log_upper)
    return upper.reshape(f.shape), lower.reshape(f.shape), log_upper.reshape(f.shape)


def _shared_log_beta(a: Float, b: Float) -> Float:
    """log B(a, b), once for voxels that share their degrees of freedom: mostly all of them."""
    if a.size and np.all(a == a[0]) and np.all(b == b[0]):
        return np.full(a.size, _log_beta(np.maximum(a[:1], b[:1]), np.minimum(a[:1], b[:1]))[0])
    pairs, which = np.unique(a + 1j * b, return_inverse=True)  # complex numbers make pairs that sort quickly
    shared: Float = _log_beta(np.maximum(pairs.real, pairs.imag), np.minimum(pairs.real, pairs.imag))[which]
    return shared


def _log_beta(large: Float, small: Float) -> Float:
    """log B(large, small), without the difference of large numbers that log-gamma functions give."""

    def rest(x: Float) -> Float:  # of Stirling's series, to double precision for x > 100
        return 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5)

    total = large + small
    growth = (large - 0.5) * np.log1p(small / large) + small * (np.log(total) - 1) + rest(total) - rest(large)
    log_beta: Float = np.where(large > 100, special.gammaln(small) - growth, special.betaln(large, small))
    return log_beta


@jit
def _incomplete_beta(
    a: Float, b: Float, ratio: Float, log_beta: Float, value: Float, complement: Float, log_value: Float
) -> None:
    # I_x(a, b) with x = 1 / (1 + ratio), its complement and its logarithm.
    for i in range(a.size):
        q = ratio[i]
        if np.isnan(q) or np.isnan(log_beta[i]):
            value[i] = complement[i] = log_value[i] = np.nan
            continue
        if q == 0.0:
            value[i], complement[i], log_value[i] = 1.0, 0.0, 0.0
            continue
        if q == np.inf:
            value[i], complement[i], log_value[i] = 0.0, 1.0, -np.inf
            continue
        x, y = 1.0 / (1.0 + q), q / (1.0 + q)
        log_power = -a[i] * np.log1p(q) - b[i] * np.log1p(1.0 / q) - log_beta[i]
        above = (a[i] + b[i]) * y - b[i]  # how far x is below the mean of the distribution, times a + b
        # Below the mean the fraction converges fast; above it the complement is below its own mean.
        if above >= 0:
            log_value[i] = log_power + np.log(_fraction(a[i], b[i], x, y, above))
            value[i] = np.exp(log_value[i])
            complement[i] = 1.0 - value[i]
        else:
            complement[i] = np.exp(log_power) * _fraction(b[i], a[i], y, x, -above)
            value[i] = 1.0 - complement[i]
            log_value[i] = np.log1p(-complement[i])


@jit
def _fraction(a: float, b: float, x: float, y: float, above: float) -> float:
    # B_x(a, b) / (x^a y^b), equation 9 of Didonato and Morris: no differences of large numbers for large a or b.
    before, now = (0.0, 1.0), (1.0, a * (1.0 + above) / (a + 1.0))
    value = now[0] / now[1]
    for n in range(1, 100_000):
        s = a + 2.0 * n - 1.0
        alpha = (a + n - 1.0) * (a + b + n - 1.0) / (s * s) * n * (b - n) * x * x
        beta = n + n * (b - n) * x / s + (a + n) / (a + 2.0 * n + 1.0) * (1.0 + above + n * (1.0 + y))
        new = (alpha * before[0] + beta * now[0], alpha * before[1] + beta * now[1])
        # Only ratios matter: rescaled, the terms cannot overflow.
        before, now = (now[0] / new[1], now[1] / new[1]), (new[0] / new[1], 1.0)
        if abs(now[0] - value) <= 1e-15 * now[0]:
            return now[0]
        value = now[0]
    return value
