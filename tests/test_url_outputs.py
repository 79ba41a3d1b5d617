"""Maps, runs and pages at URLs, and commands from one end to the other; results as files are."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from both_ways import voxstack
from buckets import SECRET, keys_at, nowhere, upload
from small_cohorts import AFFINE, noise, save
from voxstack.errors import InputError, StoreError
from voxstack.export.folder import write_folder
from voxstack.io.places import Remote


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    cohort = vx.from_arrays({"effect": noise(9)}, affine=AFFINE)
    design = pd.DataFrame({"a": 1.0, "b": np.arange(9.0)}, index=cohort["subject"].values)
    return vx.contrast(vx.fit_glm(cohort, design), ["a", "b"]).compute()


class TestOutputs:
    def test_maps_are_those_of_a_folder(
        self, bucket: tuple[str, dict[str, Any]], result: xr.Dataset, tmp_path: Path
    ) -> None:
        url, options = bucket
        here = vx.write_maps(result, tmp_path, prefix="x_")
        there = vx.write_maps(result, url, prefix="x_", storage_options=options)
        assert there == [f"{url}/{path.name}" for path in here]
        for path in tmp_path.iterdir():
            assert Remote(f"{url}/{path.name}", options).read_bytes() == path.read_bytes()

    def test_a_run_replaces_another_one_and_its_maps(self, s3: dict[str, Any], result: xr.Dataset) -> None:
        url = "s3://bucket/replaced"
        write_folder(result, url, storage_options=s3)
        with pytest.raises(StoreError, match=rf"{url}/results\.zarr exists already"):
            write_folder(result, url, storage_options=s3)
        write_folder(result.sel(contrast=["b"]), url, overwrite=True, storage_options=s3)
        maps = {key for key in keys_at("s3://bucket", s3) if key.startswith("replaced/contrast-")}
        assert {key.split("_")[0] for key in maps} == {"replaced/contrast-b"}
        opened = vx.open_results(f"{url}/results.zarr", storage_options=s3)
        np.testing.assert_array_equal(opened["stat"], result["stat"].sel(contrast=["b"]))

    @pytest.mark.parametrize("last", [1, 7])
    @pytest.mark.parametrize("before", [False, True])
    def test_a_run_that_is_not_whole_is_not_marked_as_complete(
        self, s3: dict[str, Any], result: xr.Dataset, monkeypatch: pytest.MonkeyPatch, last: int, before: bool
    ) -> None:
        url, put, write = f"s3://bucket/stopped-{last}-{before}", [], Remote.write_bytes
        if before:
            write_folder(result.sel(contrast=["a"]), url, storage_options=s3)

        def stopping(self: Remote, content: bytes) -> None:
            if self.name.endswith(("json", "gz")):
                put.append(self)
                if len(put) > last:
                    raise OSError("the network is gone")
            write(self, content)

        monkeypatch.setattr(Remote, "write_bytes", stopping)
        with pytest.raises(StoreError, match="the network is gone"):
            write_folder(result, url, overwrite=True, storage_options=s3)
        assert len(put) == last + 1
        if before:  # the old result is there, and whole
            opened = vx.open_results(f"{url}/results.zarr", storage_options=s3)
            np.testing.assert_array_equal(opened["stat"], result["stat"].sel(contrast=["a"]))
        else:
            with pytest.raises(StoreError, match=r"has no zarr\.json|There is no result"):
                vx.open_results(f"{url}/results.zarr", storage_options=s3)

    def test_nothing_is_put_where_a_map_cannot_be_made(
        self, s3: dict[str, Any], result: xr.Dataset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url, made = "s3://bucket/unmade", []

        def failing(*_: Any) -> bytes:
            made.append(1)
            if len(made) == 3:
                raise MemoryError
            return b"image"

        monkeypatch.setattr("voxstack.export.maps._image", failing)
        with pytest.raises(MemoryError):
            vx.write_maps(result, url, storage_options=s3)
        assert not {key for key in keys_at("s3://bucket", s3) if key.startswith("unmade")}

    def test_a_place_that_cannot_be_written_is_said_before_anything_is_computed(self, s3: dict[str, Any]) -> None:
        lazy = vx.contrast(vx.fit_glm(vx.from_arrays({"e": noise(5)}, affine=AFFINE), "~ 1"), "Intercept")
        lazy["stat"].data = lazy["stat"].data.map_blocks(lambda block: 1 / 0, dtype=float, meta=np.empty((0,) * 4))
        with pytest.raises(StoreError, match=r"^s3://bucket/no cannot be written: .*127\.0\.0\.1:9") as error:
            vx.write_maps(lazy, "s3://bucket/no", storage_options=nowhere(s3))
        assert SECRET not in str(error.value)

    def test_simulated_data_are_for_this_machine(self) -> None:
        with pytest.raises(InputError, match=r"not to s3://bucket/sim\."):
            vx.simulate_cohort("s3://bucket/sim", n_subjects=4)


class TestReading:
    def test_masks_maps_and_atlases_at_urls(
        self, bucket: tuple[str, dict[str, Any]], result: xr.Dataset, tmp_path: Path
    ) -> None:
        url, options = bucket
        half = np.zeros((4, 5, 3), "int16")
        half[:2] = 1
        half[2:] = 2
        nib.Nifti1Image(half, AFFINE).to_filename(tmp_path / "atlas.nii.gz")
        nib.Nifti1Image((half == 1).astype("uint8"), AFFINE).to_filename(tmp_path / "mask.nii.gz")
        (tmp_path / "names.tsv").write_text("index\tname\n1\tleft\n2\tright\n")
        (tmp_path / "blocks.csv").write_text("1\n1\n2\n2\n")
        vx.write_maps(result, tmp_path)
        upload(tmp_path, url, options)
        t = vx.read_map(f"{url}/contrast-a_stat-t_statmap.nii.gz", storage_options=options)
        assert t["dof"].item() == 7  # of the sidecar
        np.testing.assert_allclose(t["stat"][0], result["stat"].sel(contrast="a"), rtol=1e-6)
        mask, atlas = f"{url}/mask.nii.gz", (f"{url}/atlas.nii.gz", f"{url}/names.tsv")
        kept = vx.threshold(result, correction="none", alpha=0.9, mask=mask, storage_options=options)
        assert kept["n_tested"].values.tolist() == [30, 30]
        table = vx.clusters_table(result, threshold=0.1, min_distance=0, atlas=atlas, storage_options=options)
        assert set(table["region"]) == {"left", "right"}
        regions = vx.true_discovery_proportion(result, regions=atlas, storage_options=options)
        assert regions["region_name"].values.tolist() == ["left", "right"]
        cohort = vx.from_arrays({"effect": noise(9)}, affine=AFFINE)
        fit = vx.fit_glm(cohort, "~ 1", mask=mask, storage_options=options)
        assert int(fit["residual_variance"].notnull().sum()) == 30
        assert fit.attrs["provenance"]["mask"] == "mask.nii.gz"
        blocks = vx.Blocks.read(f"{url}/blocks.csv", storage_options=options)
        assert np.asarray(blocks.labels).tolist() == [1, 1, 2, 2]


ENVIRONMENT = {
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "endpoint": "AWS_ENDPOINT",
    "region": "AWS_REGION",
}


class TestCommands:
    def test_from_a_table_in_a_bucket_to_a_page_in_it(
        self, s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("nilearn")
        monkeypatch.setenv("COLUMNS", "200")
        simulated = vx.simulate_cohort(tmp_path / "in", n_subjects=8, resolution=16)
        url = upload(simulated, "s3://bucket/commands", s3)
        (tmp_path / "s3.json").write_text(json.dumps(s3))

        def run(*words: str) -> str:
            code, out, err = voxstack(*words, "--storage-options", tmp_path / "s3.json")
            assert (code, err) == (0, ""), err
            assert SECRET not in out
            return out

        pattern = "effect={participant_id}/{participant_id}_stat-effect_statmap.nii.gz"
        run("stack", f"{url}/participants.tsv", f"{url}/c.zarr", "--map", pattern, "--quiet")
        assert f"cohort {url}/c.zarr" in run("info", f"{url}/c.zarr")
        tests = ("--design", "~ age + sex", "--contrast", "age", "--quiet", "--mask", f"{url}/mask.nii.gz")
        run("fit", f"{url}/c.zarr", *tests, "--output", f"{url}/fit")
        permute = ("permute", f"{url}/c.zarr", *tests, "--permutations", "40", "--checkpoint", f"{url}/checkpoint")
        run(*permute, "--output", f"{url}/permuted")
        run(*permute, "--output", f"{url}/again")  # from the checkpoint
        run(
            "threshold",
            f"{url}/permuted",
            "--correction",
            "fwe",
            "--alpha",
            "0.9",
            "--output",
            f"{url}/kept",
            "--quiet",
        )
        clusters = run("clusters", f"{url}/fit/contrast-age_stat-z_statmap.nii.gz", "--threshold", "1.5")
        assert "contrast" in clusters
        run("clusters", f"{url}/fit", "--threshold", "1.5", "--output", f"{url}/tables", "--quiet")
        report = ("report", f"{url}/fit", f"{url}/kept", "--cohort", f"{url}/c.zarr")
        assert run(*report, "--background", f"{url}/mask.nii.gz").startswith(f"{url}/fit/report.html (")

        cohort = vx.stack(simulated / "participants.tsv", tmp_path / "c.zarr", maps={"effect": "effect_path"})
        mask = simulated / "mask.nii.gz"
        expected = vx.permutation_test(cohort, "~ age + sex", "age", n_permutations=40, mask=mask)
        for name in ("permuted", "again"):
            found = vx.open_results(f"{url}/{name}/results.zarr", storage_options=s3)
            np.testing.assert_array_equal(found["voxel_p_fwe"], expected["voxel_p_fwe"])
        page = Remote(f"{url}/fit/report.html", s3).read_bytes().decode()
        assert "Contrast age" in page
        assert SECRET not in page
        keys = {key.removeprefix("commands/") for key in keys_at("s3://bucket", s3)}
        assert {"tables/clusters.tsv", "checkpoint/run.json", "permuted/contrast-age_stat-t_statmap.json"} <= keys
        assert not [key for key in keys if key.endswith(".partial")]
        # What is in the way is refused before anything is computed.
        told = ("--storage-options", tmp_path / "s3.json")
        assert "exists already" in voxstack("fit", f"{url}/c.zarr", *tests, "--output", f"{url}/fit", *told)[2]
        error = voxstack("fit", f"{url}/c.zarr", *tests, "--output", f"{url}/c.zarr/x", *told)[2]
        assert f"would lie in the store {url}/c.zarr, which removes what is not its own" in error

    def test_without_options_the_environment_counts(
        self, s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "in", noise(3))
        url = upload(tmp_path / "in", "s3://bucket/environment", s3)
        for option, name in ENVIRONMENT.items():
            monkeypatch.setenv(name, s3[option])
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false")
        # Of this test alone: clients are kept, and do not notice a changed environment.
        monkeypatch.setattr("voxstack.io.objects._clients", {})
        store = f"{url}/c.zarr"
        assert voxstack("stack", f"{url}/participants.tsv", store, "--map", "effect=path", "--quiet") == (0, "", "")
        np.testing.assert_array_equal(vx.open_cohort(store, storage_options=s3)["effect"], noise(3))

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (None, "cannot be read: No such file or directory"),
            (b'{"secret_key": "hunter2"', "is not JSON (line 1, column 25: Expecting ',' delimiter)"),
            (b'{"secret_key": hunter2}', "is not JSON (line 1, column 16: Expecting value)"),
            (b'["hunter2"]', "must hold one JSON object"),
            (b'"hunter2"', "must hold one JSON object"),
            (b'{"secret_key": "hunter2\xff"}', "is not text in UTF-8"),
        ],
    )
    @pytest.mark.parametrize("option", ["--storage-options", "--source-options"])
    def test_a_file_of_options_that_cannot_be_used_is_said_without_its_values(
        self, tmp_path: Path, content: bytes | None, says: str, option: str
    ) -> None:
        if content is not None:
            (tmp_path / "o.json").write_bytes(content)
        words = ("stack", "p.tsv", "c.zarr", "--map", "effect=path", option, tmp_path / "o.json")
        code, out, err = voxstack(*words)
        assert (code, out) == (2, "")
        assert err.startswith(f"Error: The file {tmp_path / 'o.json'} of {option} {says}")
        assert "hunter2" not in err

    @pytest.mark.parametrize("options", [{"secret_nonsense": "hunter2"}, {"region": ["hunter2"]}])
    def test_options_that_a_store_does_not_know_are_said_without_their_values(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        (tmp_path / "o.json").write_text(json.dumps(options))
        code, _, err = voxstack("info", "s3://bucket/c.zarr", "--storage-options", tmp_path / "o.json")
        assert code == 2
        assert err.startswith("Error: ")
        assert "hunter2" not in err

    @pytest.mark.parametrize(
        "words",
        [
            ("info", "s3://bucket/c.zarr"),
            ("stack", "s3://bucket/p.tsv", "c.zarr", "--map", "effect=path"),
            ("stack", "in/participants.tsv", "s3://bucket/c.zarr", "--map", "effect=path"),
            ("fit", "s3://bucket/c.zarr", "--design", "~ 1", "--contrast", "Intercept", "--output", "out"),
            ("threshold", "s3://bucket/run", "--output", "out"),
            ("clusters", "s3://bucket/map_stat-z_statmap.nii.gz"),
            ("report", "s3://bucket/run"),
        ],
        ids=" ".join,
    )
    def test_a_place_out_of_reach_is_one_paragraph(
        self, s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        save(tmp_path / "in", noise(3))
        (tmp_path / "o.json").write_text(json.dumps(nowhere(s3)))
        code, _, err = voxstack(*words, "--storage-options", "o.json")
        assert code == 2
        assert err.startswith("Error: ")
        assert "\n" not in err.strip()
        assert "127.0.0.1:9" in err
        assert SECRET not in err
