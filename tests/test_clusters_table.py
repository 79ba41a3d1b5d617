"""`clusters_table` and `label_clusters` against brute force, nilearn and a permutation test."""

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.reporting import get_clusters_table
from numpy.typing import NDArray
from scipy import ndimage

import voxstack as vx
from permuted_cohorts import run
from random_cohorts import cohort_of
from voxstack.errors import InputError
from voxstack.kernels.peaks import apart, local_maxima

Float = NDArray[np.float64]
STRUCTURES = {k: ndimage.generate_binary_structure(3, order) for k, order in ((6, 1), (18, 2), (26, 3))}
seeds = st.integers(0, 2**32 - 1)
OBLIQUE = np.array([[2.0, 0.3, 0, -10], [-0.3, 2.0, 0, 5], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def result_of(z: Float, affine: Any = None, **options: Any) -> xr.Dataset:
    return vx.read_map(nib.Nifti1Image(z, np.diag([3.0, 3, 3, 1]) if affine is None else affine), **options)


def brute_maxima(values: Float, inside: NDArray[np.bool_]) -> set[tuple[int, ...]]:
    """Voxels without a higher neighbour in the cluster; all values differ."""
    found = set()
    for voxel in map(tuple, np.argwhere(inside)):
        box = tuple(slice(max(i - 1, 0), i + 2) for i in voxel)
        if values[voxel] >= values[box][inside[box]].max():
            found.add(tuple(int(i) for i in voxel))
    return found


@given(
    seed=seeds,
    alternative=st.sampled_from(["two-sided", "greater", "less"]),
    connectivity=st.sampled_from([6, 18, 26]),
    extent=st.integers(0, 4),
    threshold=st.sampled_from([0.0, 0.5, 1.5, 9.0]),
    oblique=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_clusters_are_those_of_brute_force(
    seed: int, alternative: Any, connectivity: int, extent: int, threshold: float, oblique: bool
) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(6, 5, 7))
    z[rng.random(z.shape) < 0.1] = np.nan
    affine = OBLIQUE if oblique else np.diag([-3.0, 3, 2, 1])
    result = result_of(z, affine, alternative=alternative)
    options: dict[str, Any] = {"threshold": threshold, "connectivity": connectivity, "cluster_extent": extent}
    table = vx.clusters_table(result, **options, min_distance=0, peaks=None)
    labels = vx.label_clusters(result, **options).values[0]
    number = 0
    for sign in {"two-sided": (1, -1), "greater": (1,), "less": (-1,)}[alternative]:
        heights = np.nan_to_num(sign * z, nan=-np.inf)
        passing, _ = ndimage.label((heights >= threshold) & (heights > 0), STRUCTURES[connectivity])
        sizes = np.bincount(passing.ravel())[1:]
        before = np.inf
        for _ in range(int(np.sum(sizes >= max(extent, 1)))):
            number += 1
            inside = labels == number
            (parent,) = np.unique(passing[inside])
            np.testing.assert_array_equal(inside, passing == parent)
            assert extent <= inside.sum() <= before
            before = inside.sum()
            rows = table[table["cluster"] == number]
            first = rows.iloc[0]
            assert (first["n_voxels"], first["value"]) == (inside.sum(), sign * heights[inside].max())
            assert first["mean"] == pytest.approx(z[inside].mean())
            assert first["volume_mm3"] == pytest.approx(inside.sum() * abs(np.linalg.det(affine[:3, :3])), rel=1e-5)
            assert rows["n_voxels"].isna().sum() == len(rows) - 1
            maxima = brute_maxima(heights, inside)
            places = nib.affines.apply_affine(affine, np.array(sorted(maxima)))
            found = rows[["x", "y", "z"]].to_numpy()
            away = np.linalg.norm(found[:, None] - places[None], axis=2)
            assert away.shape == (len(maxima), len(maxima))
            assert away.min(axis=0).max() < 1e-3  # coordinates are kept to 1e-4 mm
            assert rows["peak"].tolist() == list(range(1, len(maxima) + 1))
            assert (np.diff(abs(rows["value"])) <= 0).all()
    assert labels.max() == number == table["cluster"].nunique()


@given(seed=seeds, least=st.floats(0, 12), most=st.sampled_from([None, 1, 3]))
@settings(deadline=None, max_examples=50)
def test_peaks_keep_their_distance(seed: int, least: float, most: int | None) -> None:
    places = np.random.default_rng(seed).uniform(0, 15, size=(20, 3))
    kept: list[int] = []
    for i in range(len(places)):  # the definition: far from all that are kept
        if all(np.linalg.norm(places[i] - places[j]) > least for j in kept):
            kept.append(i)
    assert apart(places, least, most).tolist() == kept[:most]


class TestLikeNilearn:
    """Numbers of nilearn's own tests of get_clusters_table, and its tables."""

    def test_maxima(self) -> None:
        data = np.zeros((9, 10, 11))
        data[4, 5, :] = [4, 3, 2, 1, 1, 1, 1, 1, 2, 3, 4]
        data[5, 5, :] = [5, 4, 3, 2, 1, 1, 1, 2, 3, 4, 6]
        data[6, 5, :] = [4, 3, 2, 1, 1, 1, 1, 1, 2, 3, 4]
        maxima = local_maxima(data, data > 0)
        assert maxima.tolist()[:2] == [[5, 5, 10], [5, 5, 0]]
        assert apart(maxima.astype(float), 9, None).tolist() == [0, 1]
        assert apart(maxima.astype(float), 11, None).tolist() == [0]
        data[5, 5, 10] = 5
        assert local_maxima(data, data > 0).tolist()[:2] == [[5, 5, 0], [5, 5, 10]]

    def test_of_a_ring_it_is_a_voxel_of_the_ring(self) -> None:
        data = np.zeros((9, 10, 11))
        data[4:7, 5, 4:7] = 1
        data[5, 5, 5] = 0
        assert local_maxima(data, data > 0).tolist() == [[4, 5, 5]]

    def test_a_plateau_below_a_higher_voxel_is_no_peak(self) -> None:
        data = np.array([3.0, 2, 2, 2, 2, 1, 2]).reshape(-1, 1, 1)
        assert local_maxima(data, data > 0).ravel().tolist() == [0, 0, 0, 6, 0, 0]

    @pytest.mark.parametrize(
        ("threshold", "extent", "alternative", "expected"),
        [(4, 0, "greater", 1), (6, 0, "greater", 0), (4, 9, "greater", 0), (4, 0, "two-sided", 2),
         (6, 0, "two-sided", 0), (4, 9, "two-sided", 0)],
    )  # fmt: skip
    def test_number_of_clusters(self, threshold: float, extent: int, alternative: Any, expected: int) -> None:
        data = np.zeros((9, 10, 11))
        data[2:4, 5:7, 6:8] = 5.0
        data[4:6, 7:9, 8:10] = -5.0
        table = vx.clusters_table(result_of(data, alternative=alternative), threshold=threshold, cluster_extent=extent)
        assert len(table) == expected
        assert table["cluster"].tolist() == list(range(1, expected + 1))

    def test_tables_of_a_smooth_map(self) -> None:
        rng = np.random.default_rng(2)
        z = ndimage.gaussian_filter(rng.normal(size=(24, 26, 22)), 1.6)
        z *= 2.5 / z.std()
        image = nib.Nifti1Image(z, np.diag([3.0, 3, 3, 1]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = get_clusters_table(image, 3.0, cluster_threshold=10, two_sided=True, min_distance=8)
        ours = vx.clusters_table(vx.read_map(image), threshold=3.0, cluster_extent=10, connectivity=6, peaks=1)
        main = theirs[~theirs["Cluster ID"].astype(str).str.contains("[a-z]")]
        assert len(ours) > 10
        expected = {
            (row["X"], row["Y"], row["Z"], round(row["Peak Stat"], 5), float(row["Cluster Size (mm3)"]))
            for _, row in main.iterrows()
        }
        found = {(r.x, r.y, r.z, round(r.value, 5), r.volume_mm3) for r in ours.itertuples()}
        assert found == expected


def test_all_voxels_may_be_one_cluster_and_all_equal() -> None:
    table = vx.clusters_table(result_of(np.full((3, 3, 3), 5.0)), threshold=2)
    assert table[["cluster", "peak", "n_voxels"]].to_numpy().tolist() == [[1, 1, 27]]
    assert table[["x", "y", "z"]].to_numpy().tolist() == [[3, 3, 3]]


def test_what_is_significant_is_tabulated() -> None:
    z = np.random.default_rng(0).normal(size=(8, 8, 8)) * 2
    result = result_of(z)
    thresholded = vx.threshold(result, alpha=0.01, correction="none", cluster_extent=2, connectivity=6)
    table, labels = vx.clusters_table(thresholded), vx.label_clusters(thresholded)
    np.testing.assert_array_equal(labels > 0, thresholded["significant"])
    pd.testing.assert_frame_equal(
        table,
        vx.clusters_table(
            result, threshold=thresholded["threshold"].item(), cluster_extent=2, connectivity=6
        ),
    )  # fmt: skip
    assert (table["n_voxels"].dropna() >= 2).all()
    assert table.attrs["variable"] == "z_score"


@pytest.mark.parametrize("rule", ["signed", "absolute"])
def test_clusters_of_a_permutation_test_have_its_p(rule: Any) -> None:
    rng = np.random.default_rng(3)
    maps = rng.normal(size=(9, 6, 5, 4))
    maps[:, :2] += 1.5
    maps[:, 4:, :3] -= 1.5
    result = run(
        cohort_of(maps), np.ones((9, 1)), {"mean": [1]}, statistics=("voxel", "cluster_extent", "tfce"),
        cluster_forming_z=1.5, connectivity=18, two_sided_clusters=rule,
    )  # fmt: skip
    one, labels = result.sel(contrast="mean"), vx.label_clusters(result).values[0]
    np.testing.assert_array_equal(labels > 0, one["cluster_extent"].fillna(0) > 0)
    table = vx.clusters_table(result)
    assert table.attrs["variable"] == "stat"
    first = table[table["peak"] == 1]
    assert len(first) > 1
    for row in first.itertuples():
        inside = labels == row.cluster
        assert set(one["cluster_extent"].values[inside]) == {row.n_voxels}
        assert row.cluster_extent_p_fwe == one["cluster_extent_p_fwe"].values[inside][0]
        at = one.sel(x=row.x, y=row.y, z=row.z)
        assert (row.value, row.voxel_p_fwe, row.tfce_p_fwe) == tuple(
            at[name].item() for name in ("stat", "voxel_p_fwe", "tfce_p_fwe")
        )
    assert table.loc[table["peak"] > 1, "cluster_extent_p_fwe"].isna().all()
    # Clusters of another threshold are others, and have no p of their own.
    others = vx.clusters_table(result, threshold=4.0)
    same = others["n_voxels"].eq(
        [one["cluster_extent"].sel(x=r.x, y=r.y, z=r.z).item() for r in others.itertuples()]
    )  # fmt: skip
    assert not same.fillna(value=False).all()
    assert others.loc[~same.fillna(False).astype(bool), "cluster_extent_p_fwe"].isna().all()


def test_one_sided_voxels_that_are_significant_on_the_other_side_of_0_are_in_clusters() -> None:
    result = result_of(np.random.default_rng(0).normal(size=(6, 5, 4)), alternative="greater")
    found = vx.threshold(result, correction="none", alpha=0.7)
    assert (found["z_score"] < 0).any()
    np.testing.assert_array_equal(vx.label_clusters(found) > 0, found["significant"])


def test_mass_alone_has_p_for_the_clusters_of_the_test_only() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(8, 6, 5, 4))
    maps[:, :3, :3] += 1.2
    options = {"statistics": ("cluster_mass",), "cluster_forming_z": 2.0}
    result = run(cohort_of(maps), np.ones((8, 1)), {"mean": [1]}, **options)
    assert vx.clusters_table(result)["cluster_mass_p_fwe"].notna().any()
    assert vx.clusters_table(result, threshold=1.0)["cluster_mass_p_fwe"].isna().all()


class TestAtlas:
    def image(self) -> nib.Nifti1Image:
        labels = np.zeros((10, 10, 10), dtype=np.int16)  # of 2 mm, on a lattice of its own
        labels[:5], labels[5:, :5] = 1, 7
        return nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1]))

    def result(self) -> xr.Dataset:
        z = np.zeros((6, 6, 6))
        z[1, 1, 1], z[4, 1, 1], z[4, 4, 4], z[5, 0, 5] = 9, 8, 7, 6  # the last one at (15, 0, 15) mm, others within
        return result_of(z)

    def test_half_way_between_two_voxels_tables_and_regions_agree(self) -> None:
        labels = np.arange(1, 6, dtype=np.int16).reshape(5, 1, 1)
        affine = np.diag([2.0, 2, 2, 1])
        affine[0, 3] = 1  # between the voxels of the map, at 0, 2, 4, 6, 8 mm
        atlas = nib.Nifti1Image(labels, affine)
        z = np.zeros((9, 1, 1))
        z[::2, 0, 0] = 5
        result = vx.read_map(nib.Nifti1Image(z, np.diag([1.0, 2, 2, 1])))
        table = vx.clusters_table(result, threshold=1, atlas=atlas).sort_values("x")
        assert table["region"].tolist() == ["1", "2", "3", "4", "5"]
        found = vx.true_discovery_proportion(result, regions=atlas)
        assert found["label"].values[0, ::2].ravel().tolist() == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("form", ["frame", "tsv", "csv", "list", "dict", "none", "path"])
    def test_regions_of_peaks(self, form: str, tmp_path: Path) -> None:
        frame, names = pd.DataFrame({"index": [0, 1, 7], "name": ["out", "left", "right"]}), ["", "left", *"abcde"]
        frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
        frame.to_csv(tmp_path / "a.csv", index=False)
        nib.save(self.image(), tmp_path / "a.nii.gz")
        atlas: Any = {
            "frame": (self.image(), frame), "tsv": (self.image(), tmp_path / "a.tsv"),
            "csv": (self.image(), str(tmp_path / "a.csv")), "list": (self.image(), names),
            "dict": (self.image(), {7: "right", 1: "left"}), "none": self.image(),
            "path": (str(tmp_path / "a.nii.gz"), frame),
        }[form]  # fmt: skip
        region = vx.clusters_table(self.result(), threshold=5, atlas=atlas)["region"].tolist()
        expected = {"list": ["left", "7", "", "7"], "none": ["1", "7", "", "7"]}.get(
            form, ["left", "right", "", "right"]
        )
        assert region == expected

    @pytest.mark.parametrize(
        ("atlas", "says"),
        [
            ("nowhere.nii.gz", "no such file"),
            (nib.Nifti1Image(np.full((2, 2, 2), 0.5), np.eye(4)), "not whole numbers"),
            (nib.Nifti1Image(np.zeros((2, 2, 2, 3)), np.eye(4)), "3 volumes"),
            (nib.Nifti1Image(np.full((2, 2, 2), np.inf), np.eye(4)), "not whole numbers"),
            (np.ones((2, 2, 2)), "an image or its path"),
            ((nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), {"a": "left"}), "must be whole"),
            ((nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), 3), "not a int"),
            ((nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), pd.DataFrame({"id": [1]})), "columns index and name"),
            ((nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), "no.tsv"), "no table of labels"),
        ],
    )
    def test_mistakes(self, atlas: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            vx.clusters_table(self.result(), threshold=5, atlas=atlas)


def test_a_table_goes_through_tsv(tmp_path: Path) -> None:
    table = vx.clusters_table(result_of(np.random.default_rng(1).normal(size=(6, 6, 6)) * 2), threshold=3)
    table.to_csv(tmp_path / "clusters.tsv", sep="\t", index=False)
    again = pd.read_csv(tmp_path / "clusters.tsv", sep="\t").astype({"n_voxels": "Int64"})
    pd.testing.assert_frame_equal(again, table)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "says no clusters: give threshold="),
        ({"threshold": -1}, "at least 0"),
        ({"threshold": 2, "variable": "p_value"}, "not in 'p_value'"),
        ({"threshold": 2, "connectivity": 4}, "6, 18 or 26"),
        ({"threshold": 2, "cluster_extent": -2}, "whole number from 0"),
        ({"threshold": 2, "min_distance": -2}, "min_distance"),
        ({"threshold": 2, "peaks": 0}, "whole number from 1"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        vx.clusters_table(result_of(np.full((3, 3, 3), 2.0)), **options)
