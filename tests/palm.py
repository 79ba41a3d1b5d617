"""What PALM (Winkler et al. 2014) was given, and what it found: the files of `reference/palm`, whose README lists them.

A run is called by its folder, and a map of it by its kind of statistic (vox, clustere, clusterm or tfce) and its
contrast as file names have it: tstat, tstat_c1, fstat_c3.
"""

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

import brute_force
from brute_force import Float

FOLDER = Path(__file__).parent / "reference" / "palm"
INPUTS = FOLDER / "inputs"


def matrix(name: str) -> Float:
    return np.loadtxt(INPUTS / f"{name}.csv", delimiter=",", ndmin=2)


def image(path: Path) -> Float:
    """(x, y, z) or (n, x, y, z)."""
    data = np.squeeze(np.asarray(nib.load(path).dataobj, dtype=np.float64))
    return np.moveaxis(data, 3, 0) if data.ndim == 4 else data


@cache
def mask() -> NDArray[np.bool_]:
    return image(INPUTS / "mask.nii") > 0


def inputs_of(folder: str) -> str:
    """Name of the data, the design and the contrasts of a run."""
    return folder.split("_")[1]


def _name(kind: str, contrast: str, what: str) -> str:
    statistic, _, number = contrast.partition("_")
    return "_".join(part for part in ("palm", kind, statistic, what, number) if part)


def map_of(folder: str, kind: str, contrast: str, what: str = "") -> Float:
    """Values (v,) in the mask; what is "" for the statistic, or a kind of p-value: uncp, fwep, cfwep."""
    volume = image(FOLDER / folder / f"{_name(kind, contrast, what)}.nii.gz")
    assert not volume[~mask()].any()
    return volume[mask()]


def maxima(folder: str, kind: str, contrast: str) -> Float:
    """Of all relabellings, the identity first; those of voxels are of z."""
    return np.loadtxt(FOLDER / folder / f"{_name(kind, contrast, 'max')}.csv")


def z_of(folder: str, contrast: str) -> Float:
    """Values (v,) in the mask that clusters and TFCE are made from."""
    dof = float(np.loadtxt(FOLDER / folder / f"palm_vox_{contrast}_dof.txt")[-1])
    dof_num = len(matrix(f"{inputs_of(folder)}_C")) if contrast.startswith("f") else None
    return brute_force.to_z(map_of(folder, "vox", contrast), dof, dof_num)
