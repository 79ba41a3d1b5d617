"""Fitted first-level models of five people, as nilearn fits them."""

import warnings
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel

SHAPE, AFFINE, CONTRAST = (7, 8, 6), np.diag([4.0, 4, 4, 1]), "task"
LABELS = ["sub-01", "sub-02", "sub-03", "sub-04", "sub-05"]


def design(n_scans: int = 30) -> pd.DataFrame:
    scans = np.arange(n_scans)
    return pd.DataFrame({"task": np.sin(scans / 3), "rest": np.cos(scans / 5), "constant": 1.0})


def fitted(label: str, number: int, matrix: pd.DataFrame | None = None, mask: Any = None) -> FirstLevelModel:
    """To series whose task has an effect of `number`."""
    rng = np.random.default_rng(number)
    matrix = design() if matrix is None else matrix
    series = rng.normal(size=(*SHAPE, len(matrix))) + 100 + number * matrix["task"].to_numpy()
    inside = nib.Nifti1Image(np.ones(SHAPE, np.uint8) if mask is None else mask.astype(np.uint8), AFFINE)
    model = FirstLevelModel(subject_label=label, mask_img=inside, signal_scaling=False, minimize_memory=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mask is used which was given
        return model.fit(nib.Nifti1Image(series.astype(np.float32), AFFINE), design_matrices=matrix)


def five_models() -> list[FirstLevelModel]:
    return [fitted(label, number) for number, label in enumerate(LABELS)]


def five_people() -> pd.DataFrame:
    """In another order, and one more."""
    return pd.DataFrame({"participant_id": [*LABELS[::-1], "sub-99"], "age": [25.0, 31, 47, 52, 60, 99]})


def images(models: list[FirstLevelModel], output: str) -> np.ndarray[Any, Any]:
    return np.stack([model.compute_contrast(CONTRAST, output_type=output).get_fdata() for model in models])


class Constant:
    """A model of a subject whose maps have one value."""

    def __init__(self, label: Any) -> None:
        self.subject_label = label

    def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
        return nib.Nifti1Image(np.ones(SHAPE), AFFINE)
