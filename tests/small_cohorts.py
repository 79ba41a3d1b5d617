"""Small cohorts of NIfTI files, for the tests of stacking."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from voxstack.io.subjects import Given

SHAPE = (4, 5, 3)
AFFINE = np.array([[2.0, 0, 0, -3], [0, 2.5, 0, -5], [0, 0, 3, 1], [0, 0, 0, 1]])
MAPS = {"effect": "path"}


def noise(n: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype("float32")


def save(folder: Path, volumes: NDArray[Any], *, name: str = "effect", affine: NDArray[Any] = AFFINE) -> pd.DataFrame:
    """Write one image a subject and the table that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [f"sub-{i:02d}" for i in range(len(volumes))]
    for label, volume in zip(labels, volumes, strict=True):
        nib.Nifti1Image(volume, affine).to_filename(folder / f"{label}_{name}.nii.gz")
    table = pd.DataFrame({"participant_id": labels, "path": [f"{label}_{name}.nii.gz" for label in labels]})
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    return table


def read_participants(given: Any, label: str) -> tuple[pd.DataFrame, Any]:
    """A table of participants as `stack` reads it, and the folder that relative paths start from."""
    subjects, folder = Given(given, {}, label).read(None)
    return subjects.table, folder


def content(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def break_inside(path: Path) -> None:
    """Damage a large image so that its header and its length still look right."""
    raw = path.read_bytes()
    path.write_bytes(raw[:-60] + bytes(30) + raw[-30:])


def in_memory(volumes: NDArray[Any], *, first: int = 0, **columns: Any) -> pd.DataFrame:
    """A table of images in memory, of subjects from a number on."""
    images = [nib.Nifti1Image(volume, AFFINE) for volume in volumes]
    labels = [f"sub-{first + i}" for i in range(len(volumes))]
    return pd.DataFrame({"participant_id": labels, "path": images, **columns})


def saved(folder: Path, volumes: NDArray[Any], *, first: int = 0, **columns: Any) -> pd.DataFrame:
    """The same with files."""
    folder.mkdir(exist_ok=True)
    table = in_memory(volumes, first=first, **columns)
    for label, image in zip(table["participant_id"], table["path"], strict=True):
        image.to_filename(folder / f"{label}.nii.gz")
    return table.assign(path=[str(folder / f"{label}.nii.gz") for label in table["participant_id"]])
