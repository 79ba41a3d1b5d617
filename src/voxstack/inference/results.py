"""From counts and maxima to the labelled result of a permutation test."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from voxstack.grid import Grid
from voxstack.inference.engine import Found
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.statistics import STATISTICS, VOXEL, Enhancement
from voxstack.kernels import pvalues
from voxstack.kernels.chunks import scatter, turned
from voxstack.kernels.permuted import Float, score, to_statistic
from voxstack.kernels.pvalues import TIE, corrected_p, counted_p
from voxstack.schema import SPACE


def assemble(
    hypotheses: Sequence[Hypothesis],
    found: Sequence[Found],
    names: Sequence[str],
    enhancement: Enhancement,
    grid: Grid,
    *,
    joint: bool,
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
    """
    rows = [_of_contrast(h, f, names, enhancement) for h, f in zip(hypotheses, found, strict=True)]
    if joint:
        for name in names:
            scales = [_scale(h, f, name, enhancement) for h, f in zip(hypotheses, found, strict=True)]
            together = np.max([maxima for _, maxima in scales], axis=0)
            for row, (observed, _) in zip(rows, scales, strict=True):
                row[f"{name}_p_fwe_joint"] = _corrected(observed, together)
    maps = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    inside = turned(enhancement.mask)
    variables: dict[str, Any] = {
        name: (("contrast", *SPACE), turned(scatter(values, inside))) for name, values in maps.items()
    }
    nulls = np.full((len(names), len(hypotheses), max(h.number for h in hypotheses)), np.nan)
    for i, name in enumerate(names):
        for j, (h, f) in enumerate(zip(hypotheses, found, strict=True)):
            null = to_statistic(f.maxima, h.rank, h.dof, h.side == "F") if name == VOXEL else f.largest[name]
            nulls[i, j, : h.number] = null
    variables["null_max"] = (("statistic", "contrast", "permutation"), nulls)
    coords = {
        "contrast": [h.name for h in hypotheses],
        "statistic": list(names),
        "stat_type": ("contrast", [h.stat_type for h in hypotheses]),
        "dof_num": ("contrast", [h.rank for h in hypotheses]),
        "dof": ("contrast", [float(h.dof) for h in hypotheses]),
        "relabelling": ("contrast", [h.kind for h in hypotheses]),
        "n_relabellings": ("contrast", [h.number for h in hypotheses]),
        "exhaustive": ("contrast", [h.exhaustive for h in hypotheses]),
    }
    result = xr.Dataset(variables, coords=coords).assign_coords(grid.coords())
    return result.assign_coords(mask=(SPACE, enhancement.mask))


def _of_contrast(h: Hypothesis, f: Found, names: Sequence[str], enhancement: Enhancement) -> dict[str, Float]:
    """Maps (v,) of one contrast, by name."""
    scores = score(f.observed, h.side)
    maps = {
        "stat": to_statistic(f.observed, h.rank, h.dof, h.side == "F"),
        "p_uncorrected": np.where(np.isnan(scores), np.nan, counted_p(f.counts, h.number)),
    }
    for name in names:
        if name == VOXEL:
            maps["voxel_p_fwe"] = corrected_p(scores, f.maxima, TIE)
            continue
        maps[name] = np.where(np.isnan(scores), np.nan, _enhanced(h, f, name, enhancement))
        maps[f"{name}_p_fwe"] = _corrected(np.abs(maps[name]), f.largest[name])
    return maps


def _enhanced(h: Hypothesis, f: Found, name: str, enhancement: Enhancement) -> Float:
    return STATISTICS[name].enhance(enhancement.maps(f.observed, h), enhancement, h)


def _corrected(observed: Float, maxima: Float) -> Float:
    return corrected_p(observed, maxima, TIE * np.maximum(1.0, np.abs(observed)))


def _scale(h: Hypothesis, f: Found, name: str, enhancement: Enhancement) -> tuple[Float, Float]:
    """Observed values (v,) and maxima (b,) on a scale that all contrasts share.

    Voxels of different degrees of freedom, types and alternatives compare by -log10 p; statistics of maps as they are,
    for which types and alternatives have to be the same.
    """
    if name != VOXEL:
        return np.abs(_enhanced(h, f, name, enhancement)), f.largest[name]
    return _surprise(score(f.observed, h.side), h), _surprise(f.maxima, h)


def _surprise(scores: Float, h: Hypothesis) -> Float:
    """-log10 p of scores."""
    stat = to_statistic(scores, h.rank, h.dof, h.side == "F")
    z = pvalues.f_to_z(stat, h.rank, h.dof) if h.side == "F" else pvalues.t_to_z(stat, h.dof)
    return pvalues.z_to_log10p(z, "two-sided" if h.side == "two-sided" else "greater")
