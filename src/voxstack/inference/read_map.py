"""`read_map`: a statistical map of another program as a result that can be thresholded, tabulated and reported."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import xarray as xr
from nibabel.spatialimages import SpatialImage

from voxstack import provenance
from voxstack.checks import check_number, check_real
from voxstack.errors import InputError, warn
from voxstack.inference.options import MapKind, check_choices
from voxstack.io.places import Place, located
from voxstack.io.readers import image_source
from voxstack.kernels import pvalues
from voxstack.kernels.pvalues import ALTERNATIVES, Alternative
from voxstack.models.inputs import mask_inside
from voxstack.schema import SPACE, annotate
from voxstack.store.mask import AnalysisMask


def read_map(
    image: str | Path | SpatialImage,
    *,
    kind: MapKind | None = None,
    dof: float | None = None,
    dof_num: int | None = None,
    mask: AnalysisMask | None = None,
    alternative: Alternative | None = None,
    name: str = "map",
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Read a statistical map that another program made.

    Parameters
    ----------
    image
        A 3-D image, or its path or URL.
    kind
        What it holds: "z", "t", "F" or "p". By default what the file's name says, as those of `write_maps` do
        (``stat-z``, ``stat-t``, ``stat-F``, ``stat-p``), and "z" where it says nothing. A name that says something
        else, such as ``stat-effect``, needs it.
    dof
        Residual degrees of freedom, of t and F; by default those that the file's JSON sidecar says, if there is one.
    dof_num
        Numerator degrees of freedom, of F; the same.
    mask
        Voxels that were tested: an image, a path, or an array (x, y, z) in the order of the grid. By default those that
        are neither 0 nor NaN; of p-values those that are not NaN, since p may be 0.
    alternative
        Of z and t, and what the test of p-values was: "two-sided", "greater" or "less". By default what the sidecar
        says, or else "two-sided".
    name
        Of the contrast.
    storage_options
        Credentials and settings for the URLs of the image and the mask.

    Returns
    -------
    xarray.Dataset
        As of `contrast`, with a single contrast: `p_value`, and `z_score` and `stat` where they are known, float64, NaN
        outside the mask. `dof` is infinite for z.

    Raises
    ------
    InputError
        No such image or mask, several volumes, no degrees of freedom of t or F, p-values outside of [0, 1], a map that
        was thresholded by `threshold`, or one whose name says that it is none of these kinds.
    """
    place, mask = located(image, storage_options), located(mask, storage_options)
    source = image_source(place, "A map")
    source.header()  # a file that is not there is told before what it would need
    kind, told = _said(place, kind)
    dof = told.get("DegreesOfFreedom") if dof is None else dof
    dof_num = told.get("NumeratorDegreesOfFreedom", 1) if dof_num is None else dof_num
    alternative = told.get("Alternative", "two-sided") if alternative is None else alternative
    check_choices(kind=kind, alternative=alternative)
    if kind in ("t", "F"):
        check_real(f"dof= (--dof), the residual degrees of freedom that a map of {kind} needs,", dof, 0, inside=True)
    check_number("dof_num", dof_num, 1)
    raw, grid = source.read()
    values = np.asarray(raw, dtype=np.float64)
    there = np.isfinite(values) if kind == "p" else ~np.isnan(values) & (values != 0)
    if mask is not None:
        there = mask_inside(xr.Dataset(coords=grid.coords()), mask) & ~np.isnan(values)
    if not there.any():
        raise InputError(f"{source.name} has no voxel with a value in the mask.")
    values = np.where(there, values, np.nan)
    if kind == "p" and (np.nanmin(values) < 0 or np.nanmax(values) > 1):
        raise InputError(f"{source.name} is said to hold p-values, and has values outside of 0 to 1. Choose kind=.")
    if kind == "z" and np.nanmin(values) >= 0 and np.nanmax(values) <= 1:
        warn(f"All values of {source.name} lie from 0 to 1. If they are p-values, say kind='p'.")
    residual = float(np.inf if dof is None else dof)
    maps = {"p_value": values}
    if kind == "z":
        maps = {"z_score": values, "p_value": pvalues.z_to_p(values, alternative)}
    elif kind == "t":
        z, p = pvalues.t_to_z_and_p(values, residual, alternative)
        maps = {"stat": values, "z_score": z, "p_value": p}
    elif kind == "F":
        z, p = pvalues.f_to_z_and_p(values, dof_num, residual)
        maps = {"stat": values, "z_score": z, "p_value": p}
    result = xr.Dataset(
        {key: (("contrast", *SPACE), content[None]) for key, content in maps.items()},
        coords={
            "contrast": [str(name)],
            "stat_type": ("contrast", ["F" if kind == "F" else "t"]),
            "dof_num": ("contrast", [dof_num]),
            "dof": ("contrast", [residual]),
        },
    ).assign_coords(grid.coords())
    result = result.assign_coords(mask=(SPACE, there))
    record = provenance.record("read_map", kind=kind, alternative=alternative, contrasts={str(name): []}, regressors=[])
    result = annotate(result, "contrast", alternative=alternative, provenance=record)
    result["p_value"].attrs["alternative"] = alternative
    return result


def _said(image: Place | SpatialImage, kind: MapKind | None) -> tuple[MapKind, dict[str, Any]]:
    """What a map is, as it is given or by the file's name, and what its sidecar says of use."""
    if not isinstance(image, Place):
        return kind or "z", {}
    stem = re.sub(r"\.(nii|nii\.gz|hdr|img)$", "", image.name)
    if kind is None and re.search(r"desc-fwe\w*_(p|log10p)$|log10p", stem):
        raise InputError(f"{image.name} holds corrected or logarithmic p-values, which cannot be tested again.")
    if re.search(r"(?:^|_)desc-(thresholded|significant)", stem):
        raise InputError(
            f"{image.name} holds only what passed a threshold, so the voxels that were tested are not known. Read the "
            "unthresholded map."
        )
    kind = kind or _named(image.name, stem) or "z"
    sidecar = image.with_name(f"{stem}.json")
    try:
        told = dict(json.loads(sidecar.read_bytes())) if sidecar.is_file() else {}
    except (ValueError, TypeError) as error:
        raise InputError(f"{sidecar} is not JSON: {error}") from error
    known: dict[str, Any] = {}
    if told.get("Alternative") in ALTERNATIVES:
        known["Alternative"] = told["Alternative"]
    if kind in ("t", "F") and isinstance(told.get("DegreesOfFreedom"), int | float):
        known["DegreesOfFreedom"] = float(told["DegreesOfFreedom"])
    if kind in ("t", "F") and isinstance(told.get("NumeratorDegreesOfFreedom"), int | float):
        known["NumeratorDegreesOfFreedom"] = int(told["NumeratorDegreesOfFreedom"])
    return kind, known


def _named(name: str, stem: str) -> MapKind | None:
    """What a file's name says that it holds; None where it says nothing."""
    found = re.search(r"(?:^|_)stat-([^_]+)", stem)
    if found and found[1] in get_args(MapKind):
        return cast("MapKind", found[1])
    if stem.endswith("_p"):  # of any statistic
        return "p"
    if found:
        raise InputError(
            f"{name} is a map of {found[1]!r} by its name. Maps of z, t, F and p can be read; if it is one, say which: "
            "kind='z'."
        )
    return None
