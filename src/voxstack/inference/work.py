"""What tasks do: relabellings of some hypotheses at the voxels of one block, or whole maps of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxstack.blocks import Stored, column_values
from voxstack.inference.cases import CASES
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import STATISTICS, Enhancement, Maps, Whole
from voxstack.inference.tally import Tally
from voxstack.kernels.permuted import Float


def tally_block(
    values: Stored | NDArray[np.floating], hypotheses: Sequence[Hypothesis], start: int, stop: int
) -> list[Tally]:
    """Observed values, maxima and counts of relabellings start to stop.

    Parameters
    ----------
    values : (n, v) float32 or float64
        Or what they are read by. NaN is missing.
    hypotheses
        Each with as many of these relabellings as it has.
    """
    columns = column_values(values)
    return [CASES[one.cases.missing].tally(columns, one, start, min(stop, one.number)) for one in hypotheses]


def map_block(
    values: Stored | NDArray[np.floating],
    hypotheses: Sequence[Hypothesis],
    enhancement: Enhancement,
    start: int,
    stop: int,
) -> list[Maps]:
    """Maps of relabellings start to stop at one block, for each hypothesis.

    Parameters
    ----------
    values, hypotheses, start, stop
        As of `tally_block`.
    enhancement
        Statistics, and how maps are enhanced.
    """
    columns = column_values(values)
    return [_piece(columns, one, enhancement, start, min(stop, one.number)) for one in hypotheses]


def _piece(values: NDArray[np.floating], one: Hypothesis, enhancement: Enhancement, start: int, stop: int) -> Maps:
    rule = CASES[one.cases.missing]
    if not enhancement.needs_heights:
        return Maps(None, rule.suprathreshold(values, one, enhancement, start, stop))
    heights = rule.heights(values, one, enhancement, start, stop)
    return Maps(heights, enhancement.find(heights, one) if enhancement.forms_clusters else None)


def largest_of_maps(
    pieces: Sequence[Sequence[Maps]],
    numbers: Sequence[NDArray[np.int64]],
    hypotheses: Sequence[Hypothesis],
    enhancement: Enhancement,
) -> list[dict[str, Float]]:
    """Largest enhanced values (b,) of whole maps, by hypothesis and statistic.

    Parameters
    ----------
    pieces
        Of each block what `map_block` gives.
    numbers
        Of each block those of its voxels among all.
    enhancement
        Statistics, and how maps are enhanced.
    """
    found = []
    for row, hypothesis in enumerate(hypotheses):
        whole = Whole([piece[row] for piece in pieces], numbers, enhancement, hypothesis)
        found.append({name: STATISTICS[name].largest(whole) for name in enhancement.names})
    return found
