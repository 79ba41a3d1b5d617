"""Which subjects count at a voxel, and by what relabellings are compared there: complete or available cases."""

from collections.abc import Mapping
from typing import Protocol

from voxstack.inference import available, complete
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found, Tally, Values
from voxstack.kernels.permuted import Float
from voxstack.kernels.suprathreshold import Suprathreshold
from voxstack.models.blueprint import Missing


class CaseRule(Protocol):
    """One of the rules: a module with these functions."""

    def tally(self, values: Values, hypothesis: Hypothesis, start: int, stop: int, /) -> Tally:
        """What relabellings start to stop come to."""

    def heights(
        self, values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int, /
    ) -> Float:
        """Their maps to be enhanced, (b, v)."""

    def suprathreshold(
        self, values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int, /
    ) -> Suprathreshold:
        """What of these maps reaches the cluster-forming threshold."""

    def near(self, found: Found, hypothesis: Hypothesis, /) -> Float:
        """How far below the observed score another one may lie and still be equal."""

    def null(self, maxima: Float, hypothesis: Hypothesis, /) -> Float:
        """The largest scores as users see them."""

    def surprise(self, scores: Float, hypothesis: Hypothesis, /) -> Float:
        """-log10 p."""

    def observed_map(self, found: Found, hypothesis: Hypothesis, enhancement: Enhancement, /) -> Float:
        """Map of the identity to be enhanced."""


CASES: Mapping[Missing, CaseRule] = {"complete": complete, "available": available}
