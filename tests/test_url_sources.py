"""Tables, images and masks at URLs: read as files are, by the same calls."""

import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import voxstack as vx
from buckets import SECRET, keys_at, nowhere, upload
from small_cohorts import AFFINE, MAPS, noise, save
from voxstack.errors import InputError
from voxstack.export.folder import write_folder
from voxstack.io.places import Remote, place_of
from voxstack.io.readers import ImageSource, read_maps
from voxstack.io.secrets import errors_as_of_files


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

    def test_urls_that_hold_them_are_refused(self) -> None:
        for url in ("sftp://me:hunter2@host/one.nii", "https://host/one.nii?sig=hunter2"):
            with pytest.raises(InputError, match="storage_options") as refused:
                place_of(url)
            assert "hunter2" not in str(refused.value)

    def test_errors_of_others_are_shown_without_them(self) -> None:
        options = {"account_key": "hunter2", "nested": {"token": ["t0ken-1"]}, "region": "here"}
        texts = {
            "no: key hunter2 at https://me:pass-w@x.org/a?sig=s1gnature\n\nDebug source: hunter2": "no: key *** at "
            "https://***@x.org/a",
            "t0ken-1 of here": "*** of here",
        }
        for text, expected in texts.items():
            with pytest.raises(OSError) as told, errors_as_of_files("s3://bucket", options):  # noqa: PT011
                raise ValueError(text)
            assert str(told.value) == expected

    def test_neither_a_store_nor_an_output_holds_them(self, s3: dict[str, Any], tmp_path: Path) -> None:
        save(tmp_path / "in", noise(6))
        url = upload(tmp_path / "in", "s3://bucket/secrets", s3)
        cohort = vx.stack(f"{url}/participants.tsv", f"{url}/c.zarr", maps=MAPS, storage_options=s3)
        write_folder(vx.contrast(vx.fit_glm(cohort, "~ 1"), "Intercept").compute(), f"{url}/run", storage_options=s3)
        keys = [key for key in keys_at("s3://bucket", s3) if key.startswith("secrets/")]
        assert any(key.startswith("secrets/run/results.zarr/") for key in keys)
        for key in keys:
            assert SECRET.encode() not in Remote(f"s3://bucket/{key}", s3).read_bytes(), key
