"""The folder of a run: its maps and its `results.zarr`, which belong together."""

from pathlib import Path

import xarray as xr

from voxstack.export.maps import make_folder, remove_maps, staged_maps
from voxstack.export.results import open_results, save_results

RESULTS = "results.zarr"


def write_folder(dataset: xr.Dataset, folder: Path, *, overwrite: bool = False, log10_p: bool = False) -> list[Path]:
    """Write the maps of a computed result and the result itself into a folder.

    Parameters
    ----------
    dataset
        Of `contrast`, `fit_glm` or `permutation_test`.
    folder
        Made if it is not there.
    overwrite
        Replace what an earlier run has written there, maps of contrasts that are gone included.
    log10_p
        See `write_maps`.

    Returns
    -------
    list of Path
        The images.

    Raises
    ------
    StoreError
        Results are there that may not be replaced, or the folder cannot be written. All files that were there are as
        they were then.
    """
    results = folder / RESULTS
    make_folder(folder)
    with staged_maps(dataset, folder, log10_p=log10_p) as paths:
        old = open_results(results) if overwrite and results.exists() else None
        save_results(dataset, results, overwrite=overwrite)
    if old is not None:
        remove_maps(old, folder, keep=paths)
    return paths
