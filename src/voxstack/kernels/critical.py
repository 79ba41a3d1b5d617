"""Values of z, t and F that have a given p-value: the inverse of `pvalues`."""

import numpy as np
from scipy import special

from voxstack.kernels.pvalues import Alternative


def critical_z(p: float, alternative: Alternative) -> float:
    """The normal deviate whose p-value is p: positive for "two-sided", for p = 0 infinite."""
    return _signed(float(-special.ndtri(_tail(p, alternative))), alternative)


def critical_t(p: float, dof: float, alternative: Alternative) -> float:
    """The t whose p-value is p: positive for "two-sided", for p = 0 infinite."""
    tail = _tail(p, alternative)
    t = np.sqrt(critical_f(2 * min(tail, 1 - tail), 1, dof))
    return _signed(float(t if tail <= 0.5 else -t), alternative)


def critical_f(p: float, dof_num: float, dof: float) -> float:
    """The F whose p-value is p, for p = 0 infinite."""
    a, b = dof_num / 2, dof / 2
    # R, or what is missing to 1: whichever is small has all digits.
    if p > 0.5:
        explained = special.betaincinv(a, b, 1 - p)
        left = 1 - explained
    else:
        left = special.betaincinv(b, a, p)
        explained = 1 - left
    with np.errstate(divide="ignore"):
        return float(np.divide(explained * dof, left * dof_num))


def _tail(p: float, alternative: Alternative) -> float:
    assert 0 <= p <= 1, p
    return p / 2 if alternative == "two-sided" else p


def _signed(value: float, alternative: Alternative) -> float:
    return -value if alternative == "less" else value
