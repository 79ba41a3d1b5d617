"""Results as stores: the same labelled dataset, to be opened again."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xarray as xr
from zarr.abc.store import Store

from voxstack.computation import compute
from voxstack.errors import InputError, StoreError, writing
from voxstack.export.files import make_folder
from voxstack.schema import validate
from voxstack.store import keys
from voxstack.store.encoding import encode
from voxstack.store.location import Location
from voxstack.store.lock import LOCK, Lock, one_writer
from voxstack.store.open import read
from voxstack.store.published import ROOT, Published, key_encoding
from voxstack.store.standing import check_apart, sweep
from voxstack.store.unfinished import RESULT

_KINDS = ("contrast", "fit", "permutation", "discoveries")


def save_results(
    dataset: xr.Dataset,
    store: str | Path,
    *,
    overwrite: bool = False,
    break_lock: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Save a result, to be opened again by `open_results`.

    It is published by writing its root metadata last: readers see the old result or the new one, and a result that was
    opened before says that it was replaced.

    Parameters
    ----------
    dataset
        Of `contrast`, `fit_glm` or `permutation_test`; what is lazy is computed.
    store
        Folder or URL to write.
    overwrite
        Replace a result that is there, once the new one is whole.
    break_lock
        Go on where a run that is dead has left its lock in an object store.
    storage_options
        Credentials and settings of an object store.

    Raises
    ------
    StoreError
        Something is there already, and is no result or `overwrite` is not set; the place lies in another store; another
        call is writing there; or the place cannot be written. What was there is whole then.
    """
    # Validate
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

    # Compute
    computed = compute(dataset)

    # Conclude
    with one_writer(location, break_lock=break_lock) as lock:
        check_target(location, overwrite=overwrite)  # another call may have written there meanwhile
        with writing(location):
            _replace(location, computed, lock)


def _replace(location: Location, dataset: xr.Dataset, lock: Lock) -> None:
    """Write a result beside the one that is there, under other keys, and remove that when the new one is published."""
    store = location.open(read_only=False)
    old = Published.read(store)
    edition = 0 if old is None else _edition(old) + 1
    encoding = {str(n): {"chunk_key_encoding": key_encoding(edition, v.ndim)} for n, v in dataset.variables.items()}
    content = encode(dataset, encoding)
    _sweep(store, old)
    names = [] if old is None else [f"{name}/{ROOT}" for name in old.arrays]
    before = {name: held for name in names if (held := keys.get(store, name)) is not None}
    try:
        root = content.pop(ROOT)
        for key, held in {RESULT: b"", **content, ROOT: root}.items():
            lock.check()
            keys.put(store, {key: held})
    except BaseException:
        with suppress(Exception):  # what is left is swept by the next call
            lock.check()  # else what is there by now is that of the run that has taken it
            _take_back(location, store, old, before)
        raise
    _sweep(store, Published.read(store))


def _edition(published: Published) -> int:
    """0 or 1, as the chunks of a result have keys."""
    metadata = next(iter(published.arrays.values()))
    return int(metadata["chunk_key_encoding"] != key_encoding(0, len(metadata["shape"])))


def _sweep(store: Store, published: Published | None) -> None:
    sweep(store, keep=lambda key: published is not None and published.owns(key))


def _take_back(location: Location, store: Store, old: Published | None, before: Mapping[str, bytes]) -> None:
    """After an error: remove what is of no result, which is the new one unless its root arrived all the same."""
    now = Published.read(store)
    _sweep(store, now)
    if now == old:
        keys.put(store, {key: held for key, held in before.items() if keys.get(store, key) != held})
    if now is None and location.path is not None:
        location.path.rmdir()


def check_target(location: Location, *, overwrite: bool) -> None:
    """Refuse to write a result into a store, or over anything but an old result that may be replaced."""
    _check_there(location, overwrite=overwrite)
    check_apart(location)


def _check_there(location: Location, *, overwrite: bool) -> None:
    if location.path is not None:
        with writing(location):  # a name that is too long, or a folder that may not be looked into
            exists = location.path.exists()
        if not exists:
            return
        if not location.path.is_dir():
            raise StoreError(f"{location} is a file; a result needs a folder. Choose another place.")
    try:
        store = location.open(read_only=True)
        if not keys.exists(store, ROOT):
            stopped = keys.exists(store, RESULT)
            if stopped or keys.some_key(store, but=lambda key: key == LOCK or keys.is_temporary(key)) is None:
                return
    except OSError as error:
        raise StoreError(f"{location} cannot be read: {error}.") from error
    if not overwrite:
        raise StoreError(
            f"{location} exists already. Choose another place, or replace it with overwrite=True (--overwrite)."
        )
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
