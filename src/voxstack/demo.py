"""The main job from end to end on a simulated cohort whose truth is known."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.computation import compute
from voxstack.errors import VoxstackError
from voxstack.export.folder import RESULTS, write_folder
from voxstack.figures.slices import plot_slices
from voxstack.grid import Grid, at_mm
from voxstack.io.places import local_folder
from voxstack.models.contrast import contrast
from voxstack.models.fit import fit_glm
from voxstack.simulate import REGIONS, simulate_cohort, true_effects
from voxstack.store.location import Location
from voxstack.store.stack import stack
from voxstack.store.standing import check_apart

DESIGN = "~ age + sex"
CONTRASTS = {"age": "age", "sex": "sex[T.M]"}
Z_THRESHOLD = 3.1


@dataclass(frozen=True)
class Found:
    """What was found of one region's effect.

    Attributes
    ----------
    contrast, region
        Their names.
    true, estimate, standard_error, z : float
        At the region's centre, in units of the contrast.
    """

    contrast: str
    region: str
    true: float
    estimate: float
    standard_error: float
    z: float


@dataclass(frozen=True)
class Detection:
    """How the voxels above `Z_THRESHOLD` compare with the truth, for one contrast.

    Attributes
    ----------
    contrast
        Its name.
    n_true, n_found
        Voxels where the true effect is at least half its peak, and those of them that were found.
    n_null, n_false
        Voxels without any effect, and those of them that are above the threshold all the same.
    """

    contrast: str
    n_true: int
    n_found: int
    n_null: int
    n_false: int


@dataclass(frozen=True)
class Demo:
    """What the demo did.

    Attributes
    ----------
    folder
        Where everything is.
    files
        Images, the picture and the result store.
    picture
        None where the extra ``report`` is not installed.
    seconds
        Of each step.
    found, detections
        The results against the truth.
    """

    folder: Path
    files: tuple[Path, ...]
    picture: Path | None
    seconds: dict[str, float]
    found: tuple[Found, ...]
    detections: tuple[Detection, ...]


def run_demo(folder: str | Path, *, n_subjects: int = 40, seed: int = 0, progress: bool = False) -> Demo:
    """Simulate a cohort, stack it, fit age and sex, write maps and a picture, and hold them against the truth.

    Parameters
    ----------
    folder
        Gets ``cohort/`` (NIfTI files), ``cohort.zarr`` and ``results/``; an earlier demo there is replaced.
    n_subjects
        At least 4: the model has three regressors.
    seed
        Of the simulation.
    progress
        Show progress bars.

    Returns
    -------
    Demo

    Raises
    ------
    VoxstackError
        Fewer than 4 subjects.
    StoreError
        The folder lies within a store, or cannot be written.
    """
    if n_subjects < 4:
        raise VoxstackError(f"The demo fits three regressors, so it needs at least 4 subjects, not {n_subjects}.")
    folder = local_folder(folder, "The demo")
    check_apart(Location.of(folder / "cohort.zarr"))  # images in a store would stay when it is refused
    output = folder / "results"
    seconds: dict[str, float] = {}
    clock = perf_counter()

    def lap(step: str) -> None:
        nonlocal clock
        seconds[step], clock = perf_counter() - clock, perf_counter()

    simulate_cohort(folder / "cohort", n_subjects=n_subjects, seed=seed, progress=progress)
    lap("simulate")
    maps = {"effect": "effect_path"}
    table = folder / "cohort" / "participants.tsv"
    cohort = stack(table, folder / "cohort.zarr", maps=maps, overwrite=True, progress=progress)
    lap("stack")
    result = compute(contrast(fit_glm(cohort, DESIGN), CONTRASTS), progress=progress)
    lap("fit")
    files = write_folder(result, output, overwrite=True)
    lap("write")
    picture = _draw(result, output / "age.png")
    lap("draw")
    found, detections = compare_with_truth(result)
    everything = (*files, output / RESULTS, *([] if picture is None else [picture]))
    return Demo(folder, everything, picture, seconds, found, detections)


def compare_with_truth(result: xr.Dataset) -> tuple[tuple[Found, ...], tuple[Detection, ...]]:
    """Estimates at the centres of the simulated regions, and detections over the brain."""
    grid = Grid.from_dataset(result)
    truth = true_effects(grid.shape, grid.affine)
    found = []
    for region in (region for region in REGIONS if region.effect in CONTRASTS):
        here = at_mm(result.sel(contrast=region.effect), *region.centre_mm)
        true = true_effects((1, 1, 1), _affine_at(here))[region.effect].item()
        error = float(np.sqrt(here["variance"]))
        estimate, z = float(here["effect"]), float(here["z_score"])
        found.append(Found(region.effect, region.name, true, estimate, error, z))
    detections = []
    for name in CONTRASTS:
        scores = result["z_score"].sel(contrast=name).values
        inside = np.isfinite(scores)
        size = np.abs(truth[name])
        strong = inside & (size >= 0.5 * size.max())
        null, above = inside & (size == 0), np.abs(scores) > Z_THRESHOLD
        counts = (int(m.sum()) for m in (strong, strong & above, null, null & above))
        detections.append(Detection(name, *counts))
    return tuple(found), tuple(detections)


def _affine_at(here: xr.Dataset) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 3] = [here[dim].item() for dim in ("x", "y", "z")]
    return affine


def _draw(result: xr.Dataset, path: Path) -> Path | None:
    z = result["z_score"].sel(contrast="age")
    try:
        figure = plot_slices(z, threshold=Z_THRESHOLD, title=f"age, |z| > {Z_THRESHOLD}", cuts=(-24, -15, -6, 0, 9, 18))
    except VoxstackError:  # the extra is not installed; the caller says so
        return None
    figure.savefig(path, dpi=150)
    return path
