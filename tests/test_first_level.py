"""Fitted first-level models as input of `stack`."""

import gc
import pickle
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import FirstLevelModel
from nilearn.glm.second_level import SecondLevelModel

import voxstack as vx
from first_level import AFFINE, CONTRAST, LABELS, SHAPE, Constant, design, fitted, images
from voxstack.errors import GridMismatch, InputError, VoxstackWarning
from voxstack.io.masked import within_mask

# Of nilearn, which tells that it uses what it was given.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:nilearn.*", "ignore::RuntimeWarning:nilearn.*")


class TestModels:
    def test_effect_and_variance_of_fitted_models(self, models: Any, people: pd.DataFrame, tmp_path: Path) -> None:
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast=CONTRAST, covariates=people)
        assert cohort["subject"].values.tolist() == LABELS
        assert set(cohort.data_vars) >= {"effect", "variance"}
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)
        np.testing.assert_allclose(cohort["variance"], images(models, "effect_variance"), rtol=1e-6)
        assert cohort["age"].values.tolist() == [60.0, 52, 47, 31, 25]

    def test_the_second_level_is_that_of_nilearn(self, models: Any, people: pd.DataFrame, tmp_path: Path) -> None:
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast=CONTRAST, covariates=people)
        ours = vx.contrast(vx.fit_glm(cohort, "~ age", variable="effect"), "Intercept")
        theirs = SecondLevelModel().fit(models, design_matrix=pd.DataFrame({"Intercept": 1.0, "age": cohort["age"]}))
        t = theirs.compute_contrast(
            "Intercept", first_level_contrast=CONTRAST, output_type="stat", second_level_stat_type="t"
        )
        np.testing.assert_allclose(ours["stat"][0], t.get_fdata(), rtol=1e-4)

    def test_weights_as_contrast(self, models: Any, tmp_path: Path) -> None:
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast=np.array([1.0, 0, 0]))
        assert cohort.attrs["provenance"]["first_level_contrast"] == [1, 0, 0]
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)

    def test_anything_that_computes_contrasts(self, tmp_path: Path) -> None:
        class Model:
            def __init__(self, number: int) -> None:
                self.subject_label = f"{number:02d}"

            def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
                value = {"effect_size": 1.0, "effect_variance": 0.5}[output_type] + float(self.subject_label)
                return nib.Nifti1Image(np.full(SHAPE, value), AFFINE)

        people = pd.DataFrame({"participant_id": ["sub-02", "sub-01"], "age": [2, 1]})
        cohort = vx.stack((Model(1), Model(2)), tmp_path / "c.zarr", first_level_contrast="a", covariates=people)
        assert cohort["subject"].values.tolist() == ["sub-01", "sub-02"]  # as the table calls them
        assert cohort["age"].values.tolist() == [1, 2]
        assert cohort["variance"].values[:, 0, 0, 0].tolist() == [1.5, 2.5]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({}, "name one with first_level_contrast="),
            (
                {"first_level_contrast": "nothing"},
                r"cannot compute the contrast 'nothing':\n  sub-01, sub-02, .*, sub-05: effect_size: .*not valid",
            ),
            ({"first_level_contrast": CONTRAST, "maps": {"a": "b"}}, "maps= does not go with first-level models"),
            ({"first_level_contrast": CONTRAST, "entities": {"a": "b"}}, "entities= does not go with"),
            (
                {"first_level_contrast": CONTRAST, "covariates": pd.DataFrame({"participant_id": LABELS[:3], "a": 1})},
                "no row for sub-04, sub-05",
            ),
        ],
    )
    def test_mistakes(self, models: Any, tmp_path: Path, options: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            vx.stack(models, tmp_path / "c.zarr", **options)
        assert list(tmp_path.iterdir()) == []

    def test_models_without_label_or_fit(self, models: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Model 2 of the list has no subject_label"):
            vx.stack([models[0], FirstLevelModel()], tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        unfitted = FirstLevelModel(subject_label="sub-77")
        with pytest.raises(InputError, match=r"sub-77: effect_size: .*not fitted"):
            vx.stack([models[0], unfitted], tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        with pytest.raises(InputError, match="must be unique"):
            vx.stack([models[0], models[0]], tmp_path / "c.zarr", first_level_contrast=CONTRAST)

    def test_weights_are_found_for_each_model_anew(self, models: Any, tmp_path: Path) -> None:
        """nilearn writes those of the first model into a list, which would be other columns of the second one."""
        other = fitted("sub-06", 6, design()[["rest", "task", "constant"]])
        contrast = ["task"]
        cohort = vx.stack([models[0], other], tmp_path / "c.zarr", first_level_contrast=contrast)
        np.testing.assert_allclose(cohort["effect"], images([models[0], other], "effect_size"), rtol=1e-6)
        assert contrast == ["task"]
        assert vx.stack(models, tmp_path / "t.zarr", first_level_contrast=("task",)).sizes["subject"] == 5

    def test_voxels_outside_the_mask_of_a_model_are_missing(self, models: Any, tmp_path: Path) -> None:
        inside = np.ones(SHAPE, bool)
        inside[:3] = False
        other = fitted("sub-06", 6, mask=inside)
        with warnings.catch_warnings():
            warnings.simplefilter("error", VoxstackWarning)  # of zeros that are taken as data
            cohort = vx.stack([*models, other], tmp_path / "c.zarr", first_level_contrast=CONTRAST, mask=0.5)
        assert np.array_equal(np.isnan(cohort["variance"][5]), ~inside)
        np.testing.assert_allclose(cohort["effect"][5].values[inside], images([other], "effect_size")[0][inside])
        assert int(vx.stack([*models, other], tmp_path / "i.zarr", first_level_contrast=CONTRAST).mask.sum()) == 192

    def test_only_voxels_within_the_mask_are_held_and_sent_to_workers(self) -> None:
        inside = np.zeros(SHAPE, bool)
        inside[2:4, 3] = True
        whole = np.arange(inside.size, dtype=float).reshape(SHAPE)
        image = within_mask(nib.Nifti1Image(whole, AFFINE), nib.Nifti1Image(inside.astype(np.uint8), AFFINE))
        for one in (image, pickle.loads(pickle.dumps(image))):
            assert np.array_equal(np.asanyarray(one.dataobj), np.where(inside, whole, np.nan), equal_nan=True)
        assert sum(part.nbytes for part in vars(image.dataobj).values() if isinstance(part, np.ndarray)) < 150

    def test_models_that_are_made_one_after_the_other(self, models: Any, tmp_path: Path) -> None:
        alive: list[weakref.ref[Any]] = []

        def load() -> Iterator[Any]:
            for number, label in enumerate(LABELS):
                assert sum(one() is not None for one in alive) <= 1
                model = fitted(label, number)
                alive.append(weakref.ref(model))
                yield model
                del model
                gc.collect()

        cohort = vx.stack(load(), tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)

    def test_a_contrast_of_several_rows(self, models: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"sub-01: the contrast .* has 2 rows \(F\), and so no single effect"):
            vx.stack(models, tmp_path / "c.zarr", first_level_contrast=np.eye(2, 3))

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (lambda models: models[0], "One first-level model is no cohort"),
            (lambda models: [], "The list of first-level models is empty"),
            (lambda models: [nib.Nifti1Image(np.ones(SHAPE), AFFINE)] * 2, "Number 1 of the list is a Nifti1Image"),
            (lambda models: iter([models[0], "sub-02.nii"]), "Number 2 of the list is a str"),
        ],
    )
    def test_what_is_no_list_of_models(self, models: Any, tmp_path: Path, given: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            vx.stack(given(models), tmp_path / "c.zarr", first_level_contrast=CONTRAST)

    def test_a_series_of_paths_is_no_list_of_models(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Images and their paths go into a column of a table"):
            vx.stack(pd.Series(["sub-01.nii", "sub-02.nii"]), tmp_path / "c.zarr")

    def test_called_again_after_a_stop_models_that_have_changed_are_stacked_anew(
        self, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("voxstack.store.layout.publish", stopped)
            with pytest.raises(KeyboardInterrupt):
                vx.stack(models, tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast="rest")
        expected = np.stack([m.compute_contrast("rest", output_type="effect_size").get_fdata() for m in models])
        np.testing.assert_allclose(cohort["effect"], expected, rtol=1e-6)

    def test_models_are_appended(self, models: Any, people: pd.DataFrame, tmp_path: Path) -> None:
        options = {"first_level_contrast": CONTRAST, "covariates": people}
        vx.stack(models[:2], tmp_path / "c.zarr", **options)
        cohort = vx.stack(models[2:], tmp_path / "c.zarr", append=True, **options)
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)
        assert cohort["age"].values.tolist() == [60.0, 52, 47, 31, 25]
        with pytest.raises(InputError, match="sub-05 already"):
            vx.stack(models[4:], tmp_path / "c.zarr", append=True, **options)
        assert cohort.attrs["provenance"]["first_level_contrast"] == CONTRAST
        more = pd.DataFrame({"participant_id": ["more"], "age": [20.0]})
        with pytest.raises(InputError, match="first_level_contrast was 'task' and is 'rest'"):
            vx.stack([Constant("more")], tmp_path / "c.zarr", first_level_contrast="rest", covariates=more, append=True)

    def test_grids_that_differ_name_the_subject(self, models: Any, tmp_path: Path) -> None:
        class Elsewhere:
            subject_label = "sub-elsewhere"

            def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
                return nib.Nifti1Image(np.ones(SHAPE), np.diag([3.0, 3, 3, 1]))

        with pytest.raises(GridMismatch, match="sub-elsewhere"):
            vx.stack([*models, Elsewhere()], tmp_path / "c.zarr", first_level_contrast=CONTRAST)
