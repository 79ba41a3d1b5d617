"""Maps that are 0 outside the brain: smoothing takes zeros for data, but not what it carries there for brain."""

import re
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import from_matvec
from nilearn.maskers import NiftiMasker
from numpy.typing import NDArray
from scipy import ndimage

import voxstack as vx
from small_cohorts import MAPS, in_memory
from voxstack.errors import VoxstackWarning

SHAPE = (9, 8, 7)
AFFINE = from_matvec(np.diag([3.0, 3.0, 3.0]), [-12, -9, -9])


def table(volumes: NDArray[np.float32], first: int = 0) -> pd.DataFrame:
    people = in_memory(volumes, first=first)
    people["path"] = [nib.Nifti1Image(volume, AFFINE) for volume in volumes]
    return people


def zero_outside(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """A brain in the middle, whose edge differs between subjects; some values are missing in any place."""
    volumes = np.zeros((n, *SHAPE), dtype="float32")
    for volume in volumes:
        start, stop = rng.integers(2, 4, 3), rng.integers(5, 7, 3)
        inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        volume[inner] = rng.normal(5, 1, volume[inner].shape)
    volumes[rng.random(volumes.shape) < rng.choice([0, 0.1])] = np.nan
    volumes[:, 4, 4, 4] = 1
    return volumes


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    fraction=st.sampled_from([1.0, 0.5]),
    missing=st.sampled_from(["normalise", "zero"]),
    fwhm=st.sampled_from([2.0, 8.0]),
    per_chunk=st.integers(1, 4),
)
def test_what_is_0_in_every_subject_is_judged_before_smoothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, fraction: float, missing: str, fwhm: float, per_chunk: int
) -> None:
    """In one call and by appending, in any batches; inside an explicit mask it is judged afterwards."""
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("smoothed")
    volumes, inside = zero_outside(rng, 5), rng.random(SHAPE) < 0.9
    inside[4, 4, 4] = True
    options: dict[str, Any] = {"maps": MAPS, "smoothing_fwhm": fwhm, "smoothing_missing": missing}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", VoxstackWarning)
        patch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", per_chunk)
        for name, mask in {"derived": fraction, "explicit": nib.Nifti1Image(inside.astype("u1"), AFFINE)}.items():
            vx.stack(table(volumes), folder / f"{name}-1", mask=mask, **options)
            vx.stack(table(volumes[:2]), folder / f"{name}-2", mask=mask, **options)
            vx.stack(table(volumes[2:], first=2), folder / f"{name}-2", mask=mask, append=True, **options)
    n_valid = np.full(SHAPE, 5) if missing == "zero" else (~np.isnan(volumes)).sum(axis=0)
    values, known = ((volumes != 0) & ~np.isnan(volumes)).any(axis=0), n_valid > 0
    reach = int(4 * fwhm / np.sqrt(8 * np.log(2)) / 3 + 0.5)  # in voxels, along each axis
    box = np.ones((2 * reach + 1,) * 3)
    derived = (n_valid >= fraction * 5) & values
    for number in (1, 2):
        np.testing.assert_array_equal(vx.open_cohort(folder / f"derived-{number}")["mask"], derived)
        explicit = vx.open_cohort(folder / f"explicit-{number}")
        np.testing.assert_array_equal(explicit["mask"], inside & known & ndimage.binary_dilation(values, box))
        stored = explicit["effect"].values[:, ~explicit["mask"].values]
        assert ((stored == 0) | np.isnan(stored)).all()
    for name in ("derived", "explicit"):
        one, two = (vx.describe(folder / f"{name}-{number}")["coverage"] for number in (1, 2))
        assert one == two
        assert one["maps"]["effect"]["complete"] == one["complete"]


def test_the_mask_and_the_values_are_those_of_nilearn(tmp_path: Path) -> None:
    """Which smooths over zeros, too, and takes the mask from maps before it does."""
    volumes = np.nan_to_num(zero_outside(np.random.default_rng(1), 6))
    people = table(volumes)
    brain = nib.Nifti1Image((volumes != 0).any(axis=0).astype("u1"), AFFINE)
    expected = NiftiMasker(brain, smoothing_fwhm=6, standardize=None).fit_transform(list(people["path"]))
    cohort = vx.stack(people, tmp_path / "c", maps=MAPS, smoothing_fwhm=6, smoothing_missing="zero")
    np.testing.assert_array_equal(cohort["mask"], brain.get_fdata() == 1)
    np.testing.assert_allclose(cohort["effect"].values[:, cohort["mask"].values], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given_mask", [False, True])
def test_zeros_that_smoothing_has_taken_for_data_are_counted(tmp_path: Path, given_mask: bool) -> None:
    """Within four standard deviations of the mask, 4.2 mm: the next voxels along each axis, and their neighbours."""
    volumes = np.zeros((3, *SHAPE), dtype="float32")
    volumes[:, 3:6, 3:6, 3:5] = np.random.default_rng(0).normal(5, 1, (3, 3, 3, 2))
    brain = volumes[0] != 0
    mask: Any = nib.Nifti1Image(brain.astype("u1"), AFFINE) if given_mask else "intersection"
    with pytest.warns(VoxstackWarning) as warned:
        vx.stack(table(volumes), tmp_path / "c", maps=MAPS, mask=mask, smoothing_fwhm=2.5)
    (message,) = [str(one.message) for one in warned]
    assert re.match(rf"{5 * 5 * 4 - 3 * 3 * 2} voxels of 'effect' in or near the mask are exactly 0", message)
    assert "zero_is_missing=True (--zero-is-missing)" in message
    for options in ({"zero_is_missing": True}, {"smoothing_missing": "zero"}, {"smoothing_fwhm": 0}):
        vx.stack(
            table(volumes), tmp_path / "c", maps=MAPS, mask=mask, overwrite=True, **{"smoothing_fwhm": 2.5, **options}
        )


def test_zeros_outside_what_is_analysed_are_nobodys_concern(tmp_path: Path) -> None:
    """Some subjects are 0 outside the brain, others missing, and the mask is generous."""
    volumes = np.full((4, *SHAPE), np.nan, "float32")
    volumes[:2] = 0
    volumes[:, 2:6, 2:6, 2:5] = np.random.default_rng(0).normal(5, 1, (4, 4, 4, 3))
    mask = nib.Nifti1Image(np.ones(SHAPE, "u1"), AFFINE)
    cohort = vx.stack(table(volumes), tmp_path / "c", maps=MAPS, mask=mask)
    assert int(cohort["mask"].sum()) == 4 * 4 * 3


def test_maps_are_counted_each_by_itself(tmp_path: Path) -> None:
    """Also inside a mask that is given, where one map has less than another."""
    effect = np.random.default_rng(0).normal(5, 1, (3, *SHAPE)).astype("float32")
    variance = effect.copy()
    variance[:, 5:] = np.nan
    people = table(effect).assign(variance=list(table(variance)["path"]))
    mask = nib.Nifti1Image(np.ones(SHAPE, "u1"), AFFINE)
    vx.stack(people, tmp_path / "c", maps={"effect": "path", "variance": "variance"}, mask=mask)
    counts = vx.describe(tmp_path / "c")["coverage"]["maps"]
    assert [counts[name]["complete"] for name in ("effect", "variance")] == [effect[0].size, 5 * 8 * 7]


def test_zeros_of_some_subjects_are_counted_before_they_are_smoothed(tmp_path: Path) -> None:
    volumes = np.random.default_rng(0).normal(5, 1, (3, *SHAPE)).astype("float32")
    volumes[1, :, :, 4:] = 0
    with pytest.warns(VoxstackWarning, match=rf"^{9 * 8 * 3} voxels of 'effect' within the mask are exactly 0 in some"):
        vx.stack(table(volumes), tmp_path / "c", maps=MAPS, smoothing_fwhm=6)
