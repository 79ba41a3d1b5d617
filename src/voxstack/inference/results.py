"""From counts and maxima to the labelled result of a permutation test."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.grid import Grid
from voxstack.inference.cases import CASES, CaseRule
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import STATISTICS, VOXEL, Enhancement
from voxstack.inference.tally import Found
from voxstack.kernels.chunks import scatter, turned
from voxstack.kernels.permuted import Float, score
from voxstack.kernels.pvalues import TIE, corrected_p, counted_p, log10p_to_z
from voxstack.kernels.tails import Tail, fit_tail, tail_p
from voxstack.schema import SPACE

TailRule = Literal["counts", "gpd"]

_ROUNDING = 1e-13  # of r and R, with room for sums of many values
_MOST = 1e4  # times the usual tolerance: data of which nothing but rounding errors is left must not all be equal


def assemble(
    hypotheses: Sequence[Hypothesis],
    found: Sequence[Found],
    names: Sequence[str],
    enhancement: Enhancement,
    grid: Grid,
    *,
    joint: bool,
    tail: TailRule,
) -> xr.Dataset:
    """The labelled result, without attributes.

    Parameters
    ----------
    hypotheses, found
        One each per contrast.
    names
        Of the statistics.
    enhancement
        How maps were enhanced.
    grid
        Of the maps.
    joint
        Whether p-values are corrected across contrasts, too.
    tail
        Whether small corrected p-values are counted, or come from a fitted tail.
    """
    rows = [_maps(h, f, enhancement) for h, f in zip(hypotheses, found, strict=True)]
    maxima = [_maxima(f, row) for f, row in zip(found, rows, strict=True)]
    tails = np.full((len(names), len(hypotheses)), np.nan)
    for i, name in enumerate(names):
        of_contrasts = list(zip(hypotheses, found, rows, maxima, strict=True))
        for j, (h, f, row, largest) in enumerate(of_contrasts):
            own, fitted = _own(h, f, name, row, largest), tail == "gpd" and not h.exhaustive
            shared = _shared(h, f, name, row, largest) if fitted else own
            fit = _fit(name, shared.maxima) if fitted else None
            tails[i, j] = np.nan if fit is None else fit.shape
            row[f"{name}_p_fwe"] = _p(name, shared.observed, fit, corrected_p(own.observed, own.maxima, own.near))
        if joint:
            scales = [_shared(h, f, name, row, largest) for h, f, row, largest in of_contrasts]
            together = np.max([one.maxima for one in scales], axis=0)
            fit = _fit(name, together) if tail == "gpd" and not hypotheses[0].exhaustive else None
            for row, one in zip(rows, scales, strict=True):
                p = _p(name, one.observed, fit, corrected_p(one.observed, together, one.near))
                row[f"{name}_p_fwe_joint"] = np.maximum(p, row[f"{name}_p_fwe"])  # tails are fitted each by itself
    maps = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    inside = turned(enhancement.mask)
    variables: dict[str, Any] = {
        name: (("contrast", *SPACE), turned(scatter(values, inside))) for name, values in maps.items()
    }
    nulls = np.full((len(names), len(hypotheses), max(h.number for h in hypotheses)), np.nan)
    for i, name in enumerate(names):
        for j, (h, f) in enumerate(zip(hypotheses, found, strict=True)):
            nulls[i, j, : h.number] = maxima[j][name]
            if name == VOXEL:
                nulls[i, j] = _rule(h).null(nulls[i, j], h)
                if h.cases.missing == "complete":  # t and F of the identity have more digits than its r
                    nulls[i, j, 0] = np.nanmax(score(f.stat, h.side), initial=-np.inf)
    variables["null_max"] = (("statistic", "contrast", "permutation"), nulls)
    coords: dict[str, Any] = {
        "contrast": [h.name for h in hypotheses],
        "statistic": list(names),
        "stat_type": ("contrast", [h.stat_type for h in hypotheses]),
        "dof_num": ("contrast", [h.rank for h in hypotheses]),
        "dof": _dof(hypotheses, found, inside),
        "relabelling": ("contrast", [h.kind for h in hypotheses]),
        "n_relabellings": ("contrast", [h.number for h in hypotheses]),
        "exhaustive": ("contrast", [h.exhaustive for h in hypotheses]),
    }
    if tail == "gpd":
        coords["tail_shape"] = (("statistic", "contrast"), tails)
    result = xr.Dataset(variables, coords=coords).assign_coords(grid.coords())
    return result.assign_coords(mask=(SPACE, enhancement.mask))


def _dof(hypotheses: Sequence[Hypothesis], found: Sequence[Found], inside: NDArray[np.bool_]) -> Any:
    """By contrast; of available cases by voxel, where contrasts share them but for those that cannot be tested."""
    if hypotheses[0].cases.missing == "complete":
        return "contrast", [float(h.dof) for h in hypotheses]
    together = found[0].dof
    for f in found[1:]:
        together = np.where(np.isnan(together), f.dof, together)
    return SPACE, turned(scatter(together, inside))


def _maps(h: Hypothesis, f: Found, enhancement: Enhancement) -> dict[str, Float]:
    """Maps (v,) of one contrast, by name, but for corrected p-values."""
    untested = np.isnan(f.observed)
    maps = {"stat": f.stat, "p_uncorrected": np.where(untested, np.nan, counted_p(f.counts, h.number))}
    for name in enhancement.names:
        values = STATISTICS[name].enhance(_rule(h).observed_map(f, h, enhancement), enhancement, h)
        maps[name] = np.where(untested, np.nan, values)
    return maps


def _maxima(f: Found, row: Mapping[str, Float]) -> dict[str, Float]:
    """Of each statistic (b,): of scores, or of enhanced values; the identity's is that of its map, but for rounding."""
    maxima = {VOXEL: f.maxima}
    for name, largest in f.largest.items():
        maxima[name] = np.concatenate([[np.nanmax(np.abs(row[name]), initial=0.0)], largest[1:]])
    return maxima


class _Compared(NamedTuple):
    """What is compared of one statistic of one contrast.

    Attributes
    ----------
    observed : (v,) float64
        Of the identity.
    near : (v,) float64
        How far below it others are still equal.
    maxima : (b,) float64
        Of each relabelling.
    """

    observed: Float
    near: Float
    maxima: Float


def _own(h: Hypothesis, f: Found, name: str, row: Mapping[str, Float], maxima: Mapping[str, Float]) -> _Compared:
    """On the contrast's own scale: scores, or enhanced values."""
    if name == VOXEL:
        return _Compared(score(f.observed, h.side), _rule(h).near(f, h), maxima[name])
    values = np.abs(row[name])
    return _Compared(values, _near_enhanced(values, f, h), maxima[name])


def _shared(h: Hypothesis, f: Found, name: str, row: Mapping[str, Float], maxima: Mapping[str, Float]) -> _Compared:
    """On a scale that all contrasts share.

    Voxels of different degrees of freedom, types and alternatives compare by -log10 p; statistics of maps as they are,
    for which types and alternatives have to be the same.
    """
    own, rule = _own(h, f, name, row, maxima), _rule(h)
    if name != VOXEL:
        return own
    observed = rule.surprise(own.observed, h)
    lower = rule.surprise(own.observed - own.near, h)
    return _Compared(observed, np.maximum(observed - lower, _near(observed)), rule.surprise(own.maxima, h))


def _fit(name: str, maxima: Float) -> Tail | None:
    """The tail of maxima on the shared scale."""
    return fit_tail(_deviates(name, maxima))


def _p(name: str, observed: Float, fit: Tail | None, counted: Float) -> Float:
    """Counted p-values, or where there is a fitted tail those of values on the shared scale in it."""
    return counted if fit is None else tail_p(_deviates(name, observed), fit, counted)


def _deviates(name: str, values: Float) -> Float:
    """Values on the shared scale as tails are fitted to them: r ends at 1, and a tail must not."""
    return log10p_to_z(values) if name == VOXEL else values


def _near(observed: Float) -> Float:
    """Differences that are rounding error, of enhanced values and of -log10 p."""
    return TIE * np.maximum(1.0, np.abs(observed))


def _near_enhanced(values: Float, f: Found, h: Hypothesis) -> Float:
    """Differences that are rounding error, of enhanced values.

    An error of r is one of t over 1 - r^2, so that a single voxel of huge t makes enhanced values uncertain.
    """
    squared = f.stat * h.rank if h.side == "F" else f.stat**2
    largest = float(np.nanmax(np.where(np.isfinite(squared), squared / f.dof, 0.0), initial=0.0))
    return _near(values) * min(max(1.0, _ROUNDING / TIE * largest), _MOST)


def _rule(h: Hypothesis) -> CaseRule:
    return CASES[h.cases.missing]
