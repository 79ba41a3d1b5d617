"""What does not fit a cohort is not appended: it is said, and the store stays as it is."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import voxstack as vx
import voxstack.store.building
import voxstack.store.layout
import voxstack.store.open
import voxstack.store.writer
from small_cohorts import AFFINE, MAPS, SHAPE, content, in_memory, noise
from voxstack.errors import GridMismatch, InputError, StoreError

Change = Callable[[pd.DataFrame], pd.DataFrame]


EVERYWHERE = nib.Nifti1Image(np.ones(SHAPE, "uint8"), AFFINE)
SMOOTH: dict[str, Any] = {"resample": "linear", "smoothing_fwhm": 5.0, "mask": EVERYWHERE}


def three(first: int) -> pd.DataFrame:
    dose = pd.Categorical(["low", "high", None], ["low", "high"], ordered=True)
    return in_memory(noise(3), first=first, age=[20.5, 31, np.nan], site=["a", "b", "a"], smoker=True, dose=dose)


def noise_image() -> nib.Nifti1Image:
    return nib.Nifti1Image(noise(1)[0], AFFINE)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohorts")
    vx.stack(three(0), folder / "plain", maps=MAPS)
    vx.stack(three(0), folder / "smooth", maps=MAPS, **SMOOTH)
    return folder


@pytest.fixture
def folder(cohorts: Path) -> Iterator[Path]:
    """Two cohorts of three subjects, which have to stay as they are byte for byte."""
    before = content(cohorts)
    yield cohorts
    assert content(cohorts) == before


class TestRefused:
    """Whatever does not fit is said, and the store stays as it is."""

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda t: t.assign(participant_id=["x", "sub-1", "y"]), r"has sub-1 already\. Leave it out of the table"),
            (lambda t: t.assign(participant_id=["sub-2", "x", "sub-1"]), r"has sub-1, sub-2 already\. Leave them out"),
            (lambda t: t.drop(columns="age"), "the table has no column age"),
            (lambda t: t.assign(iq=100), "the cohort has no covariate iq"),
            (lambda t: t.rename(columns={"age": "Age"}), "has no column age, and the cohort has no covariate Age"),
            (lambda t: t.assign(age="old"), "'age' holds numbers in the cohort and text in the table"),
            (lambda t: t.assign(site=[1, 2, 3]), "'site' holds text in the cohort and numbers in the table"),
            (lambda t: t.assign(smoker=[0, 1, 1]), "'smoker' holds truth values in the cohort and numbers in"),
            (lambda t: t.assign(dose=["low", "huge", None]), "'dose' has ordered levels, low, high, and huge is not"),
            (lambda t: t.assign(path=[*t["path"][:2], t["path"][1].slicer[1:]]), "1 image lies on another lattice"),
            (lambda t: t.assign(path=[t["path"][0], "gone.nii", t["path"][1]]), r"sub-4: .*gone\.nii"),
            (lambda t: t[:0], "no rows"),
        ],
        ids=["a label", "labels", "no column", "a column", "a name", "text", "numbers", "truth", "a level", "a lattice",
             "no file", "nobody"],
    )  # fmt: skip
    def test_subjects_that_do_not_fit(self, folder: Path, change: Change, says: str) -> None:
        with pytest.raises(InputError, match=says):
            vx.stack(change(three(3)), folder / "plain", maps=MAPS, append=True)

    def test_another_lattice_is_a_grid_mismatch(self, folder: Path) -> None:
        moved = nib.Nifti1Image(noise(1)[0], AFFINE + np.eye(4, k=3) * 0.01)
        with pytest.raises(GridMismatch, match=r"sub-4: .*than that of the cohort|than that of the cohort[^$]*sub-4"):
            vx.stack(three(3).assign(path=[noise_image(), moved, noise_image()]), folder / "plain", maps=MAPS,
                     append=True)  # fmt: skip

    @pytest.mark.parametrize(
        ("store", "option", "value"),
        [
            ("plain", "zero_is_missing", True),
            ("plain", "dtype", "float64"),
            ("plain", "mask", 0.5),
            ("plain", "mask", EVERYWHERE),
            ("plain", "resample", "linear"),
            ("plain", "smoothing_fwhm", 4),
            ("plain", "maps", {"thickness": "path"}),
            ("plain", "maps", {"effect": "path", "variance": "path"}),
            ("smooth", "resample", "nearest"),
            ("smooth", "resample", None),
            ("smooth", "smoothing_fwhm", [5, 5, 4]),
            ("smooth", "smoothing_fwhm", None),
            ("smooth", "smoothing_missing", "zero"),
            ("smooth", "mask", "intersection"),
        ],
    )
    def test_other_options(self, folder: Path, store: str, option: str, value: Any) -> None:
        options: dict[str, Any] = {"maps": MAPS, **(SMOOTH if store == "smooth" else {}), option: value}
        with pytest.raises(InputError, match=f"with the options that the cohort was stacked with: .*{option} was"):
            vx.stack(three(3), folder / store, append=True, **options)

    def test_a_mask_of_the_same_name_with_other_voxels(self, folder: Path) -> None:
        other = np.ones(SHAPE, "uint8")
        other[3, 4, 2] = 0
        with pytest.raises(InputError, match="mask_digest was"):
            vx.stack(three(3), folder / "smooth", maps=MAPS, append=True,
                     **{**SMOOTH, "mask": nib.Nifti1Image(other, AFFINE)})  # fmt: skip

    def test_nothing_to_append_to(self, folder: Path) -> None:
        with pytest.raises(StoreError, match=r"no cohort at .*nothing to append to\. Leave append out"):
            vx.stack(three(3), folder / "nothing", maps=MAPS, append=True)

    def test_append_and_overwrite_together(self, folder: Path) -> None:
        with pytest.raises(InputError, match="ask for one of them"):
            vx.stack(three(3), folder / "plain", maps=MAPS, append=True, overwrite=True)

    def test_no_append(self, folder: Path) -> None:
        with pytest.raises(StoreError, match=r"plain exists already\. .*append=True.*overwrite=True"):
            vx.stack(three(3), folder / "plain", maps=MAPS)


def test_a_result_is_no_cohort_to_append_to(tmp_path: Path) -> None:
    cohort = vx.stack(in_memory(noise(4)), tmp_path / "c", maps=MAPS)
    vx.save_results(vx.fit_glm(cohort, "~ 1"), tmp_path / "fit")
    before = content(tmp_path / "fit")
    with pytest.raises(StoreError, match="it is a fit"):
        vx.stack(in_memory(noise(1), first=4), tmp_path / "fit", maps=MAPS, append=True)
    assert content(tmp_path / "fit") == before
