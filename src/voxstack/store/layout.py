"""How a cohort lies in its store: chunks, compression, and the order in which keys are written."""

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import DTypeLike
from zarr.abc.store import Store
from zarr.buffer import cpu
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync

from voxstack.grid import Grid
from voxstack.plan import voxel_chunks
from voxstack.schema import SPACE, SUBJECT, annotate
from voxstack.store.encoding import encode

UNFINISHED = "stack.partial"
"""This key marks a store that is being written; publishing removes it."""


def cohort_template(
    grid: Grid, labels: list[str], covariates: Mapping[str, xr.Variable], maps: list[str], dtype: DTypeLike
) -> xr.Dataset:
    """A cohort as it will be, with lazy variables in place of its maps.

    Parameters
    ----------
    grid
        Of all maps.
    labels
        Of the subjects.
    covariates
        One variable along the subjects each.
    maps
        Names.
    dtype
        Of the maps.
    """
    shape = (len(labels), *grid.shape)
    coords = {SUBJECT: np.array(labels, dtype=str), **covariates}
    # One chunk, so that no graph is built: the array only stands for the metadata.
    variables = {name: ((SUBJECT, *SPACE), da.zeros(shape, dtype=dtype, chunks=shape)) for name in maps}
    return xr.Dataset(variables, coords=coords).assign_coords(grid.coords())


def write_maps_metadata(store: Store, template: xr.Dataset, maps: list[str], subjects_per_chunk: int) -> None:
    """Write what tasks need to write their chunks, and nothing that makes the store a cohort."""
    put(store, {UNFINISHED: b"This store is being written by voxstack.stack, or the writing was stopped.\n"})
    keys = encode(template[maps], _encoding(template, maps, subjects_per_chunk))
    put(store, {f"{name}/zarr.json": keys[f"{name}/zarr.json"] for name in maps})


def publish(
    store: Store, cohort: xr.Dataset, maps: list[str], subjects_per_chunk: int, provenance: dict[str, Any]
) -> None:
    """Write everything but the maps' chunks, the root metadata last: from then on the store is a cohort."""
    cohort = annotate(cohort, "cohort", provenance=provenance, subjects_per_chunk=subjects_per_chunk)
    put(store, encode(cohort, _encoding(cohort, maps, subjects_per_chunk)))
    sync(store.delete(UNFINISHED))


def exists(store: Store, key: str) -> bool:
    """Whether a key is there."""
    return bool(sync(store.exists(key)))


def clear(store: Store) -> None:
    """Remove everything; the root metadata first, so that no reader sees half of it."""
    sync(store.delete("zarr.json"))
    sync(store.delete_dir(""))


def put(store: Store, keys: Mapping[str, bytes]) -> None:
    """Write keys in their order."""
    for key, content in keys.items():
        sync(store.set(key, cpu.Buffer.from_bytes(content)))


def _encoding(cohort: xr.Dataset, maps: list[str], subjects_per_chunk: int) -> dict[str, dict[str, Any]]:
    shape = cohort[maps[0]].shape[1:]
    chunks = voxel_chunks((shape[0], shape[1], shape[2]))
    compressor = ZstdCodec(level=1)
    encoding: dict[str, dict[str, Any]] = {
        name: {"chunks": (subjects_per_chunk, *chunks), "compressors": [compressor]} for name in maps
    }
    for name in ("mask", "n_valid"):
        if name in cohort.variables:
            encoding[name] = {"chunks": chunks, "compressors": [compressor]}
    return encoding
