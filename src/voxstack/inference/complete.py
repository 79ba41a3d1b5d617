"""Relabellings at voxels that all subjects have; other voxels are NaN."""

from collections.abc import Iterator

import numpy as np

from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found, Tally, Values, tiles
from voxstack.kernels import permuted, pvalues, screen
from voxstack.kernels.permuted import Float, explained, ratios, score, tie, to_statistic, unit_residuals
from voxstack.kernels.suprathreshold import Suprathreshold, joined, stacked

_TALLY = {"mixed": screen.tally, "double": permuted.tally}
_BEYOND = {"mixed": screen.beyond, "double": permuted.beyond}


def tally(values: Values, hypothesis: Hypothesis, start: int, stop: int) -> Tally:
    """Observed ratios, maxima and counts of relabellings start to stop, at values (n, v)."""
    v, side = values.shape[1], hypothesis.side
    result, vectors = Tally.empty(v, stop - start), _Vectors(hypothesis, start, stop)
    result.dof[:] = hypothesis.dof
    for tile in tiles(*values.shape):
        part = _Part(values[:, tile], hypothesis)
        result.stat[tile], result.observed[tile] = part.stat, part.observed
        if not len(part.known):
            continue
        counts, observed = np.zeros(len(part.known), dtype=np.int64), score(part.observed[part.known], side)
        for rows, some in vectors:
            _TALLY[hypothesis.precision](some, hypothesis.rank, part.unit, side, observed, result.maxima[rows], counts)
        result.counts[tile.start + part.known] = counts
    if start == 0:  # the identity is that of the model itself, whatever a method does
        result.counts[~np.isnan(result.observed)] += 1
        result.maxima[0] = np.nanmax(score(result.observed, side), initial=-np.inf)
    return result


def heights(values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int) -> Float:
    """Maps (b, v) to be enhanced, of relabellings start to stop; NaN where there is nothing to test."""
    v, vectors = values.shape[1], _Vectors(hypothesis, start, stop)
    found = np.full((max(stop - start, 0), v), np.nan)
    for tile in tiles(*values.shape):
        part = _Part(values[:, tile], hypothesis)
        ratio = np.empty((len(found), len(part.known)))
        ratio[:1] = part.observed[part.known]  # or what is computed next, where the identity is not among these
        for rows, some in vectors:
            ratio[rows] = ratios(some, hypothesis.rank, part.unit, hypothesis.side == "F")
        found[:, tile.start + part.known] = enhancement.heights(ratio, hypothesis)
    return found


def suprathreshold(
    values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int
) -> Suprathreshold:
    """Voxels of these maps that reach the cluster-forming threshold."""
    least, side, rank = enhancement.least_ratio(hypothesis), hypothesis.side, hypothesis.rank
    vectors, places, parts = _Vectors(hypothesis, start, stop), [], []
    for tile in tiles(*values.shape):
        part = _Part(values[:, tile], hypothesis)
        if not len(part.known):
            continue
        found = []
        if start == 0 < stop:
            observed = part.observed[part.known]
            voxel = np.flatnonzero(score(observed, side) >= least)
            found.append(Suprathreshold(np.array([len(voxel)]), voxel.astype(np.int32), observed[voxel]))
        found += [_BEYOND[hypothesis.precision](some, rank, part.unit, side, least) for _, some in vectors]
        places.append(tile.start + part.known)
        parts.append(stacked(found))
    ratio = joined(parts, places) if parts else Suprathreshold.none(max(stop - start, 0))
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


class _Part:
    """Voxels of a tile, values (n, v), and their model under the identity.

    Attributes
    ----------
    stat, observed : (v,) float64
        t or F, and r or R; NaN where the model leaves no residuals.
    known : (k,) int64
        Voxels where it leaves some.
    unit : (n, k) float64
        The residuals of these voxels that are relabelled.
    """

    def __init__(self, values: Values, hypothesis: Hypothesis) -> None:
        partition, joint = hypothesis.partition, hypothesis.side == "F"
        reduced = unit_residuals(values, partition.nuisance)
        # t and F come from what is left itself: of r close to 1 what is missing to 1 would have few digits.
        products, left = explained(reduced, partition.effect)
        with np.errstate(over="ignore"):
            scaled = products * np.sqrt(hypothesis.dof) / left
            self.stat = np.sum(scaled**2, axis=0) / hypothesis.rank if joint else scaled[0]
        self.observed = np.where(np.isnan(left), np.nan, np.sum(products**2, axis=0) if joint else products[0])
        self.known = np.flatnonzero(~np.isnan(left))
        if hypothesis.relabels_reduced:
            all_known = len(self.known) == len(left)
            self.unit = reduced.values if all_known else reduced.values.T[self.known].T
        else:
            self.unit = unit_residuals(values[:, self.known], hypothesis.residuals).values


class _Vectors:
    """Vectors of relabelled models but for the identity, some at a time, and which of the relabellings they are.

    They are made anew each time that they are gone through, unless they are few enough to be kept.
    """

    def __init__(self, hypothesis: Hypothesis, start: int, stop: int) -> None:
        self._hypothesis, self._start = hypothesis, start
        self._batches = list(hypothesis.batches(start, stop))
        self._kept = list(self._made()) if len(self._batches) == 1 else None

    def __iter__(self) -> Iterator[tuple[slice, Float]]:
        return self._made() if self._kept is None else iter(self._kept)

    def _made(self) -> Iterator[tuple[slice, Float]]:
        for begin, end in self._batches:
            yield slice(begin - self._start, end - self._start), self._hypothesis.vectors(begin, end)
