"""From counts and maxima to the labelled result of a permutation test."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
from voxstack.kernels.pvalues import TIE, corrected_p, counted_p
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
    tails = np.full((len(names), len(hypotheses)), np.nan)
    rows = []
    for number, (h, f) in enumerate(zip(hypotheses, found, strict=True)):
        fitted = {name: None if tail == "counts" or h.exhaustive else fit_tail(_null(f, name)) for name in names}
        tails[:, number] = [np.nan if one is None else one.shape for one in fitted.values()]
        rows.append(_of_contrast(h, f, fitted, enhancement))
    if joint:
        for name in names:
            scales = [_scale(h, f, name, row) for h, f, row in zip(hypotheses, found, rows, strict=True)]
            together = np.max([maxima for _, _, maxima in scales], axis=0)
            fit = None if tail == "counts" or hypotheses[0].exhaustive else fit_tail(together)
            for row, (observed, near, _) in zip(rows, scales, strict=True):
                row[f"{name}_p_fwe_joint"] = _corrected(observed, together, near, fit)
    maps = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    inside = turned(enhancement.mask)
    variables: dict[str, Any] = {
        name: (("contrast", *SPACE), turned(scatter(values, inside))) for name, values in maps.items()
    }
    nulls = np.full((len(names), len(hypotheses), max(h.number for h in hypotheses)), np.nan)
    for i, name in enumerate(names):
        for j, (h, f) in enumerate(zip(hypotheses, found, strict=True)):
            nulls[i, j, : h.number] = _null(f, name)
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


def _null(f: Found, name: str) -> Float:
    """Maxima (b,) of a statistic: of scores, or of enhanced values."""
    return f.maxima if name == VOXEL else f.largest[name]


def _of_contrast(
    h: Hypothesis, f: Found, tails: Mapping[str, Tail | None], enhancement: Enhancement
) -> dict[str, Float]:
    """Maps (v,) of one contrast, by name; tails are those of its statistics."""
    scores = score(f.observed, h.side)
    maps = {
        "stat": f.stat,
        "p_uncorrected": np.where(np.isnan(scores), np.nan, counted_p(f.counts, h.number)),
    }
    for name, tail in tails.items():
        values = scores
        if name != VOXEL:
            maps[name] = _enhanced(h, f, name, enhancement)
            values = np.abs(maps[name])
            f.largest[name][0] = np.nanmax(values, initial=0.0)  # but for rounding what was found of the identity
        near = _rule(h).near(f, h) if name == VOXEL else _near_enhanced(values, f, h)
        maps[f"{name}_p_fwe"] = _corrected(values, _null(f, name), near, tail)
    return maps


def _enhanced(h: Hypothesis, f: Found, name: str, enhancement: Enhancement) -> Float:
    """The observed map (v,) of a statistic, NaN where there is none."""
    values = STATISTICS[name].enhance(_rule(h).observed_map(f, h, enhancement), enhancement, h)
    return np.where(np.isnan(f.observed), np.nan, values)


def _corrected(observed: Float, maxima: Float, near: Float, tail: Tail | None) -> Float:
    counted = corrected_p(observed, maxima, near)
    return counted if tail is None else tail_p(observed, tail, counted)


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


def _scale(h: Hypothesis, f: Found, name: str, row: Mapping[str, Float]) -> tuple[Float, Float, Float]:
    """Observed values (v,), how far below them others are still equal, and maxima (b,), on a scale that all share.

    Voxels of different degrees of freedom, types and alternatives compare by -log10 p; statistics of maps as they are,
    for which types and alternatives have to be the same.
    """
    if name != VOXEL:
        values = np.abs(row[name])
        return values, _near_enhanced(values, f, h), f.largest[name]
    scores, rule = score(f.observed, h.side), _rule(h)
    observed = rule.surprise(scores, h)
    lower = rule.surprise(scores - rule.near(f, h), h)
    return observed, np.maximum(observed - lower, _near(observed)), rule.surprise(f.maxima, h)


def _rule(h: Hypothesis) -> CaseRule:
    return CASES[h.cases.missing]
