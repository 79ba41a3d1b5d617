"""Result maps as files: one NIfTI image and one JSON sidecar each, with BIDS-style names."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from voxstack.blocks import compute
from voxstack.errors import InputError, listing
from voxstack.export.nifti import to_nifti
from voxstack.kernels.pvalues import Alternative, z_to_log10p
from voxstack.schema import SPACE, validate


@dataclass(frozen=True)
class _Map:
    """A map to be written.

    Attributes
    ----------
    entities
        Parts of the file's name, in order.
    data
        (x, y, z)
    meta
        What its sidecar says beside the provenance.
    """

    entities: Mapping[str, str]
    data: xr.DataArray
    meta: Mapping[str, Any] = field(default_factory=dict)


def write_maps(dataset: xr.Dataset, folder: str | Path, *, prefix: str = "", log10_p: bool = False) -> list[Path]:
    """Write every map of a result as NIfTI, with a JSON sidecar that says what it is.

    Parameters
    ----------
    dataset
        Of `contrast` or `fit_glm`; what is lazy is computed, all together.
    folder
        Made if it is not there. Files of the same name are replaced, each in one step.
    prefix
        In front of each name, such as ``"task-rest_"``.
    log10_p
        Write -log10 of p-values (``stat-log10p``) in their place. It comes from z, so it is finite where p underflows.

    Returns
    -------
    list of Path
        The images: ``contrast-age_stat-t_statmap.nii.gz`` (or F), and in place of t ``z``, ``p``, ``effect`` and
        ``variance`` (t contrasts); ``stat-dof_statmap.nii.gz`` where it differs between voxels;
        ``regressor-age_stat-beta_statmap.nii.gz``, ``stat-residualvariance`` and ``stat-dof`` for a fit. Labels keep
        their letters and digits. Values are float32, p and dof float64; NaN outside the mask.

    Raises
    ------
    InputError
        Not a result, or two maps whose names would be the same.
    """
    validate(dataset, "contrast", "fit")
    unusable = re.sub(r"[\w.-]", "", prefix)
    if unusable:
        raise InputError(f"The prefix {prefix!r} has {unusable!r}, which file names should not have.")
    dataset = compute(dataset)
    maps = list(_of_contrasts(dataset, log10_p) if dataset.attrs["kind"] == "contrast" else _of_fit(dataset))
    names = ["_".join(f"{key}-{_label(value)}" for key, value in m.entities.items()) for m in maps]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise InputError(f"Several maps would be called {listing(sorted(twice))}. Give the contrasts other names.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, one in zip(names, maps, strict=True):
        path = folder / f"{prefix}{name}_statmap.nii.gz"
        sidecar = json.dumps({**one.meta, "Provenance": dataset.attrs["provenance"]}, indent=2, ensure_ascii=False)
        _write_whole(path.with_name(path.name.replace(".nii.gz", ".json")), (sidecar + "\n").encode())
        _write_image(path, one)
        paths.append(path)
    return paths


def _of_contrasts(result: xr.Dataset, log10_p: bool) -> Iterator[_Map]:
    for name in result["contrast"].values:
        one = result.sel(contrast=name)
        stat_type = str(one["stat_type"].item())
        meta = _contrast_meta(result, str(name), one, stat_type)
        stats = {"effect": "effect", "variance": "variance"} if stat_type == "t" else {}
        stats |= {"stat": stat_type, "z_score": "z", "p_value": "p"}
        for variable, stat in stats.items():
            data, described = one[variable], meta | {"Description": one[variable].attrs["long_name"]}
            if variable == "p_value" and log10_p:
                alternative: Alternative = result.attrs["alternative"] if stat_type == "t" else "greater"
                data = data.copy(data=z_to_log10p(one["z_score"].values, alternative).astype(np.float32))
                stat, described = "log10p", described | {"Description": "-log10 of the uncorrected p-value"}
            yield _Map({"contrast": str(name), "stat": stat}, data, described)
    if result["dof"].dims == SPACE:
        yield _Map({"stat": "dof"}, result["dof"], {"Description": result["dof"].attrs["long_name"]})


def _contrast_meta(result: xr.Dataset, name: str, one: xr.Dataset, stat_type: str) -> dict[str, Any]:
    provenance = result.attrs["provenance"]
    rows = np.atleast_2d(provenance["contrasts"][name])
    weights = [{r: float(w) for r, w in zip(provenance["regressors"], row, strict=True) if w != 0} for row in rows]
    meta: dict[str, Any] = {"Contrast": name, "StatType": stat_type, "Weights": weights}
    meta["Alternative"] = result.attrs["alternative"] if stat_type == "t" else "F is one-sided"
    if stat_type == "F":
        meta["NumeratorDegreesOfFreedom"] = int(one["dof_num"])
    shared = one["dof"].ndim == 0
    return meta | {"DegreesOfFreedom": float(one["dof"]) if shared else "differ between voxels: stat-dof_statmap"}


def _of_fit(fit: xr.Dataset) -> Iterator[_Map]:
    for regressor in fit["regressor"].values:
        beta = fit["beta"].sel(regressor=regressor)
        meta = {"Regressor": str(regressor), "Description": beta.attrs["long_name"]}
        yield _Map({"regressor": str(regressor), "stat": "beta"}, beta, meta)
    for variable in ("residual_variance", "dof"):
        yield _Map({"stat": variable}, fit[variable], {"Description": fit[variable].attrs["long_name"]})


def _label(text: str) -> str:
    """BIDS labels are made of letters and digits."""
    label = re.sub(r"[\W_]", "", text)
    if not label:
        raise InputError(f"{text!r} has no letter or digit to name a file with. Give the contrast another name.")
    return label


def _write_image(path: Path, one: _Map) -> None:
    wide = one.entities["stat"] in ("p", "dof")
    image = to_nifti(one.data.astype(np.float64 if wide else np.float32))
    image.header["descrip"] = one.entities["stat"].encode()
    partial = path.with_name(f"{path.name}.partial.nii.gz")
    image.to_filename(partial)
    partial.replace(path)


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
