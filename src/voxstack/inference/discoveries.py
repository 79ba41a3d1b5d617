"""`true_discovery_proportion`: how much of a cluster or region is active, at the least."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack import provenance
from voxstack.checks import check_real
from voxstack.computation import compute
from voxstack.errors import InputError
from voxstack.grid import Grid
from voxstack.inference.evidence import check_not_thresholded, check_result, z_of
from voxstack.inference.options import check_choices
from voxstack.inference.statistics import check_connectivity
from voxstack.io.atlas import Atlas, AtlasSpec
from voxstack.io.places import located
from voxstack.kernels import clusters, hommel, pvalues
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.pvalues import TIE, Alternative
from voxstack.kernels.suprathreshold import Sides
from voxstack.models.inputs import mask_inside
from voxstack.schema import SPACE, annotate
from voxstack.store.mask import AnalysisMask

Float = NDArray[np.float64]
Labels = NDArray[np.int64]

_SIDES: dict[Alternative, tuple[int, ...]] = {"greater": (1,), "less": (-1,), "two-sided": (1, -1)}


def true_discovery_proportion(
    maps: xr.Dataset,
    *,
    regions: AtlasSpec | xr.DataArray | NDArray[Any] | None = None,
    cluster_forming_z: float | Sequence[float] = 3.1,
    mask: AnalysisMask | None = None,
    alternative: Alternative = "greater",
    connectivity: int = 26,
    alpha: float = 0.05,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Lower bounds for the share of truly active voxels in clusters or regions: all-resolution inference.

    With confidence 1 - alpha all bounds hold at once, of all clusters at all thresholds, of regions that were chosen
    after looking at the map, and of any others.

    Parameters
    ----------
    maps
        Of `contrast`, `permutation_test` or `read_map`, with z, or with t or F and their degrees of freedom.
    regions
        Labels of regions, 0 for none: an image, its path, an image with a table of names as of `clusters_table`, or an
        array (x, y, z) or (contrast, x, y, z), such as of `label_clusters`. None takes the clusters beyond
        `cluster_forming_z`.
    cluster_forming_z
        One or several thresholds.
    mask
        Narrows the voxels that were tested; bounds depend on how many there are.
    alternative
        Whatever that of the result: "greater": activation; "less": deactivation; "two-sided": both, each at alpha / 2.
        F has one only.
    connectivity
        Of clusters: 6, 18 or 26 neighbours.
    alpha
        Level, in (0, 1).
    storage_options
        Credentials and settings for the URLs of regions and a mask.

    Returns
    -------
    xarray.Dataset
        `n_voxels`, `true_discoveries` (at least so many voxels are active) and `proportion` (NaN for no voxel), along
        (contrast, cluster_forming_z, region), or (contrast, region) where regions are given. Clusters count from 1 in
        falling size, positive ones before negative ones; regions are the labels, with their names in the coordinate
        `region_name`. Where contrasts or thresholds have fewer clusters than others, the last ones have 0 voxels. The
        maps `label` and `true_discovery_proportion` say of each voxel which cluster or region it is in and that one's
        proportion (0 outside of them, NaN where nothing was tested). `hommel_value` (contrast, side): how many voxels
        may all be inactive, NaN for the negative side of F. "two-sided" bounds are sums over both sides.

    Raises
    ------
    InputError
        No z and nothing to compute it from, no such alternative or region, thresholds that are not above 0.

    Notes
    -----
    Rosenblatt, Finos, Weeda, Solari and Goeman (2018), NeuroImage 181:786; Goeman and Solari (2011), Statistical
    Science 26:584; Meijer, Krebs and Goeman (2019), Biometrical Journal 61:73. p-values are those of t, F or z, which
    have to satisfy Simes' inequality: smooth maps do, as far as is known.
    """
    # Validate
    check_result(maps)
    check_not_thresholded(maps)
    check_real("alpha", alpha, 0, 1, inside=True)
    check_choices(alternative=alternative)
    check_connectivity(connectivity)
    several: list[Any] = list(cluster_forming_z) if isinstance(cluster_forming_z, Iterable) else [cluster_forming_z]
    if not several:
        raise InputError("cluster_forming_z is empty. Give one threshold above 0, or several.")
    for one_threshold in several:
        check_real("cluster_forming_z", one_threshold, 0, inside=True)
    thresholds = np.array(several, dtype=np.float64)
    if "z_score" not in maps and "stat" not in maps:
        raise InputError("The result has no z and no t or F to compute it from: p alone says nothing of the sign.")
    regions = located(regions, storage_options)
    inside, grid = mask_inside(maps, located(mask, storage_options)), Grid.from_dataset(maps)
    given = None if regions is None else _given(regions, maps, grid)

    # Compute
    maps = compute(maps[[name for name in ("z_score", "stat") if name in maps]])
    found = []
    for row, name in enumerate(maps["contrast"].values):
        one = maps.sel(contrast=name)
        z = np.where(inside, z_of(one), np.nan)
        sides = (1,) if one["stat_type"].item() == "F" else _SIDES[alternative]
        sets = [given.labels[row]] if given else [_clusters(z, t, sides, connectivity) for t in thresholds]
        found.append(_bound(z, sets, sides, alpha))

    # Conclude
    result = _labelled(found, len(_SIDES[alternative]))
    if given is None:
        result = result.assign_coords(cluster_forming_z=thresholds)
    else:
        result = result.isel(cluster_forming_z=0)
        result["label"] = result["label"].copy(data=np.concatenate([[0], given.numbers])[result["label"].values])
        result = result.assign_coords(region=given.numbers, region_name=("region", given.names))
    sides_named = [{1: "positive", -1: "negative"}[side] for side in _SIDES[alternative]]
    result = result.assign_coords(grid.coords()).assign_coords(
        contrast=maps["contrast"].values, side=sides_named, mask=(SPACE, inside)
    )
    options: dict[str, Any] = {"alternative": alternative, "alpha": float(alpha), "of": maps.attrs["provenance"]}
    options |= {} if given else {"cluster_forming_z": thresholds.tolist(), "connectivity": int(connectivity)}
    record = provenance.record("true_discovery_proportion", **options)
    return annotate(result, "discoveries", alternative=alternative, provenance=record)


class _Given(NamedTuple):
    """Regions of a user: labels (x, y, z) of each contrast, 1 to k; the k numbers that they had, and their names."""

    labels: list[Labels]
    numbers: Labels
    names: list[str]


def _given(regions: AtlasSpec | xr.DataArray | NDArray[Any], maps: xr.Dataset, grid: Grid) -> _Given:
    called: Mapping[int, str] = {}
    if isinstance(regions, np.ndarray):
        if regions.shape != grid.shape:
            raise InputError(f"regions have the shape {regions.shape}, the grid of the result {grid.shape}.")
        regions = xr.DataArray(regions, dims=SPACE).assign_coords(grid.coords())
    if isinstance(regions, xr.DataArray):
        if set(regions.dims) not in ({*SPACE}, {"contrast", *SPACE}) or regions.dtype.kind not in "biuf":
            raise InputError("regions in an array are numbers with the dimensions x, y and z, and perhaps contrast.")
        if "contrast" in regions.dims and not set(maps["contrast"].values) <= set(regions["contrast"].values):
            raise InputError("regions do not have all of the contrasts. Give one map of labels, or one for each.")
        # Raises GridMismatch where the lattices differ.
        aligned, _ = xr.align(grid.label(regions), maps["mask"], join="inner")
        if "contrast" in aligned.dims:
            aligned = aligned.sel(contrast=maps["contrast"].values)
        else:
            aligned = aligned.expand_dims(contrast=maps["contrast"].values)
        values = np.nan_to_num(np.asarray(aligned.transpose("contrast", *SPACE).values, dtype=np.float64))
    else:
        atlas = Atlas.of(regions)
        called = atlas.names
        values = np.broadcast_to(atlas.on(grid), (maps.sizes["contrast"], *grid.shape)).astype(np.float64)
    if values.min() < 0 or not np.array_equal(values, np.rint(values)):
        raise InputError("regions must be labels: whole numbers, 0 outside of regions.")
    numbers = np.unique(values.astype(np.int64))
    numbers = numbers[numbers > 0]
    if not numbers.size:
        raise InputError("regions has no label above 0.")
    dense = np.where(values > 0, np.searchsorted(numbers, values.astype(np.int64)) + 1, 0)
    return _Given(list(dense), numbers, [called.get(int(number), str(number)) for number in numbers])


def _clusters(z: Float, threshold: float, sides: Sequence[int], connectivity: int) -> Labels:
    """Clusters (x, y, z) of each side in falling size, one side after the other."""
    known, labels = ~np.isnan(z), np.zeros(z.shape, dtype=np.int64)
    named: list[Sides] = ["greater" if side > 0 else "less" for side in sides]
    table = neighbours(known, connectivity)
    labels[known] = clusters.label_sides(z[known], table, threshold=threshold, sides=named, least=1, tie=TIE)
    return labels


class _Bounds(NamedTuple):
    """Of one contrast: labels (s, x, y, z) of s divisions of the voxels into sets, which voxels (x, y, z) were tested,
    bounds for the k sets of each division, and Hommel's value of each side."""

    labels: Labels
    known: NDArray[np.bool_]
    discoveries: list[Labels]
    hommel: list[int]


def _bound(z: Float, divisions: Sequence[Labels], sides: Sequence[int], alpha: float) -> _Bounds:
    known, level = ~np.isnan(z), alpha / len(sides)
    bounds = [np.zeros(int(labels.max(initial=0)), dtype=np.int64) for labels in divisions]
    values = []
    for side in sides:
        p = pvalues.z_to_p(side * z[known], "greater")
        values.append(hommel.hommel_value(p, level))
        for bound, labels in zip(bounds, divisions, strict=True):
            bound += hommel.true_discoveries(p, labels[known], len(bound), values[-1], level)
    return _Bounds(np.where(known, divisions, 0), known, bounds, values)


def _labelled(found: Sequence[_Bounds], n_sides: int) -> xr.Dataset:
    """By contrast, threshold and region, and as maps; Hommel's values also by side."""
    labels = np.array([one.labels for one in found])
    number = max((len(bound) for one in found for bound in one.discoveries), default=0)
    size, bound = np.zeros((2, *labels.shape[:2], number), dtype=np.int64)
    share, hommels = np.full(labels.shape, np.nan), np.full((len(found), n_sides), np.nan)
    for i, one in enumerate(found):
        hommels[i, : len(one.hommel)] = one.hommel
        for j, discoveries in enumerate(one.discoveries):
            size[i, j] = np.bincount(labels[i, j].ravel(), minlength=number + 1)[1:]
            bound[i, j, : len(discoveries)] = discoveries
            inside = np.concatenate([[0.0], bound[i, j] / np.maximum(size[i, j], 1)])
            share[i, j, one.known] = inside[labels[i, j, one.known]]
    proportion = np.divide(bound, size, out=np.full(size.shape, np.nan), where=size > 0)
    table, dims = ("contrast", "cluster_forming_z", "region"), ("contrast", "cluster_forming_z", *SPACE)
    variables: dict[str, Any] = {
        "n_voxels": (table, size),
        "true_discoveries": (table, bound),
        "proportion": (table, proportion),
    }
    variables |= {"label": (dims, labels.astype(np.int32)), "true_discovery_proportion": (dims, share)}
    variables["hommel_value"] = (("contrast", "side"), hommels)
    return xr.Dataset(variables, coords={"region": np.arange(1, number + 1)})
