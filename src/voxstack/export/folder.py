"""The folder of a run: its maps, its `results.zarr` and what is told of the run, which belong together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from voxstack.errors import writing
from voxstack.export.files import json_file, make_folder, staged
from voxstack.export.maps import contents_of_maps, file_names, places_of_maps
from voxstack.export.results import check_target, open_results, save_results
from voxstack.io.places import Place, Remote, place_of
from voxstack.store.location import Location
from voxstack.store.published import ROOT

RESULTS, RECORD = "results.zarr", "provenance.json"


def write_folder(
    dataset: xr.Dataset,
    folder: str | Path | Remote,
    *,
    overwrite: bool = False,
    log10_p: bool = False,
    record: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Write the maps of a computed result and the result itself into a folder.

    In a folder of this machine the maps are written first, under other names, then `results.zarr` is published, and the
    maps are renamed last: what fails until then leaves all that was there. A process that is killed while they are
    renamed leaves maps of both runs, or old ones beside the new `results.zarr`; the call with `overwrite` puts that
    right. At a URL `results.zarr` comes last.

    Parameters
    ----------
    dataset
        Of `contrast`, `fit_glm` or `permutation_test`.
    folder
        Made if it is not there; or a URL.
    overwrite
        Replace what an earlier run has written there, maps of contrasts that are gone included.
    log10_p
        See `write_maps`.
    record
        What is told of the run, in plain values, for provenance.json: times and command line, which no store holds.
    storage_options
        Credentials and settings for a URL.

    Returns
    -------
    list of Path, or of str for a URL
        The images.

    Raises
    ------
    StoreError
        Results are there that may not be replaced, or the folder cannot be written. All files that were there are as
        they were then. Objects at a URL that could not be written to its end may be new ones; `results.zarr`, which
        marks a run as complete, is not there then.
    """
    place = place_of(folder, storage_options)
    results = place / RESULTS
    make_folder(place)
    old: set[str] = set()
    if overwrite and (results / ROOT).exists():
        found = _open(results)
        old = file_names(found, log10_p=False) | file_names(found, log10_p=True) | {RECORD}
    contents = _contents(dataset, place, log10_p, record)
    if isinstance(results, Remote):
        _put(dataset, results, contents, overwrite=overwrite)
    else:
        with staged(contents):
            save_results(dataset, results, overwrite=overwrite)
    with writing(place):
        for name in old - file_names(dataset, log10_p=log10_p) - (set() if record is None else {RECORD}):
            (place / name).unlink(missing_ok=True)
    return places_of_maps(dataset, place, log10_p=log10_p)


def _open(results: Path | Remote) -> xr.Dataset:
    if isinstance(results, Remote):
        return open_results(results.url, storage_options=results.storage_options)
    return open_results(results)


def _contents(
    dataset: xr.Dataset, place: Place, log10_p: bool, record: Mapping[str, Any] | None
) -> Iterator[tuple[Place, bytes]]:
    """Of all files beside `results.zarr`."""
    yield from contents_of_maps(dataset, place, log10_p=log10_p)
    if record is not None:
        yield place / RECORD, json_file(record)


def _put(dataset: xr.Dataset, results: Remote, contents: Iterator[tuple[Place, bytes]], *, overwrite: bool) -> None:
    """Nothing is put before all files are made, and what marks a run as complete, the result's root, comes last."""
    with writing(results.parent):
        check_target(Location.of(results), overwrite=overwrite)
        for place, content in list(contents):
            place.write_bytes(content)
        save_results(dataset, results.url, overwrite=overwrite, storage_options=results.storage_options)
