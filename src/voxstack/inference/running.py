"""The corrected p-value of the largest statistic so far, while a permutation test runs."""

from collections.abc import Sequence

import numpy as np

from voxstack.inference.hypotheses import Hypothesis
from voxstack.kernels.permuted import Float
from voxstack.kernels.pvalues import TIE, corrected_p


class Running:
    """What is known of some null distributions.

    Parameters
    ----------
    hypotheses
        That are tested.
    maxima : (b,) float64 each
        Of each hypothesis, filled in while tasks complete.
    left
        Relabellings of each task that is still to come; the others are known.
    """

    def __init__(self, hypotheses: Sequence[Hypothesis], maxima: Sequence[Float], left: Sequence[range]) -> None:
        self._names, self._maxima = [one.name for one in hypotheses], maxima
        self._open = np.zeros(max(map(len, maxima)), dtype=np.int64)
        for rows in left:
            self._open[rows.start : rows.stop] += 1

    def finish(self, rows: range) -> None:
        """A task has completed."""
        self._open[rows.start : rows.stop] -= 1

    def text(self) -> str:
        """Such as "p 0.012 of age", the least one, once the identity and some others are known."""
        known = self._open == 0
        if not known[0] or known.sum() < 2:
            return ""
        least: dict[str, float] = {}
        for name, maxima in zip(self._names, self._maxima, strict=True):
            some = maxima[known[: len(maxima)]]
            least[name] = float(corrected_p(maxima[0], some, TIE * max(abs(maxima[0]), 1.0)))
        first = min(least, key=lambda name: least[name])
        return f"p {least[first]:.2g} of {first}"
