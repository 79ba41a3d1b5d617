"""Masks: explicit ones brought to the cohort's grid, others derived from where the subjects have data."""

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from voxstack.errors import InputError
from voxstack.grid import Grid
from voxstack.io.readers import ImageSource, read_maps
from voxstack.kernels.resample import nearest


def mask_on_grid(mask: Path | nib.spatialimages.SpatialImage, grid: Grid) -> NDArray[np.bool_]:
    """An explicit mask on a grid, by nearest neighbour: where the image is neither 0 nor NaN.

    Parameters
    ----------
    mask
        Path or image.
    grid
        Of the cohort.

    Returns
    -------
    (x, y, z) bool

    Raises
    ------
    InputError
        The image cannot be read, is empty, or does not overlap the grid.
    """
    source = ImageSource(mask)
    header = source.header()
    ((_, values),) = read_maps([source], [header.order])
    inside = np.nan_to_num(np.asarray(values, float)) != 0
    on_grid = nearest(inside.astype(np.uint8), header.grid().affine, grid.shape, grid.affine) != 0
    if not on_grid.any():
        raise InputError(f"The mask {source.name} is empty or does not overlap the maps, which have {grid}.")
    return np.asarray(on_grid)
