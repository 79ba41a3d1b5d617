"""What is significant in the maps of Wager et al. 2008, against NumPy and SciPy alone."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage, stats

import voxstack as vx

Float = NDArray[np.float64]
RATE, EXTENT, APART = 0.05, 10, 8.0
TOUCHING = np.ones((3, 3, 3))


def one_sample_t(maps: Float) -> tuple[Float, Float, Float]:
    """t of the mean over the subjects that each voxel has, z and two-sided p; NaN where there is none."""
    n = np.sum(~np.isnan(maps), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(maps, axis=0) / n
        variance = np.nansum((maps - mean) ** 2, axis=0) / (n - 1)
        t = np.where((n > 1) & (variance > 0), mean / np.sqrt(variance / n), np.nan)
        tail = stats.t.sf(abs(t), n - 1)
    return t, np.sign(t) * stats.norm.isf(tail), 2 * tail


def discoveries(p: Float, rate: float) -> NDArray[np.bool_]:
    """Benjamini and Hochberg 1995, step by step."""
    ordered, least = np.sort(p[~np.isnan(p)]), 0.0
    for k, one in enumerate(ordered, 1):
        if one <= rate * k / ordered.size:
            least = one
    return p <= least


def table_of(z: Float, significant: NDArray[np.bool_], affine: Float) -> list[tuple[float, ...]]:
    """Rows (cluster, peak, x, y, z, value, voxels)."""
    rows, number = [], 0
    for sign in (1, -1):
        labels, found = ndimage.label(significant & (sign * z > 0), TOUCHING)
        clusters = [np.argwhere(labels == k) for k in range(1, found + 1)]
        for members in sorted((m for m in clusters if len(m) >= EXTENT), key=len, reverse=True):
            number += 1
            heights = {tuple(voxel): sign * z[tuple(voxel)] for voxel in members.tolist()}
            kept: list[Float] = []
            for voxel in sorted(heights, key=lambda voxel: -heights[voxel]):
                around = [tuple(np.add(voxel, step) - 1) for step in np.ndindex(3, 3, 3)]
                if any(heights.get(tuple(map(int, other)), -np.inf) > heights[voxel] for other in around):
                    continue
                place = nib.affines.apply_affine(affine, voxel)
                if len(kept) < 4 and all(np.linalg.norm(place - other) > APART for other in kept):
                    kept.append(place)
                    size = len(members) if len(kept) == 1 else np.nan
                    rows.append((number, len(kept), *place, sign * heights[voxel], size))
    return rows


@pytest.fixture
def maps(wager_table: pd.DataFrame) -> Float:
    return np.array([nib.load(path).get_fdata().squeeze() for path in wager_table["path"]])


def test_false_discovery_rate_and_table_of_available_cases(
    wager_table: pd.DataFrame, maps: Float, tmp_path: Path
) -> None:
    cohort = vx.stack(wager_table, tmp_path / "wager.zarr", maps={"effect": "path"}, mask=0.05)
    result = vx.contrast(vx.fit_glm(cohort, "~ 1", missing="available"), {"mean": "Intercept"}).compute()
    t, z, p = (np.where(cohort["mask"], values, np.nan) for values in one_sample_t(maps))
    np.testing.assert_allclose(result["stat"].sel(contrast="mean"), t, rtol=1e-9, atol=1e-9)

    found = vx.threshold(result, correction="fdr", alpha=RATE, cluster_extent=EXTENT, connectivity=26)
    significant = discoveries(p, RATE)
    labels, number = ndimage.label(significant & (z > 0), TOUCHING)
    negative, _ = ndimage.label(significant & (z < 0), TOUCHING)
    labels = labels + np.where(negative > 0, negative + number, 0)
    large = significant & (np.bincount(labels.ravel())[labels] >= EXTENT)
    np.testing.assert_array_equal(found["significant"].sel(contrast="mean"), large)
    assert large.sum() > 1000

    affine = np.asarray(vx.to_nifti(result["stat"].sel(contrast="mean")).affine)
    expected = np.array(table_of(z, significant, affine))
    table = vx.clusters_table(found, min_distance=APART)
    assert table["cluster"].max() > 3
    ours = table[["cluster", "peak", "x", "y", "z", "value", "n_voxels"]].astype(float).to_numpy()
    order = [np.lexsort(rows.T[[5, 1, 0]]) for rows in (ours, expected)]
    np.testing.assert_allclose(ours[order[0]], expected[order[1]], rtol=1e-9, atol=2e-4)
