"""`threshold`: which voxels of a result are significant."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.checks import check_number, check_real
from voxstack.computation import compute
from voxstack.errors import warn
from voxstack.inference.evidence import (
    Evidence,
    check_not_thresholded,
    check_result,
    choose_alternative,
    choose_variable,
    evidence,
    maps_of,
)
from voxstack.inference.options import Correction, check_choices
from voxstack.inference.statistics import check_connectivity
from voxstack.io.places import located
from voxstack.kernels import clusters, false_discovery
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.pvalues import TIE, Alternative, z_to_p
from voxstack.models.inputs import described_mask, mask_inside
from voxstack.schema import REGISTRY, SPACE
from voxstack.store.mask import AnalysisMask

_CRITICAL: Mapping[str, Callable[[NDArray[np.float64], float], float]] = {
    "none": lambda p, alpha: alpha,
    "fdr": false_discovery.critical_p,
    "bonferroni": lambda p, alpha: alpha / max(p.size, 1),
    "fwe": lambda p, alpha: alpha,
}
"""p-values (m,) of all voxels tested -> the p-value up to which they are significant."""

_TOLD = {
    "none": "p <= {alpha:g}, uncorrected",
    "fdr": "a false discovery rate of {alpha:g}",
    "bonferroni": "p <= {alpha:g}, corrected by Bonferroni",
    "fwe": "p <= {alpha:g}, corrected by relabelling",
}


def threshold(
    maps: xr.Dataset,
    *,
    alpha: float = 0.05,
    correction: Correction = "fdr",
    variable: str | None = None,
    mask: AnalysisMask | None = None,
    cluster_extent: int = 0,
    connectivity: int = 26,
    alternative: Alternative | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Keep what is significant of a result's maps.

    Parameters
    ----------
    maps
        Of `contrast`, `permutation_test` or `read_map`.
    alpha
        Level of p, or of the false discovery rate, in (0, 1).
    correction
        "none"; "fdr": Benjamini and Hochberg's false discovery rate; "bonferroni"; "fwe": p-values of a permutation
        test that are corrected for all voxels. Each contrast is corrected by itself, for all voxels that were tested.
    variable
        The map that is thresholded: "z_score" (the default for contrasts), "stat" (for permutation tests), "p_value",
        "p_uncorrected", or with "fwe" also "cluster_extent", "cluster_mass", "tfce" and any of the corrected p-values,
        such as "tfce_p_fwe_joint".
    mask
        Narrows the tested voxels: an image, a path or URL, or an array (x, y, z).
    cluster_extent
        Voxels that a cluster of significant ones must have to be kept; clusters are of one sign each.
    connectivity
        Of clusters: 6, 18 or 26 neighbours.
    alternative
        "two-sided", "greater" or "less"; by default that of the result. F has one only, and p-values have theirs. With
        another one, `p_value` of t contrasts is that of the alternative, too.
    storage_options
        Credentials and settings for the URL of a mask.

    Returns
    -------
    xarray.Dataset
        The maps with NaN where they are not significant, and `significant` (contrast, x, y, z), bool, and `threshold`
        (contrast): the value of `variable` from which on voxels are significant, positive where the test is two-sided.
        Of a false discovery rate it is the least significant voxel's, infinite (0 for p) where nothing is significant.
        Of "fwe" what is significant lies beyond it. It is NaN where voxels of the same value have different p: t and F
        of available cases, p-values by relabelling, and those of a fitted tail. ``attrs["summary"]`` says in a line for
        each contrast what was found, `n_tested` (contrast) is the number of voxels that were tested.

    Raises
    ------
    InputError
        No such variable, correction, alternative or mask, or one that the result has no p-values for.

    Notes
    -----
    Benjamini and Hochberg (1995), Journal of the Royal Statistical Society B 57:289. p-values that are equal to the
    critical one but for rounding count as equal. With a cluster extent the level is that of voxels, not of clusters:
    for these test by `permutation_test` with "cluster_extent".
    """
    # Validate
    check_result(maps)
    check_not_thresholded(maps)
    check_real("alpha", alpha, 0, 1, inside=True)
    check_choices(correction=correction)
    check_connectivity(connectivity)
    check_number("cluster_extent, in voxels,", cluster_extent, 0)
    name = choose_variable(maps, variable)
    side = choose_alternative(maps, name, alternative)
    mask = located(mask, storage_options)
    inside = mask_inside(maps, mask)

    # Compute
    maps = _with_alternative(compute(maps), side)
    rows, critical, sizes, lines = [], [], [], []
    for label in maps["contrast"].values:
        one = maps.sel(contrast=label)
        found = evidence(one, name, correction, side)
        tested = inside & ~np.isnan(found.p)
        least = _CRITICAL[correction](found.p[tested], alpha)
        passing = tested & (found.p <= least * (1 + TIE))
        kept = _large(passing, one, side, cluster_extent, connectivity)
        rows.append(kept)
        sizes.append(int(tested.sum()))
        critical.append(_threshold(found, passing, least, correction))
        if "n_relabellings" in one.coords and correction in ("fdr", "bonferroni"):
            _warn_of_few(int(one["n_relabellings"]), alpha / max(sizes[-1], 1))
        lines.append(f"{label}: {_told(kept, passing, tested, correction, alpha, cluster_extent)}")

    # Conclude
    result, kind = maps.copy(deep=False), maps.attrs["kind"]
    result["significant"] = (("contrast", *SPACE), np.stack(rows), REGISTRY[kind, "significant"].attributes())
    result["threshold"] = ("contrast", np.array(critical), REGISTRY[kind, "threshold"].attributes())
    result["n_tested"] = ("contrast", np.array(sizes), REGISTRY[kind, "n_tested"].attributes())
    for of_maps in maps_of(maps):
        result[of_maps] = maps[of_maps].where(result["significant"])
        result[of_maps].attrs = maps[of_maps].attrs
    options: dict[str, Any] = {
        "contrasts": [str(label) for label in maps["contrast"].values],
        "variable": name,
        "alpha": float(alpha),
        "correction": correction,
        "alternative": side,
    }
    options |= {"cluster_extent": int(cluster_extent), "connectivity": int(connectivity)}
    options |= {} if mask is None else {"mask": described_mask(mask)}
    provenance = {**maps.attrs["provenance"], "threshold": options}
    result.attrs = {**maps.attrs, "provenance": provenance, "summary": lines}
    return result


def _warn_of_few(number: int, least: float) -> None:
    if 1 / number > least:
        warn(
            f"p-values of {number:,} relabellings are at least 1/{number:,}, too coarse to correct for all voxels. "
            "correction='fwe' takes those that relabelling has corrected."
        )


def _with_alternative(maps: xr.Dataset, side: Alternative) -> xr.Dataset:
    """The result with p-values of t for another alternative than it was made for."""
    if side == maps.attrs["alternative"]:
        return maps
    maps = maps.assign_attrs(alternative=side)
    if "p_value" in maps and "z_score" in maps:
        p = maps["p_value"]
        other = p.copy(data=z_to_p(maps["z_score"].transpose(*p.dims).values, side))
        maps["p_value"] = p.where(maps["stat_type"] == "F", other).assign_attrs({**p.attrs, "alternative": side})
    return maps


def _threshold(found: Evidence, passing: NDArray[np.bool_], least: float, correction: Correction) -> float:
    critical = found.critical(least)
    if correction != "fdr" or np.isnan(critical) or not passing.any():
        return critical
    p, values = found.p[passing], found.values[passing]
    weakest = values[p == p.max()]  # p may be 0 of several
    return float(np.copysign(np.abs(weakest).min(), critical))


def _large(
    passing: NDArray[np.bool_], one: xr.Dataset, side: Alternative, extent: int, connectivity: int
) -> NDArray[np.bool_]:
    """Those voxels that are in clusters of so many voxels of one sign."""
    if extent <= 1 or not passing.any():
        return passing
    sign = np.ones(int(passing.sum()))
    signed = next((name for name in ("z_score", "stat") if name in one), None)
    if signed and side == "two-sided" and one["stat_type"].item() == "t":
        sign[one[signed].transpose(*SPACE).values[passing] < 0] = -1.0
    labels = clusters.label(sign, neighbours(passing, connectivity), threshold=0.5, sides="signed", tie=TIE)
    kept = np.zeros_like(passing)
    kept[passing] = np.bincount(labels)[labels] >= extent
    return kept


def _told(
    kept: NDArray[np.bool_],
    passing: NDArray[np.bool_],
    tested: NDArray[np.bool_],
    correction: str,
    alpha: float,
    extent: int,
) -> str:
    found, of = int(kept.sum()), int(tested.sum())
    how = _TOLD[correction].format(alpha=alpha)
    beyond = f", in clusters of at least {extent} voxels" if extent > 1 else ""
    if not found:
        lost = f" ({int(passing.sum()):,} are, in smaller clusters)" if passing.any() else ""
        return f"no voxel of {of:,} is significant at {how}{beyond}{lost}"
    return f"{found:,} of {of:,} voxels are significant at {how}{beyond}"
