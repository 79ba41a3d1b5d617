"""Maps with missing values and oblique lattices, for tests of resampling and smoothing."""

from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

properties = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**32 - 1)
MNI = nib.affines.from_matvec(np.diag([-2.0, 2.0, 2.0]), [8, -11, -7])


def random_map(rng: np.random.Generator, shape: tuple[int, ...], missing: float, dtype: str = "f8") -> NDArray[Any]:
    """Values of mean 5, a fraction of them missing."""
    values = rng.normal(5, 2, shape).astype(dtype)
    values[rng.random(shape) < missing] = np.nan
    return values


def random_affine(rng: np.random.Generator, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """An oblique lattice whose axes may run either way."""
    turn = Rotation.random(None, rng).as_matrix()
    return nib.affines.from_matvec(turn * sizes * rng.choice([-1, 1], 3), rng.uniform(-100, 100, 3))


def onto(rng: np.random.Generator, source: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """A lattice in some direction that has one of its first voxels in the middle of the source."""
    target = random_affine(rng, rng.uniform(0.5, 2, 3))
    middle = nib.affines.apply_affine(affine, (np.array(source.shape) - 1) / 2)
    target[:3, 3] += middle - nib.affines.apply_affine(target, rng.uniform(1, 4, 3))
    return target
