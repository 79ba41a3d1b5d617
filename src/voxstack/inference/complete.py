"""Relabellings at voxels that all subjects have; other voxels are NaN."""

from collections.abc import Iterator, Sequence

import numpy as np

from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found, Tally, Values, groups
from voxstack.kernels import permuted, pvalues, screen
from voxstack.kernels.permuted import Float, Side, explained, ratios, score, tie, to_statistic, unit_residuals
from voxstack.kernels.suprathreshold import Suprathreshold, joined, stacked

_TALLY = {"mixed": screen.tally, "double": permuted.tally}
_BEYOND = {"mixed": screen.beyond, "double": permuted.beyond}


def tally(values: Values, hypothesis: Hypothesis, start: int, stop: int) -> Tally:
    """Observed ratios, maxima and counts of relabellings start to stop, at values (n, v)."""
    v, side, rank = values.shape[1], hypothesis.side, hypothesis.rank
    result, vectors = Tally.empty(v, stop - start), _Vectors(hypothesis, start, stop)
    result.dof[:] = hypothesis.dof
    count_in = _TALLY[hypothesis.precision]
    for parts in _parts(values, hypothesis):
        for part in parts:
            result.stat[part.tile], result.observed[part.tile] = part.stat, part.observed
        scores = [score(part.tested, side) for part in parts]
        counts = [np.zeros(len(part.where), dtype=np.int64) for part in parts]
        for rows, some in vectors.at(parts):
            for part, observed, counted in zip(parts, scores, counts, strict=True):
                if len(observed):
                    count_in(some, rank, part.unit, side, observed, result.maxima[rows], counted)
        for part, counted in zip(parts, counts, strict=True):
            result.counts[part.where] = counted
    if start == 0:  # the identity is that of the model itself, whatever a method does
        result.counts[~np.isnan(result.observed)] += 1
        result.maxima[0] = np.nanmax(score(result.observed, side), initial=-np.inf)
    return result


def heights(values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int) -> Float:
    """Maps (b, v) to be enhanced, of relabellings start to stop; NaN where there is nothing to test."""
    v, vectors = values.shape[1], _Vectors(hypothesis, start, stop)
    found = np.full((max(stop - start, 0), v), np.nan)
    for parts in _parts(values, hypothesis):
        for part in parts:  # or what is computed next, where the identity is not among these
            found[:1, part.where] = enhancement.heights(part.tested, hypothesis)
        for rows, some in vectors.at(parts):
            for part in parts:
                ratio = ratios(some, hypothesis.rank, part.unit, hypothesis.side == "F")
                found[rows, part.where] = enhancement.heights(ratio, hypothesis)
    return found


def suprathreshold(
    values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int
) -> Suprathreshold:
    """Voxels of these maps that reach the cluster-forming threshold."""
    least, side, rank = enhancement.least_ratio(hypothesis), hypothesis.side, hypothesis.rank
    vectors, places, lists = _Vectors(hypothesis, start, stop), [], []
    find = _BEYOND[hypothesis.precision]
    for of_some in _parts(values, hypothesis):
        parts = [part for part in of_some if len(part.where)]
        found = [[_reaching(part, side, least)] if start == 0 < stop else [] for part in parts]
        for _, some in vectors.at(parts):
            for part, of_part in zip(parts, found, strict=True):
                of_part.append(find(some, rank, part.unit, side, least))
        places += [part.where for part in parts]
        lists += [stacked(of_part) for of_part in found]
    ratio = joined(lists, places) if lists else Suprathreshold.none(max(stop - start, 0))
    return enhancement.narrow(ratio._replace(value=enhancement.heights(ratio.value, hypothesis)), hypothesis)


def _reaching(part: "_Part", side: Side, least: float) -> Suprathreshold:
    """The same of the identity."""
    voxel = np.flatnonzero(score(part.tested, side) >= least)
    return Suprathreshold(np.array([len(voxel)]), voxel.astype(np.int32), part.tested[voxel])


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
    """Voxels of a tile, and their model under the identity.

    Parameters
    ----------
    values : (n, v) float32 or float64
        Of all voxels.
    tile
        Those that are meant.

    Attributes
    ----------
    tile : slice
        As given.
    stat, observed : (t,) float64
        t or F, and r or R; NaN where the model leaves no residuals.
    where : (k,) int64
        Voxels of all where it leaves some.
    tested : (k,) float64
        What is observed there.
    unit : (n, k) float64
        The residuals of these voxels that are relabelled.
    """

    def __init__(self, values: Values, tile: slice, hypothesis: Hypothesis) -> None:
        partition, joint = hypothesis.partition, hypothesis.side == "F"
        self.tile, values = tile, values[:, tile]
        reduced = unit_residuals(values, partition.nuisance)
        # t and F come from what is left itself: of r close to 1 what is missing to 1 would have few digits.
        products, left = explained(reduced, partition.effect)
        with np.errstate(over="ignore"):
            scaled = products * np.sqrt(hypothesis.dof) / left
            self.stat = np.sum(scaled**2, axis=0) / hypothesis.rank if joint else scaled[0]
        self.observed = np.where(np.isnan(left), np.nan, np.sum(products**2, axis=0) if joint else products[0])
        known = np.flatnonzero(~np.isnan(left))
        self.where, self.tested = tile.start + known, self.observed[known]
        if hypothesis.relabels_reduced:
            self.unit = reduced.values if len(known) == len(left) else reduced.values.T[known].T
        else:
            self.unit = unit_residuals(values[:, known], hypothesis.residuals).values


def _parts(values: Values, hypothesis: Hypothesis) -> Iterator[list[_Part]]:
    """Tiles that are in memory at a time."""
    n, v = values.shape
    for some in groups(n, v, hypothesis.number):
        yield [_Part(values, tile, hypothesis) for tile in some]


class _Vectors:
    """Vectors of relabelled models but for the identity, some at a time, and which of the relabellings they are.

    They are made anew each time that they are gone through, unless they are few enough to be kept.
    """

    def __init__(self, hypothesis: Hypothesis, start: int, stop: int) -> None:
        self._hypothesis, self._start = hypothesis, start
        self._batches = list(hypothesis.batches(start, stop))
        self._kept = list(self._made()) if len(self._batches) == 1 else None

    def at(self, parts: Sequence[_Part]) -> Iterator[tuple[slice, Float]]:
        """Those that are needed at some voxels: none, where there is nothing to test."""
        if not any(len(part.where) for part in parts):
            return iter(())
        return self._made() if self._kept is None else iter(self._kept)

    def _made(self) -> Iterator[tuple[slice, Float]]:
        for begin, end in self._batches:
            yield slice(begin - self._start, end - self._start), self._hypothesis.vectors(begin, end)
