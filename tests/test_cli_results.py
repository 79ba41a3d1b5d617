"""The verbs that read results: threshold and clusters."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import voxstack as vx
from voxstack.cli import cli


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def succeed(*arguments: Any) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    vx.simulate_cohort(folder / "sim", n_subjects=12, resolution=8)
    vx.stack(folder / "sim" / "participants.tsv", folder / "c.zarr", maps={"effect": "effect_path"})
    common = (folder / "c.zarr", "--design", "~ age", "--contrast", "mean=Intercept", "--contrast", "age", "--quiet")
    succeed("fit", *common, "--output", folder / "fit")
    statistics = ("--statistic", "cluster_extent", "--cluster-forming-z", "2.0", "--permutations", "40")
    succeed("permute", *common, *statistics, "--output", folder / "permuted")
    return folder


def test_threshold_writes_what_is_significant(study: Path, tmp_path: Path) -> None:
    told = succeed("threshold", study / "fit", "--correction", "none", "--alpha", "0.1", "--output", tmp_path / "out")
    found = vx.threshold(vx.open_results(study / "fit" / "results.zarr"), correction="none", alpha=0.1)
    assert told.splitlines()[:2] == found.attrs["summary"]
    image = nib.load(tmp_path / "out" / "contrast-mean_stat-z_desc-thresholdeduncorrected_statmap.nii.gz")
    kept = found.sel(contrast="mean")
    assert kept["significant"].any()
    np.testing.assert_array_equal(image.get_fdata(), kept["z_score"].values.astype(np.float32))
    mask = nib.load(tmp_path / "out" / "contrast-mean_stat-z_desc-significantuncorrected_mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.get_fdata() != 0, kept["significant"])
    sidecar = json.loads(
        (tmp_path / "out" / "contrast-mean_stat-z_desc-thresholdeduncorrected_statmap.json").read_text()
    )
    assert sidecar["Threshold"]["correction"] == "none"
    assert sidecar["Threshold"]["value"] == kept["threshold"].item()
    assert "4 maps and results.zarr" in told


def test_clusters_of_thresholded_results(study: Path, tmp_path: Path) -> None:
    succeed("threshold", study / "fit", "--alpha", "0.2", "--cluster-extent", "2", "--output", tmp_path / "out")
    told = succeed("clusters", tmp_path / "out", "--output", tmp_path / "tables")
    thresholded = vx.open_results(tmp_path / "out" / "results.zarr")
    written = pd.read_csv(tmp_path / "tables" / "clusters.tsv", sep="\t").astype({"n_voxels": "Int64"})
    pd.testing.assert_frame_equal(written, vx.clusters_table(thresholded), check_dtype=False)
    assert len(written)
    assert str(int(written["n_voxels"][0])) in told
    assert "<NA>" not in told
    for name in ("mean", "age"):
        labels = nib.load(tmp_path / "tables" / f"contrast-{name}_desc-clusters_dseg.nii.gz")
        np.testing.assert_array_equal(labels.get_fdata(), vx.label_clusters(thresholded).sel(contrast=name))


def test_fwe_and_clusters_of_a_permutation_test(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = succeed("threshold", study / "permuted", "--correction", "fwe", "--variable", "cluster_extent",
                   "--output", out)  # fmt: skip
    assert "corrected by relabelling" in told
    assert sorted(path.name for path in out.glob("*.nii.gz")) == [
        f"contrast-{name}_stat-clusterextent_desc-{what}.nii.gz"
        for name in ("age", "mean")
        for what in ("significantfwe_mask", "thresholdedfwe_statmap")
    ]
    table = succeed("clusters", study / "permuted")
    assert "cluster_extent_p_fwe" in table
    assert "<NA>" not in table


def test_a_map_of_another_program(tmp_path: Path) -> None:
    z = np.zeros((9, 10, 11))
    z[2:4, 5:7, 6:8], z[4:6, 7:9, 8:10] = 5, -6
    nib.save(nib.Nifti1Image(z, np.diag([2.0, 2, 2, 1])), tmp_path / "zmap.nii.gz")
    nib.save(nib.Nifti1Image((z > 0).astype(np.int16), np.diag([2.0, 2, 2, 1])), tmp_path / "atlas.nii.gz")
    (tmp_path / "names.csv").write_text("index,name\n1,somewhere\n")
    told = succeed("clusters", tmp_path / "zmap.nii.gz", "--threshold", "4", "--atlas", tmp_path / "atlas.nii.gz",
                   "--atlas-names", tmp_path / "names.csv")  # fmt: skip
    assert told.count("zmap") == 2
    assert "somewhere" in told
    assert "There is no cluster." in succeed("clusters", tmp_path / "zmap.nii.gz", "--threshold", "7")
    told = succeed("threshold", tmp_path / "zmap.nii.gz", "--kind", "t", "--dof", "20", "--alternative", "greater",
                   "--correction", "bonferroni", "--output", tmp_path / "out")  # fmt: skip
    assert told.startswith("zmap: 8 of 16 voxels are significant")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("threshold {s}/fit --correction fwe --output {t}/o", "needs the result of permutation_test"),
        ("threshold {s}/fit --kind z --output {t}/o", "are for a MAP"),
        ("threshold {s}/fit --alpha 2 --output {t}/o", "alpha must be a number between"),
        ("threshold {s}/none --output {t}/o", "{s}/none"),
        ("threshold {s}/fit --output {s}/fit", "exists already"),
        ("clusters {s}/fit", "give threshold="),
        ("clusters {s}/fit --threshold 2 --mask {s}/m.nii", "are for a MAP"),
        ("clusters {s}/fit --threshold 2 --atlas-names n.tsv", "was not given"),
        ("clusters {t}/no.nii.gz --threshold 2", "no such file"),
    ],
)
def test_mistakes(study: Path, tmp_path: Path, arguments: str, says: str) -> None:
    result = call(*(word.format(s=study, t=tmp_path) for word in arguments.split()))
    assert result.exit_code != 0
    assert says.format(s=study, t=tmp_path) in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_maps_of_our_own_say_what_they_are(study: Path, tmp_path: Path) -> None:
    """t and its degrees of freedom, and p, from the name and the sidecar; corrected p are refused."""
    result = vx.open_results(study / "fit" / "results.zarr").sel(contrast="mean")
    t = vx.read_map(study / "fit" / "contrast-mean_stat-t_statmap.nii.gz")
    assert t["dof"].item() == result["dof"].item()
    np.testing.assert_allclose(t["p_value"][0], result["p_value"], rtol=1e-4)
    p = vx.read_map(study / "fit" / "contrast-mean_stat-p_statmap.nii.gz")
    np.testing.assert_array_equal(p["p_value"][0], result["p_value"])
    with pytest.raises(vx.errors.InputError, match="cannot be tested again"):
        vx.read_map(study / "permuted" / "contrast-mean_stat-clusterextent_desc-fwe_p.nii.gz")
    with pytest.warns(vx.errors.VoxstackWarning, match="lie from 0 to 1"):
        vx.read_map(study / "fit" / "contrast-mean_stat-p_statmap.nii.gz", kind="z")


def test_maps_of_our_own_that_cannot_be_tested_are_refused(study: Path, tmp_path: Path) -> None:
    for name in ("effect", "variance"):
        path = study / "fit" / f"contrast-mean_stat-{name}_statmap.nii.gz"
        with pytest.raises(vx.errors.InputError, match=f"is a map of '{name}' by its name.*kind='z'"):
            vx.read_map(path)
        assert "p_value" in vx.read_map(path, kind="z")  # users may know better
    with pytest.raises(vx.errors.InputError, match="is a map of 'clusterextent'"):
        vx.read_map(study / "permuted" / "contrast-mean_stat-clusterextent_statmap.nii.gz")
    assert vx.read_map(study / "permuted" / "contrast-mean_stat-voxel_desc-uncorrected_p.nii.gz")["p_value"].max() <= 1
    succeed("threshold", study / "fit", "--alpha", "0.9", "--output", tmp_path / "out")
    for what in ("thresholdedfdr_statmap", "significantfdr_mask"):
        for kind in (None, "z"):
            with pytest.raises(vx.errors.InputError, match="Read the unthresholded map"):
                vx.read_map(tmp_path / "out" / f"contrast-mean_stat-z_desc-{what}.nii.gz", kind=kind)


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_maps_of_our_own_say_what_they_test(study: Path, tmp_path: Path, alternative: Any) -> None:
    result = vx.contrast(vx.fit_glm(vx.open_cohort(study / "c.zarr"), "~ age"), "age", alternative=alternative)
    result = result.compute()
    vx.write_maps(result, tmp_path)
    expected = vx.threshold(result, correction="none", alpha=0.2).attrs["summary"][0].partition(": ")[2]
    for stat in ("z", "t", "p"):
        path = tmp_path / f"contrast-age_stat-{stat}_statmap.nii.gz"
        found = vx.read_map(path)
        assert found.attrs["alternative"] == found["p_value"].attrs["alternative"] == alternative
        np.testing.assert_allclose(found["p_value"], result["p_value"], rtol=1e-4)
        if stat == "z":
            assert np.isinf(found["dof"]).all()
            assert vx.read_map(path, alternative="two-sided").attrs["alternative"] == "two-sided"
            told = succeed("threshold", path, "--correction", "none", "--alpha", "0.2", "--output", tmp_path / "out")
            assert expected in told
    (tmp_path / "contrast-age_stat-z_statmap.json").unlink()
    assert vx.read_map(tmp_path / "contrast-age_stat-z_statmap.nii.gz").attrs["alternative"] == "two-sided"


def test_few_relabellings_are_too_coarse_for_other_corrections(study: Path) -> None:
    permuted = vx.open_results(study / "permuted" / "results.zarr")
    with pytest.warns(vx.errors.VoxstackWarning, match="correction='fwe'"):
        vx.threshold(permuted, correction="fdr")


def test_info_takes_the_folder_of_a_run(study: Path) -> None:
    assert "contrasts" in succeed("info", study / "fit")
