"""Random cohorts in memory, as NumPy arrays or as Dask arrays in random chunks."""

from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

import voxstack as vx

SHAPE = (3, 2, 2)


def people(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Covariates with every combination of sex and site, under labels that are in no order."""
    covariates = {"age": rng.normal(0, 1.5, n), "iq": rng.normal(1, 1, n)}
    factors = {"sex": np.resize(["F", "M"], n), "site": np.resize(["a", "b", "c"], n)}
    return pd.DataFrame(covariates | factors, index=[f"sub-{i:02d}" for i in rng.permutation(n)])


def random_maps(
    rng: np.random.Generator, table: pd.DataFrame, dtype: Any = np.float64, log_mean: float = 0
) -> NDArray[Any]:
    """Voxels of unit deviation about means up to 10 ** log_mean, some of them depending on age."""
    slopes = rng.normal(size=SHAPE) * (rng.random(SHAPE) < 0.5)
    y = rng.normal(size=(len(table), *SHAPE)) + table["age"].to_numpy()[:, None, None, None] * slopes
    return (y + 10.0**log_mean * rng.uniform(-1, 1, SHAPE)).astype(dtype)


def cohort_of(maps: Any, participants: pd.DataFrame | None = None, mask: Any = None) -> xr.Dataset:
    """With a mask of all voxels unless it is given."""
    mask = np.ones(maps.shape[1:], dtype=bool) if mask is None else mask
    return vx.from_arrays({"map": maps}, affine=np.diag([3, 3, 3, 1]), mask=mask, participants=participants)


def rechunked(maps: NDArray[Any], rng: np.random.Generator) -> da.Array:
    """Random chunks along subjects and space."""
    chunks = []
    for size in maps.shape:
        cuts = np.flatnonzero(rng.random(size - 1) < rng.random()) + 1
        chunks.append(tuple(np.diff([0, *cuts, size]).tolist()))
    return da.from_array(maps, chunks=tuple(chunks))
