"""Simulated cohorts on the MNI grid, as real NIfTI files, with a truth that is known."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from voxstack.errors import InputError, writing
from voxstack.io.places import local_folder
from voxstack.progress import track
from voxstack.run import Task, call, run, shared

_FIRST_VOXEL_MM = np.array([-90.0, -126.0, -72.0])
_LAST_VOXEL_MM = np.array([90.0, 90.0, 108.0])
_MNI_CODE = 4

_BRAIN = (  # ellipsoids that make up a brain: centre and half axes in mm
    ((0, -18, 12), (67, 85, 60)),  # cerebrum
    ((0, -62, -38), (50, 36, 24)),  # cerebellum
    ((0, -28, -44), (13, 16, 28)),  # brain stem
)


@dataclass(frozen=True)
class Region:
    """Where an effect is put in.

    Attributes
    ----------
    effect
        "mean", "age" (per year, about the mean age of the simulation) or "sex" (male less female).
    name
        For people.
    centre_mm
        MNI coordinates.
    height
        Of the effect at the centre, in units of the noise's standard deviation; it falls off as a Gaussian.
    width_mm
        Standard deviation of that Gaussian; it ends at 2.5 of them.
    """

    effect: str
    name: str
    centre_mm: tuple[float, float, float]
    height: float
    width_mm: float


REGIONS = (
    Region("mean", "visual cortex", (0, -84, 6), 1.5, 12),
    Region("mean", "left motor cortex", (-38, -24, 54), 1.2, 9),
    Region("mean", "right motor cortex", (38, -24, 54), 1.0, 9),
    Region("age", "left hippocampus", (-27, -21, -15), -0.08, 11),
    Region("age", "right frontal pole", (27, 51, 9), 0.07, 11),
    Region("sex", "medial frontal cortex", (0, 45, -6), 2.0, 11),
)

_MEAN_AGE = 50.0


def simulate_cohort(
    folder: str | Path,
    *,
    n_subjects: int,
    resolution: float = 3,
    seed: int = 0,
    noise_sd: float = 1.0,
    smoothness_mm: float = 8.0,
    progress: bool = False,
) -> Path:
    """Write a simulated cohort: real NIfTI files, a participants table, and the truth.

    Each subject's map is the sum of a mean, an effect of age and one of sex, each in regions of its own (`REGIONS`),
    and of smooth Gaussian noise; NaN outside a brain made of ellipsoids.

    Parameters
    ----------
    folder
        Made if it is not there. Gets ``participants.tsv`` (participant_id, age in years, sex, site, effect_path),
        ``sub-*/sub-*_stat-effect_statmap.nii.gz``, ``mask.nii.gz``, and ``truth/`` with one map per effect and
        ``regions.json``.
    n_subjects
        At least 1.
    resolution
        Voxel size in mm: 3 gives the 61 x 73 x 61 grid, 2 the 91 x 109 x 91 one.
    seed
        The same seed gives the same cohort; a larger cohort begins with the smaller one.
    noise_sd
        Standard deviation of the noise in each voxel.
    smoothness_mm
        Full width at half maximum of the noise.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        No subject, or a resolution that is not between 1 and 20 mm.
    StoreError
        The folder cannot be written.
    """
    if n_subjects < 1:
        raise InputError(f"A cohort needs at least one subject, not {n_subjects}.")
    if not 1 <= resolution <= 20:
        raise InputError(f"The resolution must be between 1 and 20 mm, not {resolution:g}.")
    folder = local_folder(folder, "A simulated cohort")
    with writing(folder):
        (folder / "truth").mkdir(parents=True, exist_ok=True)
        shape, affine = mni_grid(resolution)
        brain = _brain(shape, affine)
        truth = true_effects(shape, affine)
        _save(brain.astype(np.uint8), affine, folder / "mask.nii.gz")
        for effect, values in truth.items():
            _save(np.where(brain, values, np.nan).astype(np.float32), affine, folder / "truth" / f"{effect}.nii.gz")
        regions = [asdict(region) for region in REGIONS]
        (folder / "truth" / "regions.json").write_text(json.dumps(regions, indent=2) + "\n", encoding="utf-8")

        table = _participants(n_subjects, seed)
        subjects = _Subjects(folder, brain, truth, affine, noise_sd, smoothness_mm / resolution, seed)
        known = shared("simulate-truth", subjects)
        tasks = (
            Task(i, call("simulate-subject", _write_subject, known, i, path, age, sex))
            for i, (path, age, sex) in enumerate(zip(table["effect_path"], table["age"], table["sex"], strict=True))
        )
        for _ in track(run(tasks, label="simulate"), total=n_subjects, description="simulate", visible=progress):
            pass
        # The table comes last: where it is, the maps are.
        table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    return folder


def mni_grid(resolution: float) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Shape and affine of a grid over the MNI template's box."""
    shape = np.floor((_LAST_VOXEL_MM - _FIRST_VOXEL_MM) / resolution).astype(int) + 1
    affine = np.diag([resolution, resolution, resolution, 1.0])
    affine[:3, 3] = _FIRST_VOXEL_MM
    return (int(shape[0]), int(shape[1]), int(shape[2])), affine


def true_effects(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Maps of what is put in: "mean", "age" (per year) and "sex" (male less female)."""
    truth = {effect: np.zeros(shape) for effect in ("mean", "age", "sex")}
    for region in REGIONS:
        distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(_positions(shape, affine), region.centre_mm, strict=True)))
        blob = region.height * np.exp(-0.5 * (distance / region.width_mm) ** 2)
        truth[region.effect] += np.where(distance <= 2.5 * region.width_mm, blob, 0)
    return truth


@dataclass(frozen=True)
class _Subjects:
    folder: Path
    brain: NDArray[np.bool_]
    truth: Mapping[str, NDArray[np.float64]]
    affine: NDArray[np.float64]
    noise_sd: float
    fwhm_voxels: float
    seed: int


def _participants(n: int, seed: int) -> pd.DataFrame:
    people = [np.random.default_rng([seed, i, 0]) for i in range(n)]
    labels = [f"sub-{i + 1:04d}" for i in range(n)]
    return pd.DataFrame(
        {
            "participant_id": labels,
            "age": [round(float(rng.uniform(20, 80)), 1) for rng in people],
            # In turns, so that even the smallest cohort has both.
            "sex": ["F" if i % 2 == 0 else "M" for i in range(n)],
            "site": [str(rng.choice(["north", "south"])) for rng in people],
            "effect_path": [f"{label}/{label}_stat-effect_statmap.nii.gz" for label in labels],
        }
    )


def _write_subject(subjects: _Subjects, number: int, path: str, age: float, sex: str) -> None:
    sigma = subjects.fwhm_voxels / np.sqrt(8 * np.log(2))
    white = np.random.default_rng([subjects.seed, number, 1]).standard_normal(subjects.brain.shape)
    noise = ndimage.gaussian_filter(white, sigma, mode="wrap")
    noise *= subjects.noise_sd / noise.std()
    truth = subjects.truth
    values = truth["mean"] + (age - _MEAN_AGE) * truth["age"] + (0.5 if sex == "M" else -0.5) * truth["sex"] + noise
    file = subjects.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(np.where(subjects.brain, values, np.nan).astype(np.float32), subjects.affine, file)


def _brain(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    positions = _positions(shape, affine)
    brain = np.zeros(shape, dtype=bool)
    for centre, half_axes in _BRAIN:
        brain |= sum(((p - c) / h) ** 2 for p, c, h in zip(positions, centre, half_axes, strict=True)) <= 1
    return brain


def _positions(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """x, y and z in mm of each voxel, as arrays that broadcast."""
    axes = [affine[a, 3] + affine[a, a] * np.arange(n) for a, n in enumerate(shape)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _save(values: NDArray[np.generic], affine: NDArray[np.float64], path: Path) -> None:
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=_MNI_CODE)
    image.set_qform(affine, code=_MNI_CODE)
    image.to_filename(path)
