"""`stack` with `resample` and `smoothing_fwhm`: against nilearn, and against the definition of the steps in order."""

import itertools
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine, from_matvec
from nilearn.image import resample_to_img, smooth_img
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import voxstack as vx
from small_cohorts import AFFINE, MAPS, content, noise, save
from voxstack.cli import cli
from voxstack.errors import GridMismatch, InputError, StoreError
from voxstack.kernels import resample as kernels

COARSE = from_matvec(np.diag([3.0, 3.0, 3.0]), [-9, -6, -3])
COARSE_SHAPE = (6, 5, 4)


def table_of(*images: nib.Nifti1Image) -> pd.DataFrame:
    return pd.DataFrame({"participant_id": [f"sub-{i}" for i in range(len(images))], "path": list(images)})


def lattice(turn: NDArray[np.float64], sizes: NDArray[np.float64], first: NDArray[np.float64]) -> NDArray[np.float64]:
    """An affine whose positions along its own axes are whole hundredths of a millimetre."""
    return from_matvec(turn * np.round(sizes, 2), turn @ np.round(first, 2))


def around(rng: np.random.Generator, seed: int, oblique: bool = True) -> nib.Nifti1Image:
    """An image on a lattice of its own that reaches beyond the coarse one on all sides."""
    turn = Rotation.random(None, rng).as_matrix() if oblique else np.diag(rng.choice([-1.0, 1.0], 3))
    shape, sizes = np.array([15, 14, 14]), np.round(rng.uniform(1.8, 2.5, 3), 2)
    middle = apply_affine(COARSE, (np.array(COARSE_SHAPE) - 1) / 2)
    affine = lattice(turn, sizes, turn.T @ middle - sizes * (shape - 1) / 2 + rng.uniform(-0.5, 0.5, 3))
    values = np.random.default_rng(seed).normal(5, 2, shape).astype("float32")
    return nib.Nifti1Image(values, affine)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_resampling_is_that_of_nilearn(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Where the image surrounds the target and nothing is missing both know what is right."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    how = data.draw(st.sampled_from(["linear", "nearest"]))
    images = [around(rng, seed, data.draw(st.booleans())) for seed in range(2)]
    target = nib.Nifti1Image(np.ones(COARSE_SHAPE, "uint8"), COARSE)
    cohort = vx.stack(table_of(*images), tmp_path_factory.mktemp("c") / "c", maps=MAPS, mask=target, resample=how)
    assert cohort.attrs["provenance"]["resample"] == how
    for number, image in enumerate(images):
        expected = resample_to_img(image, target, interpolation=how).get_fdata()
        positions = apply_affine(np.linalg.inv(image.affine) @ COARSE, np.moveaxis(np.indices(COARSE_SHAPE), 0, -1))
        half_way = np.any(np.abs(positions % 1 - 0.5) < 1e-4, axis=-1) if how == "nearest" else np.zeros(COARSE_SHAPE)
        assert np.all((positions > 0) & (positions < np.array(image.shape) - 1))
        np.testing.assert_allclose(cohort["effect"].values[number][half_way == 0], expected[half_way == 0], rtol=1e-5)


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_smoothing_with_zero_for_missing_is_that_of_nilearn(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """At every voxel, those at the edge and those without data included."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    fwhm = data.draw(st.sampled_from([3, 6.5, [4, 0, 9], [2.5, 8, 5]]))
    turn = np.diag(rng.choice([-1.0, 1.0], 3))
    if data.draw(st.booleans()):
        turn = Rotation.from_euler("xyz", rng.uniform(-0.3, 0.3, 3)).as_matrix()
    affine = lattice(turn, rng.uniform(1, 4, 3), rng.uniform(-50, 50, 3))
    volumes = rng.normal(5, 2, (3, *rng.integers(3, 9, 3))).astype("float32")
    volumes[rng.random(volumes.shape) < 0.2] = np.nan
    images = [nib.Nifti1Image(volume, affine) for volume in volumes]
    dtype = data.draw(st.sampled_from(["float32", "float64"]))
    cohort = vx.stack(
        table_of(*images),
        tmp_path_factory.mktemp("c") / "c",
        maps=MAPS,
        smoothing_fwhm=fwhm,
        smoothing_missing="zero",
        dtype=dtype,
    )
    for number, image in enumerate(images):
        expected = smooth_img(image, fwhm).get_fdata()
        np.testing.assert_allclose(cohort["effect"].values[number], expected, rtol=1e-5)
    np.testing.assert_array_equal(cohort["mask"], ~np.isnan(volumes).all(axis=0))


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_smoothing_is_the_weighted_mean_of_the_values_that_are_there(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Widths are along x, y and z, whichever axes of the array those are."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    fwhm, sizes = np.array([4.0, 5.0, 7.0]), np.array([2.0, 3.0, 2.5])
    values = rng.normal(5, 2, (4, 5, 3))
    values[rng.random(values.shape) < 0.3] = np.nan
    values[1, 1, 1] = 5
    canonical_image = nib.Nifti1Image(values, np.diag([*sizes, 1.0]))
    axes, signs = rng.permutation(3), rng.choice([-1, 1], 3)
    image = canonical_image.as_reoriented(np.c_[axes, signs])
    cohort = vx.stack(
        table_of(image), tmp_path_factory.mktemp("c") / "c", maps=MAPS, smoothing_fwhm=fwhm, dtype="float64"
    )
    known = ~np.isnan(values)
    weights = []
    for n, size, width in zip(values.shape, sizes, fwhm, strict=True):
        apart, sigma = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) * size, width / np.sqrt(8 * np.log(2))
        weights.append(np.exp(-(apart**2) / (2 * sigma**2)) * (apart <= np.floor(4 * sigma / size + 0.5) * size))
    total = np.einsum("ai,bj,ck,ijk->abc", *weights, np.where(known, values, 0))
    weight = np.einsum("ai,bj,ck,ijk->abc", *weights, known.astype(float))
    expected = np.where(known, total / weight, np.nan)
    found = cohort["effect"].isel(subject=0).sortby(["x", "y", "z"]).values
    np.testing.assert_allclose(found, expected, rtol=1e-10)


class TestOrder:
    """Read, zeros to missing values, resample, smooth, mask."""

    def image(self) -> nib.Nifti1Image:
        rng = np.random.default_rng(5)
        values = rng.normal(5, 2, (14, 13, 12))
        values[rng.random(values.shape) < 0.15] = 0
        values[rng.random(values.shape) < 0.05] = np.nan
        return nib.Nifti1Image(values, from_matvec(np.diag([2.1, 1.9, 2.0]), [-12.3, -9.1, -8.2]))

    def mask(self) -> nib.Nifti1Image:
        inside = np.random.default_rng(6).random(COARSE_SHAPE) < 0.8
        return nib.Nifti1Image(inside.astype("uint8"), COARSE)

    def in_order(self, steps: tuple[str, ...]) -> NDArray[np.float64]:
        """The steps as they are defined, each applied to what the one before has made."""
        image, mask = self.image(), self.mask()
        values, affine = image.get_fdata(), image.affine
        for step in steps:
            if step == "zeros":
                values = np.where(values == 0, np.nan, values)
            elif step == "resample":
                values, affine = kernels.linear(values, affine, COARSE_SHAPE, COARSE), COARSE
            elif step == "smooth":
                values = kernels.smooth(values, 5, np.diag(affine)[:3])
            else:
                inside = kernels.nearest(np.asanyarray(mask.dataobj), COARSE, values.shape, affine)
                values = np.where(inside, values, np.nan)
        return values

    def test_each_step_sees_what_the_one_before_has_made(self, tmp_path: Path) -> None:
        cohort = vx.stack(
            table_of(self.image()),
            tmp_path / "c",
            maps=MAPS,
            mask=self.mask(),
            zero_is_missing=True,
            resample="linear",
            smoothing_fwhm=5,
            dtype="float64",
        )
        found = cohort["effect"].values[0]
        right = ("zeros", "resample", "smooth", "mask")
        np.testing.assert_array_equal(found, self.in_order(right))
        for steps in itertools.permutations(right):
            if steps != right:
                apart = np.abs(self.in_order(steps) - found)
                assert np.nanmax(apart) > 0.01, steps

    def test_the_mask_comes_last_where_nothing_is_resampled_too(self, tmp_path: Path) -> None:
        """What is smoothed at the mask's edge has both sides of it."""
        values = np.random.default_rng(8).normal(5, 2, COARSE_SHAPE)
        image, inside = nib.Nifti1Image(values, COARSE), self.mask().get_fdata() == 1
        cohort = vx.stack(
            table_of(image), tmp_path / "c", maps=MAPS, mask=self.mask(), smoothing_fwhm=5, dtype="float64"
        )
        right = np.where(inside, kernels.smooth(values, 5, [3, 3, 3]), np.nan)
        wrong = kernels.smooth(np.where(inside, values, np.nan), 5, [3, 3, 3])
        np.testing.assert_array_equal(cohort["effect"].values[0], right)
        assert np.nanmax(np.abs(wrong - right)) > 0.1

    def test_what_lies_outside_the_mask_is_not_kept(self, tmp_path: Path) -> None:
        cohort = vx.stack(
            table_of(self.image()),
            tmp_path / "c",
            maps=MAPS,
            mask=self.mask(),
            resample="linear",
            smoothing_fwhm=6,
            smoothing_missing="zero",
        )
        inside = self.mask().get_fdata() == 1
        np.testing.assert_array_equal(np.isnan(cohort["effect"].values[0]), ~inside)


class TestLattice:
    def test_that_of_the_first_image(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        first = nib.Nifti1Image(noise(1)[0], AFFINE)
        cohort = vx.stack(table_of(first, around(rng, 1)), tmp_path / "c", maps=MAPS, mask=0.5, resample="linear")
        np.testing.assert_array_equal(cohort["effect"].values[0], noise(1)[0])
        np.testing.assert_array_equal(vx.to_nifti(cohort["effect"][1]).affine, AFFINE)

    @pytest.mark.parametrize("in_memory", [False, True])
    def test_that_of_the_masks_image(self, tmp_path: Path, in_memory: bool) -> None:
        rng = np.random.default_rng(0)
        mask = nib.Nifti1Image(np.ones(COARSE_SHAPE, "uint8"), COARSE)
        mask.to_filename(tmp_path / "mask.nii")
        images = [around(rng, 1), around(rng, 2)]
        cohort = vx.stack(
            table_of(*images), tmp_path / "c", maps=MAPS, resample="nearest",
            mask=mask if in_memory else tmp_path / "mask.nii",
        )  # fmt: skip
        assert cohort["effect"].shape[1:] == COARSE_SHAPE
        np.testing.assert_array_equal(vx.to_nifti(cohort["mask"].astype(float)).affine, COARSE)

    def test_appended_images_come_to_that_of_the_cohort(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(3)
        images = [nib.Nifti1Image(noise(1)[0], AFFINE), around(rng, 1), around(rng, 2), around(rng, 3)]
        options: dict[str, Any] = {"maps": MAPS, "mask": 0.5, "resample": "linear", "smoothing_fwhm": [4, 5, 6]}
        whole = vx.stack(table_of(*images), tmp_path / "whole", **options)
        vx.stack(table_of(*images)[:1], tmp_path / "c", **options)
        appended = vx.stack(table_of(*images)[1:], tmp_path / "c", append=True, **options)
        appended.attrs["provenance"].pop("appended")
        xr.testing.assert_identical(appended.load(), whole.load())

    def test_without_resampling_other_lattices_are_refused(self, tmp_path: Path) -> None:
        images = around(np.random.default_rng(0), 1), around(np.random.default_rng(1), 2)
        with pytest.raises(GridMismatch, match=r'(?s)sub-1: .*resample="linear" \(--resample linear\)'):
            vx.stack(table_of(*images), tmp_path / "c", maps=MAPS, smoothing_fwhm=4)
        assert not (tmp_path / "c").exists()

    @pytest.mark.parametrize("how", ["linear", "nearest"])
    def test_flipped_and_turned_copies_are_not_interpolated(
        self, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nor are those whose headers differ by less than a thousandth of a millimetre."""
        for name in ("linear", "nearest"):
            monkeypatch.setattr(f"voxstack.kernels.resample.{name}", None)
        volumes = noise(4)
        images = [nib.Nifti1Image(volume, AFFINE) for volume in volumes]
        images[1] = images[1].as_reoriented([[0, -1], [1, 1], [2, -1]])
        images[2] = images[2].as_reoriented([[2, 1], [0, -1], [1, 1]])
        images[3] = nib.Nifti1Image(volumes[3], AFFINE + np.eye(4, k=3) * 4e-4)
        cohort = vx.stack(table_of(*images), tmp_path / "c", maps=MAPS, resample=how)
        np.testing.assert_array_equal(cohort["effect"].values, volumes)


class TestRefused:
    @pytest.mark.parametrize("how", ["linear", "nearest"])
    def test_a_subject_without_overlap_is_named(self, tmp_path: Path, how: str) -> None:
        save(tmp_path / "m", noise(3))
        far = AFFINE + np.eye(4, k=3) * 500
        nib.Nifti1Image(noise(1)[0], far).to_filename(tmp_path / "m" / "sub-01_effect.nii.gz")
        with pytest.raises(InputError, match=r"sub-01: .*sub-01_effect\.nii\.gz has no data on the cohort's grid"):
            vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c", maps=MAPS, resample=how)
        with pytest.raises(StoreError, match="not finished"):
            vx.open_cohort(tmp_path / "c")

    @pytest.mark.parametrize("value", [np.inf, -np.inf])
    @pytest.mark.parametrize(
        "options",
        [
            {"smoothing_fwhm": 5},
            {"smoothing_fwhm": 5, "smoothing_missing": "zero"},
            {"resample": "linear"},
            {"resample": "nearest", "smoothing_fwhm": 5},
        ],
    )
    def test_infinities_are_refused_before_they_are_filtered(
        self, tmp_path: Path, options: dict[str, Any], value: float
    ) -> None:
        """Both filters would take them for missing, or spread them."""
        volumes = noise(3)
        volumes[1, 2, 2, 1] = value
        images = [nib.Nifti1Image(volume, AFFINE) for volume in volumes]
        if "resample" in options:
            images[1] = nib.Nifti1Image(volumes[1], AFFINE + np.eye(4, k=3) * 0.3)
        with pytest.raises(InputError, match="sub-1: an image in memory holds 1 infinite values in float32"):
            vx.stack(table_of(*images), tmp_path / "c", maps=MAPS, **options)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"resample": "cubic"}, "resample must be None, 'linear' or 'nearest', not 'cubic'"),
            ({"resample": True}, "resample must be"),
            ({"resample": ""}, "resample must be"),
            ({"smoothing_fwhm": -1}, "smoothing_fwhm must be a width in mm, or three of them, not -1"),
            ({"smoothing_fwhm": np.nan}, "smoothing_fwhm must be"),
            ({"smoothing_fwhm": np.inf}, "smoothing_fwhm must be"),
            ({"smoothing_fwhm": "wide"}, "smoothing_fwhm must be .*'wide'"),
            ({"smoothing_fwhm": [4, 5]}, "smoothing_fwhm must be"),
            ({"smoothing_fwhm": [4, 5, 6, 7]}, "smoothing_fwhm must be"),
            ({"smoothing_fwhm": [4, 5, -6]}, "smoothing_fwhm must be"),
            ({"smoothing_fwhm": []}, "smoothing_fwhm must be"),
            ({"smoothing_missing": "zeros"}, "smoothing_missing must be 'normalise' or 'zero', not 'zeros'"),
            ({"smoothing_missing": None, "smoothing_fwhm": 4}, "smoothing_missing must be"),
        ],
    )
    def test_options_are_checked_before_anything_is_written(
        self, tmp_path: Path, options: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(InputError, match=says):
            vx.stack(table_of(nib.Nifti1Image(noise(1)[0], AFFINE)), tmp_path / "c", maps=MAPS, **options)
        assert not list(tmp_path.iterdir())

    def test_width_zero_is_no_smoothing(self, tmp_path: Path) -> None:
        table = table_of(nib.Nifti1Image(noise(1)[0], AFFINE))
        zero = vx.stack(table, tmp_path / "zero", maps=MAPS, smoothing_fwhm=0)
        none = vx.stack(table, tmp_path / "none", maps=MAPS)
        xr.testing.assert_identical(zero.load(), none.load())


FILTERED: dict[str, Any] = {"maps": MAPS, "mask": 0.3, "resample": "linear", "smoothing_fwhm": [4.0, 0.0, 7.0]}


class TestRepeatable:
    @pytest.fixture
    def table(self, tmp_path: Path) -> pd.DataFrame:
        """Seven files, some of them on lattices of their own, with missing values."""
        rng = np.random.default_rng(1)
        images = [nib.Nifti1Image(noise(1, (10, 9, 8), seed=s)[0], COARSE) for s in range(4)]
        images += [around(rng, seed) for seed in range(3)]
        for number, image in enumerate(images):
            values = np.asanyarray(image.dataobj).copy()
            values[rng.random(values.shape) < 0.1] = np.nan
            nib.Nifti1Image(values, image.affine).to_filename(tmp_path / f"{number}.nii.gz")
        paths = [str(tmp_path / f"{number}.nii.gz") for number in range(7)]
        return pd.DataFrame({"participant_id": list("abcdefg"), "path": paths})

    def test_batches_threads_and_memory_change_no_value(
        self, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with dask.config.set(num_workers=1):
            alone = vx.stack(table, tmp_path / "alone", **FILTERED).load()
        assert np.isfinite(alone["effect"].values).any(axis=(1, 2, 3)).all()
        with dask.config.set({"num_workers": 3, "voxstack.memory-limit": "290kB"}):
            short = vx.stack(table, tmp_path / "short", **FILTERED)
        monkeypatch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", 3)
        monkeypatch.setattr("voxstack.plan.VOXELS_PER_SIDE", 4)
        cut = vx.stack(table, tmp_path / "cut", **FILTERED)
        assert short["effect"].chunks[0][0] < 7
        assert cut["effect"].chunks[:2] == ((3, 3, 1), (4, 4, 2))
        for other in (short, cut):
            xr.testing.assert_identical(other.load(), alone)


class TestCommandLine:
    def run(self, *arguments: str | Path) -> Any:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, ["stack", *map(str, arguments), "--map", "effect=path"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    @pytest.mark.parametrize(
        ("arguments", "options"),
        [
            (["--resample", "linear", "--smoothing-fwhm", "6"], {"resample": "linear", "smoothing_fwhm": 6}),
            (
                ["--resample", "nearest", "--smoothing-fwhm", "4,6,8", "--smoothing-missing", "zero"],
                {"resample": "nearest", "smoothing_fwhm": (4, 6, 8), "smoothing_missing": "zero"},
            ),
            (["--smoothing-fwhm", "2.5, 0, 3", "--resample", "linear"],
             {"smoothing_fwhm": [2.5, 0, 3], "resample": "linear"}),
        ],
    )  # fmt: skip
    def test_options_are_those_of_the_function(
        self, tmp_path: Path, arguments: list[str], options: dict[str, Any]
    ) -> None:
        save(tmp_path / "m", noise(3, (8, 9, 7)))
        nib.Nifti1Image(noise(1, (8, 9, 7))[0], AFFINE + np.eye(4, k=3) * 0.3).to_filename(
            tmp_path / "m" / "sub-02_effect.nii.gz"
        )
        table = tmp_path / "m" / "participants.tsv"
        assert self.run(table, tmp_path / "cli", "--mask", "0.5", "--quiet", *arguments).exit_code == 0
        vx.stack(table, tmp_path / "function", maps=MAPS, mask=0.5, **options)
        assert content(tmp_path / "cli") == content(tmp_path / "function")

    @pytest.mark.parametrize("width", ["wide", "4,6", "4;6;8", "1,2,3,4", "", "-3", "nan"])
    def test_widths_that_are_none(self, tmp_path: Path, width: str) -> None:
        save(tmp_path / "m", noise(2))
        with pytest.raises(InputError, match=r"smoothing.fwhm"):
            self.run(tmp_path / "m" / "participants.tsv", tmp_path / "c", f"--smoothing-fwhm={width}")
        assert not (tmp_path / "c").exists()

    @pytest.mark.parametrize(("option", "value"), [("--resample", "cubic"), ("--smoothing-missing", "zeros")])
    def test_choices(self, tmp_path: Path, option: str, value: str) -> None:
        done = self.run(tmp_path, tmp_path / "c", option, value)
        assert done.exit_code == 2
        assert value in done.output
        assert "linear" in done.output or "normalise" in done.output

    def test_append(self, tmp_path: Path) -> None:
        table = save(tmp_path / "m", noise(5))
        table[:3].to_csv(tmp_path / "m" / "first.tsv", sep="\t", index=False)
        table[3:].to_csv(tmp_path / "m" / "rest.tsv", sep="\t", index=False)
        self.run(tmp_path / "m" / "first.tsv", tmp_path / "c", "--quiet")
        done = self.run(tmp_path / "m" / "rest.tsv", tmp_path / "c", "--append")
        assert done.exit_code == 0
        assert "5" in done.stdout
        np.testing.assert_array_equal(vx.open_cohort(tmp_path / "c")["effect"].values, noise(5))
        with pytest.raises(InputError, match="ask for one of them"):
            self.run(tmp_path / "m" / "rest.tsv", tmp_path / "c", "--append", "--overwrite")

    def test_break_lock(self, tmp_path: Path) -> None:
        import fsspec

        save(tmp_path / "m", noise(2))
        arguments = tmp_path / "m" / "participants.tsv", f"memory://{tmp_path.name}/c", "--quiet"
        fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/c/stack.lock", b'{"run": "x", "beat": 0}')
        with pytest.raises(StoreError, match=r"stale lock.*--break-lock"):
            self.run(*arguments)
        assert self.run(*arguments, "--break-lock").exit_code == 0
        np.testing.assert_array_equal(vx.open_cohort(arguments[1])["effect"].values, noise(2))
