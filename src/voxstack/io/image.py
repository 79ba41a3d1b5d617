"""What every image format tells: its header."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstack.errors import InputError
from voxstack.grid import Grid, canonical_axes

ABSENT = "there is no such file."
"""What is said of a file that is not there, behind its path."""


def require_real(dtype: np.dtype[Any], name: str) -> None:
    """Refuse images of complex numbers or colours."""
    if dtype.kind not in "iuf":
        raise InputError(f"{name}: its data type {dtype} is not one of real numbers.")


def volume_index(shape: tuple[int, ...], volume: int) -> tuple[slice | int, ...]:
    """Where a volume is in an image of four or more axes, which count in NIfTI's order: the first one fastest."""
    return (*(slice(None),) * 3, *(int(i) for i in np.unravel_index(volume, shape[3:], order="F")))


@dataclass(frozen=True, eq=False)
class ImageHeader:
    """Header of an image as it is in the file.

    Attributes
    ----------
    shape
        Of the data array: (i, j, k), or (i, j, k, volumes).
    affine : (4, 4) float64
        From voxel numbers to world mm.
    code : int
        NIfTI code of the space.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    code: int

    @property
    def n_volumes(self) -> int:
        """Number of volumes: 1 for a 3-D image, and where all further axes are of length 1."""
        return math.prod(self.shape[3:])

    @property
    def order(self) -> tuple[int, int, int]:
        """Array axes that run along x, y and z."""
        return canonical_axes(self.affine)

    def require_volume(self, name: str) -> None:
        """Refuse an image with fewer than three axes, without any voxel, or without a place in space."""
        if len(self.shape) < 3 or min(self.shape) < 1:
            raise InputError(f"{name}: not a volume, its shape is {self.shape}.")
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(self.affine[:3, :3])) < 1e-12:
            raise InputError(
                f"{name}: its affine does not place the voxels in space: {self.affine.tolist()}. Repair its header."
            )

    def grid(self) -> Grid:
        """Lattice of the image, which is a volume, with its axes in the order x, y, z."""
        order = self.order
        shape = (self.shape[order[0]], self.shape[order[1]], self.shape[order[2]])
        affine = self.affine.copy()
        affine[:, :3] = self.affine[:, order]
        return Grid.from_affine(shape, affine, self.code)
