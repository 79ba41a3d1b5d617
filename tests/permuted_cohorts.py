"""Maps and designs for tests of `permutation_test`, and the call itself."""

import warnings
from typing import Any

import numpy as np
import xarray as xr

import voxstack as vx
from brute_force import Float
from voxstack.errors import VoxstackWarning

SHAPE = (5, 4, 3)


def random_maps(rng: np.random.Generator, n: int, mean: float = 1) -> Float:
    """Noise about means of this size, with missing values, and voxels that are constant."""
    maps = rng.normal(size=(n, *SHAPE)) + mean * rng.uniform(0.3, 1, SHAPE)
    maps[rng.integers(n), 0, 0, :2] = np.nan
    maps[:, 1, 0, 0] = np.nan
    maps[:, 2, 0, 0] = 0
    maps[:, 3, 0, 0] = mean
    return maps


def random_design(rng: np.random.Generator, name: str, n: int) -> Float:
    ones, age, iq = np.ones(n), rng.normal(1, 2, n), rng.normal(-1, 1, n)
    groups = [np.arange(n) % 2 == group for group in range(2)]
    columns: dict[str, list[Any]] = {
        "mean": [ones],
        "slope": [age],
        "mean and slope": [ones, age],
        "mean and two slopes": [ones, age, iq],
        "groups": groups,
        "groups and slope": [*groups, age],
        "three groups": [np.arange(n) % 3 == group for group in range(3)],
        "mean, groups and slope": [ones, *groups, age],
    }
    return np.column_stack(columns[name]).astype(float)


def run(cohort: xr.Dataset, design: Any, contrasts: Any, **options: Any) -> xr.Dataset:
    """All relabellings, without the warnings that designs deserve for their rank, or for effects of blocks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VoxstackWarning)
        return vx.permutation_test(cohort, design, contrasts, **{"n_permutations": 10_000, **options})
