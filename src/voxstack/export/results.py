"""Results as stores: the same labelled dataset, to be opened again."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import xarray as xr

from voxstack.computation import compute
from voxstack.errors import InputError, StoreError, writing
from voxstack.export.files import make_folder
from voxstack.schema import validate
from voxstack.store import keys
from voxstack.store.encoding import encode
from voxstack.store.location import Location
from voxstack.store.open import read
from voxstack.store.published import ROOT

_KINDS = ("contrast", "fit", "permutation", "discoveries")


def save_results(
    dataset: xr.Dataset, store: str | Path, *, overwrite: bool = False, storage_options: Mapping[str, Any] | None = None
) -> None:
    """Save a result, to be opened again by `open_results`.

    Parameters
    ----------
    dataset
        Of `contrast`, `fit_glm` or `permutation_test`; what is lazy is computed.
    store
        Folder or URL to write.
    overwrite
        Replace a result that is there, once the new one is whole.
    storage_options
        Credentials and settings of an object store.

    Raises
    ------
    StoreError
        Something is there already, and is no result or `overwrite` is not set; or the place cannot be written. What was
        there is whole then.
    """
    validate(dataset, *_KINDS)
    for name in ("contrast", "regressor"):
        if name in dataset.coords and name not in dataset.dims:
            raise InputError(
                f"The result has lost its dimension {name}. Select with a list to keep it: .sel({name}=[...])."
            )
    location = Location.of(store, storage_options)
    check_target(location, overwrite=overwrite)
    if location.path is not None:
        make_folder(location.path.parent)
    content = encode(compute(dataset), {})
    if location.path is not None:
        with writing(location):
            _replace_folder(location.path.resolve(), content)
        return
    target = location.open(read_only=False)
    keys.delete(target, [ROOT])  # first, so that no reader sees half of it
    keys.delete_everything(target)
    keys.put(target, content)


def _replace_folder(folder: Path, content: Mapping[str, bytes]) -> None:
    """Write a store beside another one, and put it in its place when it is whole."""
    run = uuid4().hex[:8]
    new, old = (folder.with_name(f"{folder.name}.{run}.{state}") for state in ("partial", "replaced"))
    try:
        keys.put(Location(str(new)).open(read_only=False), content)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def check_target(location: Location, *, overwrite: bool) -> None:
    """Refuse to write a result over anything but an old result that may be replaced."""
    if location.path is not None:
        with writing(location):  # a name that is too long, or a folder that may not be looked into
            exists = location.path.exists()
        if not exists:
            return
        if not location.path.is_dir():
            raise StoreError(f"{location} is a file; a result needs a folder. Choose another place.")
    if location.path is None and not keys.exists(location.open(read_only=True), ROOT):
        return
    if not overwrite:
        raise StoreError(f"{location} exists already. Choose another place, or replace it with overwrite=True.")
    read(location, _KINDS)  # refuses what is not a result


def open_results(store: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> xr.Dataset:
    """Open what `save_results` wrote.

    Parameters
    ----------
    store
        Folder or URL.
    storage_options
        Credentials and settings of an object store.

    Returns
    -------
    xarray.Dataset
        As it was saved; its maps stay on disk until they are used.

    Raises
    ------
    StoreError
        Nothing there, not a result, or written by a newer voxstack.
    """
    return read(Location.of(store, storage_options), _KINDS)
