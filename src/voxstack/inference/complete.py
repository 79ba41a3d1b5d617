"""Relabellings at voxels that all subjects have; other voxels are NaN."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found, Tally, tiles
from voxstack.kernels import permuted, pvalues, screen
from voxstack.kernels.permuted import Float, ratios, score, tie, to_statistic, unit_residuals
from voxstack.kernels.suprathreshold import Suprathreshold, joined, stacked

Values = NDArray[np.floating]

_TALLY = {"mixed": screen.tally, "double": permuted.tally}
_BEYOND = {"mixed": screen.beyond, "double": permuted.beyond}


def tally(values: Values, hypothesis: Hypothesis, start: int, stop: int) -> Tally:
    """Observed ratios, maxima and counts of relabellings start to stop, at values (n, v)."""
    v = values.shape[1]
    result = Tally.empty(v, stop - start)
    for tile in tiles(v):
        result.stat[tile], result.observed[tile] = _observed(values[:, tile], hypothesis)
    result.dof[:] = hypothesis.dof
    observed = score(result.observed, hypothesis.side)
    if start == 0:  # the identity is that of the model itself, whatever a method does
        result.counts[~np.isnan(observed)] = 1
        result.maxima[0] = np.nanmax(observed, initial=-np.inf)
    for rows, vectors in _vectors(hypothesis, start, stop):
        for tile in tiles(v):
            known = ~np.isnan(observed[tile])
            if not known.any():
                continue
            unit = unit_residuals(values[:, tile][:, known], hypothesis.residuals).values
            counts = np.zeros(unit.shape[1], dtype=np.int64)
            _TALLY[hypothesis.precision](
                vectors, hypothesis.rank, unit, hypothesis.side, observed[tile][known], result.maxima[rows], counts
            )
            result.counts[tile][known] += counts
    return result


def heights(values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int) -> Float:
    """Maps (b, v) to be enhanced, of relabellings start to stop; NaN where there is nothing to test."""
    v = values.shape[1]
    found = np.full((max(stop - start, 0), v), np.nan)
    vectors = list(_vectors(hypothesis, start, stop))
    for tile in tiles(v):
        _, observed = _observed(values[:, tile], hypothesis)
        known = ~np.isnan(observed)
        if not known.any():
            continue
        part = np.empty((len(found), int(known.sum())))
        part[:1] = observed[known]  # or what is computed next, where the identity is not among these
        unit = unit_residuals(values[:, tile][:, known], hypothesis.residuals).values
        for rows, some in vectors:
            part[rows] = ratios(some, hypothesis.rank, unit, hypothesis.side == "F")
        found[:, tile][:, known] = enhancement.heights(part, hypothesis)
    return found


def suprathreshold(
    values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int
) -> Suprathreshold:
    """Voxels of these maps that reach the cluster-forming threshold."""
    least, side, places, parts = enhancement.least_ratio(hypothesis), hypothesis.side, [], []
    vectors = list(_vectors(hypothesis, start, stop))
    for tile in tiles(values.shape[1]):
        _, observed = _observed(values[:, tile], hypothesis)
        known = np.flatnonzero(~np.isnan(observed))
        unit = unit_residuals(values[:, tile][:, known], hypothesis.residuals).values
        found = [Suprathreshold.none(0)]
        if start == 0 < stop:
            voxel = np.flatnonzero(score(observed[known], side) >= least)
            found.append(Suprathreshold(np.array([len(voxel)]), voxel.astype(np.int32), observed[known][voxel]))
        found += [_BEYOND[hypothesis.precision](some, hypothesis.rank, unit, side, least) for _, some in vectors]
        places.append(known + tile.start)
        parts.append(stacked(found))
    ratio = joined(parts, places)
    return enhancement.narrow(ratio._replace(value=enhancement.heights(ratio.value, hypothesis)), hypothesis)


def near(found: Found, hypothesis: Hypothesis) -> Float:
    """How far below the observed score another one may lie and still be equal."""
    return tie(score(found.observed, hypothesis.side), hypothesis.side)


def null(maxima: Float, hypothesis: Hypothesis) -> Float:
    """Largest t or F of the largest scores."""
    return to_statistic(maxima, hypothesis.rank, hypothesis.dof, hypothesis.side == "F")


def surprise(scores: Float, hypothesis: Hypothesis) -> Float:
    """-log10 p of scores."""
    stat, side = null(scores, hypothesis), hypothesis.side
    z = pvalues.f_to_z(stat, hypothesis.rank, hypothesis.dof) if side == "F" else pvalues.t_to_z(stat, hypothesis.dof)
    return pvalues.z_to_log10p(z, "two-sided" if side == "two-sided" else "greater")


def observed_map(found: Found, hypothesis: Hypothesis, enhancement: Enhancement) -> Float:
    """Map (v,) to be enhanced, of the identity."""
    return enhancement.heights(found.observed, hypothesis)


def _observed(values: Values, hypothesis: Hypothesis) -> tuple[Float, Float]:
    """t or F of the identity, and r or R; NaN where the model leaves no residuals.

    t and F come from the residuals themselves: of r close to 1 what is missing to 1 would have few digits.
    """
    basis, vectors = hypothesis.partition.nuisance, hypothesis.partition.effect.T[None]
    joint, rank = hypothesis.side == "F", hypothesis.rank
    reduced, whole = unit_residuals(values, basis), unit_residuals(values, hypothesis.partition.model)
    effects = vectors[0] @ reduced.values * reduced.length
    with np.errstate(over="ignore"):
        scaled = effects * np.sqrt(hypothesis.dof) / whole.length
        stat = np.sum(scaled**2, axis=0) / rank if joint else scaled[0]
    return stat, np.where(np.isnan(whole.length), np.nan, ratios(vectors, rank, reduced.values, joint)[0])


def _vectors(hypothesis: Hypothesis, start: int, stop: int) -> Iterator[tuple[slice, Float]]:
    """Vectors of relabelled models but for the identity, some at a time, and which of the relabellings they are."""
    for begin, end in hypothesis.batches(start, stop):
        yield slice(begin - start, end - start), hypothesis.vectors(begin, end)
