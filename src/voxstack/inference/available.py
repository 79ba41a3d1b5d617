"""Relabellings of available cases: what a voxel lacks is dropped after all subjects are relabelled.

Voxels differ in their degrees of freedom, so they are compared by z. Under some relabellings a voxel's model may be of
another rank than under the identity; it has other degrees of freedom then. Voxels that all subjects have are computed
as complete cases are.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from voxstack.inference import complete
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found, Tally, Values, tiles
from voxstack.kernels import available, pvalues
from voxstack.kernels.permuted import Float, score, tie, to_statistic
from voxstack.kernels.pvalues import TIE
from voxstack.kernels.suprathreshold import Suprathreshold, stacked
from voxstack.kernels.z_table import to_z, z_table

Integers = NDArray[np.int64]

_MAPS = 64  # whole maps of a block that are in memory at a time
_PRODUCTS = 2**17  # in double precision of a tile (1 MB), which stay in cache


def tally(values: Values, hypothesis: Hypothesis, start: int, stop: int) -> Tally:
    """Observed z, maxima of z and counts of relabellings start to stop, at values (n, v)."""
    whole, lacking = _divide(values)
    result = Tally.empty(values.shape[1], stop - start)
    there = complete.tally(values[:, whole], hypothesis, start, stop)
    result.stat[whole], result.dof[whole], result.counts[whole] = there.stat, there.dof, there.counts
    result.maxima[:] = _to_z(there.maxima, there.dof[:1] if len(whole) else 1.0, hypothesis)
    for tile in tiles(len(values), len(lacking)):
        part = _Lacking(values[:, lacking[tile]], hypothesis)
        where = lacking[tile][part.where]
        result.stat[where], result.dof[where] = part.fitted.stat, part.fitted.dof
        counts = np.zeros(len(where), dtype=np.int64)
        for rows, maxima in _count(part, hypothesis, start, stop, counts):
            np.maximum(result.maxima[rows], maxima, out=result.maxima[rows])
        result.counts[where] = counts
    result.observed[:] = _stat_to_z(result.stat, result.dof, hypothesis)
    if start == 0:
        known = ~np.isnan(result.observed)
        result.counts[lacking] += known[lacking]
        result.maxima[0] = np.nanmax(score(result.observed, hypothesis.side), initial=-np.inf)
    return result


def heights(values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int) -> Float:
    """Maps (b, v) of z to be enhanced, of relabellings start to stop; NaN where there is nothing to test."""
    whole, lacking = _divide(values)
    found = np.full((max(stop - start, 0), values.shape[1]), np.nan)
    found[:, whole] = complete.heights(values[:, whole], hypothesis, enhancement, start, stop)
    joint = hypothesis.side == "F"
    for tile in tiles(len(values), len(lacking)):
        part = _Lacking(values[:, lacking[tile]], hypothesis)
        maps = np.empty((len(found), len(part.where)))
        for group, dof in enumerate(part.usual):
            voxels = part.voxels(group)
            maps[:1, voxels] = to_z(part.fitted.ratio[voxels], z_table(hypothesis.rank, float(dof), joint=joint))
        for rows, ratio, dofs in part.ratios(hypothesis, start, stop):
            for group, row in enumerate(dofs.T):
                voxels = part.voxels(group)
                for dof in np.unique(row):
                    some = np.flatnonzero(row == dof)
                    z = to_z(ratio[np.ix_(some, voxels)], z_table(hypothesis.rank, float(dof), joint=joint))
                    maps[np.ix_(rows.start + some, voxels)] = z
        found[:, lacking[tile][part.where]] = maps
    return found


def suprathreshold(
    values: Values, hypothesis: Hypothesis, enhancement: Enhancement, start: int, stop: int
) -> Suprathreshold:
    """Voxels of these maps that reach the cluster-forming threshold."""
    steps = [(first, min(first + _MAPS, stop)) for first in range(start, stop, _MAPS)]
    maps = (heights(values, hypothesis, enhancement, first, last) for first, last in steps)
    return stacked([enhancement.find(some, hypothesis) for some in maps])


def near(found: Found, hypothesis: Hypothesis) -> Float:
    """How far below the observed score another one may lie and still be equal."""
    observed = score(found.observed, hypothesis.side)
    lowest = _lowest_tie(found.stat, found.dof, hypothesis)
    return np.subtract(observed, lowest, out=np.zeros_like(observed), where=np.isfinite(observed))


def null(maxima: Float, hypothesis: Hypothesis) -> Float:
    """Largest z, as it is."""
    return maxima


def surprise(scores: Float, hypothesis: Hypothesis) -> Float:
    """-log10 p of z in the direction of the alternative."""
    return pvalues.z_to_log10p(scores, "two-sided" if hypothesis.side == "two-sided" else "greater")


def observed_map(found: Found, hypothesis: Hypothesis, enhancement: Enhancement) -> Float:
    """Map (v,) of z to be enhanced, of the identity."""
    joint = hypothesis.side == "F"
    ratio = 1.0 - _left(found.stat, found.dof, hypothesis)
    ratio = ratio if joint else np.copysign(np.sqrt(ratio), found.stat)
    z = np.full_like(ratio, np.nan)
    for dof in np.unique(found.dof[~np.isnan(ratio)]):
        some = found.dof == dof
        z[some] = to_z(ratio[some], z_table(hypothesis.rank, float(dof), joint=joint))
    return z


def _divide(values: Values) -> tuple[Integers, Integers]:
    """Voxels that all subjects have, and those that some lack."""
    missing = np.isnan(values).any(axis=0)
    return np.flatnonzero(~missing), np.flatnonzero(missing)


class _Lacking:
    """Voxels (n, v) of a tile that some subjects lack, and their model under the identity.

    Attributes
    ----------
    where : (v',) int64
        Those voxels whose model can be tested, which are the voxels of all that follows.
    fitted
        The model at each.
    groups
        Of what is missing.
    usual : (g,) int64
        Residual degrees of freedom under the identity.
    """

    def __init__(self, values: Values, hypothesis: Hypothesis) -> None:
        partition, joint = hypothesis.partition, hypothesis.side == "F"
        vectors = np.ascontiguousarray(np.hstack([partition.nuisance, partition.effect]).T)
        missing = np.isnan(values)
        fitted = available.fit(values, available.patterns(missing), vectors, hypothesis.rank, joint)
        enough = np.sum(~missing, axis=0) >= hypothesis.cases.min_subjects
        self.where = np.flatnonzero(~np.isnan(fitted.stat) & enough)
        self.fitted = available.Fitted(*(part[self.where] for part in fitted))
        self.groups = available.patterns(missing[:, self.where])
        self.usual = self.fitted.dof[self.groups.order[self.groups.start[:-1]]].astype(np.int64)
        self._unit = available.residuals(
            values[:, self.where], self.groups, np.ascontiguousarray(hypothesis.residuals.T)
        )
        full = len(values) - np.diff(self.groups.row_start) - len(vectors)
        # What a relabelled model loses of its rank is added. Where Z is no part of it, its rank is the identity's.
        self._dof = full if hypothesis.refits_nuisance else self.usual

    def voxels(self, group: int) -> Integers:
        """Those of one pattern of missing subjects."""
        return self.groups.order[self.groups.start[group] : self.groups.start[group + 1]]

    def ratios(self, hypothesis: Hypothesis, start: int, stop: int) -> Iterator[tuple[slice, Float, Integers]]:
        """Some relabellings at a time, but for the identity: r or R (b, v), and degrees of freedom (b, g)."""
        for begin, end in hypothesis.batches(start, stop):
            vectors = hypothesis.model(begin, end)
            step = max(_PRODUCTS // (vectors.shape[1] * max(len(self.where), 1)), 1)
            for first in range(0, len(vectors), step):
                some = vectors[first : first + step]
                ratio, lost = available.ratios(some, hypothesis.rank, self._unit, self.groups, hypothesis.side == "F")
                dof = self._dof + lost
                for row, group in np.argwhere(dof < 1):  # no residuals are left: nothing can be told
                    ratio[row, self.voxels(group)] = 0.0
                at = begin - start + first
                yield slice(at, at + len(some)), ratio, np.maximum(dof, 1)


def _count(
    part: _Lacking, hypothesis: Hypothesis, start: int, stop: int, counts: Integers
) -> Iterator[tuple[slice, Float]]:
    """Raise the counts of relabellings that reach the observed z, and tell the largest z of some at a time."""
    side = hypothesis.side
    observed = score(part.fitted.ratio, side)
    least, lowest = observed - tie(observed, side), _lowest_tie(part.fitted.stat, part.fitted.dof, hypothesis)
    for rows, ratio, dofs in part.ratios(hypothesis, start, stop):
        scores = score(ratio, side)
        maxima = np.full((len(scores), int(dofs.max(initial=0)) + 1), -np.inf)
        available.tally(scores, part.groups, dofs, part.usual, least, maxima, counts)
        for row, group in np.argwhere(dofs != part.usual):
            voxels = part.voxels(int(group))
            counts[voxels] += _to_z(scores[row, voxels], dofs[row, group], hypothesis) >= lowest[voxels]
        yield rows, _largest_z(maxima, hypothesis)


def _left(stat: Float, dof: Float, hypothesis: Hypothesis) -> Float:
    """1 - r^2, or 1 - R, of t or F."""
    with np.errstate(over="ignore"):
        squared = stat * hypothesis.rank if hypothesis.side == "F" else stat**2
        return dof / (dof + squared)


def _lowest_tie(stat: Float, dof: Float, hypothesis: Hypothesis) -> Float:
    """The lowest z that counts as equal to those of t or F, in the direction that is tested.

    It is `tie` below r or R. What is missing to 1 there is told by t and F to all digits.
    """
    joint, left = hypothesis.side == "F", _left(stat, dof, hypothesis)
    ratio = 1.0 - left if joint else score(np.copysign(np.sqrt(1.0 - left), stat), hypothesis.side)
    step = tie(ratio, hypothesis.side)
    more = left + (step if joint else 2 * ratio * step - step**2)
    explained = np.clip(1.0 - more, 0.0, 1.0)
    with np.errstate(divide="ignore", over="ignore"):
        lower = dof * explained / np.clip(more, 0.0, 1.0)
    lower = lower / hypothesis.rank if joint else np.copysign(np.sqrt(lower), ratio - step)
    z = score(_stat_to_z(stat, dof, hypothesis), hypothesis.side)
    away = np.subtract(z, TIE * np.maximum(1, np.abs(z)), out=z.copy(), where=np.isfinite(z))
    return np.fmin(_stat_to_z(lower, dof, hypothesis), away)


def _largest_z(maxima: Float, hypothesis: Hypothesis) -> Float:
    """Largest z (b,) of the largest scores (b, d) of each number of degrees of freedom."""
    # A positive score is the more surprising, the more degrees of freedom there are: others need not be looked at.
    above = np.maximum.accumulate(maxima[:, ::-1], axis=1)[:, ::-1]
    beaten = np.zeros(maxima.shape, dtype=bool)
    beaten[:, :-1] = (maxima[:, :-1] <= above[:, 1:]) & (maxima[:, :-1] >= 0)
    row, dof = np.nonzero((maxima > -np.inf) & ~beaten)
    found = np.full(len(maxima), -np.inf)
    np.maximum.at(found, row, _to_z(maxima[row, dof], dof, hypothesis))
    return found


def _to_z(ratio: Float, dof: NDArray[np.generic] | float, hypothesis: Hypothesis) -> Float:
    """z of r or R."""
    stat = to_statistic(np.maximum(ratio, -1.0), hypothesis.rank, np.asarray(dof, float), hypothesis.side == "F")
    return np.where(ratio == -np.inf, -np.inf, _stat_to_z(stat, dof, hypothesis))


def _stat_to_z(stat: Float, dof: NDArray[np.generic] | float, hypothesis: Hypothesis) -> Float:
    if hypothesis.side == "F":
        return pvalues.f_to_z(stat, hypothesis.rank, dof)
    return pvalues.t_to_z(stat, dof)
