"""Cohorts of arrays."""

from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import voxstack as vx
from small_cohorts import AFFINE, MAPS, SHAPE, noise, save
from voxstack.errors import GridMismatch, InputError


class TestFromArrays:
    @pytest.mark.parametrize("lazy", [False, True])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
    def test_floating_types_are_kept(self, dtype: str, lazy: bool) -> None:
        values = noise(3).astype(dtype)
        cohort = vx.from_arrays({"effect": dask.array.from_array(values, chunks=2) if lazy else values}, affine=AFFINE)
        assert cohort["effect"].dtype == dtype
        assert (cohort["effect"].chunks is not None) == lazy
        np.testing.assert_array_equal(cohort["effect"].values, values)

    @pytest.mark.parametrize("dtype", ["int16", "uint8", "bool"])
    def test_other_numbers_become_float64(self, dtype: str) -> None:
        values = (noise(3) > 0).astype(dtype)
        cohort = vx.from_arrays({"effect": values}, affine=AFFINE)
        assert cohort["effect"].dtype == np.float64
        np.testing.assert_array_equal(cohort["effect"].values, values)

    def test_labels_and_covariates(self) -> None:
        cohort = vx.from_arrays({"effect": noise(3)}, affine=AFFINE)
        assert cohort["subject"].values.tolist() == ["sub-0001", "sub-0002", "sub-0003"]
        people = pd.DataFrame({"age": [1.5, 2, 3], "sex": ["F", None, "M"]}, index=[11, 12, 13])
        cohort = vx.from_arrays({"effect": noise(3)}, affine=AFFINE, participants=people)
        assert cohort["subject"].values.tolist() == ["11", "12", "13"]
        assert cohort["age"].values.tolist() == [1.5, 2, 3]
        assert cohort["sex"].values[2] == "M"
        assert np.isnan(cohort["sex"].values[1])

    def test_mask_as_stack_makes_it(self, tmp_path: Path) -> None:
        volumes = noise(4)
        volumes[0, 0], volumes[:, 1, 1] = np.nan, 0
        save(tmp_path / "m", volumes)
        stacked = vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        cohort = vx.from_arrays({"effect": volumes}, affine=AFFINE)
        np.testing.assert_array_equal(cohort["mask"], stacked["mask"])
        np.testing.assert_array_equal(cohort["n_valid"], stacked["n_valid"])

    def test_mask_of_lazy_arrays_is_all_or_what_is_given(self) -> None:
        def never(block: NDArray[Any]) -> NDArray[Any]:
            raise AssertionError("computed")

        lazy = dask.array.zeros((3, *SHAPE), chunks=1).map_blocks(never, dtype="float32", meta=np.empty((0,) * 4))
        assert vx.from_arrays({"effect": lazy}, affine=AFFINE)["mask"].values.all()
        mask = noise(1)[0] > 0
        np.testing.assert_array_equal(vx.from_arrays({"effect": lazy}, affine=AFFINE, mask=mask)["mask"], mask)

    def test_mask_of_an_image_lies_where_its_affine_says(self, tmp_path: Path) -> None:
        mask = np.zeros(SHAPE, dtype=bool)
        mask[0, 1:] = True
        flipped = AFFINE @ np.diag([-1.0, 1, 1, 1])
        flipped[:3, 3] = (AFFINE @ [SHAPE[0] - 1, 0, 0, 1])[:3]
        image = nib.Nifti1Image(mask[::-1].astype("uint8"), flipped)
        image.to_filename(tmp_path / "left.nii")
        for given in (image, tmp_path / "left.nii", str(tmp_path / "left.nii")):
            cohort = vx.from_arrays({"effect": noise(3)}, affine=AFFINE, mask=given)
            np.testing.assert_array_equal(cohort["mask"], mask)

    def test_mask_elsewhere_is_refused(self) -> None:
        far = nib.Nifti1Image(np.ones(SHAPE, "uint8"), AFFINE + 500 * np.eye(4, k=3))
        with pytest.raises(InputError, match="does not overlap the maps"):
            vx.from_arrays({"effect": noise(3)}, affine=AFFINE, mask=far)
        labelled = vx.from_arrays({"effect": noise(3)}, affine=AFFINE)["mask"]
        with pytest.raises(GridMismatch, match="differ along x"):
            vx.from_arrays({"effect": noise(3)}, affine=AFFINE, mask=labelled.isel(x=slice(None, None, -1)))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"maps": {}}, "No map was given"),
            ({"maps": {"mask": noise(2)}}, "cannot be called mask"),
            ({"maps": {"effect": noise(2)[0]}}, r"one shape \(subjects, x, y, z\).*\(4, 5, 3\)"),
            ({"maps": {"a": noise(2), "b": noise(3)}}, r"\(2, 4, 5, 3\), \(3, 4, 5, 3\)"),
            ({"maps": {"effect": noise(2) + 1j}}, "real numbers, not complex"),
            ({"affine": AFFINE[[1, 0, 2, 3]]}, "do not run along x, y and z"),
            ({"affine": np.zeros((4, 4))}, "affine"),
            ({"affine": np.eye(3)}, "affine does not place"),
            ({"mask": np.ones((4, 5))}, r"mask has the shape \(4, 5\)"),
            ({"participants": pd.DataFrame({"age": [1, 2, 3]})}, "3 rows, the maps have 2 subjects"),
            ({"participants": pd.DataFrame({"age": [1, 2]}, index=["a", "a"])}, "not: a"),
            ({"participants": pd.DataFrame({"effect": [1, 2]})}, "cannot be called effect"),
        ],
    )
    def test_what_does_not_fit_is_named(self, change: dict[str, Any], says: str) -> None:
        arguments: dict[str, Any] = {"maps": {"effect": noise(2)}, "affine": AFFINE} | change
        with pytest.raises(InputError, match=says):
            vx.from_arrays(arguments.pop("maps"), **arguments)
