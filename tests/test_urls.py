"""Tables, images, masks, maps and pages at URLs: the same as files, by the same calls and the same commands."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from both_ways import voxstack
from small_cohorts import AFFINE, MAPS, noise, save
from voxstack.errors import InputError, StoreError
from voxstack.export.folder import write_folder
from voxstack.io.objects import without_secrets
from voxstack.io.places import Remote, place_of
from voxstack.io.readers import ImageSource, read_maps

SECRET = "a-secret-key"


def upload(folder: Path, url: str, options: dict[str, Any]) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            (Remote(url, options) / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return url


def keys_at(url: str, options: dict[str, Any]) -> set[str]:
    from obstore.store import from_url

    return {item["path"] for items in from_url(url, **options).list() for item in items}


def nowhere(options: dict[str, Any]) -> dict[str, Any]:
    """An endpoint that nobody listens at."""
    return {**options, "endpoint": "http://127.0.0.1:9", "retry_config": {"max_retries": 0}}


class Fetched(list[int]):
    """Numbers of bytes that were asked of objects while it was watched."""

    @property
    def total(self) -> int:
        return sum(self)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Fetched:
    found, read_range, read_bytes = Fetched(), Remote.read_range, Remote.read_bytes

    def counted_range(self: Remote, start: int, stop: int) -> tuple[bytes, int]:
        content, size = read_range(self, start, stop)
        found.append(len(content))
        return content, size

    def counted(self: Remote) -> bytes:
        content = read_bytes(self)
        found.append(len(content))
        return content

    monkeypatch.setattr(Remote, "read_range", counted_range)
    monkeypatch.setattr(Remote, "read_bytes", counted)
    return found


@pytest.fixture(params=["s3", "memory"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A place of its own, by obstore and by fsspec, and the options that it needs."""
    if request.param == "s3":
        yield f"s3://bucket/{tmp_path.name}", request.getfixturevalue("s3")
    else:
        yield f"memory://{tmp_path.name}", {}


class TestSources:
    @pytest.mark.parametrize("end", [".nii", ".nii.gz", ".img", ".hdr", ".img.gz"])
    def test_an_image_of_any_format_is_the_same(
        self, bucket: tuple[str, dict[str, Any]], tmp_path: Path, end: str
    ) -> None:
        url, options = bucket
        image = nib.Nifti1Pair if "img" in end or "hdr" in end else nib.Nifti1Image
        image(noise(1)[0], AFFINE).to_filename(tmp_path / f"one{end}")
        upload(tmp_path, url, options)
        here, there = ImageSource(tmp_path / f"one{end}"), ImageSource(Remote(f"{url}/one{end}", options))
        np.testing.assert_array_equal(there.header().affine, here.header().affine)
        assert there.header().shape == here.header().shape == (4, 5, 3)
        ((_, found),), ((_, expected),) = (read_maps([source], [(0, 1, 2)]) for source in (there, here))
        np.testing.assert_array_equal(found, expected)

    def test_the_affine_of_an_analyze_image_comes_from_its_matrix_file(
        self, bucket: tuple[str, dict[str, Any]], tmp_path: Path
    ) -> None:
        url, options = bucket
        nib.Spm99AnalyzeImage(noise(1)[0], AFFINE).to_filename(tmp_path / "one.img")
        assert (tmp_path / "one.mat").exists()
        upload(tmp_path, url, options)
        np.testing.assert_allclose(ImageSource(Remote(f"{url}/one.img", options)).header().affine, AFFINE)

    def test_a_4d_image_is_gone_through(self, bucket: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
        url, options = bucket
        volumes = noise(6)
        for name in ("all.nii", "all.nii.gz"):
            nib.Nifti1Image(np.moveaxis(volumes, 0, -1), AFFINE).to_filename(tmp_path / name)
            upload(tmp_path, url, options)
            sources = [ImageSource(Remote(f"{url}/{name}", options), volume) for volume in (4, 1)]
            found = dict(read_maps(sources, [(0, 1, 2)] * 2))
            np.testing.assert_array_equal(found[0], volumes[4])
            np.testing.assert_array_equal(found[1], volumes[1])

    @pytest.mark.parametrize("end", [".nii", ".nii.gz"])
    def test_of_a_header_no_more_than_its_beginning_and_its_end_are_fetched(
        self, bucket: tuple[str, dict[str, Any]], tmp_path: Path, fetched: Fetched, end: str
    ) -> None:
        url, options = bucket
        nib.Nifti1Image(noise(1, (30, 30, 30))[0], AFFINE).to_filename(tmp_path / f"one{end}")
        upload(tmp_path, url, options)
        assert ImageSource(Remote(f"{url}/one{end}", options)).header().shape == (30, 30, 30)
        assert 0 < fetched.total <= 1028
        assert (tmp_path / f"one{end}").stat().st_size > 90_000

    def test_an_object_that_ends_too_early_is_refused_by_its_header(
        self, bucket: tuple[str, dict[str, Any]], tmp_path: Path
    ) -> None:
        url, options = bucket
        nib.Nifti1Image(noise(1, (30, 30, 30))[0], AFFINE).to_filename(tmp_path / "one.nii.gz")
        whole = (tmp_path / "one.nii.gz").read_bytes()
        for content, says in (
            (whole[:-2000], "truncated"),
            (b"", "not a NIfTI image"),
            (b"\x1f\x8b", "cannot be read"),
        ):
            Remote(f"{url}/one.nii.gz", options).write_bytes(content)
            with pytest.raises(InputError, match=rf"one\.nii\.gz: .*{says}"):
                ImageSource(Remote(f"{url}/one.nii.gz", options)).header()

    def test_the_version_changes_with_the_content_alone(self, s3: dict[str, Any]) -> None:
        place = Remote("s3://bucket/versions/one.nii", s3)
        versions = []
        for content in (b"one", b"two", b"one"):
            place.write_bytes(content)
            versions.append(ImageSource(place).version())
        assert versions[0] == versions[2] != versions[1]
        assert ImageSource(Remote("s3://bucket/versions/other.nii", s3)).version() != versions[0]

    def test_nothing_there_is_said_as_of_files(self, bucket: tuple[str, dict[str, Any]]) -> None:
        url, options = bucket
        with pytest.raises(InputError, match=rf"^{url}/gone\.nii: there is no such file\.$"):
            ImageSource(Remote(f"{url}/gone.nii", options)).header()


class TestStack:
    def test_a_table_and_its_images_in_a_bucket(self, bucket: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
        url, options = bucket
        save(tmp_path / "in" / "maps", noise(5))
        table = pd.read_csv(tmp_path / "in" / "maps" / "participants.tsv", sep="\t").assign(age=range(5))
        # From the table's folder up, as a name in another folder of the bucket, and as a URL.
        table["path"] = [f"../maps/{path}" for path in table["path"][:4]] + [f"{url}/maps/{table['path'][4]}"]
        (tmp_path / "in" / "tables").mkdir()
        table.to_csv(tmp_path / "in" / "tables" / "participants.tsv", sep="\t", index=False)
        upload(tmp_path / "in", url, options)
        mask = np.ones((4, 5, 3), "uint8")
        mask[0] = 0
        nib.Nifti1Image(mask, AFFINE).to_filename(tmp_path / "mask.nii.gz")
        Remote(f"{url}/mask.nii.gz", options).write_bytes((tmp_path / "mask.nii.gz").read_bytes())
        expected = vx.stack(
            tmp_path / "in" / "maps" / "participants.tsv",
            tmp_path / "here.zarr",
            maps={"effect": "{participant_id}_effect.nii.gz"},
            mask=tmp_path / "mask.nii.gz",
        )
        found = {
            maps: vx.stack(
                f"{url}/tables/participants.tsv",
                tmp_path / f"{number}.zarr",
                maps={"effect": maps},
                mask=f"{url}/mask.nii.gz",
                storage_options=options,
            )
            for number, maps in enumerate(["path", f"{url}/maps/{{participant_id}}_effect.nii.gz"])
        }
        for cohort in found.values():
            np.testing.assert_array_equal(cohort["effect"], expected["effect"])
            np.testing.assert_array_equal(cohort["mask"], expected["mask"])
            assert cohort["age"].values.tolist() == list(range(5))
            assert cohort.attrs["provenance"]["mask"] == "mask.nii.gz"

    def test_sources_and_store_may_need_different_options(self, s3: dict[str, Any], tmp_path: Path) -> None:
        save(tmp_path / "in", noise(3))
        url = upload(tmp_path / "in", "s3://bucket/other", s3)
        table, store = f"{url}/participants.tsv", "memory://of-other-options/c.zarr"
        cohort = vx.stack(table, store, maps=MAPS, storage_options={}, source_options=s3)
        np.testing.assert_array_equal(cohort["effect"], noise(3))

    def test_a_changed_object_is_read_again(self, s3: dict[str, Any], tmp_path: Path, small_chunks: None) -> None:
        volumes = noise(6)
        save(tmp_path / "in", volumes)
        url = upload(tmp_path / "in", "s3://bucket/changing", s3)
        # The last batch cannot be read: its image holds nothing. The first one is done then.
        broken = Remote(f"{url}/sub-05_effect.nii.gz", s3)
        kept = broken.read_bytes()
        nib.Nifti1Image(np.full_like(volumes[0], np.nan), AFFINE).to_filename(tmp_path / "nan.nii.gz")
        broken.write_bytes((tmp_path / "nan.nii.gz").read_bytes())
        call: dict[str, Any] = {"maps": MAPS, "storage_options": s3}
        with pytest.raises(InputError, match=r"sub-05: s3://bucket/changing/sub-05_effect\.nii\.gz has no data"):
            vx.stack(f"{url}/participants.tsv", tmp_path / "c.zarr", **call)
        broken.write_bytes(kept)
        nib.Nifti1Image(volumes[0] + 1, AFFINE).to_filename(tmp_path / "new.nii.gz")
        Remote(f"{url}/sub-00_effect.nii.gz", s3).write_bytes((tmp_path / "new.nii.gz").read_bytes())
        cohort = vx.stack(f"{url}/participants.tsv", tmp_path / "c.zarr", **call)
        np.testing.assert_array_equal(cohort["effect"], [volumes[0] + 1, *volumes[1:]])

    def test_all_objects_that_are_missing_are_named(self, s3: dict[str, Any], tmp_path: Path) -> None:
        save(tmp_path / "in", noise(12))
        url = upload(tmp_path / "in", "s3://bucket/lacking", s3)
        for number in (2, 11):
            Remote(f"{url}/sub-{number:02d}_effect.nii.gz", s3).unlink()
        with pytest.raises(InputError, match=r"2 images cannot be used:\n  sub-02: .*\n  sub-11: .*no such file"):
            vx.stack(f"{url}/participants.tsv", tmp_path / "c.zarr", maps=MAPS, storage_options=s3)

    def test_a_place_out_of_reach_is_not_asked_for_every_image(
        self, s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save(tmp_path / "in", noise(40))
        asked, open_ = [], Remote.open
        monkeypatch.setattr(Remote, "open", lambda self, *a, **k: (asked.append(self), open_(self, *a, **k))[1])
        maps = {"effect": "s3://bucket/none/{participant_id}.nii"}
        with pytest.raises(
            InputError, match="first 8 images cannot be reached, and the others were not tried"
        ) as error:
            vx.stack(tmp_path / "in" / "participants.tsv", tmp_path / "c", maps=maps, source_options=nowhere(s3))
        assert len(asked) == 8
        assert SECRET not in str(error.value)


class TestSecrets:
    def test_no_text_holds_them_and_workers_get_them(self, s3: dict[str, Any]) -> None:
        source = ImageSource(place_of("s3://bucket/one.nii", s3))
        assert SECRET not in repr(source) + str(source.image) + source.name
        sent = pickle.loads(pickle.dumps(source))
        assert sent == source
        assert sent.image.storage_options == s3

    def test_passwords_in_urls_are_not_shown(self) -> None:
        place = Remote("sftp://me:hunter2@host/one.nii")
        assert "hunter2" not in f"{place} {place!r} {ImageSource(place)!r} {ImageSource(place).name}"
        assert place.name == "one.nii"

    def test_errors_of_others_are_shown_without_them(self) -> None:
        error = ValueError("no: key hunter2 at https://me:pass-w@x.org/a?sig=s1gnature\n\nDebug source: hunter2")
        options = {"account_key": "hunter2", "nested": {"token": ["t0ken-1"]}, "region": "here"}
        assert without_secrets(error, options) == "no: key *** at https://me:***@x.org/a"
        assert without_secrets(ValueError("t0ken-1 of here"), options) == "*** of here"

    def test_neither_a_store_nor_an_output_holds_them(self, s3: dict[str, Any], tmp_path: Path) -> None:
        save(tmp_path / "in", noise(6))
        url = upload(tmp_path / "in", "s3://bucket/secrets", s3)
        cohort = vx.stack(f"{url}/participants.tsv", f"{url}/c.zarr", maps=MAPS, storage_options=s3)
        write_folder(vx.contrast(vx.fit_glm(cohort, "~ 1"), "Intercept").compute(), f"{url}/run", storage_options=s3)
        keys = [key for key in keys_at("s3://bucket", s3) if key.startswith("secrets/")]
        assert any(key.startswith("secrets/run/results.zarr/") for key in keys)
        for key in keys:
            assert SECRET.encode() not in Remote(f"s3://bucket/{key}", s3).read_bytes(), key


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
    def test_a_run_that_is_not_whole_is_not_marked_as_complete(
        self, s3: dict[str, Any], result: xr.Dataset, monkeypatch: pytest.MonkeyPatch, last: int
    ) -> None:
        url, put, write = f"s3://bucket/stopped-{last}", [], Remote.write_bytes
        write_folder(result, url, storage_options=s3)

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
        with pytest.raises(StoreError, match=r"has no zarr\.json"):
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
        assert "is a store itself" in voxstack("fit", f"{url}/c.zarr", *tests, "--output", f"{url}/c.zarr/x", *told)[2]

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
