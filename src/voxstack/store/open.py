"""Cohorts to work with: opened lazily from a store, or made of arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from zarr.abc.store import Store

from voxstack.errors import InputError, StoreError, listing
from voxstack.grid import Grid, canonical_axes
from voxstack.io.places import located
from voxstack.io.tables import check_names, covariates, refuse_missing_labels
from voxstack.provenance import record
from voxstack.schema import COUNTS, SPACE, SUBJECT, annotate, check_kind
from voxstack.store import keys
from voxstack.store.coverage import with_counted_subjects
from voxstack.store.encoding import decode
from voxstack.store.location import Location
from voxstack.store.mask import AnalysisMask, given_mask
from voxstack.store.published import Published
from voxstack.store.unfinished import Plan
from voxstack.store.view import lazy_array

_ATTEMPTS = 5  # to open a store while others publish
_INTERNAL = ("subjects_per_chunk", "editions")  # attributes of a cohort that only its store needs


def open_cohort(store: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open a cohort; its maps stay on disk until they are computed with.

    Parameters
    ----------
    store
        Folder or URL that `stack` wrote.
    storage_options
        Credentials and settings of an object store.

    Returns
    -------
    xarray.Dataset
        Maps (subject, x, y, z) as Dask arrays, chunked as they are stored; covariates as coordinates along `subject`;
        `mask` and `n_valid` (x, y, z), whose attribute `n_subjects` says of how many it was counted; x, y, z in mm.

    Raises
    ------
    StoreError
        Nothing there, not a cohort, not finished, or written by a newer voxstack.
    """
    return read(Location.of(store, storage_options), ("cohort",))


def read(location: Location, kinds: tuple[str, ...]) -> xr.Dataset:
    """A dataset of one of some kinds, lazily; `StoreError` says what is there instead."""
    expected = _called(kinds)
    if location.path is not None and not location.path.is_dir():
        raise StoreError(f"There is no {expected} at {location}.")
    try:
        return _read(location, location.open(read_only=True), kinds)
    except OSError as error:
        raise StoreError(f"{location} cannot be read: {error}.") from error


def _read(location: Location, store: Store, kinds: tuple[str, ...]) -> xr.Dataset:
    expected = _called(kinds)
    for _ in range(_ATTEMPTS):
        published = Published.read(store)
        if published is None:
            if Plan.read(store) is not None:
                raise StoreError(f"{location} is not finished: stacking was stopped, or is going on. Call stack again.")
            if keys.some_key(store, but=lambda _: False) is None:  # or there is no such bucket, which is said then
                raise StoreError(f"There is no {expected} at {location}.")
            raise StoreError(f"{location} is not a voxstack {expected}: it has no zarr.json.")
        dataset, problem = None, None
        try:
            dataset = _decoded(location, store, published, kinds)
        except StoreError as error:
            problem = error
        # What was published meanwhile has replaced labels that were still to be read.
        if Published.read(store) != published:
            continue
        if dataset is None:
            assert problem is not None
            raise problem
        return dataset
    raise StoreError(f"{location} is being replaced again and again. Open it when that is over.")


def _called(kinds: tuple[str, ...]) -> str:
    """What users call stores of these kinds."""
    return " or ".join(dict.fromkeys("cohort" if kind == "cohort" else "result" for kind in kinds))


def _decoded(location: Location, store: Store, published: Published, kinds: tuple[str, ...]) -> xr.Dataset:
    try:
        check_kind(published.attributes, *kinds)
        # Values are stored as they are: nothing is to be scaled or replaced on the way in.
        flat = xr.open_zarr(store, consolidated=True, chunks=None, zarr_format=3, mask_and_scale=False)
    except (ValueError, KeyError) as error:
        raise StoreError(f"{location} is not a voxstack {_called(kinds)}: {error}") from error
    except StoreError as error:
        raise StoreError(f"{location}: {error}") from error
    for name in _INTERNAL:
        flat.attrs.pop(name, None)
    flat = flat.drop_vars([name for name in COUNTS if name in flat.variables])
    small = {"n_valid", *flat.attrs.get("coordinates", [])}
    lazy = [n for n, v in flat.data_vars.items() if set(SPACE) <= set(v.dims) and n not in small]
    arrays = {n: (flat[n].dims, lazy_array(location, published, str(n)), flat[n].attrs) for n in lazy}
    try:
        dataset = decode(flat.assign(arrays))
        dataset = dataset.assign({n: v.load() for n, v in dataset.data_vars.items() if n not in lazy})
        if SUBJECT in dataset.coords and not all(isinstance(label, str) and label for label in dataset[SUBJECT].values):
            raise StoreError(f"{location} is damaged: subjects have lost their labels.")
    except (RuntimeError, ValueError, KeyError) as error:
        raise StoreError(f"{location} is damaged: its labels cannot be read ({error}).") from error
    return with_counted_subjects(dataset)


def from_arrays(
    maps: Mapping[str, ArrayLike | da.Array],
    *,
    affine: ArrayLike,
    mask: AnalysisMask | None = None,
    participants: pd.DataFrame | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """A cohort of arrays in memory, or of Dask arrays; everything takes it as it takes a stored one.

    Parameters
    ----------
    maps
        For each map an array (n, x, y, z), NumPy or Dask. Any float type is kept, other numbers become float64.
        Missing values are NaN.
    affine : (4, 4)
        From voxel numbers to mm. Its axes must run along x, y and z, either way; oblique ones nearly so.
    mask : (x, y, z) array, path, URL or image, optional
        Voxels to analyse; an image is brought to the grid by nearest neighbour. By default those where every subject
        has data in every map and not all are 0; for Dask arrays all voxels, since finding out would compute them.
    participants
        Covariates, indexed by subject label. By default the labels are sub-0001, sub-0002 and so on.
    storage_options
        Credentials and settings for the URL of the mask.

    Returns
    -------
    xarray.Dataset
        As of `open_cohort`.

    Raises
    ------
    InputError
        Shapes that differ, an affine with other axes, a mask that does not overlap the maps, labels that are missing or
        not unique, or too few.
    GridMismatch
        The mask is a DataArray on another grid.
    """
    if not isinstance(maps, Mapping):
        raise InputError(f"maps are named arrays, maps={{'effect': array}}, not a {type(maps).__name__}.")
    arrays = {name: _floating(array) for name, array in maps.items()}
    if not arrays:
        raise InputError("No map was given: maps={'effect': array}.")
    check_names("map", arrays)
    shapes = {array.shape for array in arrays.values()}
    shape = next(iter(shapes))
    if len(shapes) > 1 or len(shape) != 4:
        raise InputError(f"Maps must be of one shape (subjects, x, y, z); these are {listing(sorted(shapes))}.")
    matrix = np.asarray(affine, float)
    if canonical_axes(matrix) != (0, 1, 2):
        raise InputError("The array axes do not run along x, y and z. Transpose the arrays and permute the affine.")
    grid = Grid.from_affine((shape[1], shape[2], shape[3]), matrix)
    table = _participants(participants, shape[0])
    _refuse_infinities(arrays, table.index)
    dims = (SUBJECT, *SPACE)
    cohort = xr.Dataset(
        {name: (dims, array) for name, array in arrays.items()},
        coords={
            SUBJECT: table.index.to_numpy(dtype=str),
            **covariates(table, maps=arrays, leave_out=[]),
        },
    ).assign_coords(grid.coords())
    cohort = cohort.assign_coords(mask=(SPACE, _mask(located(mask, storage_options), arrays, grid)))
    if all(isinstance(array, np.ndarray) for array in arrays.values()):
        cohort = cohort.assign(n_valid=(SPACE, _n_valid(arrays)))
    return with_counted_subjects(annotate(cohort, "cohort", provenance=record("from_arrays")))


def _floating(array: ArrayLike | da.Array) -> NDArray[np.floating] | da.Array:
    data = array if isinstance(array, da.Array) else np.asarray(array)
    if data.dtype.kind not in "iufb":
        raise InputError(f"Maps must hold real numbers, not {data.dtype}.")
    return data if data.dtype.kind == "f" else data.astype(np.float64)


def _refuse_infinities(arrays: Mapping[str, Any], labels: pd.Index) -> None:
    for name, array in arrays.items():
        if isinstance(array, np.ndarray) and np.isinf(array).any():
            who = labels[np.flatnonzero(np.isinf(array).any(axis=(1, 2, 3)))]
            raise InputError(f"The map {name!r} holds infinite values for {listing(who)}. Mark missing values as NaN.")


def _participants(participants: pd.DataFrame | None, n: int) -> pd.DataFrame:
    if participants is None:
        return pd.DataFrame(index=pd.Index([f"sub-{i + 1:04d}" for i in range(n)]))
    if not isinstance(participants, pd.DataFrame):
        raise InputError(f"participants are a DataFrame, indexed by label, not a {type(participants).__name__}.")
    if len(participants) != n:
        raise InputError(f"The participants table has {len(participants)} rows, the maps have {n} subjects.")
    refuse_missing_labels("The participants table", "label", participants.index.to_series())
    labels = participants.index.astype(str)
    if labels.has_duplicates:
        raise InputError(f"Subject labels must be unique; these are not: {listing(labels[labels.duplicated()])}.")
    return participants.set_axis(labels, axis=0)


def _n_valid(arrays: Mapping[str, Any]) -> NDArray[np.int32]:
    valid = np.logical_and.reduce([~np.isnan(array) for array in arrays.values()])
    return np.asarray(valid.sum(axis=0, dtype=np.int32))


def _mask(mask: AnalysisMask | None, arrays: Mapping[str, Any], grid: Grid) -> NDArray[np.bool_]:
    if mask is not None:
        return given_mask(mask, grid)
    if any(isinstance(array, da.Array) for array in arrays.values()):
        return np.ones(grid.shape, dtype=bool)
    complete = _n_valid(arrays) == len(next(iter(arrays.values())))
    informative = [(array != 0).any(axis=0) for array in arrays.values()]
    return np.asarray(np.logical_and.reduce([complete, *informative]))
