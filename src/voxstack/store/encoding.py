"""Between a labelled Dataset and what Zarr holds well: plain numbers, text, and one list of coordinates."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from zarr.storage import MemoryStore

from voxstack.covariates import MISSING_TEXT, text_array
from voxstack.grid import with_grid_indexes
from voxstack.schema import SPACE


def encode(dataset: xr.Dataset, encoding: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    """The keys of a Zarr v3 store that hold a dataset, but for the chunks of its lazy variables.

    Parameters
    ----------
    dataset
        Lazy variables give their metadata alone; all others are written whole.
    encoding
        Chunks and compressors for xarray, by variable.

    Returns
    -------
    dict
        The root's consolidated metadata, ``zarr.json``, comes last: a store is published when it is written.
    """
    flat = dataset.reset_coords()
    flat.attrs = {**dataset.attrs, "coordinates": [str(name) for name in dataset.coords]}
    for name, variable in flat.variables.items():
        if variable.dtype.kind in "OUT":
            flat = flat.assign({name: (variable.dims, _to_text(variable.values), variable.attrs)})
    store = MemoryStore()
    with warnings.catch_warnings():
        # Consolidated metadata of Zarr v3 are what zarr-python and xarray write; only their standard is pending.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        flat.to_zarr(store, compute=False, zarr_format=3, consolidated=True, encoding=encoding)
    keys = {key: value.to_bytes() for key, value in store._store_dict.items()}
    return {key: keys[key] for key in sorted(keys, key=lambda key: (key == "zarr.json", key))}


def decode(flat: xr.Dataset) -> xr.Dataset:
    """A labelled dataset from what was opened: coordinates and grid indexes restored, all small variables in memory."""
    attrs = dict(flat.attrs)
    for variable in flat.variables.values():
        variable.attrs.pop("_FillValue", None)  # how Zarr says that absent chunks are NaN; nothing to tell users
    flat = flat.set_coords([name for name in attrs.pop("coordinates", []) if name in flat.variables])
    flat.attrs = attrs
    for name in [n for n, c in flat.coords.items() if n not in flat.dims or c.dtype.kind in "OT"]:
        variable = flat[name].variable.load()
        values = _from_text(variable.values) if variable.dtype.kind in "OT" else variable.values
        flat = flat.assign_coords({name: (variable.dims, values, variable.attrs)})
    return with_grid_indexes(flat) if all(dim in flat.coords for dim in SPACE) else flat


def _to_text(values: Any) -> Any:
    missing = pd.isna(values)
    return np.where(missing, MISSING_TEXT, np.asarray(values, dtype=object)).astype(object)


def _from_text(values: Any) -> Any:
    if values.ndim != 1:
        return np.asarray(values).astype(str)
    return text_array([None if value == MISSING_TEXT else str(value) for value in values])
