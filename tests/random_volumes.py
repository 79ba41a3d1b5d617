"""What tests of clusters and of TFCE draw: masks, neighbours, and which side of 0 is looked at."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from brute_force import Float, Mask
from voxstack.kernels.suprathreshold import Sides

TIE = 1e-10

seeds = st.integers(0, 2**32 - 1)
connectivities = st.sampled_from([6, 18, 26])
all_sides: st.SearchStrategy[Sides] = st.sampled_from(["greater", "less", "signed", "absolute"])


def random_mask(rng: np.random.Generator, most: int) -> Mask:
    """Of any size up to `most` along each axis: all of it, a part, or nothing."""
    shape = rng.integers(1, most + 1, size=3)
    return rng.random(shape) < rng.choice([0.0, 0.3, 0.8, 1.0], p=[0.05, 0.25, 0.35, 0.35])


def random_values(rng: np.random.Generator, shape: int | tuple[int, ...]) -> Float:
    """Noise, in some cases rounded to few levels, or with missing voxels."""
    values = rng.normal(size=shape)
    if rng.random() < 0.5:
        values = np.round(3 * values) / 3
    values[rng.random(shape) < rng.choice([0, 0.1])] = np.nan
    return values


def in_volume(values: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """Values (v,) at their voxels (x, y, z), and 0 outside the mask."""
    volume = np.zeros(mask.shape, dtype=values.dtype)
    volume[mask] = values
    return volume
