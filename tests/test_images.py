"""Image files as they come: formats, compression, scaling, orientations, and files that are broken."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import voxstack as vx
from voxstack.errors import InputError
from voxstack.io.readers import ImageSource, read_maps

SHAPE = (5, 6, 7)
AFFINE = np.array([[-2.0, 0, 0, 5], [0, 3, 0, -8], [0, 0, 4, 1], [0, 0, 0, 1]])
WHOLE = np.random.default_rng(7).integers(-2000, 2000, SHAPE)


def values_of(path: Path) -> NDArray[Any]:
    """What voxstack reads, with the axes as they are in the file."""
    header = ImageSource(path).header()
    ((_, array),) = read_maps([ImageSource(path)], [(0, 1, 2)])
    assert array.shape == header.shape[:3]
    return array


def assert_read_as_by_nibabel(path: Path) -> None:
    expected: Any = nib.load(path)
    header = ImageSource(path).header()
    np.testing.assert_allclose(header.affine, expected.affine, rtol=0, atol=1e-12)
    assert header.shape == expected.shape
    np.testing.assert_array_equal(values_of(path), np.asanyarray(expected.dataobj).reshape(expected.shape[:3]))


def nifti(values: NDArray[Any], kind: Any = nib.Nifti1Image, *, dtype: Any = None) -> Any:
    image = kind(values, AFFINE)
    if dtype is not None:
        image.set_data_dtype(dtype)
    return image


def patch(path: Path, at: int, content: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[at : at + len(content)] = content
    path.write_bytes(raw)


FAKE_INDEXED_GZIP = """
__version__ = "99.0"

class ZranError(Exception): pass

class IndexedGzipFile:
    def __init__(self, *arguments, **options):
        raise RuntimeError("opened with indexed_gzip")
"""

READ_WITHOUT = """
import sys
from pathlib import Path
import nibabel as nib
from voxstack.io.readers import ImageSource, read_maps

try:
    nib.load(sys.argv[1]).get_fdata()
except RuntimeError:
    print("nibabel-uses-it")
for name, volume in zip(sys.argv[1:], (None, 1)):
    source = ImageSource(Path(name), volume)
    source.header()
    list(read_maps([source], [(0, 1, 2)]))
    print(name)
"""


class TestFormats:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr", "a.img", "A.NII.GZ"])
    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
    def test_endings_and_types(self, tmp_path: Path, name: str, dtype: str) -> None:
        kind = nib.Nifti1Pair if name.endswith(("hdr", "img")) else nib.Nifti1Image
        image = nifti(np.abs(WHOLE % 256).astype(dtype), kind)
        image.to_filename(tmp_path / name)
        assert_read_as_by_nibabel(tmp_path / name)
        assert values_of(tmp_path / name).dtype == dtype

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_nifti_2(self, tmp_path: Path, name: str) -> None:
        nifti(WHOLE.astype("int16"), nib.Nifti2Image).to_filename(tmp_path / name)
        assert (tmp_path / name).exists()
        assert_read_as_by_nibabel(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.img", "a.hdr", "a.img.gz"])
    @pytest.mark.parametrize("beside", [".img", ".hdr", ".mat"])
    def test_another_version_of_any_file_of_a_pair_is_another_image(
        self, tmp_path: Path, name: str, beside: str
    ) -> None:
        nib.Spm99AnalyzeImage(WHOLE.astype("int16"), AFFINE).to_filename(tmp_path / name)
        source = ImageSource(tmp_path / name)
        before = source.version()
        assert source.version() == before
        (file,) = tmp_path.glob(f"a{beside}*")
        file.write_bytes(file.read_bytes() + b" ")
        assert source.version() != before

    @pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage])
    @pytest.mark.parametrize("named", ["a.hdr", "a.img"])
    def test_analyze_of_three_kinds(self, tmp_path: Path, kind: Any, named: str) -> None:
        kind(WHOLE.astype("float32"), AFFINE).to_filename(tmp_path / "a.img")
        assert_read_as_by_nibabel(tmp_path / named)

    def test_compressed_pair(self, tmp_path: Path) -> None:
        nifti(WHOLE.astype("int16"), nib.Nifti1Pair).to_filename(tmp_path / "a.img.gz")
        assert_read_as_by_nibabel(tmp_path / "a.img.gz")
        assert_read_as_by_nibabel(tmp_path / "a.hdr.gz")

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            (nib.Nifti1Image, "a.nii"),
            (nib.Nifti1Image, "a.nii.gz"),
            (nib.Nifti2Image, "a.nii"),
            (nib.Nifti1Pair, "a.img"),
            (nib.Spm2AnalyzeImage, "a.img"),
        ],
    )
    @pytest.mark.parametrize("dtype", ["int16", "float32"])
    def test_big_endian(self, tmp_path: Path, kind: Any, name: str, dtype: str) -> None:
        header = kind.header_class(endianness=">")
        header.set_data_dtype(dtype)
        kind(WHOLE.astype(dtype), AFFINE, header).to_filename(tmp_path / name)
        assert nib.load(tmp_path / name).header.endianness == ">"
        assert_read_as_by_nibabel(tmp_path / name)

    def test_header_extensions(self, tmp_path: Path) -> None:
        image = nifti(WHOLE.astype("int16"))
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"long " * 30_000))
        for name in ("a.nii", "a.nii.gz"):
            image.to_filename(tmp_path / name)
            assert_read_as_by_nibabel(tmp_path / name)

    @pytest.mark.parametrize("code", [("set_sform", 4), ("set_qform", 1)])
    def test_code_of_the_space_is_the_same_from_memory(self, tmp_path: Path, code: tuple[str, int]) -> None:
        image = nib.Nifti1Image(WHOLE.astype("int16"), None)
        getattr(image, code[0])(AFFINE, code=code[1])
        image.to_filename(tmp_path / "a.nii")
        assert ImageSource(tmp_path / "a.nii").header().code == code[1]
        assert ImageSource(image).header().code == code[1]

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img"])
    def test_singleton_fourth_axis_is_dropped(self, tmp_path: Path, name: str) -> None:
        nifti(WHOLE.astype("float32")[..., None], nib.Nifti1Pair if name == "a.img" else nib.Nifti1Image).to_filename(
            tmp_path / name
        )
        np.testing.assert_array_equal(values_of(tmp_path / name), WHOLE)

    @pytest.mark.parametrize("in_memory", [False, True])
    def test_longer_fourth_axis_is_refused(self, tmp_path: Path, in_memory: bool) -> None:
        image = nifti(np.zeros((2, 3, 4, 2), "float32"))
        image.to_filename(tmp_path / "run.nii.gz")
        source = ImageSource(image if in_memory else tmp_path / "run.nii.gz")
        with pytest.raises(InputError, match=r"(memory|run\.nii\.gz): holds 2 volumes \(shape \(2, 3, 4, 2\)\)"):
            source.header()


class TestCompression:
    @settings(deadline=None, max_examples=15)
    @given(cuts=st.lists(st.integers(0, 352 + 2 * WHOLE.size), min_size=1, max_size=4).map(sorted))
    @example([0, 772])
    @example([(352 + 2 * WHOLE.size) // 2])  # two of one length
    def test_gzip_of_several_members(self, tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
        content = nifti(WHOLE.astype("int16")).to_bytes()
        path = tmp_path_factory.mktemp("members") / "a.nii.gz"
        ends = zip([0, *cuts], [*cuts, len(content)], strict=True)
        path.write_bytes(b"".join(gzip.compress(content[start:stop]) for start, stop in ends))
        np.testing.assert_array_equal(values_of(path), WHOLE)

    def test_uncompressed_content_under_a_compressed_name(self, tmp_path: Path) -> None:
        """Some tools do this; the content tells."""
        (tmp_path / "a.nii.gz").write_bytes(nifti(WHOLE.astype("int16")).to_bytes())
        (tmp_path / "b.nii").write_bytes(gzip.compress(nifti(WHOLE.astype("int16")).to_bytes()))
        for name in ("a.nii.gz", "b.nii"):
            np.testing.assert_array_equal(values_of(tmp_path / name), WHOLE)

    @pytest.mark.parametrize(("name", "kind"), [("a.nii.gz", nib.Nifti1Image), ("a.img.gz", nib.Nifti1Pair)])
    def test_indexed_gzip_is_not_used_where_it_is_installed(self, tmp_path: Path, name: str, kind: Any) -> None:
        """In a process of its own, since nibabel looks for it when it is imported."""
        nifti(WHOLE.astype("int16"), kind).to_filename(tmp_path / name)
        nifti(np.stack([WHOLE] * 3, axis=-1).astype("int16"), kind).to_filename(tmp_path / f"run-{name}")
        (tmp_path / "indexed_gzip.py").write_text(FAKE_INDEXED_GZIP)
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", READ_WITHOUT, name, f"run-{name}"]
        found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert found.stdout.split() == ["nibabel-uses-it", name, f"run-{name}"], found.stdout + found.stderr


class TestScaling:
    @settings(deadline=None, max_examples=15)
    @given(slope=st.floats(1e-3, 1e3), intercept=st.floats(-1e3, 1e3), big=st.booleans())
    def test_slope_and_intercept(
        self, tmp_path_factory: pytest.TempPathFactory, slope: float, intercept: float, big: bool
    ) -> None:
        path = tmp_path_factory.mktemp("scaled") / "a.nii"
        order = ">" if big else "<"
        header = nib.Nifti1Header(endianness=order)
        header.set_data_dtype("int16")
        nib.Nifti1Image(WHOLE.astype("int16"), AFFINE, header).to_filename(path)
        patch(path, 112, np.array([slope, intercept], f"{order}f4").tobytes())
        expected = WHOLE * np.float64(np.float32(slope)) + np.float64(np.float32(intercept))
        np.testing.assert_allclose(values_of(path), expected, rtol=1e-12, atol=1e-12)
        assert_read_as_by_nibabel(path)

    @pytest.mark.parametrize("slope", [np.nan, 0.0])
    @pytest.mark.parametrize("dtype", ["int16", "float32"])
    def test_scale_factor_that_says_nothing(self, tmp_path: Path, slope: float, dtype: str) -> None:
        nifti(WHOLE.astype(dtype)).to_filename(tmp_path / "a.nii")
        patch(tmp_path / "a.nii", 112, np.array([slope, 3.0], "<f4").tobytes())
        np.testing.assert_array_equal(values_of(tmp_path / "a.nii"), WHOLE)

    def test_scale_factor_of_analyze(self, tmp_path: Path) -> None:
        nib.Spm2AnalyzeImage(WHOLE.astype("int16"), AFFINE).to_filename(tmp_path / "a.img")
        patch(tmp_path / "a.hdr", 112, np.array([np.nan, np.nan], "<f4").tobytes())
        np.testing.assert_array_equal(values_of(tmp_path / "a.img"), WHOLE)
        patch(tmp_path / "a.hdr", 112, np.array([0.5, 2.0], "<f4").tobytes())
        np.testing.assert_array_equal(values_of(tmp_path / "a.img"), WHOLE * 0.5 + 2)

    def test_real_analyze_images(self, data_folder: Path) -> None:
        """SPM2, big-endian, a NaN scale factor and a fourth axis of one volume."""
        paths = sorted((data_folder / "wager2008" / "maps").glob("*.img"))
        assert len(paths) == 30
        for path in paths[::10]:
            assert ImageSource(path).header().shape == (47, 56, 31, 1)
            assert_read_as_by_nibabel(path)


class TestOrientations:
    @settings(deadline=None, max_examples=15)
    @given(
        order=st.permutations(range(3)),
        signs=st.tuples(*[st.sampled_from([-1, 1])] * 3),
        angles=st.tuples(*[st.sampled_from([0.0, 0.2, -0.3])] * 3),
        fourth=st.booleans(),
        compressed=st.booleans(),
    )
    def test_every_value_is_where_the_affine_says(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        order: list[int],
        signs: tuple[int, ...],
        angles: tuple[float, ...],
        fourth: bool,
        compressed: bool,
    ) -> None:
        folder = tmp_path_factory.mktemp("oriented")
        affine = np.eye(4)
        affine[:3, :3] = (Rotation.from_euler("xyz", angles).as_matrix() * signs)[:, order] * (2, 3, 4)
        affine[:3, 3] = (11, -12, 13)
        values = np.random.default_rng(0).permutation(np.arange(1, 121, dtype="float32")).reshape(4, 5, 6)
        image = nib.Nifti1Image(values[..., None] if fourth else values, affine)
        image.to_filename(folder / ("a.nii.gz" if compressed else "a.nii"))
        table = pd.DataFrame({"participant_id": ["a"], "path": [folder / ("a.nii.gz" if compressed else "a.nii")]})
        cohort = vx.stack(table, folder / "c.zarr", maps={"effect": "path"})

        canonical = nib.as_closest_canonical(nib.Nifti1Image(values, affine))
        stacked = cohort["effect"].isel(subject=0).load()
        assert stacked.shape == canonical.shape
        expected = canonical.get_fdata()
        for voxel in [(0, 0, 0), *np.argwhere(expected % 7 == 0)]:
            here = apply_affine(canonical.affine, voxel)
            assert vx.at_mm(stacked, *here).item() == expected[tuple(voxel)]
        exported = nib.as_closest_canonical(vx.to_nifti(stacked))
        np.testing.assert_array_equal(exported.get_fdata(), expected)
        np.testing.assert_allclose(exported.affine, canonical.affine, atol=1e-3)


class TestBroken:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img"])
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_truncation_is_found_from_the_header(self, tmp_path: Path, name: str, share: float) -> None:
        noise = np.random.default_rng(0).standard_normal((20, 20, 20)).astype("float32")
        nifti(noise, nib.Nifti1Pair if name == "a.img" else nib.Nifti1Image).to_filename(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=rf"{name}: .*(truncated, (fewer|\d+) of \d+ bytes|ended)"):
            ImageSource(tmp_path / name).header()

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img", "a.hdr"])
    @pytest.mark.parametrize(
        "content",
        [b"", b"\x1f\x8b", b"\x1f\x8b\x08\x00 no gzip at all", b"<html>404</html>", b"word " * 1000],
        ids=["empty", "magic", "no gzip", "short text", "long text"],
    )
    def test_what_is_no_image_is_named(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        if name in ("a.img", "a.hdr"):
            (tmp_path / ("a.hdr" if name == "a.img" else "a.img")).write_bytes(content)
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            ImageSource(tmp_path / name).header()

    def test_truncated_header(self, tmp_path: Path) -> None:
        for name, pack in (("a.nii", bytes), ("a.nii.gz", gzip.compress)):
            (tmp_path / name).write_bytes(pack(nifti(WHOLE.astype("int16")).to_bytes()[:200]))
            with pytest.raises(InputError, match=rf"{name}: not a NIfTI image"):
                ImageSource(tmp_path / name).header()

    @pytest.mark.parametrize("name", ["gone.nii", "gone.nii.gz", "gone.img", "gone.hdr"])
    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=rf"{name}: there is no such file"):
            ImageSource(tmp_path / name).header()

    @pytest.mark.parametrize(("named", "removed"), [("a.hdr", "a.img"), ("a.img", "a.hdr"), ("a.img", "a.img")])
    def test_half_of_a_pair(self, tmp_path: Path, named: str, removed: str) -> None:
        nifti(WHOLE.astype("int16"), nib.Nifti1Pair).to_filename(tmp_path / "a.img")
        (tmp_path / removed).unlink()
        with pytest.raises(InputError, match=rf"{re.escape(named)}: .*(missing|no such file)"):
            ImageSource(tmp_path / named).header()

    def test_unknown_ending_lists_what_can_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"a\.mgz: no image format ends like this.*\.nii, \.nii\.gz, \.img"):
            ImageSource(tmp_path / "a.mgz").header()

    @pytest.mark.parametrize("in_memory", [False, True])
    @pytest.mark.parametrize("dtype", ["complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]], ids=["complex", "RGB"])
    def test_data_that_are_no_real_numbers(self, tmp_path: Path, dtype: Any, in_memory: bool) -> None:
        image = nib.Nifti1Image(np.ones(SHAPE, dtype=dtype), AFFINE)
        image.to_filename(tmp_path / "a.nii.gz")
        with pytest.raises(InputError, match=r"a\.nii\.gz|memory"):
            ImageSource(image if in_memory else tmp_path / "a.nii.gz").header()

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img"])
    def test_flat_images(self, tmp_path: Path, name: str) -> None:
        nifti(np.ones((4, 5), "float32"), nib.Nifti1Pair if name == "a.img" else nib.Nifti1Image).to_filename(
            tmp_path / name
        )
        with pytest.raises(InputError, match=rf"{name}: not a volume, its shape is \(4, 5\)"):
            ImageSource(tmp_path / name).header()

    def test_damage_inside_is_found_when_the_data_are_read(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).standard_normal((40, 40, 40)).astype("float32")
        nifti(noise).to_filename(tmp_path / "a.nii.gz")
        content = (tmp_path / "a.nii.gz").read_bytes()
        middle = len(content) // 2
        (tmp_path / "a.nii.gz").write_bytes(content[:middle] + content[middle + 100 :])
        assert ImageSource(tmp_path / "a.nii.gz").header().shape == (40, 40, 40)
        with pytest.raises(InputError, match=r"a\.nii\.gz"):
            values_of(tmp_path / "a.nii.gz")
