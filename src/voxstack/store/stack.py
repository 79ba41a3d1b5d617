"""`stack`: from NIfTI maps and a participants table to one cohort in a store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import xarray as xr

from voxstack.checks import check_flag, check_options
from voxstack.errors import InputError, StoreError, warn
from voxstack.io.sources import MapSpec, image_columns, resolve_maps
from voxstack.io.subjects import Given, Participants
from voxstack.io.tables import covariates as covariates_of
from voxstack.store.building import Request, build
from voxstack.store.location import Location
from voxstack.store.lock import one_writer
from voxstack.store.mask import Mask, mask_grid, mask_place, resolve_mask
from voxstack.store.open import open_cohort
from voxstack.store.placing import place
from voxstack.store.preparation import Options, Preparation, Resampling, SmoothingMissing
from voxstack.store.standing import Goal, Standing


def stack(
    participants: Participants,
    store: str | Path,
    *,
    maps: Mapping[str, MapSpec] | None = None,
    first_level_contrast: Any = None,
    entities: Mapping[str, Any] | None = None,
    covariates: pd.DataFrame | str | Path | None = None,
    label: str = "participant_id",
    mask: Mask = "intersection",
    zero_is_missing: bool = False,
    resample: Resampling | None = None,
    smoothing_fwhm: float | Sequence[float] | None = None,
    smoothing_missing: SmoothingMissing = "normalise",
    dtype: Literal["float32", "float64"] = "float32",
    append: bool = False,
    overwrite: bool = False,
    break_lock: bool = False,
    allow_outside: bool = False,
    shard: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Stack subject maps into one labelled, chunked cohort.

    Every header is opened first, so all files that are missing, broken or on another lattice are reported together
    before anything is written. Then batches of subjects are read and written in parallel, on the active Dask client or
    on threads, and the cohort is published by writing its root metadata last: readers see the old cohort or the new
    one. A call that was stopped, in whatever way, goes on when it is called again: batches that are
    done and whose files have not changed since are kept.

    Parameters
    ----------
    participants
        DataFrame, or path or URL of a TSV or CSV file. Its columns become covariates, but for those of images or their
        paths. Or what first-level models give: fitted ones, in a list or made one after the other by a generator, such
        as nilearn's ``FirstLevelModel`` (anything with ``compute_contrast`` and ``subject_label``); nilearn's table
        with the columns ``subject_label``, ``map_name`` and ``effects_map_path`` (and ``variance_map_path``, if there
        is one); or a folder of BIDS derivatives, which is looked through for ``sub-..._stat-effect_statmap.nii.gz``.
        These become the maps `effect` and, but for tables and folders without them, `variance`.
    store
        Folder (or URL of an object store) to write.
    maps
        For each map's name one of: a column that holds paths or in-memory images; a pattern over the table's columns
        such as ``"maps/{participant_id}.nii.gz"``; one 4-D image, whose volume i is row i of the table. Relative paths
        start at the table's folder, in an object store too (the current folder for a DataFrame). .nii, .nii.gz and
        .hdr/.img, Analyze too. Not for what first-level models give.
    first_level_contrast
        Of first-level models what their ``compute_contrast`` takes; of nilearn's table the ``map_name``; of a folder
        the entity ``contrast``.
    entities
        Of the maps in a folder, such as ``{"task": "stopsignal", "space": "MNI152NLin2009cAsym"}``; a list where
        several values will do, ``""`` for maps without the entity. What tells maps apart has to be named. Several
        sessions or runs of a subject become rows of their own, such as ``sub-01_ses-1``, with the coordinates
        `participant`, `session` and `run`.
    covariates
        A table of participants, or its path, with a row for each subject that first-level models give (and for others
        perhaps); labels may have ``sub-`` before them in one of the two alone. Of a folder, by default the
        ``participants.tsv`` in it or in the dataset above it.
    label
        Column, or index, of the subject labels, which must be unique.
    mask
        Voxels that are analysed: "intersection", those where every subject has data; a fraction in (0, 1] of the
        subjects that must have data; or a path, URL or image, brought to the grid by nearest neighbour, outside of
        which nothing is kept. Voxels that are 0 or missing in every subject are never part of the mask;
        where maps are smoothed that is judged before, but for voxels inside a mask's image that smoothing reaches.
    zero_is_missing
        Take exact zeros for missing values.
    resample
        "linear" or "nearest": bring images on other lattices to that of the mask's image, or else of the first image.
        None refuses them.
    smoothing_fwhm
        Smooth by a Gaussian of this full width at half maximum in mm; three numbers for x, y and z.
    smoothing_missing
        "normalise": missing values have no weight, and stay missing. "zero": they count as 0 and are filled, as
        nilearn.image.smooth_img does.
    dtype
        Type of the stored maps.
    append
        Add the subjects to the cohort that is there, on its lattice and with the same options; the mask is derived
        anew. Labels that it has already are an error.
    overwrite
        Replace a cohort that is there, which stays until the new one is whole.
    break_lock
        Go on where a run that is dead has left its lock in an object store.
    allow_outside
        Let values of the table lead a pattern out of the folder that it names, such as ``../other/sub-01``. By default
        they are refused.
    shard
        Write shards, each of which holds all chunks of a batch of subjects in a slab of z: few large objects in place
        of many small ones. None writes them to object stores, and plain chunks to folders. What is appended is cut as
        the cohort that is there, and asking for something else is an error.
    storage_options
        Credentials and settings for all URLs: of obstore for s3, gs and az, of fsspec for other protocols.
    source_options
        Those for the table, the images and the mask, where the store needs others.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        The cohort, as of `open_cohort`.

    Raises
    ------
    InputError
        The table, a map, the mask or an option is not what it has to be.
    GridMismatch
        Images on several lattices; all are named. Left-right flipped copies of one lattice are no mismatch.
    StoreError
        Something is at `store` already, it lies in another store, or another call is writing it.

    Warns
    -----
    VoxstackWarning
        Zeros that are taken as data and may mean missing; subjects of a folder or of nilearn's table who lack the
        chosen map; files whose names cannot be read; weights by position over designs that differ; a stopped call whose
        batches cannot be used.
    """
    # Validate
    request, standing = requested(
        Given(participants, maps, label, first_level_contrast, entities, covariates),
        store,
        mask=mask,
        options=Options.check(zero_is_missing, resample, smoothing_fwhm, smoothing_missing, dtype),
        append=append,
        overwrite=overwrite,
        allow_outside=allow_outside,
        shard=shard,
        storage_options=storage_options,
        source_options=source_options,
    )

    # Compute
    with one_writer(request.location, break_lock=break_lock) as lock:
        if Standing.look(request.location) != standing:
            raise StoreError(f"{request.location} was written by another call meanwhile. Call again.")
        warning = build(request, standing, lock, progress=progress)

    # Conclude
    if warning is not None:
        warn(warning)
    return open_cohort(store, storage_options=storage_options)


def requested(
    given: Given,
    store: str | Path,
    *,
    mask: Mask,
    options: Options,
    append: bool,
    overwrite: bool,
    allow_outside: bool,
    shard: bool | None,
    storage_options: Mapping[str, Any] | None,
    source_options: Mapping[str, Any] | None,
) -> tuple[Request, Standing]:
    """What a call of `stack` asks for, and what stands at its place, when all headers have been read and nothing else.

    Parameters, and what is raised, are those of `stack`.
    """
    flags = {"append": append, "overwrite": overwrite, "allow_outside": allow_outside}
    for name, flag in (flags if shard is None else {**flags, "shard": shard}).items():
        check_flag(name, flag)
    check_options("source_options", source_options)
    location = Location.of(store, storage_options)
    if append and overwrite:
        raise InputError("append adds to a cohort and overwrite replaces it; ask for one of them.")
    goal: Goal = "append" if append else "overwrite" if overwrite else "new"
    of_sources = dict((storage_options if source_options is None else source_options) or {})
    # What needs no map comes first: first-level models may compute theirs for hours.
    mask = mask_place(mask, of_sources)
    of_mask = mask_grid(mask)
    standing = Standing.look(location)
    standing.require(goal)
    sharded = standing.sharded(goal, shard)
    (table, maps, first_level), folder = given.read(of_sources)
    labels = [str(subject) for subject in table.index]
    sources = resolve_maps(table, folder, maps, storage_options=of_sources, allow_outside=allow_outside)
    kept = covariates_of(table, maps=maps, leave_out=image_columns(table, maps))
    if given.of_models:  # which others may have used
        standing = Standing.look(location)
        standing.require(goal)
        sharded = standing.sharded(goal, shard)
    grid = standing.grid() if append else of_mask if options.resample is not None else None
    grid, placed = place(sources, labels, grid=grid, resample=options.resample is not None)
    explicit, fraction = resolve_mask(mask, grid)
    preparation = Preparation(options, grid, None if explicit is None else ~explicit)
    return Request(location, goal, labels, kept, placed, preparation, mask, fraction, sharded, first_level), standing
