"""`read_map`: a statistical map of another program as a result that can be thresholded, tabulated and reported."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import xarray as xr
from nibabel.spatialimages import SpatialImage

from voxstack import provenance
from voxstack.errors import InputError
from voxstack.inference.options import check_number, check_real
from voxstack.io.readers import image_source, read_maps
from voxstack.kernels import pvalues
from voxstack.kernels.pvalues import ALTERNATIVES, Alternative
from voxstack.models.inputs import AnalysisMask, mask_inside
from voxstack.schema import SPACE, annotate

MapKind = Literal["z", "t", "F", "p"]


def read_map(
    image: str | Path | SpatialImage,
    *,
    kind: MapKind = "z",
    dof: float | None = None,
    dof_num: int = 1,
    mask: AnalysisMask | None = None,
    alternative: Alternative = "two-sided",
    name: str = "map",
) -> xr.Dataset:
    """Read a statistical map that another program made.

    Parameters
    ----------
    image
        A 3-D image, or its path.
    kind
        What it holds: "z", "t", "F" or "p".
    dof
        Residual degrees of freedom, of t and F.
    dof_num
        Numerator degrees of freedom, of F.
    mask
        Voxels that were tested: an image, a path, or an array (x, y, z) in the order of the grid. By default those that
        are neither 0 nor NaN; of p-values those that are not NaN, since p may be 0.
    alternative
        Of z and t, and what the test of p-values was: "two-sided", "greater" or "less".
    name
        Of the contrast.

    Returns
    -------
    xarray.Dataset
        As of `contrast`, with a single contrast: `p_value`, and `z_score` and `stat` where they are known, float64, NaN
        outside the mask. `dof` is infinite for z.

    Raises
    ------
    InputError
        No such image or mask, several volumes, no degrees of freedom of t or F, or p-values outside of [0, 1].
    """
    if kind not in get_args(MapKind):
        raise InputError(f"kind must be 'z', 't', 'F' or 'p', not {kind!r}.")
    if alternative not in ALTERNATIVES:
        raise InputError(f"alternative must be 'two-sided', 'greater' or 'less', not {alternative!r}.")
    if kind in ("t", "F"):
        check_real(f"dof=, the residual degrees of freedom that a map of {kind} needs,", dof, 0, inside=True)
    check_number("dof_num", dof_num, 1)
    source = image_source(image, "A map")
    header = source.header()
    ((_, raw),) = read_maps([source], [header.order])
    values = np.asarray(raw, dtype=np.float64)
    grid = header.grid()
    there = np.isfinite(values) if kind == "p" else ~np.isnan(values) & (values != 0)
    if mask is not None:
        there = mask_inside(xr.Dataset(coords=grid.coords()), mask) & ~np.isnan(values)
    if not there.any():
        raise InputError(f"{source.name} has no voxel with a value in the mask.")
    values = np.where(there, values, np.nan)
    if kind == "p" and (np.nanmin(values) < 0 or np.nanmax(values) > 1):
        raise InputError(f"{source.name} is said to hold p-values, and has values outside of 0 to 1. Choose kind=.")
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
