"""`threshold` against its definitions by SciPy, against nilearn, and against maxima of relabellings."""

import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.glm import threshold_stats_img
from numpy.typing import NDArray
from scipy import ndimage, stats

import voxstack as vx
from permuted_cohorts import random_maps, run
from random_cohorts import cohort_of
from voxstack.errors import InputError, VoxstackWarning

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
ALTERNATIVES = ("two-sided", "greater", "less")
STRUCTURES = {6: ndimage.generate_binary_structure(3, 1), 26: ndimage.generate_binary_structure(3, 3)}
seeds = st.integers(0, 2**32 - 1)
Float = NDArray[np.float64]


def tail(stat_type: str, stat: Float, q: int, dof: Any, alternative: str) -> Float:
    if stat_type == "F":
        return stats.f.sf(stat, q, dof)
    return {"two-sided": 2 * stats.t.sf(abs(stat), dof), "greater": stats.t.sf(stat, dof)}.get(
        alternative, stats.t.cdf(stat, dof)
    )


def adjusted(p: Float, correction: str) -> Float:
    """p-values that are compared with alpha."""
    known = p[~np.isnan(p)]
    corrected = {"none": known, "bonferroni": known * known.size}.get(correction)
    found = np.full_like(p, np.nan)
    found[~np.isnan(p)] = stats.false_discovery_control(known) if corrected is None else corrected
    return found


def contrasts_of(seed: int, missing: str = "complete", alternative: str = "two-sided") -> xr.Dataset:
    rng = np.random.default_rng(seed)
    n = 14
    maps = random_maps(rng, n, mean=rng.choice([0.0, 2.0]))
    design = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VoxstackWarning)
        fit = vx.fit_glm(cohort_of(maps), design, missing=missing)
    contrasts = {"mean": [1, 0, 0], "both": [[0, 1, 0], [1, 0, 1]]}
    return vx.contrast(fit, contrasts, alternative=alternative).compute()


@given(
    seed=seeds,
    missing=st.sampled_from(["complete", "available"]),
    correction=st.sampled_from(["none", "fdr", "bonferroni"]),
    variable=st.sampled_from(["z_score", "stat", "p_value"]),
    alternative=st.sampled_from(ALTERNATIVES),
    alpha=st.sampled_from([0.001, 0.05, 0.3]),
    masked=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_what_passes_is_what_the_definition_says(
    seed: int, missing: str, correction: str, variable: str, alternative: str, alpha: float, masked: bool
) -> None:
    result = contrasts_of(seed, missing, alternative)
    mask = np.random.default_rng(seed).random(result["mask"].shape) < 0.7 if masked else None
    found = vx.threshold(result, alpha=alpha, correction=correction, variable=variable, mask=mask)
    for name in ("mean", "both"):
        one, out = result.sel(contrast=name), found.sel(contrast=name)
        dof = one["dof"].values if one["dof"].ndim else one["dof"].item()
        p = tail(one["stat_type"].item(), one["stat"].values, int(one["dof_num"]), dof, alternative)
        if masked:
            p = np.where(mask, p, np.nan)
        expected = adjusted(p, correction) <= alpha
        assert out["n_tested"].item() == np.sum(~np.isnan(p))
        np.testing.assert_array_equal(out["significant"], expected)
        for kept in ("effect", "variance", "stat", "z_score", "p_value"):
            np.testing.assert_array_equal(out[kept], one[kept].where(expected))
        check_scale(out, one[variable].values, ~np.isnan(p), alternative if name == "mean" else "greater")


def check_scale(out: xr.Dataset, values: Float, tested_voxels: NDArray[np.bool_], alternative: str) -> None:
    """What is significant are the values that reach `threshold`."""
    least = out["threshold"].item()
    if out["dof"].ndim and "stat" in out.attrs["provenance"]["threshold"]["variable"]:
        assert np.isnan(least)
        return
    if out.attrs["provenance"]["threshold"]["variable"] == "p_value":
        reached = values <= least * (1 + 1e-10)
    elif alternative == "less":
        reached = values <= least * (1 + np.sign(least) * 1e-10)
    else:
        size = abs(values) if alternative == "two-sided" else values
        reached = size >= least * (1 - np.sign(least) * 1e-10)
    np.testing.assert_array_equal(out["significant"], reached & tested_voxels)


@given(seed=seeds, extent=st.integers(0, 6), connectivity=st.sampled_from([6, 26]))
@settings(deadline=None, max_examples=20)
def test_clusters_below_the_extent_are_left_out(seed: int, extent: int, connectivity: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(6, 5, 4)) * 2
    result = vx.read_map(nib.Nifti1Image(z, AFFINE), kind="z")
    found = vx.threshold(result, correction="none", cluster_extent=extent, connectivity=connectivity)
    expected = np.zeros(z.shape, dtype=bool)
    for sign in (1, -1):
        labels, _ = ndimage.label(sign * z >= stats.norm.isf(0.025), STRUCTURES[connectivity])
        sizes = np.bincount(labels.ravel())
        expected |= (labels > 0) & (sizes[labels] >= extent)
    np.testing.assert_array_equal(found["significant"][0], expected)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("ours", "theirs"), [("none", "fpr"), ("fdr", "fdr"), ("bonferroni", "bonferroni")])
def test_the_same_voxels_as_nilearn(two_sided: bool, ours: Any, theirs: str) -> None:
    rng = np.random.default_rng(5)
    z = rng.normal(size=(9, 10, 11))
    z[2:5, 5:8, 6:8] += 4.5
    z[6:8, 1:4, 2:4] -= 4.5
    image, mask = nib.Nifti1Image(z, AFFINE), nib.Nifti1Image(np.ones(z.shape, dtype=np.uint8), AFFINE)
    thresholded, least = threshold_stats_img(
        image, mask_img=mask, alpha=0.05, height_control=theirs, two_sided=two_sided, cluster_threshold=0
    )
    alternative = "two-sided" if two_sided else "greater"
    found = vx.threshold(vx.read_map(image, alternative=alternative), alpha=0.05, correction=ours)
    np.testing.assert_array_equal(found["significant"][0], thresholded.get_fdata() != 0)
    assert found["threshold"].item() == pytest.approx(least, rel=1e-9)


def test_numbers_of_nilearns_own_tests() -> None:
    """Those of test_fdr and test_threshold_stats_img."""
    n = 100
    p = np.linspace(0.5 / n, 1.0 - 0.5 / n, n)
    p[:10] = 0.0005
    z = vx.read_map(nib.Nifti1Image(stats.norm.isf(p).reshape(10, 10, 1), AFFINE), alternative="greater")
    assert vx.threshold(z, alpha=0.1)["threshold"].item() == pytest.approx(stats.norm.isf(0.0005))
    assert vx.threshold(z, alpha=0.001)["threshold"].item() == np.inf
    few = np.linspace(0.1, 1, 10)
    few[0] = 0.007
    few_p = vx.read_map(nib.Nifti1Image(few.reshape(10, 1, 1), AFFINE), kind="p")
    assert vx.threshold(few_p, alpha=0.1)["threshold"].item() == 0.007

    data = stats.norm.isf(np.linspace(1e-3, 1 - 1e-3, 1000)).reshape(10, 10, 10)
    data[2:4, 5:7, 6:8] = 5.0
    result = vx.read_map(nib.Nifti1Image(data, AFFINE))
    uncorrected = vx.threshold(result, alpha=0.001, correction="none")
    assert (uncorrected["z_score"] > 0).sum() == 8
    assert uncorrected["threshold"].item() == pytest.approx(stats.norm.isf(0.0005))
    assert (vx.threshold(result, alpha=0.001, correction="none", cluster_extent=10)["z_score"] > 0).sum() == 0
    for correction in ("fdr", "bonferroni"):
        assert (vx.threshold(result, correction=correction, cluster_extent=5)["z_score"] > 0).sum() == 8


def test_all_voxels_may_pass_and_none(tmp_path: Path) -> None:
    z = np.full((3, 3, 3), 50.0)  # p underflows
    for kind, least in (("z", 50.0), ("t", 50.0)):
        result = vx.read_map(nib.Nifti1Image(z, AFFINE), kind=kind, dof=1e6)
        found = vx.threshold(result, variable="z_score" if kind == "z" else "stat")
        assert found["significant"].all()
        assert found["threshold"].item() == least
    none = vx.threshold(vx.read_map(nib.Nifti1Image(z * -1e-3, AFFINE)))
    assert not none["significant"].any()
    assert none["z_score"].isnull().all()
    assert none["threshold"].item() == np.inf
    for path in vx.write_maps(none, tmp_path):
        told = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text(), parse_constant=pytest.fail)
        assert told["Threshold"]["value"] is None
    assert none.attrs["summary"] == ["map: no voxel of 27 is significant at a false discovery rate of 0.05"]


@given(
    seed=seeds,
    alternative=st.sampled_from(ALTERNATIVES),
    variable=st.sampled_from(["stat", "tfce", "cluster_mass"]),
    alpha=st.sampled_from([0.05, 0.1, 0.5]),
)
@settings(deadline=None, max_examples=15)
def test_fwe_is_beyond_the_maxima_of_as_many_relabellings(
    seed: int, alternative: str, variable: str, alpha: float
) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.normal(size=(9, 5, 4, 3)) + 1.5 * (rng.random((5, 4, 3)) < 0.3)
    options = {"statistics": ["voxel", "tfce", "cluster_mass"], "cluster_forming_z": 1.0}
    result = run(cohort_of(maps), np.ones((9, 1)), {"mean": [1]}, alternative=alternative, **options)
    found = vx.threshold(result, alpha=alpha, correction="fwe", variable=variable).sel(contrast="mean")
    statistic = "voxel" if variable == "stat" else variable
    values, maxima = result[variable].values[0], result["null_max"].sel(statistic=statistic).values[0]
    score = {"two-sided": abs(values), "greater": values, "less": -values}[alternative]
    if variable == "cluster_mass":
        score = values
    reached = (maxima[:, None, None, None] >= score - 1e-9).mean(axis=0)
    np.testing.assert_array_equal(found["significant"], reached <= alpha + 1e-12)
    least = found["threshold"].item()
    size = -values if alternative == "less" and variable != "cluster_mass" else score
    np.testing.assert_array_equal(found["significant"], size > abs(least) * (1 + 1e-9))


def test_extent_and_mass_have_no_sign() -> None:
    maps = np.random.default_rng(0).normal(size=(8, 5, 4, 3)) - 1
    options = {"statistics": ["voxel", "cluster_mass"], "cluster_forming_z": 1.0, "alternative": "less"}
    result = run(cohort_of(maps), np.ones((8, 1)), {"mean": [1]}, **options)
    found = vx.threshold(result, correction="fwe", variable="cluster_mass", alpha=0.2)
    assert found["threshold"].item() > 0
    assert vx.threshold(result, correction="fwe", alpha=0.2)["threshold"].item() < 0


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_another_alternative_is_that_of_p_too(alternative: Any) -> None:
    two_sided, wanted = contrasts_of(1), contrasts_of(1, alternative=alternative)
    found = vx.threshold(two_sided, correction="none", alpha=0.2, alternative=alternative)
    assert found.attrs["alternative"] == found["p_value"].attrs["alternative"] == alternative
    np.testing.assert_allclose(found["p_value"], wanted["p_value"].where(found["significant"]), rtol=1e-9)


def test_corrected_p_of_all_kinds_are_taken_as_they_are() -> None:
    maps = np.random.default_rng(1).normal(size=(8, 4, 3, 3)) + 1
    cohort, design = cohort_of(maps), np.column_stack([np.ones(8), np.arange(8.0)])
    result = run(cohort, design, {"a": [1, 0], "b": [1, 0.1]}, joint=True, relabelling="flip", tail="gpd")
    for variable in ("voxel_p_fwe", "voxel_p_fwe_joint"):
        found = vx.threshold(result, correction="fwe", variable=variable)
        np.testing.assert_array_equal(found["significant"], result[variable] <= 0.05)
        np.testing.assert_array_equal(found["threshold"], 0.05)
    uncorrected = vx.threshold(result, correction="none")
    np.testing.assert_array_equal(uncorrected["significant"], result["p_uncorrected"] <= 0.05)
    assert uncorrected["threshold"].isnull().all()


def test_a_thresholded_result_is_saved_and_written(tmp_path: Path) -> None:
    result = contrasts_of(3)
    found = vx.threshold(result, correction="none", alpha=0.3)
    vx.save_results(found, tmp_path / "r.zarr")
    xr.testing.assert_identical(vx.open_results(tmp_path / "r.zarr").compute(), found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 0}, "alpha must be a number between 0 and 1"),
        ({"alpha": 5}, "alpha must be a number between 0 and 1"),
        ({"correction": "holm"}, "knows 'none', 'fdr', 'bonferroni', 'fwe'"),
        ({"correction": "fwe"}, "needs the result of permutation_test"),
        ({"variable": "effect"}, "'effect' has no p-values. Choose variable= among"),
        ({"variable": "zz"}, "'zz' is not there"),
        ({"alternative": "up"}, "knows 'two-sided', 'greater', 'less'"),
        ({"alternative": "less", "variable": "p_value"}, "are for the alternative 'two-sided'"),
        ({"connectivity": 8}, "6, 18 or 26"),
        ({"cluster_extent": -1}, "whole number from 0"),
        ({"mask": np.zeros((5, 4, 3))}, "No voxel is left"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        vx.threshold(contrasts_of(0), **options)


def test_results_that_cannot_be_thresholded_are_refused() -> None:
    result = contrasts_of(0)
    with pytest.raises(InputError, match="thresholded already"):
        vx.threshold(vx.threshold(result))
    with pytest.raises(InputError, match="no contrast, or no voxel"):
        vx.threshold(result.isel(contrast=[]))
    with pytest.raises(InputError, match="not a DataArray"):
        vx.threshold(result["z_score"])
    with pytest.raises(InputError, match="lost a dimension"):
        vx.threshold(result.sel(contrast="mean"))
    permuted = run(cohort_of(np.random.default_rng(0).normal(size=(5, 3, 3, 3))), np.ones((5, 1)), {"m": [1]})
    with pytest.raises(InputError, match=r"'tfce' is not there"):
        vx.threshold(permuted, correction="fwe", variable="tfce")
    with pytest.raises(InputError, match="corrected already"):
        vx.threshold(permuted, correction="fdr", variable="voxel_p_fwe")
    with pytest.raises(InputError, match="is not corrected"):
        vx.threshold(permuted, correction="fwe", variable="p_uncorrected")
    with pytest.raises(InputError, match="Test again for 'less'"):
        vx.threshold(permuted, correction="fwe", alternative="less")
