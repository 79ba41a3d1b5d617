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
    tail = np.full(t.shape, np.nan)
    square = t * t
    # Each form is accurate where its argument is the small one of the two.
    near, far = square < dof, square >= dof
    tail[near] = 0.5 * special.betaincc(0.5, dof[near] / 2, square[near] / (dof[near] + square[near]))
    tail[far] = 0.5 * special.betainc(dof[far] / 2, 0.5, dof[far] / (dof[far] + square[far]))
    return tail


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
    tail = t_tail(np.abs(t), dof)
    z = -special.ndtri(tail)
    far = tail < _UNDERFLOW
    if far.any():
        x = dof[far] / (dof[far] + t[far] ** 2)
        z[far] = -special.ndtri_exp(_log_betainc(dof[far] / 2, 0.5, x) + np.log(0.5))
    if alternative == "two-sided":
        p = np.minimum(2 * tail, 1.0)
    else:
        p = np.where(t >= 0 if alternative == "greater" else t <= 0, tail, 1 - tail)
    return np.copysign(z, t), p


def f_to_p(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> Float:
    """P(F >= f): (v,) from (v,) and (v,) or ()."""
    return f_to_z_and_p(f, dof_num, dof)[1]


def f_to_z(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> Float:
    """isf(P(F >= f)): the normal deviate with the same upper tail as F, negative where p > 0.5."""
    return f_to_z_and_p(f, dof_num, dof)[0]


def f_to_z_and_p(f: ArrayLike, dof_num: ArrayLike, dof: ArrayLike) -> tuple[Float, Float]:
    """`f_to_z` and `f_to_p` together, from one evaluation of the tails."""
    f, dof_num, dof = np.broadcast_arrays(np.asarray(f, float), np.asarray(dof_num, float), np.asarray(dof, float))
    upper, lower = _f_tails(f, dof_num, dof)
    z = np.where(upper < 0.5, -special.ndtri(upper), special.ndtri(lower))
    far = upper < _UNDERFLOW
    if far.any():
        x = dof[far] / (dof[far] + dof_num[far] * f[far])
        z[far] = -special.ndtri_exp(_log_betainc(dof[far] / 2, dof_num[far] / 2, x))
    return z, upper


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


def _f_tails(f: Float, dof_num: Float, dof: Float) -> tuple[Float, Float]:
    """Upper and lower tail of F, (v,) each."""
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
