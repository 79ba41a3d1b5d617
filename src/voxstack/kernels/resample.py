"""From one lattice to another."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def nearest(
    values: NDArray[Any],
    affine: NDArray[np.float64],
    target_shape: tuple[int, int, int],
    target_affine: NDArray[np.float64],
    *,
    fill: float = 0,
) -> NDArray[Any]:
    """Values of the nearest voxel.

    Parameters
    ----------
    values : (i, j, k)
        Of any type.
    affine, target_affine : (4, 4) float64
        From voxel numbers to mm, of both lattices.
    target_shape
        Of the result.
    fill
        For voxels whose centre lies more than half a voxel outside.

    Returns
    -------
    (x, y, z) array of the type of `values`
    """
    assert values.ndim == 3, values.shape
    to_source = np.linalg.solve(affine, target_affine)
    result: NDArray[Any] = ndimage.affine_transform(
        values,
        to_source[:3, :3],
        offset=to_source[:3, 3],
        output_shape=target_shape,
        order=0,
        mode="grid-constant",
        cval=fill,
    )
    return result
