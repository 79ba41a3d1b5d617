"""Which clusters a result has: those of a threshold, of its significant voxels, or of its permutation test."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.checks import check_number, check_real
from voxstack.computation import compute
from voxstack.errors import InputError, listing
from voxstack.inference.evidence import check_result, maps_of
from voxstack.inference.statistics import check_connectivity
from voxstack.kernels import clusters
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.pvalues import TIE
from voxstack.kernels.suprathreshold import Sides
from voxstack.schema import SPACE

Float = NDArray[np.float64]

_HEIGHTS = ("z_score", "stat", "effect", "tfce")
_DEFAULT_CONNECTIVITY = 26
_TINY = float(np.finfo(float).tiny)  # a threshold of 0 is passed by what is above 0


@dataclass(frozen=True)
class FoundClusters:
    """Clusters of one contrast.

    Attributes
    ----------
    heights : (x, y, z) float64
        The map that peaks are of.
    surprise : (x, y, z) float64
        The same in the direction in which peaks are high.
    labels : (x, y, z) int32
        0 outside clusters; 1, 2, ... those of positive values in falling size, and then those of negative ones.
    """

    heights: Float
    surprise: Float
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Rule:
    """How clusters are formed.

    Attributes
    ----------
    variable
        The map that peaks are of.
    threshold
        On its scale; None takes the voxels that a result says.
    connectivity, extent
        Neighbours, and least number of voxels.
    """

    variable: str
    threshold: float | None
    connectivity: int
    extent: int


def make_rule(
    maps: xr.Dataset, variable: str | None, threshold: float | None, extent: int, connectivity: int | None
) -> Rule:
    """What a user asks for, completed by what the result says; checked."""
    check_result(maps)
    if threshold is not None:
        check_real("threshold, which both signs share,", threshold, 0)
    check_number("cluster_extent, in voxels,", extent, 0)
    said = _said(maps) if threshold is None else {}
    if connectivity is None:
        connectivity = said.get("connectivity", maps.attrs["provenance"].get("connectivity", _DEFAULT_CONNECTIVITY))
    check_connectivity(connectivity)
    known = heights_of(maps)
    if not known:
        raise InputError(
            "The result has p-values alone, which have no sign: it needs z, t or F for clusters and peaks."
        )
    if variable is None:
        variable = said.get("variable")
        variable = variable if variable in known else known[0]
    if variable not in known:
        raise InputError(
            f"Clusters have their peaks in one of {listing(known)}, not in {variable!r}: larger values must say more."
        )
    return Rule(variable, threshold, connectivity, extent)


def heights_of(maps: xr.Dataset) -> list[str]:
    """Maps of a result whose larger values say more."""
    return [name for name in _HEIGHTS if name in maps_of(maps)]


def _said(maps: xr.Dataset) -> dict[str, Any]:
    """How the result's own clusters were formed."""
    provenance = maps.attrs["provenance"]
    if "significant" in maps:
        return dict(provenance["threshold"])
    if "cluster_forming_z" in provenance:
        return {"connectivity": provenance["connectivity"]}
    raise InputError(
        "The result says no clusters: give threshold= (--threshold), on the scale of the variable, or let vx.threshold "
        "(voxstack threshold) find what is significant first."
    )


def find_clusters(maps: xr.Dataset, rule: Rule) -> list[FoundClusters]:
    """Clusters of each contrast."""
    needed = {rule.variable, *([_own(maps)] if rule.threshold is None else [])}
    maps = compute(maps[sorted(needed)])
    return [_of_contrast(maps.sel(contrast=name), rule) for name in maps["contrast"].values]


def _of_contrast(one: xr.Dataset, rule: Rule) -> FoundClusters:
    heights = np.asarray(one[rule.variable].transpose(*SPACE).values, dtype=np.float64)
    sides, inside = _sides(one), ~np.isnan(heights)
    surprise = {"greater": heights, "less": -heights}.get(sides, np.abs(heights))
    values, threshold = heights, rule.threshold or _TINY
    if rule.threshold is None:  # the voxels are said, whatever their values; signs keep apart what is two-sided
        inside &= one[_own(one)].transpose(*SPACE).values > 0
        values, threshold = {"greater": 1.0, "less": -1.0}.get(sides, np.sign(heights)) * np.ones_like(heights), 0.5
    labels = np.zeros(heights.shape, dtype=np.int32)
    labels[inside] = clusters.label_sides(
        values[inside],
        neighbours(inside, rule.connectivity),
        threshold=threshold,
        sides=("greater", "less") if sides == "signed" else (sides,),
        least=rule.extent,
        tie=TIE,
    )
    return FoundClusters(heights, surprise, labels)


def _sides(one: xr.Dataset) -> Sides:
    if one["stat_type"].item() == "F":
        return "greater"
    provenance = one.attrs["provenance"]
    alternative = provenance.get("threshold", {}).get("alternative", one.attrs["alternative"])
    if alternative != "two-sided":
        return "greater" if alternative == "greater" else "less"
    return "absolute" if provenance.get("two_sided_clusters") == "absolute" else "signed"


def _own(maps: xr.Dataset) -> str:
    """The map whose voxels above 0 are in the clusters that a result has."""
    return next(name for name in ("significant", "cluster_extent", "cluster_mass") if name in maps)
