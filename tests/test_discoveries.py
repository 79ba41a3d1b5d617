"""`true_discovery_proportion` against published numbers, a second implementation, and its own parts."""

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.glm import cluster_level_inference
from numpy.typing import NDArray
from scipy import ndimage, stats

import voxstack as vx
from permuted_cohorts import run
from random_cohorts import cohort_of
from voxstack.errors import GridMismatch, InputError, VoxstackWarning

Float = NDArray[np.float64]
AFFINE = np.diag([3.0, 3, 3, 1])


def result_of(z: Float, **options: Any) -> xr.Dataset:
    return vx.read_map(nib.Nifti1Image(z, AFFINE), **options)


def hommel(p: Float, alpha: float) -> int:
    """The largest i whose i largest p-values Simes' test does not reject; by bisection, since larger i are rejected
    whenever smaller ones are."""
    ordered, m = np.sort(p), p.size

    def rejected(i: int) -> bool:
        return bool(np.any(i * ordered[m - i :] <= np.arange(1, i + 1) * alpha))

    low, high = 0, m + 1  # not rejected, rejected
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return low


def bound(p: Float, inside: NDArray[np.bool_], h: int, alpha: float) -> int:
    """The most of 1 - u + (how many p in the set are at most u alpha / h), over all sizes u."""
    chosen = np.sort(p[inside])
    u = np.arange(1, chosen.size + 1)
    below = np.searchsorted(chosen, u * alpha / max(h, 1), side="right") if h else np.full(u.size, chosen.size)
    return int(np.max(1 - u + below, initial=0))


class TestAuditory:
    """Numbers from other implementations: shared/data/README.md and nilearn."""

    @pytest.fixture
    def result(self, data_folder: Path) -> xr.Dataset:
        folder = data_folder / "ari_auditory"
        return vx.read_map(folder / "zstat.nii.gz", mask=folder / "mask.nii.gz", alternative="greater")

    def test_clusters(self, result: xr.Dataset) -> None:
        found = vx.true_discovery_proportion(result, cluster_forming_z=3.2).isel(contrast=0, cluster_forming_z=0)
        assert found["hommel_value"].item() == 135_015
        assert found["n_voxels"].values.tolist()[:5] == [6907, 4607, 385, 249, 168]
        assert found.sizes["region"] == 18
        assert found["true_discoveries"].values.tolist()[:5] == [5179, 3409, 0, 15, 0]

    def test_a_second_implementation(self, result: xr.Dataset, data_folder: Path) -> None:
        z = result["z_score"].values[0]
        p = stats.norm.sf(z)
        known = ~np.isnan(z)
        h = hommel(p[known], 0.05)
        assert h == 135_015
        labels = np.asarray(nib.load(data_folder / "ari_auditory" / "cluster_th_3.2.nii.gz").dataobj)
        found = vx.true_discovery_proportion(result, regions=vx.label_clusters(result, threshold=3.2))
        theirs = vx.true_discovery_proportion(result, regions=data_folder / "ari_auditory" / "cluster_th_3.2.nii.gz")
        ours = dict(zip(found["n_voxels"].values[0], found["true_discoveries"].values[0], strict=True))
        for number in theirs["region"].values:
            inside = labels[known] == number
            expected = bound(p[known], inside, h, 0.05)
            assert theirs["true_discoveries"].sel(region=number).item() == expected
            assert ours[inside.sum()] == expected

    def test_published_clusters(self, result: xr.Dataset, data_folder: Path) -> None:
        labels = np.asarray(nib.load(data_folder / "ari_auditory" / "cluster_th_3.2.nii.gz").dataobj)
        ours = vx.label_clusters(result, threshold=3.2).values[0]
        sizes = np.bincount(labels.ravel().astype(int))[1:]
        np.testing.assert_array_equal(np.sort(np.bincount(ours.ravel())[1:]), np.sort(sizes))
        np.testing.assert_array_equal(ours > 0, labels > 0)
        assert vx.label_clusters(result, threshold=3.2, connectivity=6).max() == 19
        published = nib.load(data_folder / "ari_auditory" / "pvalue.nii.gz").get_fdata()
        known = result["mask"].values
        np.testing.assert_allclose(result["p_value"].values[0][known], published[known], atol=3e-8)


@given(
    seed=st.integers(0, 2**32 - 1),
    alternative=st.sampled_from(["greater", "less", "two-sided"]),
    alpha=st.sampled_from([0.05, 0.2]),
    connectivity=st.sampled_from([6, 26]),
)
@settings(deadline=None, max_examples=20)
def test_clusters_at_several_thresholds(seed: int, alternative: Any, alpha: float, connectivity: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(7, 6, 5))
    z[:3, :3] += 3
    z[5:, 4:] -= 4
    z[rng.random(z.shape) < 0.05] = np.nan
    thresholds = [1.0, 2.0, 20.0]
    found = vx.true_discovery_proportion(
        result_of(z), cluster_forming_z=thresholds, alternative=alternative, alpha=alpha, connectivity=connectivity
    ).isel(contrast=0)
    known, sides = ~np.isnan(z), {"greater": [1], "less": [-1], "two-sided": [1, -1]}[alternative]
    level, structure = alpha / len(sides), ndimage.generate_binary_structure(3, 1 if connectivity == 6 else 3)
    values = [hommel(stats.norm.sf(side * z[known]), level) for side in sides]
    np.testing.assert_array_equal(found["hommel_value"], values)
    for threshold in thresholds:
        one = found.sel(cluster_forming_z=threshold)
        label = one["label"].values
        expected = sum(ndimage.label(np.nan_to_num(side * z) >= threshold, structure)[1] for side in sides)
        assert (one["n_voxels"] > 0).sum() == label.max() == expected
        for number in range(1, expected + 1):
            inside = label == number
            discoveries = sum(
                bound(stats.norm.sf(side * z[known]), inside[known], h, level)
                for side, h in zip(sides, values, strict=True)
            )
            row = one.sel(region=number)
            assert (row["n_voxels"].item(), row["true_discoveries"].item()) == (inside.sum(), discoveries)
            assert row["proportion"].item() == discoveries / inside.sum()
            assert set(one["true_discovery_proportion"].values[inside]) == {discoveries / inside.sum()}
        outside = one["true_discovery_proportion"].values[label == 0]
        np.testing.assert_array_equal(np.isnan(outside), ~known[label == 0])
        assert np.nansum(outside) == 0


def test_the_map_of_nilearn() -> None:
    rng = np.random.default_rng(4)
    z = ndimage.gaussian_filter(rng.normal(size=(20, 20, 20)), 1.0)
    z *= 1.2 / z.std()
    z[4:10, 4:10, 4:10] += 4
    mask = nib.Nifti1Image(np.ones(z.shape, dtype=np.uint8), AFFINE)
    theirs = cluster_level_inference(nib.Nifti1Image(z, AFFINE), mask_img=mask, threshold=2.9, alpha=0.05)
    ours = vx.true_discovery_proportion(result_of(z), cluster_forming_z=2.9, connectivity=6)
    assert theirs.get_fdata().max() > 0.5
    np.testing.assert_allclose(ours["true_discovery_proportion"].values[0, 0], theirs.get_fdata(), atol=1e-6)


@pytest.mark.parametrize(("threshold", "expected"), [(3.09, 8), (6.0, 0), ([3.0, 6.0], 8)])
def test_numbers_of_nilearns_own_tests(threshold: Any, expected: int) -> None:
    """Those of test_all_resolution_inference."""
    data = stats.norm.isf(np.linspace(1e-3, 1 - 1e-3, 1000)).reshape(10, 10, 10)
    data[2:4, 5:7, 6:8] = 5.0
    found = vx.true_discovery_proportion(result_of(data), cluster_forming_z=threshold)["true_discovery_proportion"]
    assert int((found.max("cluster_forming_z") > 0).sum()) == expected


class TestRegions:
    def test_labels_that_lie_elsewhere_are_named_but_for_none(self) -> None:
        """The maps show a part of the atlas, in which every voxel has a label."""
        labels = np.zeros((8, 8, 8), dtype=np.int32)
        labels[1:7, 1:7, 1:7] = 5
        result = result_of(np.random.default_rng(0).normal(size=(3, 3, 3)) + 2)
        affine = AFFINE.copy()
        affine[:3, 3] -= AFFINE[:3, :3] @ [2, 2, 2]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = vx.true_discovery_proportion(result, regions=nib.Nifti1Image(labels, affine))
        assert found["region"].values.tolist() == [5]
        labels[0, 0, 0] = 9
        with pytest.warns(VoxstackWarning, match="1 labels are nowhere on the maps' grid: 9"):
            vx.true_discovery_proportion(result, regions=nib.Nifti1Image(labels, affine))

    def test_labels_of_all_kinds(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(5)
        z = rng.normal(size=(6, 6, 6)) + 2
        labels = np.zeros(z.shape, dtype=np.int32)
        labels[:3], labels[3:, :2], labels[3:, 2:, :1] = 2, 40_000, 7
        result, image = result_of(z), nib.Nifti1Image(labels, AFFINE)
        nib.save(image, tmp_path / "atlas.nii.gz")
        array = result["mask"].copy(data=labels)
        forms = [image, tmp_path / "atlas.nii.gz", array, array.expand_dims(contrast=["map"])]
        found = [vx.true_discovery_proportion(result, regions=form) for form in forms]
        for other in found[1:]:
            xr.testing.assert_identical(other.drop_attrs(), found[0].drop_attrs())
        assert found[0]["region"].values.tolist() == [2, 7, 40_000]
        np.testing.assert_array_equal(found[0]["label"][0], labels)
        assert found[0]["n_voxels"].values.tolist() == [[108, 12, 36]]
        p = stats.norm.sf(z).ravel()
        h = hommel(p, 0.05)
        expected = [bound(p, labels.ravel() == number, h, 0.05) for number in (2, 7, 40_000)]
        assert found[0]["true_discoveries"].values.tolist() == [expected]

    def test_names(self) -> None:
        labels = np.ones((3, 3, 3), dtype=np.int16)
        named = (nib.Nifti1Image(labels, AFFINE), ["background", "all of it"])
        found = vx.true_discovery_proportion(result_of(np.full((3, 3, 3), 9.0)), regions=named)
        assert found["region_name"].item() == "all of it"
        assert found["proportion"].item() == 1

    def test_arrays_of_numpy_and_contrasts_that_are_missing(self) -> None:
        z = np.random.default_rng(0).normal(size=(3, 3, 3)) + 3
        result = result_of(z)
        labels = np.ones(z.shape, dtype=int)
        assert vx.true_discovery_proportion(result, regions=labels)["n_voxels"].item() == 27
        named = vx.label_clusters(result, threshold=1).assign_coords(contrast=["another"])
        for regions, says in ((labels[1:], "have the shape"), (named, "do not have all of the contrasts")):
            with pytest.raises(InputError, match=says):
                vx.true_discovery_proportion(result, regions=regions)

    def test_other_lattices_are_refused(self) -> None:
        other = result_of(np.full((4, 4, 4), 2.0))["mask"]
        with pytest.raises(GridMismatch):
            vx.true_discovery_proportion(result_of(np.full((3, 3, 3), 2.0)), regions=other)

    def test_lattices_with_plain_coordinates_are_compared_with_the_same_tolerance(self) -> None:
        result = result_of(np.full((3, 3, 3), 2.0))
        plain = xr.DataArray(np.ones((3, 3, 3), int), {d: result[d].values for d in "xyz"}, dims=("x", "y", "z"))
        assert vx.true_discovery_proportion(result, regions=plain.assign_coords(x=plain.x + 1e-7))["n_voxels"] == 27
        with pytest.raises(GridMismatch):
            vx.true_discovery_proportion(result, regions=plain.assign_coords(x=plain.x + 0.01))


def test_z_comes_from_t_and_f_where_there_is_none() -> None:
    rng = np.random.default_rng(6)
    maps = rng.normal(size=(12, 5, 4, 3)) + 1
    maps[0, 0, 0, 0] = np.nan
    design = np.column_stack([np.ones(12), rng.normal(size=12)])
    contrasts = {"mean": [1, 0], "both": [[1, 0], [0, 1]]}
    cohort = cohort_of(maps)
    parametric = vx.contrast(vx.fit_glm(cohort, design), contrasts)
    permuted = run(cohort, design, contrasts, n_permutations=8, relabelling="flip")
    ours, theirs = (vx.true_discovery_proportion(one, alternative="two-sided") for one in (parametric, permuted))
    xr.testing.assert_allclose(ours.drop_attrs(), theirs.drop_attrs())
    assert np.isnan(ours["hommel_value"].sel(contrast="both", side="negative"))


def test_they_are_saved_and_written(tmp_path: Path) -> None:
    found = vx.true_discovery_proportion(result_of(np.full((3, 3, 3), 4.0)), cluster_forming_z=[3.1, 3.5])
    vx.save_results(found, tmp_path / "tdp.zarr")
    xr.testing.assert_identical(vx.open_results(tmp_path / "tdp.zarr").compute(), found)
    names = [path.name for path in vx.write_maps(found, tmp_path)]
    assert names == [
        f"contrast-map_desc-{what}z{z}_{suffix}.nii.gz"
        for z in ("3p1", "3p5")
        for what, suffix in (("tdp", "statmap"), ("label", "dseg"))
    ]
    image = nib.load(tmp_path / "contrast-map_desc-labelz3p5_dseg.nii.gz")
    assert image.get_data_dtype() == np.int32
    np.testing.assert_array_equal(image.get_fdata(), 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 1.0}, "alpha must be a number between"),
        ({"alternative": "both"}, "alternative='both': voxstack knows"),
        ({"cluster_forming_z": -2}, "above 0"),
        ({"cluster_forming_z": []}, "above 0"),
        ({"connectivity": 5}, "6, 18 or 26"),
        ({"regions": nib.Nifti1Image(np.zeros((3, 3, 3)), AFFINE)}, "all 0"),
        ({"regions": nib.Nifti1Image(-np.ones((3, 3, 3)), AFFINE)}, "whole numbers"),
        ({"mask": np.zeros((3, 3, 3))}, "No voxel is left"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        vx.true_discovery_proportion(result_of(np.full((3, 3, 3), 2.0)), **options)


def test_a_thresholded_result_is_refused() -> None:
    with pytest.raises(InputError, match="thresholded already"):
        vx.true_discovery_proportion(vx.threshold(result_of(np.full((3, 3, 3), 2.0))))


def test_f_alone_has_one_side() -> None:
    z = nib.Nifti1Image(np.full((3, 3, 3), 9.0), AFFINE)
    found = vx.true_discovery_proportion(vx.read_map(z, kind="F", dof=9), alternative="two-sided")
    assert np.isfinite(found["hommel_value"].sel(side="positive")).all()
    assert np.isnan(found["hommel_value"].sel(side="negative")).all()


def test_p_alone_is_refused() -> None:
    with pytest.raises(InputError, match="p alone says nothing"):
        vx.true_discovery_proportion(result_of(np.full((3, 3, 3), 0.5), kind="p"))
