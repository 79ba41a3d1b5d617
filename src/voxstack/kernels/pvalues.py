"""Tails of t and F, and the z of the same probability, exact where p underflows.

A p-value below 1e-308 is 0 in double precision, but its z is an ordinary number. There the logarithm of the tail is
taken from the continued fraction of the incomplete beta function (DLMF 8.17.22) and inverted by the logarithm of the
normal distribution.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Float = NDArray[np.float64]
Alternative = Literal["two-sided", "greater", "less"]

ALTERNATIVES: tuple[Alternative, ...] = ("two-sided", "greater", "less")

_UNDERFLOW = 1e-290


def t_tail(t: ArrayLike, dof: ArrayLike) -> Float:
    """P(T >= t), of t >= 0, for Student's t: (v,) from (v,) and (v,) or ()."""
    t, dof = np.broadcast_arrays(np.asarray(t, float), np.asarray(dof, float))
    square = t * t
    # Each form is accurate where its argument is the small one of the two.
    near = 0.5 * special.betaincc(0.5, dof / 2, square / (dof + square))
    far = 0.5 * special.betainc(dof / 2, 0.5, dof / (dof + square))
    tail: Float = np.where(square < dof, near, far)
    return tail


def t_to_p(t: ArrayLike, dof: ArrayLike, alternative: Alternative) -> Float:
    """p-value of t: (v,) from (v,) and (v,) or ().

    Parameters
    ----------
    alternative
        "two-sided": P(\\|T\\| >= \\|t\\|); "greater": P(T >= t); "less": P(T <= t).
    """
    t = np.asarray(t, float)
    tail = t_tail(np.abs(t), dof)
    if alternative == "two-sided":
        return np.minimum(2 * tail, 1.0)
    beyond = t >= 0 if alternative == "greater" else t <= 0
    return np.where(np.isnan(t), np.nan, np.where(beyond, tail, 1 - tail))


def t_to_z(t: ArrayLike, dof: ArrayLike) -> Float:
    """The normal deviate with the same tail and sign as t: (v,) from (v,) and (v,) or ()."""
    t, dof = np.broadcast_arrays(np.asarray(t, float), np.asarray(dof, float))
    size = np.abs(t)
    tail = t_tail(size, dof)
    z = -special.ndtri(tail)
    far = tail < _UNDERFLOW
    if far.any():
        square = size[far] ** 2
        log_tail = _log_betainc(dof[far] / 2, 0.5, dof[far] / (dof[far] + square)) + np.log(0.5)
        z[far] = -special.ndtri_exp(log_tail)
    signed: Float = np.copysign(z, t)
    return signed


def f_to_p(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> Float:
    """P(F >= f): (v,) from (v,) and (v,) or ()."""
    return _f_tails(f, dof_num, dof)[0]


def f_to_z(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> Float:
    """isf(P(F >= f)): the normal deviate with the same upper tail as F, negative where p > 0.5."""
    f, dof_num, dof = np.broadcast_arrays(np.asarray(f, float), np.asarray(dof_num, float), np.asarray(dof, float))
    upper, lower = _f_tails(f, dof_num, dof)
    z: Float = np.where(upper < 0.5, -special.ndtri(upper), special.ndtri(lower))
    far = upper < _UNDERFLOW
    if far.any():
        a, b = dof[far] / 2, dof_num[far] / 2
        z[far] = -special.ndtri_exp(_log_betainc(a, b, dof[far] / (dof[far] + dof_num[far] * f[far])))
    return z


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


def _f_tails(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> tuple[Float, Float]:
    f, dof_num, dof = np.broadcast_arrays(np.asarray(f, float), np.asarray(dof_num, float), np.asarray(dof, float))
    numerator = dof_num * f
    large = numerator > dof
    small_argument = np.where(large, dof, numerator) / (dof + numerator)
    a, b = np.where(large, dof, dof_num) / 2, np.where(large, dof_num, dof) / 2
    below, above = special.betainc(a, b, small_argument), special.betaincc(a, b, small_argument)
    return np.where(large, below, above), np.where(large, above, below)


def _log_betainc(a: ArrayLike, b: ArrayLike, x: ArrayLike) -> Float:
    """log I_x(a, b) for x well below its mean a / (a + b), by Lentz's continued fraction."""
    a, b, x = np.broadcast_arrays(np.asarray(a, float), np.asarray(b, float), np.asarray(x, float))
    tiny = 1e-300
    c = np.ones_like(x)
    d = 1 - (a + b) * x / (a + 1)
    d = 1 / np.where(np.abs(d) < tiny, tiny, d)
    fraction = d.copy()
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 + term * d
            c = 1 + term / c
            d = 1 / np.where(np.abs(d) < tiny, tiny, d)
            c = np.where(np.abs(c) < tiny, tiny, c)
            fraction = fraction * d * c
        if np.all(np.abs(d * c - 1) < 1e-15):
            break
    log_power: Float = a * np.log(x) + b * np.log1p(-x)
    result: Float = log_power - np.log(a) - special.betaln(a, b) + np.log(fraction)
    return result
