"""What tasks do: relabellings of some hypotheses at the voxels of one block, or whole maps of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import STATISTICS, Enhancement
from voxstack.kernels import permuted, screen
from voxstack.kernels.permuted import VOXELS, Float, ratios, score, unit_residuals
from voxstack.plan import VECTOR_BYTES

_TALLY = {"mixed": screen.tally, "double": permuted.tally}


class Tally(NamedTuple):
    """Of one hypothesis in one block of v voxels, over b relabellings.

    Attributes
    ----------
    stat : (v,) float64
        t or F of the identity.
    observed : (v,) float64
        r or R of the identity; NaN where a subject has no data, or where there are no residuals.
    maxima : (b,) float64
        Of the scores over the voxels; -inf where there is none.
    counts : (v,) int64
        Of relabellings whose score is at least the observed one.
    """

    stat: Float
    observed: Float
    maxima: Float
    counts: NDArray[np.int64]


def tally_block(values: NDArray[np.floating], hypotheses: Sequence[Hypothesis], start: int, stop: int) -> list[Tally]:
    """Observed ratios, maxima and counts of relabellings start to stop.

    Parameters
    ----------
    values : (n, v) float32 or float64
        NaN is missing.
    hypotheses
        Each with as many of these relabellings as it has.
    """
    return [_tally(values, one, start, min(stop, one.number)) for one in hypotheses]


def _tally(values: NDArray[np.floating], hypothesis: Hypothesis, start: int, stop: int) -> Tally:
    b, v = max(stop - start, 0), values.shape[1]
    result = Tally(np.full(v, np.nan), np.full(v, np.nan), np.full(b, -np.inf), np.zeros(v, dtype=np.int64))
    for first in range(0, v, VOXELS):
        tile = slice(first, first + VOXELS)
        result.stat[tile], result.observed[tile] = _observed(values[:, tile], hypothesis)
    observed = score(result.observed, hypothesis.side)
    if start == 0:  # the identity is that of the model itself, whatever a method does
        result.counts[~np.isnan(result.observed)] = 1
        result.maxima[0] = np.nanmax(observed, initial=-np.inf)
    for begin, vectors in _vectors(hypothesis, max(start, 1), stop):
        maxima = result.maxima[begin - start : begin - start + len(vectors)]
        for first in range(0, v, VOXELS):
            tile = slice(first, first + VOXELS)
            known = ~np.isnan(observed[tile])
            if not known.any():
                continue
            unit = unit_residuals(values[:, tile][:, known], hypothesis.residuals).values
            counts = np.zeros(unit.shape[1], dtype=np.int64)
            _TALLY[hypothesis.precision](
                vectors, hypothesis.rank, unit, hypothesis.side, observed[tile][known], maxima, counts
            )
            result.counts[tile][known] += counts
    return result


def ratios_block(values: NDArray[np.floating], hypotheses: Sequence[Hypothesis], start: int, stop: int) -> list[Float]:
    """r or R (b, v) of relabellings start to stop, for each hypothesis; NaN as in `Tally.observed`.

    Parameters
    ----------
    values, hypotheses, start, stop
        As of `tally_block`.
    """
    return [_ratios(values, one, start, min(stop, one.number)) for one in hypotheses]


def _ratios(values: NDArray[np.floating], hypothesis: Hypothesis, start: int, stop: int) -> Float:
    v = values.shape[1]
    found = np.full((max(stop - start, 0), v), np.nan)
    vectors = list(_vectors(hypothesis, max(start, 1), stop))
    for first in range(0, v, VOXELS):
        tile = slice(first, first + VOXELS)
        _, observed = _observed(values[:, tile], hypothesis)
        known = ~np.isnan(observed)
        if start == 0 and len(found):
            found[0, tile] = observed
        if not known.any():
            continue
        unit = unit_residuals(values[:, tile][:, known], hypothesis.residuals).values
        for begin, some in vectors:
            rows = slice(begin - start, begin - start + len(some))
            found[rows, tile][:, known] = ratios(some, hypothesis.rank, unit, hypothesis.side == "F")
    return found


def largest_of_maps(
    pieces: Sequence[Sequence[Float]],
    numbers: Sequence[NDArray[np.int64]],
    hypotheses: Sequence[Hypothesis],
    enhancement: Enhancement,
) -> list[dict[str, Float]]:
    """Largest enhanced values (b,) of whole maps, by hypothesis and statistic.

    Parameters
    ----------
    pieces
        Of each block what `ratios_block` gives.
    numbers
        Of each block those of its voxels among all.
    enhancement
        Statistics, and how maps are enhanced.
    """
    v = sum(map(len, numbers))
    found = []
    for row, hypothesis in enumerate(hypotheses):
        whole = np.empty((len(pieces[0][row]), v))
        for piece, where in zip(pieces, numbers, strict=True):
            whole[:, where] = piece[row]
        maps = enhancement.maps(whole, hypothesis)
        found.append({name: STATISTICS[name].largest(maps, enhancement, hypothesis) for name in enhancement.names})
    return found


def _observed(values: NDArray[np.floating], hypothesis: Hypothesis) -> tuple[Float, Float]:
    """t or F of the identity, and r or R; NaN where the model leaves no residuals.

    t and F come from the residuals themselves: of r close to 1 what is missing to 1 would have few digits.
    """
    basis, vectors = hypothesis.observed
    joint, rank = hypothesis.side == "F", hypothesis.rank
    reduced, whole = unit_residuals(values, basis), unit_residuals(values, hypothesis.partition.model)
    effects = vectors[0] @ reduced.values * reduced.length
    with np.errstate(over="ignore"):
        scaled = effects * np.sqrt(hypothesis.dof) / whole.length
        stat = np.sum(scaled**2, axis=0) / rank if joint else scaled[0]
    return stat, np.where(np.isnan(whole.length), np.nan, ratios(vectors, rank, reduced.values, joint)[0])


def _vectors(hypothesis: Hypothesis, start: int, stop: int) -> Iterator[tuple[int, Float]]:
    """Vectors of relabelled models, of a few relabellings at a time, and the first one's number."""
    n, r = len(hypothesis.partition.effect), sum(part.shape[1] for part in hypothesis.partition)
    step = max(VECTOR_BYTES // (8 * n * r), 1)
    for begin in range(start, stop, step):
        yield begin, hypothesis.vectors(begin, min(begin + step, stop))
