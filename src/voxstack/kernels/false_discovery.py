"""The false discovery rate (Benjamini and Hochberg 1995, Journal of the Royal Statistical Society B 57:289)."""

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.pvalues import TIE


def critical_p(p: NDArray[np.float64], rate: float) -> float:
    """The p-value up to which hypotheses are rejected: rate k / m for the largest k with p_(k) <= rate k / m.

    It holds the rate where the m p-values are independent, or depend on each other positively (Benjamini and Yekutieli
    2001, Annals of Statistics 29:1165).

    Parameters
    ----------
    p : (m,) float64
        Without NaN.
    rate
        Expected share of false ones among the rejected hypotheses.

    Returns
    -------
    float
        0 where none is rejected.
    """
    m = p.size
    assert p.ndim == 1, p.shape
    steps = rate * np.arange(1, m + 1) / max(m, 1)
    passing = np.flatnonzero(np.sort(p) <= steps * (1 + TIE))
    return float(steps[passing[-1]]) if passing.size else 0.0
