"""What every image format tells: its header; and the registry of the formats that can be read."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxstack.errors import InputError
from voxstack.grid import Grid, canonical_axes


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
        return int(np.prod(self.shape[3:]))

    @property
    def order(self) -> tuple[int, int, int]:
        """Array axes that run along x, y and z."""
        return canonical_axes(self.affine)

    def grid(self) -> Grid:
        """Lattice of the image with its axes in the order x, y, z."""
        if len(self.shape) < 3:
            raise InputError(f"An image of shape {self.shape} is not a volume.")
        order = self.order
        shape = (self.shape[order[0]], self.shape[order[1]], self.shape[order[2]])
        affine = self.affine.copy()
        affine[:, :3] = self.affine[:, order]
        return Grid.from_affine(shape, affine, self.code)
