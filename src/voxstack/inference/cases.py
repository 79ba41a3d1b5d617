"""Which subjects count at a voxel, and by what relabellings are compared there: complete or available cases."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from voxstack.inference import available, complete
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found, Tally, Values
from voxstack.kernels.permuted import Float
from voxstack.kernels.suprathreshold import Suprathreshold
from voxstack.models.blueprint import Missing


@dataclass(frozen=True)
class CaseRule:
    """One of the rules.

    Attributes
    ----------
    tally
        (values (n, v), hypothesis, start, stop) -> what relabellings start to stop come to.
    heights
        (values, hypothesis, enhancement, start, stop) -> their maps to be enhanced, (b, v).
    suprathreshold
        (values, hypothesis, enhancement, start, stop) -> what of these maps reaches the cluster-forming threshold.
    near
        (found, hypothesis) -> how far below the observed score another one may lie and still be equal.
    null
        (maxima, hypothesis) -> the largest scores as users see them.
    surprise
        (scores, hypothesis) -> -log10 p.
    observed_map
        (found, hypothesis, enhancement) -> map of the identity to be enhanced.
    """

    tally: Callable[[Values, Hypothesis, int, int], Tally]
    heights: Callable[[Values, Hypothesis, Enhancement, int, int], Float]
    suprathreshold: Callable[[Values, Hypothesis, Enhancement, int, int], Suprathreshold]
    near: Callable[[Found, Hypothesis], Float]
    null: Callable[[Float, Hypothesis], Float]
    surprise: Callable[[Float, Hypothesis], Float]
    observed_map: Callable[[Found, Hypothesis, Enhancement], Float]


CASES: Mapping[Missing, CaseRule] = {
    "complete": CaseRule(
        complete.tally,
        complete.heights,
        complete.suprathreshold,
        complete.near,
        complete.null,
        complete.surprise,
        complete.observed_map,
    ),
    "available": CaseRule(
        available.tally,
        available.heights,
        available.suprathreshold,
        available.near,
        available.null,
        available.surprise,
        available.observed_map,
    ),
}
