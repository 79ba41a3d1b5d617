"""`stack`: from NIfTI maps and a participants table to one cohort in a store."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from dask.delayed import delayed
from numpy.typing import NDArray

from voxstack import plan
from voxstack.errors import InputError, VoxstackWarning
from voxstack.io.sources import MapSpec, image_columns, resolve_maps
from voxstack.io.tables import covariates, read_participants
from voxstack.progress import track
from voxstack.provenance import record
from voxstack.run import Task, run, threads_per_task, worker_memory
from voxstack.schema import SPACE
from voxstack.store import layout
from voxstack.store.location import Location
from voxstack.store.lock import one_writer
from voxstack.store.mask import Mask, choose_mask, mask_name, resolve_mask
from voxstack.store.open import open_cohort
from voxstack.store.target import Target
from voxstack.store.writer import Batch, Coverage, Placed, place, write_batch, zero_warning


def stack(
    participants: pd.DataFrame | str | Path,
    store: str | Path,
    *,
    maps: Mapping[str, MapSpec],
    label: str = "participant_id",
    mask: Mask = "intersection",
    zero_is_missing: bool = False,
    dtype: Literal["float32", "float64"] = "float32",
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Stack subject maps into one labelled, chunked cohort.

    Every header is opened first, so all files that are missing, broken or on another lattice are reported together
    before anything is written. Then batches of subjects are read and written in parallel, on the active Dask client or
    on threads, and the cohort is published by writing its root metadata last.

    Parameters
    ----------
    participants
        DataFrame, or path of a TSV or CSV file. Its columns become covariates, but for those of images or their paths.
    store
        Folder (or URL of an object store) to write.
    maps
        For each map's name one of: a column that holds paths or in-memory images; a pattern over the table's columns
        such as ``"maps/{participant_id}.nii.gz"``; one 4-D image, whose volume i is row i of the table. Relative paths
        start at the table's folder (the current folder for a DataFrame). .nii, .nii.gz and .hdr/.img, Analyze too.
    label
        Column, or index, of the subject labels, which must be unique.
    mask
        Voxels that are analysed: "intersection", those where every subject has data; a fraction in (0, 1] of the
        subjects that must have data; or a path or image, brought to the grid by nearest neighbour, outside of which
        nothing is kept. Voxels that are 0 or missing in every subject are never part of the mask.
    zero_is_missing
        Take exact zeros for missing values.
    dtype
        Type of the stored maps.
    overwrite
        Replace a cohort that is there. In a folder the old one stays until the new one is whole; in an object store it
        goes once all headers are checked.
    storage_options
        Credentials and settings of an object store.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        The cohort, as of `open_cohort`.

    Raises
    ------
    InputError
        The table, a map or the mask is not what it has to be.
    GridMismatch
        Images on several lattices; all are named. Left-right flipped copies of one lattice are no mismatch.
    StoreError
        Something is at `store` already.
    """
    # Validate
    table, folder = read_participants(participants, label)
    sources = resolve_maps(table, folder, maps)
    kept = covariates(table, maps=maps, leave_out=image_columns(table, maps))
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
    target = Target.claim(Location.of(store, storage_options), overwrite=overwrite)
    labels = [str(subject) for subject in table.index]
    grid, placed = place(sources, labels)
    explicit, fraction = resolve_mask(mask, grid)
    readers = threads_per_task(-(-len(labels) // plan.SUBJECTS_PER_CHUNK))
    memory = worker_memory() * readers  # tasks that use several threads are as many fewer
    itemsize = np.dtype(dtype).itemsize
    size = plan.subjects_per_batch(len(labels), grid.shape, itemsize=itemsize, readers=readers, memory=memory)

    with one_writer(target.final):
        # Compute
        target = Target.claim(target.final, overwrite=overwrite)  # another writer may have finished meanwhile
        zarr_store = target.begin()
        template = layout.cohort_template(grid, labels, kept, list(maps), dtype)
        layout.write_maps_metadata(zarr_store, template, list(maps), size)
        n_batches = -(-len(labels) // size)
        tasks = _batches(placed, target.building, explicit, zero_is_missing=zero_is_missing, size=size, readers=readers)
        coverage: Coverage | None = None
        for _, counted in track(run(tasks), total=n_batches, description="stack", visible=progress):
            coverage = counted if coverage is None else coverage + counted
        assert coverage is not None

        # Conclude
        chosen = choose_mask(coverage, explicit, fraction, len(labels), mask)
        cohort = template.assign_coords(mask=(SPACE, chosen)).assign(n_valid=(SPACE, coverage.n_valid))
        details = {"maps": list(maps), "mask": mask if isinstance(mask, float | int) else mask_name(mask),
                   "zero_is_missing": zero_is_missing, "dtype": dtype}  # fmt: skip
        layout.publish(zarr_store, cohort, list(maps), size, record("stack", **details))
        target.finish()
    warning = zero_warning(coverage, chosen, len(labels), list(maps))
    if warning is not None:
        warnings.warn(warning, VoxstackWarning, stacklevel=2)
    return open_cohort(store, storage_options=storage_options)


def _batches(
    placed: Mapping[str, list[Placed]],
    location: Location,
    mask: NDArray[np.bool_] | None,
    *,
    zero_is_missing: bool,
    size: int,
    readers: int,
) -> Iterator[Task]:
    n = len(next(iter(placed.values())))
    outside = None if mask is None else ~mask
    for start in range(0, n, size):
        images = {name: of_map[start : start + size] for name, of_map in placed.items()}
        batch = Batch(start, images, location, outside, zero_is_missing, readers)
        work = delayed(write_batch, pure=False)(delayed(batch, traverse=False))
        yield Task(start, work)
