"""Values of z, t and F that have a given p-value: the inverse of `pvalues`."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from voxstack.kernels.pvalues import Alternative

Float = NDArray[np.float64]


def critical_z(p: float, alternative: Alternative) -> float:
    """The normal deviate whose p-value is p: positive for "two-sided", for p = 0 infinite."""
    return _signed(float(-special.ndtri(_tail(p, alternative))), alternative)


def critical_t(p: float, dof: float, alternative: Alternative) -> float:
    """The t whose p-value is p: positive for "two-sided", for p = 0 infinite."""
    return _signed(float(t_quantile(_tail(p, alternative), np.asarray(float(dof)))), alternative)


def t_quantile(tail: float, dof: Float) -> Float:
    """The t with P(T >= t) = tail: (v,) from a number between 0 and 1 and (v,).

    From the inverses of the incomplete beta function, whose two forms are exact on either side. `scipy.special.stdtrit`
    gives 10 digits in SciPy 1.13, and fewer near 0 in some later versions.
    """
    both = 2 * min(tail, 1 - tail)  # P(|T| >= |t|)
    share = special.betaincinv(dof / 2, 0.5, both)  # dof / (dof + t^2)
    rest = special.betainccinv(0.5, dof / 2, both)  # t^2 / (dof + t^2)
    with np.errstate(divide="ignore"):  # in the branch that is not taken
        ratio = np.where(share < 0.5, (1 - share) / share, rest / (1 - rest))
    return np.asarray(np.copysign(np.sqrt(dof * ratio), 0.5 - tail))


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
