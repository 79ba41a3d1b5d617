"""Simulated cohorts on the MNI grid, as real NIfTI files, with a truth that is known."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from voxstack.checks import check_number, check_real
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
        "mean", which all maps have, or a column of the participants: of numbers, per unit, or of two categories, the
        second less the first, by their order or else by the alphabet.
    name
        For people.
    centre_mm
        MNI coordinates.
    height
        Of the effect at the centre, in the maps' units; the noise is as large as `noise_sd`. It falls off as a
        Gaussian.
    width_mm
        Standard deviation of that Gaussian; it ends at 2.5 of them.
    about
        Value of the column at which nothing is added to the mean; of categories it is half-way between them.
    """

    effect: str
    name: str
    centre_mm: tuple[float, float, float]
    height: float
    width_mm: float
    about: float = 0.0


_MEAN_AGE = 50.0


REGIONS = (
    Region("mean", "visual cortex", (0, -84, 6), 1.5, 12),
    Region("mean", "left motor cortex", (-38, -24, 54), 1.2, 9),
    Region("mean", "right motor cortex", (38, -24, 54), 1.0, 9),
    Region("age", "left hippocampus", (-27, -21, -15), -0.08, 11, _MEAN_AGE),
    Region("age", "right frontal pole", (27, 51, 9), 0.07, 11, _MEAN_AGE),
    Region("sex", "medial frontal cortex", (0, 45, -6), 2.0, 11),
)


def simulate_cohort(
    folder: str | Path,
    *,
    n_subjects: int | None = None,
    participants: pd.DataFrame | None = None,
    regions: Sequence[Region] = REGIONS,
    resolution: float = 3,
    seed: int = 0,
    noise_sd: float = 1.0,
    smoothness_mm: float = 8.0,
    participant_sd: float = 0.0,
    progress: bool = False,
) -> Path:
    """Write a simulated cohort: real NIfTI files, a participants table, and the truth.

    Each map is the sum of a mean, of effects of covariates, each in regions of its own, and of smooth Gaussian noise;
    NaN outside a brain made of ellipsoids.

    Parameters
    ----------
    folder
        Made if it is not there. Gets ``participants.tsv`` (participant_id, age in years, sex, site, effect_path),
        ``sub-*/sub-*_stat-effect_statmap.nii.gz``, ``mask.nii.gz``, and ``truth/`` with one map per effect and
        ``regions.json``.
    n_subjects
        At least 1; their age, sex and site are drawn.
    participants
        In place of `n_subjects`: a row for each map, with labels in the column participant_id, or in an index of that
        name, and with any covariates. Where a covariate is missing its effect is 0.
    regions
        Where there are effects; by default of the mean, age and sex, at six places.
    resolution
        Voxel size in mm: 3 gives the 61 x 73 x 61 grid, 2 the 91 x 109 x 91 one.
    seed
        The same seed gives the same cohort; a larger cohort begins with the smaller one.
    noise_sd
        Standard deviation of the noise in each voxel.
    smoothness_mm
        Full width at half maximum of the noise.
    participant_sd
        Standard deviation of a map, as smooth as the noise, that all rows of one person share, such as those of several
        sessions or conditions; persons stand in the column participant.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        No subject, a resolution that is not between 1 and 20 mm, a seed or standard deviations below 0, or regions of
        covariates that the participants lack.
    StoreError
        The folder cannot be written.
    """
    check_real("resolution, in mm,", resolution, 1, 20)
    if n_subjects is not None:
        check_number("n_subjects: a cohort needs at least one subject, and their number", n_subjects, 1)
    check_number("seed", seed, 0)
    for what, given in {"noise_sd": noise_sd, "smoothness_mm": smoothness_mm, "participant_sd": participant_sd}.items():
        check_real(what, given, 0)
    table = _table(n_subjects, participants, seed)
    added = _added(table, regions)
    persons = _persons(table, participant_sd)
    folder = local_folder(folder, "A simulated cohort")
    with writing(folder):
        (folder / "truth").mkdir(parents=True, exist_ok=True)
        shape, affine = mni_grid(resolution)
        brain = _brain(shape, affine)
        truth = true_effects(shape, affine, regions)
        _save(brain.astype(np.uint8), affine, folder / "mask.nii.gz")
        for effect, values in truth.items():
            _save(np.where(brain, values, np.nan).astype(np.float32), affine, folder / "truth" / f"{effect}.nii.gz")
        told = json.dumps([asdict(region) for region in regions], indent=2)
        (folder / "truth" / "regions.json").write_text(f"{told}\n", encoding="utf-8")

        noise = _Noise(brain, noise_sd, participant_sd, smoothness_mm / resolution, seed)
        known = shared("simulate-truth", _Truth(folder, truth, affine, list(truth), noise))
        rows = zip(table["effect_path"], added.to_numpy(), persons, strict=True)
        tasks = (
            Task(i, call("simulate-subject", _write_subject, known, i, path, row, person))
            for i, (path, row, person) in enumerate(rows)
        )
        for _ in track(run(tasks, label="simulate"), total=len(table), description="simulate", visible=progress):
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


def true_effects(
    shape: tuple[int, int, int], affine: NDArray[np.float64], regions: Sequence[Region] = REGIONS
) -> dict[str, NDArray[np.float64]]:
    """For each effect the map of what is put in, such as "mean", "age" (per year) and "sex" (male less female)."""
    truth = {region.effect: np.zeros(shape) for region in regions}
    for region in regions:
        distance = np.sqrt(sum((p - c) ** 2 for p, c in zip(_positions(shape, affine), region.centre_mm, strict=True)))
        blob = region.height * np.exp(-0.5 * (distance / region.width_mm) ** 2)
        truth[region.effect] += np.where(distance <= 2.5 * region.width_mm, blob, 0)
    return truth


def _table(n: int | None, participants: pd.DataFrame | None, seed: int) -> pd.DataFrame:
    """The participants, as drawn or as given, with the path of each one's map."""
    if (n is None) == (participants is None):
        raise InputError("A simulated cohort needs either n_subjects or participants.")
    table = _drawn(n, seed) if participants is None else _given(participants)
    if table.empty:
        raise InputError("A cohort needs at least one subject; the participants have no row.")
    labels = table["participant_id"]
    return table.assign(effect_path=[f"{label}/{label}_stat-effect_statmap.nii.gz" for label in labels])


def _given(participants: pd.DataFrame) -> pd.DataFrame:
    named = participants.index.name == "participant_id"
    table = participants.reset_index() if named else participants.reset_index(drop=True)
    if "participant_id" not in table.columns:
        raise InputError("The participants have no column participant_id. Name each row's map there.")
    if (twice := table["participant_id"].duplicated()).any():
        raise InputError(f"participant_id {table['participant_id'][twice].iloc[0]!r} stands in several rows.")
    return table


def _drawn(n: int | None, seed: int) -> pd.DataFrame:
    people = [np.random.default_rng([seed, i, 0]) for i in range(n or 0)]
    return pd.DataFrame(
        {
            "participant_id": [f"sub-{i + 1:04d}" for i in range(len(people))],
            "age": [round(float(rng.uniform(20, 80)), 1) for rng in people],
            # In turns, so that even the smallest cohort has both.
            "sex": pd.Categorical(["F" if i % 2 == 0 else "M" for i in range(len(people))], categories=["F", "M"]),
            "site": [str(rng.choice(["north", "south"])) for rng in people],
        }
    )


def _added(table: pd.DataFrame, regions: Sequence[Region]) -> pd.DataFrame:
    """How much of each effect each row has: of the mean 1, of a covariate its distance from the region's `about`."""
    about = {region.effect: region.about for region in regions}
    if any(about[region.effect] != region.about for region in regions):
        raise InputError("Regions of one effect must agree on the value that they are about.")
    added = {effect: _values(table, effect) - (effect != "mean") * about[effect] for effect in about}
    return pd.DataFrame(added, index=table.index).fillna(0)


def _values(table: pd.DataFrame, effect: str) -> pd.Series:
    if effect == "mean":
        return pd.Series(1.0, index=table.index)
    if effect not in table.columns:
        raise InputError(f"Regions have an effect of {effect!r}, which is no column of the participants.")
    column = table[effect]
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    codes = column.astype("category").cat
    if len(codes.categories) != 2:
        raise InputError(f"An effect of {effect!r} needs numbers or two categories; it has {len(codes.categories)}.")
    return codes.codes.where(codes.codes >= 0).astype(float) - 0.5


def _persons(table: pd.DataFrame, participant_sd: float) -> list[int]:
    """Of each row the number of its person."""
    if participant_sd == 0:
        return list(range(len(table)))
    if "participant" not in table.columns:
        raise InputError("participant_sd needs the column participant, which says which rows are of one person.")
    return pd.factorize(table["participant"])[0].tolist()


@dataclass(frozen=True)
class _Noise:
    brain: NDArray[np.bool_]
    sd: float
    participant_sd: float
    fwhm_voxels: float
    seed: int

    def drawn(self, row: int, person: int) -> NDArray[np.float64]:
        """Of a row, with what is its person's own."""
        noise = self.sd * self._smooth(row, 1)
        return noise if self.participant_sd == 0 else noise + self.participant_sd * self._smooth(person, 2)

    def _smooth(self, number: int, kind: int) -> NDArray[np.float64]:
        white = np.random.default_rng([self.seed, number, kind]).standard_normal(self.brain.shape)
        smooth = ndimage.gaussian_filter(white, self.fwhm_voxels / np.sqrt(8 * np.log(2)), mode="wrap")
        scaled: NDArray[np.float64] = smooth / smooth.std()
        return scaled


@dataclass(frozen=True)
class _Truth:
    folder: Path
    effects: Mapping[str, NDArray[np.float64]]
    affine: NDArray[np.float64]
    names: Sequence[str]
    noise: _Noise


def _write_subject(truth: _Truth, number: int, path: str, added: NDArray[np.float64], person: int) -> None:
    values = truth.noise.drawn(number, person)
    for name, factor in zip(truth.names, added, strict=True):
        values += factor * truth.effects[name]
    file = truth.folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    _save(np.where(truth.noise.brain, values, np.nan).astype(np.float32), truth.affine, file)


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
