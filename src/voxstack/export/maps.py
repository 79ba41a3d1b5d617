"""Result maps as files: one NIfTI image and one JSON sidecar each, with BIDS-style names."""

import gzip
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, overload

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.computation import compute
from voxstack.errors import InputError, listing
from voxstack.export.files import json_file, make_folder, staged
from voxstack.export.nifti import to_nifti
from voxstack.export.planned import PlannedMap, planned
from voxstack.io.places import Place, Remote, place_of
from voxstack.kernels.pvalues import Alternative, z_to_log10p
from voxstack.schema import SPACE, validate


@overload
def write_maps(
    dataset: xr.Dataset,
    folder: Path,
    *,
    prefix: str = "",
    log10_p: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Path]: ...
@overload
def write_maps(
    dataset: xr.Dataset,
    folder: str,
    *,
    prefix: str = "",
    log10_p: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Any]: ...
def write_maps(
    dataset: xr.Dataset,
    folder: str | Path,
    *,
    prefix: str = "",
    log10_p: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Write every map of a result as NIfTI, with a JSON sidecar that says what it is.

    Parameters
    ----------
    dataset
        Of `contrast`, `fit_glm`, `permutation_test`, `threshold` or `true_discovery_proportion`; what is lazy is
        computed, all together.
    folder
        Folder, made if it is not there, or URL of an object store. Files of the same name are replaced, once all new
        ones are written; at a URL once all are made, each in one step.
    prefix
        In front of each name, such as ``"task-rest_"``.
    log10_p
        Write -log10 of p-values (``stat-log10p``, or names that end in ``_log10p``) in their place. That of `contrast`
        comes from z, so it is finite where p underflows.
    storage_options
        Credentials and settings for a URL.

    Returns
    -------
    list of Path, or of str for a URL
        The images: ``contrast-age_stat-t_statmap.nii.gz`` (or F), and in place of t ``z``, ``p``, ``effect`` and
        ``variance`` (t contrasts), as well as ``cohensd``, ``partialr2``, ``cilower`` and ``ciupper`` where `contrast`
        was asked for them (all but ``partialr2`` of t contrasts); ``stat-dof_statmap.nii.gz`` where it differs between
        voxels; ``regressor-age_stat-beta_statmap.nii.gz``, ``stat-residualvariance`` and ``stat-dof`` for a fit.
        For a permutation test ``contrast-age_stat-t_statmap.nii.gz``, ``contrast-age_stat-voxel_desc-fwe_p.nii.gz``,
        ``contrast-age_stat-voxel_desc-uncorrected_p.nii.gz``, ``contrast-age_stat-tfce_statmap.nii.gz`` and so on.
        Of what `threshold` gives, the map that was thresholded and what is significant:
        ``contrast-age_stat-z_desc-thresholdedfdr_statmap.nii.gz`` and
        ``contrast-age_stat-z_desc-significantfdr_mask.nii.gz``.
        Of true discoveries, for clusters beyond z = 3.1, ``contrast-age_desc-tdpz3p1_statmap.nii.gz`` and
        ``contrast-age_desc-labelz3p1_dseg.nii.gz``. Labels keep their letters and digits. Of a one-sided confidence
        interval only the finite bound is written: the other one is infinite everywhere. Values are float32, or float64
        where that cannot hold them; p and dof are float64; NaN outside the mask.

    Raises
    ------
    InputError
        Not a result, or two maps whose names would be the same.
    StoreError
        The folder cannot be written; the files that were there are as they were.
    """
    map_file_names(dataset, prefix=prefix, log10_p=log10_p)
    target = place_of(folder, storage_options)
    make_folder(target)
    result = compute(dataset)
    with staged(contents_of_maps(result, target, prefix=prefix, log10_p=log10_p)):
        pass
    return places_of_maps(result, target, prefix=prefix, log10_p=log10_p)


def places_of_maps(dataset: xr.Dataset, folder: Place, *, prefix: str = "", log10_p: bool = False) -> list[Any]:
    """Where the images go: paths, or URLs as texts."""
    names = map_file_names(dataset, prefix=prefix, log10_p=log10_p)
    return [place.url if isinstance(place, Remote) else place for place in (folder / name for name in names)]


def contents_of_maps(
    dataset: xr.Dataset, folder: Place, *, prefix: str = "", log10_p: bool = False
) -> Iterator[tuple[Place, bytes]]:
    """The files of a computed result, one by one: each sidecar and its image."""
    names = map_file_names(dataset, prefix=prefix, log10_p=log10_p)
    for name, one in zip(names, planned(dataset, log10_p=log10_p), strict=True):
        yield folder / _sidecar_of(name), _sidecar(dataset, one)
        yield folder / name, _image(dataset, one)


def map_file_names(dataset: xr.Dataset, *, prefix: str = "", log10_p: bool = False) -> list[str]:
    """Names of the images that `write_maps` writes, computing nothing; `InputError` where two would be the same."""
    validate(dataset, "contrast", "fit", "permutation", "discoveries")
    along = "regressor" if dataset.attrs["kind"] == "fit" else "contrast"
    if along not in dataset.dims or not set(SPACE) <= set(dataset.dims):
        raise InputError(
            f"The result has lost a dimension: it has {listing(dataset.dims)}. Select with a list to keep it, such as "
            f".sel({along}=['age']) or .isel(z=[0]); to_nifti takes single maps of any kind."
        )
    unusable = re.sub(r"[\w.-]", "", prefix)
    if unusable:
        raise InputError(f"The prefix {prefix!r} has {unusable!r}, which file names should not have.")
    names = [
        prefix + "_".join(f"{key}-{bids_label(value)}" for key, value in one.entities.items()) + f"_{one.suffix}.nii.gz"
        for one in planned(dataset, log10_p=log10_p)
    ]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"Several maps would be called {listing(sorted(twice))}. Give the contrasts other names.")
    return names


def file_names(dataset: xr.Dataset, *, log10_p: bool) -> set[str]:
    """Of the images and sidecars that `write_maps` writes of a result, without a prefix."""
    images = map_file_names(dataset, log10_p=log10_p)
    return {*images, *map(_sidecar_of, images)}


def bids_label(text: str) -> str:
    """A text as BIDS names files with it: its letters and digits; `InputError` where it has none."""
    label = re.sub(r"[\W_]", "", text)
    if not label:
        raise InputError(f"{text!r} has no letter or digit to name a file with. Give the contrast another name.")
    return label


def _sidecar_of(image: str) -> str:
    return image.removesuffix(".nii.gz") + ".json"


def _sidecar(dataset: xr.Dataset, one: PlannedMap) -> bytes:
    return json_file({**one.meta, "Provenance": dataset.attrs["provenance"]})


def _image(dataset: xr.Dataset, one: PlannedMap) -> bytes:
    stat, data = one.entities.get("stat", one.suffix), dataset[one.variable].sel(one.selection)
    if stat == "log10p" and one.variable == "p_value" and "z_score" in dataset:  # from which p does not underflow
        at = dataset.sel(one.selection)
        alternative: Alternative = dataset.attrs["alternative"] if at["stat_type"].item() == "t" else "greater"
        data = data.copy(data=z_to_log10p(at["z_score"].values, alternative))
    elif one.suffix == "log10p" or (stat == "log10p" and one.variable == "p_value"):
        with np.errstate(divide="ignore"):  # p of another program may be 0
            data = data.copy(data=0.0 - np.log10(data.values))
    if data.dtype.kind in "bi":
        return compressed(to_nifti(data), one.suffix)
    wide = stat in ("p", "dof") or one.suffix == "p" or not _fits_float32(data.values)
    return compressed(to_nifti(data.astype(np.float64 if wide else np.float32)), stat)


def compressed(image: nib.Nifti1Image, description: str) -> bytes:
    """The bytes of a .nii.gz file, the same for the same image."""
    image.header["descrip"] = description.encode()
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _fits_float32(values: NDArray[np.float64]) -> bool:
    """Whether no value vanishes or overflows; units such as Tesla squared make variances of 1e-50."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    limits = np.finfo(np.float32)
    return bool(not size.size or (size.min() >= limits.tiny and size.max() <= limits.max))
