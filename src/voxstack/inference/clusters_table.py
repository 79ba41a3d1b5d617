"""`clusters_table` and `label_clusters`: where a result has its clusters and peaks."""

from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from scipy import ndimage

from voxstack.checks import check_number, check_real
from voxstack.computation import compute
from voxstack.grid import Grid
from voxstack.inference.evidence import maps_of
from voxstack.inference.found_clusters import FoundClusters, find_clusters, make_rule
from voxstack.io.atlas import Atlas, AtlasSpec
from voxstack.io.places import located
from voxstack.kernels.peaks import apart, local_maxima
from voxstack.schema import REGISTRY, SPACE, is_p_value

_COLUMNS = ("contrast", "cluster", "peak", "x", "y", "z", "value", "mean", "n_voxels", "volume_mm3")
_OF_CLUSTERS = ("cluster_extent_p_fwe", "cluster_mass_p_fwe", "cluster_extent_p_fwe_joint", "cluster_mass_p_fwe_joint")


def clusters_table(
    maps: xr.Dataset,
    *,
    variable: str | None = None,
    threshold: float | None = None,
    cluster_extent: int = 0,
    connectivity: int | None = None,
    min_distance: float = 8.0,
    peaks: int | None = 4,
    atlas: AtlasSpec | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Clusters of a result and the peaks in them.

    Parameters
    ----------
    maps
        Of `threshold`, `permutation_test`, `contrast` or `read_map`.
    variable
        The map that peaks are of: "z_score", "stat", "effect" or "tfce". By default what was thresholded, or z or t.
    threshold
        On the scale of `variable`, for both signs of a two-sided test. None takes what `threshold` found significant,
        or the clusters of the permutation test.
    cluster_extent
        Voxels that a cluster must have.
    connectivity
        6, 18 or 26 neighbours; by default that of the result, or 26.
    min_distance
        Peaks of a cluster are further than this from each other, in mm.
    peaks
        Most peaks of a cluster; None lists all.
    atlas
        A label image, or an image and a table of its labels (columns ``index`` and ``name``; a DataFrame, a TSV or CSV
        file, a mapping, or a list of names whose positions are the labels): adds the column `region`, the label at each
        peak.
    storage_options
        Credentials and settings for the URLs of an atlas.

    Returns
    -------
    pandas.DataFrame
        A row a peak. `cluster` counts from 1 in each contrast: first clusters of positive values, in falling size, then
        those of negative ones. `peak` counts from 1, the cluster's highest. `x`, `y`, `z` in mm, `value` of the
        variable at the peak. In the first row of a cluster also `mean` of the variable, `n_voxels` and `volume_mm3`.
        Then p-values of the result: of voxels at each peak, of clusters (where these are the test's) in the first row.
        Without any cluster the table is empty.

    Raises
    ------
    InputError
        No such variable; no threshold, and none in the result; an atlas without the peaks.

    Notes
    -----
    A peak has no higher voxel among its 26 neighbours in the cluster; of a plateau it is the voxel nearest to its
    centre. The numbers are those of `label_clusters` with the same arguments.
    """
    rule = make_rule(maps, variable, threshold, cluster_extent, connectivity)
    check_real("min_distance, in mm,", min_distance, 0)
    if peaks is not None:
        check_number("peaks, unless it is None for all of them,", peaks, 1)
    regions = None if atlas is None else Atlas.of(located(atlas, storage_options))
    # In the order of the registry, which a store does not keep.
    known, of_maps = [name for kind, name in REGISTRY if kind == maps.attrs["kind"]], set(maps_of(maps))
    names = [name for name in known if name in of_maps and is_p_value(name)]
    there = compute(maps[[*names, *(name for name in ("cluster_extent",) if name in maps)]])
    affine = Grid.from_dataset(maps).affine
    said = maps.attrs["provenance"].get("threshold")
    own = rule.threshold is None and (said is None or said["variable"].startswith("cluster_"))
    rows: list[dict[str, Any]] = []
    for label, found in zip(maps["contrast"].values, find_clusters(maps, rule), strict=True):
        at = there.sel(contrast=label).transpose(*SPACE)
        for row, voxel in _rows(found, affine, min_distance, peaks):
            p = {name: float(at[name].values[voxel]) for name in names}
            whole = row["peak"] == 1 and _is_that_of_the_test(at, voxel, row, own)
            p |= {name: np.nan for name in _OF_CLUSTERS if name in p and not whole}
            rows.append({"contrast": str(label), **row, **p})
    table = pd.DataFrame(rows, columns=[*_COLUMNS, *names])
    table = table.astype({"cluster": int, "peak": int, "n_voxels": "Int64"})
    if regions is not None:
        table["region"] = regions.at(table[["x", "y", "z"]].to_numpy(dtype=float))
    table.attrs = {"variable": rule.variable}
    return table


def _rows(found: FoundClusters, affine: Any, min_distance: float, most: int | None) -> Any:
    """Of each peak what the table says, and its voxel."""
    size = abs(np.linalg.det(affine[:3, :3]))
    for number, box in enumerate(ndimage.find_objects(found.labels), 1):
        inside, heights = found.labels[box] == number, found.heights[box]
        values = heights[inside]
        maxima = local_maxima(found.surprise[box], inside) + [part.start for part in box]
        places = nib.affines.apply_affine(affine, maxima)
        for peak, k in enumerate(apart(places, min_distance, most), 1):
            voxel = tuple(int(i) for i in maxima[k])
            x, y, z = places[k].round(4) + 0.0
            row = {"cluster": number, "peak": peak, "x": x, "y": y, "z": z, "value": float(found.heights[voxel])}
            if peak == 1:
                row |= {
                    "mean": float(values.mean()),
                    "n_voxels": values.size,
                    "volume_mm3": round(values.size * size, 6),
                }
            yield row, voxel


def _is_that_of_the_test(at: xr.Dataset, voxel: tuple[int, ...], row: dict[str, Any], own: bool) -> bool:
    """Whether a cluster is one that the permutation test has p-values of: by its extent, or as one of its own."""
    return int(at["cluster_extent"].values[voxel]) == row["n_voxels"] if "cluster_extent" in at else own


def label_clusters(
    maps: xr.Dataset,
    *,
    variable: str | None = None,
    threshold: float | None = None,
    cluster_extent: int = 0,
    connectivity: int | None = None,
) -> xr.DataArray:
    """Number the clusters of a result, as `clusters_table` does with the same arguments.

    Parameters
    ----------
    maps, variable, threshold, cluster_extent, connectivity
        As of `clusters_table`.

    Returns
    -------
    xarray.DataArray
        `cluster` (contrast, x, y, z), int32: 0 outside of clusters.

    Raises
    ------
    InputError
        No such variable; no threshold, and none in the result.
    """
    rule = make_rule(maps, variable, threshold, cluster_extent, connectivity)
    labels = np.stack([found.labels for found in find_clusters(maps, rule)])
    coords = {"contrast": maps["contrast"].variable}
    array = xr.DataArray(labels, dims=("contrast", *SPACE), coords=coords, name="cluster")
    return array.assign_coords(Grid.from_dataset(maps).coords()).assign_attrs(long_name="number of the cluster")
