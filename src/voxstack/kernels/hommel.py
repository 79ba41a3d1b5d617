"""Lower bounds for the number of true discoveries in any set of hypotheses, all at once.

Closed testing with Simes' test rejects an intersection of i hypotheses if its k-th smallest p-value is at most
k alpha / i for some k. Goeman and Solari (2011, Statistical Science 26:584) turn it into bounds for sets that may be
chosen after looking at the data, and Goeman, Meijer, Krebs and Solari (2019, Biometrika 106:841) give the shortcut that
is computed here. It holds under the assumption of Simes' inequality, as the false discovery rate of Benjamini and
Hochberg does.
"""

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.pvalues import TIE

Float = NDArray[np.float64]
Integers = NDArray[np.int64]


def hommel_value(p: Float, alpha: float) -> int:
    """The largest number of hypotheses that could all be true: Hommel's value h.

    It is the largest i for which Simes' test does not reject the i hypotheses of the largest p-values, that is the
    largest i with i p_(m-i+k) > k alpha for all k = 1, ..., i. With the p-value of rank j, i hypotheses are rejected
    from i = (m - j) alpha / (alpha - p_(j)) on, so one pass over the sorted p-values finds it (the geometry of Meijer,
    Krebs and Goeman 2019, Biometrical Journal 61:73, at one alpha).

    Parameters
    ----------
    p : (m,) float64
        Without NaN.
    alpha
        Error rate.
    """
    assert p.ndim == 1, p.shape
    m = p.size
    ordered = np.sort(p)
    ordered = ordered[ordered <= alpha * (1 + TIE)]
    above = m - np.arange(1, ordered.size + 1)  # hypotheses of larger p
    gap = np.maximum(alpha - ordered, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rejected = np.where(above > 0, above * alpha / gap, 1.0)
    # p_(j) itself has to be among the i.
    rejected = np.maximum(rejected * (1 - TIE), above + 1.0)
    return int(min(np.ceil(rejected.min(initial=np.inf)) - 1, m))


def true_discoveries(p: Float, labels: Integers, number: int, hommel: int, alpha: float) -> Integers:
    """Lower bounds for the false null hypotheses in sets: (number,), simultaneously at level 1 - alpha.

    Of a set S it is the largest 1 - u + #{i in S: h p_i <= u alpha} over u = 1, 2, ..., or 0.

    Parameters
    ----------
    p : (m,) float64
        Without NaN.
    labels : (m,) int64
        Which set each hypothesis is in: 1 to `number`, or 0 for none.
    number
        Of sets.
    hommel
        `hommel_value` of all hypotheses, those outside of the sets included.
    alpha
        Error rate.
    """
    assert p.shape == labels.shape, (p.shape, labels.shape)
    inside = labels > 0
    sets, size = labels[inside], np.bincount(labels, minlength=number + 1)
    # The least u that counts each hypothesis; beyond the size of a set none adds anything.
    first = np.maximum(np.ceil(hommel * p[inside] / alpha * (1 - TIE)), 1.0)
    order = np.lexsort((first, sets))
    sets, first = sets[order], first[order]
    start = np.cumsum(size[1:]) - size[1:]
    counted = np.arange(1, sets.size + 1) - start[sets - 1]  # those of the set that are counted by then
    found = np.zeros(number + 1)
    np.maximum.at(found, sets, 1 - first + counted)
    return found[1:].astype(np.int64)
