"""The tail of a null distribution by a generalised Pareto distribution: small p-values from few relabellings.

Exceedances over a high threshold follow P(X > x) = (1 - k x / a)^(1/k) in the limit (Pickands 1975, Annals of
Statistics 3:119). Parameters by the method of moments (Hosking and Wallis 1987, Technometrics 29:339); thresholds from
the third quartile upwards until the fit is good, as in Knijnenburg et al. (2009, Bioinformatics 25:i161) and Winkler et
al. (2016, NeuroImage 141:502). Goodness of fit is Anderson and Darling's statistic, whose distribution is simulated
from the fitted one, with its parameters estimated anew for each sample.

Unlike there, distributions that end (k > 0) are not fitted: where moments say so the tail is exponential (k = 0). An
estimated end lies anywhere, and observed values close to it would get p-values that are too small by orders of
magnitude. What is fitted must have no end, either: normal deviates rather than correlations.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.pvalues import counted_p

Float = NDArray[np.float64]

_SHARES = (0.25, 0.2, 0.15, 0.1, 0.075, 0.05)  # of the relabellings that lie beyond the threshold
_LEAST, _MOST = 30, 2500  # exceedances that a fit needs, and may use
_SIMULATIONS = 400
_ALPHA = 0.05  # of the test of fit
_EXPONENTIAL = -1e-9  # shape that stands for 0
_HEAVIEST = -0.5  # shape below which a distribution has no variance, and moments do not tell its parameters


class Tail(NamedTuple):
    """A fitted tail.

    Attributes
    ----------
    threshold
        Above which it holds.
    share
        Of the distribution that lies above.
    scale, shape
        a and k <= 0.
    """

    threshold: float
    share: float
    scale: float
    shape: float


def fit_tail(null: Float) -> Tail | None:
    """The upper tail of a null distribution (b,), from the lowest threshold at which it fits; None where none does."""
    ordered = np.sort(null)[::-1]
    for share in _SHARES:
        count = int(share * min(len(ordered), _MOST / _SHARES[0]))
        if count < _LEAST:
            return None
        threshold = float(ordered[count])
        excess = ordered[:count] - threshold
        excess = excess[excess > 0]
        if len(excess) < _LEAST:
            continue
        scale, shape = _moments(excess[None])
        if shape[0] > _HEAVIEST and _fits(excess, float(scale[0]), float(shape[0])):
            return Tail(threshold, len(excess) / len(ordered), float(scale[0]), float(shape[0]))
    return None


def tail_p(observed: Float, tail: Tail, counted: Float) -> Float:
    """p-values by the tail where observed values lie in it, and as counted elsewhere.

    Parameters
    ----------
    observed
        Of any shape.
    tail
        Of `fit_tail`.
    counted
        p-values of the observed values by counting.
    """
    survived = _survival(np.fmax(observed - tail.threshold, 0.0), tail.scale, tail.shape)
    return np.where(observed > tail.threshold, tail.share * survived, counted)


def _moments(samples: Float) -> tuple[Float, Float]:
    """Scale and shape of samples (s, m)."""
    mean, variance = samples.mean(axis=1), samples.var(axis=1, ddof=1)
    shape = np.minimum((mean**2 / variance - 1) / 2, 0.0)
    return mean * (1 + shape), shape


def _survival(x: Float, scale: Float | float, shape: Float | float) -> Float:
    shape = np.minimum(shape, _EXPONENTIAL)
    return np.asarray(np.exp(np.log1p(-shape * x / scale) / shape))


def _fits(excess: Float, scale: float, shape: float) -> bool:
    # The raw bits of a bit generator stay the same in all versions of NumPy; what is made of them elsewhere need not.
    bits = np.random.Philox(key=len(excess)).random_raw(_SIMULATIONS * len(excess)).reshape(_SIMULATIONS, -1)
    uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    exponent = min(shape, _EXPONENTIAL)
    samples = scale / exponent * (1 - uniform**exponent)
    simulated = _anderson_darling(samples, *_moments(samples))
    observed = _anderson_darling(excess[None], np.array([scale]), np.array([shape]))[0]
    return bool(counted_p(np.array(1 + np.sum(simulated >= observed)), 1 + _SIMULATIONS) > _ALPHA)


def _anderson_darling(samples: Float, scale: Float, shape: Float) -> Float:
    """A^2 of samples (s, m) against distributions with estimated parameters."""
    m = samples.shape[1]
    survival = np.sort(_survival(samples, scale[:, None], shape[:, None]), axis=1)
    with np.errstate(divide="ignore"):  # an excess of nearly 0
        terms = (2 * np.arange(1, m + 1) - 1) * (np.log(survival) + np.log1p(-survival[:, ::-1]))
    return np.asarray(-m - terms.sum(axis=1) / m)
