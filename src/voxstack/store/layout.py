"""How a cohort lies in its store: chunks, compression, and the order in which keys are written."""

from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import DTypeLike
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from voxstack.grid import Grid
from voxstack.plan import voxel_chunks
from voxstack.schema import SPACE, SUBJECT, annotate
from voxstack.store import keys
from voxstack.store.chunks import CODECS
from voxstack.store.encoding import encode
from voxstack.store.published import Chunking, Editions, key_encoding
from voxstack.store.shards import shard_shape


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


def maps_metadata(
    template: xr.Dataset, maps: list[str], chunking: Chunking, editions: Editions
) -> dict[str, dict[str, Any]]:
    """Zarr metadata of the maps' arrays, by which tasks write their chunks."""
    encoding = _encoding(template, maps, chunking, editions)
    arrays = {
        name: zarr.create_array(
            MemoryStore(),
            shape=template[name].shape,
            dtype=template[name].dtype,
            fill_value=np.nan,
            zarr_format=3,
            **encoding[name],
        )
        for name in maps
    }
    return {name: array.metadata.to_dict() for name, array in arrays.items()}


def publish(
    store: Store,
    cohort: xr.Dataset,
    maps: list[str],
    *,
    chunking: Chunking,
    editions: Editions,
    provenance: dict[str, Any],
) -> None:
    """Write everything but the maps' chunks, the root metadata last: from then on the store is this cohort."""
    attributes = {"subjects_per_chunk": chunking.subjects, "editions": editions.to_attribute()}
    cohort = annotate(cohort, "cohort", provenance=provenance, **attributes)
    keys.put(store, encode(cohort, _encoding(cohort, maps, chunking, editions)))


def _encoding(cohort: xr.Dataset, maps: list[str], chunking: Chunking, editions: Editions) -> dict[str, dict[str, Any]]:
    shape = cohort[maps[0]].shape
    chunks = (chunking.subjects, *voxel_chunks((shape[1], shape[2], shape[3])))
    sharding = {"shards": shard_shape(shape, chunks)} if chunking.sharded else {}
    encoding: dict[str, dict[str, Any]] = {}
    for name, variable in cohort.variables.items():
        edition = editions.maps if name in maps else editions.labels
        encoding[str(name)] = {"chunk_key_encoding": key_encoding(edition, variable.ndim)}
        if name in maps:
            encoding[str(name)] |= {"chunks": chunks, **sharding, **CODECS}
        elif set(SPACE) <= set(variable.dims):  # whole: they are never read in part
            encoding[str(name)] |= {"chunks": variable.shape, "compressors": CODECS["compressors"]}
    return encoding
