"""Which voxels of a mask touch."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

# Neighbours differ by 1 in at most so many coordinates: they share a face; or an edge; or a corner.
_MOST_STEPS = {6: 1, 18: 2, 26: 3}


def neighbours(mask: NDArray[np.bool_], connectivity: int) -> NDArray[np.int32]:
    """For each voxel of a mask, those of its neighbours in the mask that come before it.

    Every pair of neighbours stands there once, at the later of the two.

    Parameters
    ----------
    mask : (x, y, z) bool
        The v voxels are counted in the order of ``np.flatnonzero(mask)``.
    connectivity
        6: voxels that share a face; 18: a face or an edge; 26: a face, an edge or a corner.

    Returns
    -------
    (v, k) int32 array
        Numbers of voxels, and -1 where there is no neighbour; k = 3, 9 or 13.
    """
    assert mask.ndim == 3, mask.shape
    assert mask.dtype == bool, mask.dtype
    assert connectivity in _MOST_STEPS, connectivity
    before = [
        step
        for step in product((-1, 0, 1), repeat=3)
        if step < (0, 0, 0) and np.count_nonzero(step) <= _MOST_STEPS[connectivity]
    ]
    v = np.count_nonzero(mask)
    # A margin of one voxel all around: then a step is the same distance in memory everywhere, and never leaves it.
    numbers = np.full([n + 2 for n in mask.shape], -1, dtype=np.int32)
    numbers[1:-1, 1:-1, 1:-1][mask] = np.arange(v, dtype=np.int32)
    at = np.flatnonzero(numbers >= 0)
    distances = np.array(before) @ np.array(numbers.strides) // numbers.itemsize
    table = np.empty((v, len(before)), dtype=np.int32)
    for k, distance in enumerate(distances):
        table[:, k] = numbers.ravel()[at + distance]
    return table
