"""Result maps as files: one NIfTI image and one JSON sidecar each, with BIDS-style names."""

import gzip
import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.computation import compute
from voxstack.errors import InputError, listing, writing
from voxstack.export.nifti import to_nifti
from voxstack.kernels.pvalues import Alternative, z_to_log10p
from voxstack.schema import SPACE, validate

_STATS = {
    "effect": "effect",
    "variance": "variance",
    "cohens_d": "cohensd",
    "partial_r2": "partialr2",
    "ci_lower": "cilower",
    "ci_upper": "ciupper",
}
"""What file names call the maps of a contrast, beside those whose names depend on the contrast or on options."""

_OF_T = frozenset({"effect", "variance", "cohens_d", "ci_lower", "ci_upper"})  # NaN for F
_INFINITE = {"greater": "ci_upper", "less": "ci_lower"}  # in every voxel, which many programs cannot read


@dataclass(frozen=True)
class _Map:
    """A map to be written.

    Attributes
    ----------
    entities
        Parts of the file's name, in order.
    variable, selection
        Where it is in the dataset.
    meta
        What its sidecar says beside the provenance.
    """

    entities: Mapping[str, str]
    variable: str
    selection: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


def write_maps(dataset: xr.Dataset, folder: str | Path, *, prefix: str = "", log10_p: bool = False) -> list[Path]:
    """Write every map of a result as NIfTI, with a JSON sidecar that says what it is.

    Parameters
    ----------
    dataset
        Of `contrast` or `fit_glm`; what is lazy is computed, all together.
    folder
        Made if it is not there. Files of the same name are replaced, once all new ones are written.
    prefix
        In front of each name, such as ``"task-rest_"``.
    log10_p
        Write -log10 of p-values (``stat-log10p``) in their place. It comes from z, so it is finite where p underflows.

    Returns
    -------
    list of Path
        The images: ``contrast-age_stat-t_statmap.nii.gz`` (or F), and in place of t ``z``, ``p``, ``effect`` and
        ``variance`` (t contrasts), as well as ``cohensd``, ``partialr2``, ``cilower`` and ``ciupper`` where `contrast`
        was asked for them (all but ``partialr2`` of t contrasts); ``stat-dof_statmap.nii.gz`` where it differs between
        voxels; ``regressor-age_stat-beta_statmap.nii.gz``, ``stat-residualvariance`` and ``stat-dof`` for a fit.
        Labels keep their letters and digits. Of a one-sided confidence interval only the finite bound is written: the
        other one is infinite everywhere. Values are float32, or float64 where that cannot hold them; p and dof are
        float64; NaN outside the mask.

    Raises
    ------
    InputError
        Not a result, or two maps whose names would be the same.
    StoreError
        The folder cannot be written; the files that were there are as they were.
    """
    map_file_names(dataset, prefix=prefix, log10_p=log10_p)
    folder = Path(folder)
    make_folder(folder)
    with staged_maps(compute(dataset), folder, prefix=prefix, log10_p=log10_p) as paths:
        return paths


@contextmanager
def staged_maps(dataset: xr.Dataset, folder: Path, *, prefix: str = "", log10_p: bool = False) -> Iterator[list[Path]]:
    """Write the maps of a computed result under other names, and rename them all if what is done meanwhile succeeds."""
    paths = [folder / name for name in map_file_names(dataset, prefix=prefix, log10_p=log10_p)]
    staged: dict[Path, Path] = {}
    try:
        with writing(folder):
            for path, one in zip(paths, _planned(dataset, log10_p), strict=True):
                for place, content in ((_sidecar_of(path), _sidecar(dataset, one)), (path, _image(dataset, one))):
                    if place.is_dir():
                        raise IsADirectoryError(f"{place} is a folder")
                    staged[place] = place.with_name(f"{place.name}.partial")
                    staged[place].write_bytes(content)
        yield paths
        with writing(folder):
            for place, partial in staged.items():
                partial.replace(place)
    finally:
        for partial in staged.values():
            partial.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """A folder to write into; `StoreError` where that cannot be, before anything is computed for it."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{uuid4().hex}.partial"
        try:
            probe.touch()
        except OSError as error:
            error.filename = str(folder)  # the name of the probe tells nobody anything
            raise
        probe.unlink()


def map_file_names(dataset: xr.Dataset, *, prefix: str = "", log10_p: bool = False) -> list[str]:
    """Names of the images that `write_maps` writes, computing nothing; `InputError` where two would be the same."""
    validate(dataset, "contrast", "fit")
    along = "contrast" if dataset.attrs["kind"] == "contrast" else "regressor"
    if along not in dataset.dims or not set(SPACE) <= set(dataset.dims):
        raise InputError(
            f"The result has lost a dimension: it has {listing(dataset.dims)}. Select with a list to keep it, such as "
            f".sel({along}=['age']) or .isel(z=[0]); to_nifti takes single maps of any kind."
        )
    unusable = re.sub(r"[\w.-]", "", prefix)
    if unusable:
        raise InputError(f"The prefix {prefix!r} has {unusable!r}, which file names should not have.")
    names = [
        prefix + "_".join(f"{key}-{_label(value)}" for key, value in one.entities.items()) + "_statmap.nii.gz"
        for one in _planned(dataset, log10_p)
    ]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"Several maps would be called {listing(sorted(twice))}. Give the contrasts other names.")
    return names


def remove_maps(dataset: xr.Dataset, folder: Path, *, keep: Container[Path]) -> None:
    """Remove the images and sidecars that `write_maps` wrote of a result, without a prefix, but for some images."""
    names = {name for log10_p in (False, True) for name in map_file_names(dataset, log10_p=log10_p)}
    with writing(folder):
        for name in (name for name in names if folder / name not in keep):
            (folder / name).unlink(missing_ok=True)
            _sidecar_of(folder / name).unlink(missing_ok=True)


def _planned(dataset: xr.Dataset, log10_p: bool) -> list[_Map]:
    return list(_of_contrasts(dataset, log10_p) if dataset.attrs["kind"] == "contrast" else _of_fit(dataset))


def _of_contrasts(result: xr.Dataset, log10_p: bool) -> Iterator[_Map]:
    for name in result["contrast"].values:
        one = result[["stat_type", "dof_num", "dof"]].sel(contrast=name)
        stat_type = str(one["stat_type"].item())
        meta = _contrast_meta(result, str(name), one, stat_type)
        stats = _STATS | {"stat": stat_type, "z_score": "z", "p_value": "log10p" if log10_p else "p"}
        empty = {_INFINITE.get(result.attrs["alternative"])} if stat_type == "t" else _OF_T
        for variable, stat in stats.items():
            if variable not in result or variable in empty:
                continue
            described = result[variable].attrs["long_name"]
            if stat == "log10p":
                described = f"-log10 of the {described}"
            level = result[variable].attrs.get("confidence")
            more = {"Description": described} | ({} if level is None else {"ConfidenceLevel": level})
            yield _Map({"contrast": str(name), "stat": stat}, variable, {"contrast": str(name)}, meta | more)
    if result["dof"].dims == SPACE:
        yield _Map({"stat": "dof"}, "dof", meta={"Description": result["dof"].attrs["long_name"]})


def _contrast_meta(result: xr.Dataset, name: str, one: xr.Dataset, stat_type: str) -> dict[str, Any]:
    provenance = result.attrs["provenance"]
    if name not in provenance["contrasts"]:
        raise InputError(
            f"The result does not say what {name!r} is: it was renamed or put together after contrast, which knows "
            f"{listing(provenance['contrasts'])}. Name contrasts when testing: contrast(fit, {{'name': ...}})."
        )
    rows = np.atleast_2d(provenance["contrasts"][name])
    weights = [{r: float(w) for r, w in zip(provenance["regressors"], row, strict=True) if w != 0} for row in rows]
    meta: dict[str, Any] = {"Contrast": name, "StatType": stat_type, "Weights": weights}
    meta["Alternative"] = result.attrs["alternative"] if stat_type == "t" else "F is one-sided"
    if stat_type == "F":
        meta["NumeratorDegreesOfFreedom"] = int(one["dof_num"])
    shared = one["dof"].ndim == 0
    return meta | {"DegreesOfFreedom": float(one["dof"]) if shared else "differ between voxels: stat-dof_statmap"}


def _of_fit(fit: xr.Dataset) -> Iterator[_Map]:
    for regressor in map(str, fit["regressor"].values):
        meta = {"Regressor": regressor, "Description": fit["beta"].attrs["long_name"]}
        yield _Map({"regressor": regressor, "stat": "beta"}, "beta", {"regressor": regressor}, meta)
    for variable in ("residual_variance", "dof"):
        yield _Map({"stat": variable}, variable, meta={"Description": fit[variable].attrs["long_name"]})


def _label(text: str) -> str:
    """BIDS labels are made of letters and digits."""
    label = re.sub(r"[\W_]", "", text)
    if not label:
        raise InputError(f"{text!r} has no letter or digit to name a file with. Give the contrast another name.")
    return label


def _sidecar_of(image: Path) -> Path:
    return image.with_name(image.name.removesuffix(".nii.gz") + ".json")


def _sidecar(dataset: xr.Dataset, one: _Map) -> bytes:
    told = {**one.meta, "Provenance": dataset.attrs["provenance"]}
    return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()


def _image(dataset: xr.Dataset, one: _Map) -> bytes:
    stat, data = one.entities["stat"], dataset[one.variable].sel(one.selection)
    if stat == "log10p":
        at = dataset.sel(one.selection)
        alternative: Alternative = dataset.attrs["alternative"] if at["stat_type"].item() == "t" else "greater"
        data = data.copy(data=z_to_log10p(at["z_score"].values, alternative))
    wide = stat in ("p", "dof") or not _fits_float32(data.values)
    image = to_nifti(data.astype(np.float64 if wide else np.float32))
    image.header["descrip"] = stat.encode()
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _fits_float32(values: NDArray[np.float64]) -> bool:
    """Whether no value vanishes or overflows; units such as Tesla squared make variances of 1e-50."""
    size = np.abs(values[np.isfinite(values) & (values != 0)])
    limits = np.finfo(np.float32)
    return bool(not size.size or (size.min() >= limits.tiny and size.max() <= limits.max))
