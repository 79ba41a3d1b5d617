"""Statistical maps as slices of a brain, drawn by nilearn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import nibabel as nib
import numpy as np
import xarray as xr

from voxstack.errors import InputError, VoxstackError
from voxstack.export.nifti import to_nifti

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MNI_CODE = 4


def plot_slices(
    stat_map: xr.DataArray,
    *,
    threshold: float = 0.0,
    title: str | None = None,
    direction: Literal["x", "y", "z"] = "z",
    cuts: int | Sequence[float] = 7,
    background: str | Path | nib.spatialimages.SpatialImage | None = None,
) -> "Figure":
    """Slices of a statistical map on a background.

    Parameters
    ----------
    stat_map : (x, y, z)
        Such as ``result.z_score.sel(contrast="age")``; NaN is not drawn.
    threshold
        Values closer to 0 are not drawn.
    title
        Of the figure; by default the map's long name and its contrast.
    direction
        Axis that the slices cut.
    cuts
        Positions of the slices in mm, or their number: then evenly over the map's extent.
    background
        Image to draw on. By default nilearn's MNI template for maps in MNI space, else nothing.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    VoxstackError
        nilearn and matplotlib are not installed (``pip install 'voxstack[report]'``).
    """
    try:
        from matplotlib import pyplot as plt
        from nilearn import plotting
        from nilearn.datasets import load_mni152_template
    except ImportError as error:
        raise VoxstackError(
            "Figures need nilearn and matplotlib. Install them with: pip install 'voxstack[report]'."
        ) from error
    if set(stat_map.dims) != {"x", "y", "z"}:
        raise InputError(f"A map has the dimensions x, y and z, not {stat_map.dims}. Select one, such as a contrast.")
    image = to_nifti(stat_map.fillna(0))
    if background is None:
        in_mni = image.header["sform_code"] == _MNI_CODE
        background = load_mni152_template(resolution=2) if in_mni else None
    positions = _cuts(stat_map, direction, cuts) if isinstance(cuts, int) else [float(p) for p in cuts]
    figure = plt.figure(figsize=(1.9 * len(positions) + 0.8, 2.9))
    plotting.plot_stat_map(
        image,
        bg_img=background,
        threshold=max(threshold, np.finfo(float).tiny),
        display_mode=direction,
        cut_coords=positions,
        figure=figure,
        axes=(0, 0, 1, 0.86),  # nilearn would write the title over the first slice
        draw_cross=False,
        black_bg=False,
    )
    figure.suptitle(_title(stat_map) if title is None else title, x=0.01, ha="left")
    return figure


def _cuts(stat_map: xr.DataArray, direction: str, n_slices: int) -> list[float]:
    """Positions in mm spread evenly over the part of the map that holds values."""
    others = [dim for dim in stat_map.dims if dim != direction]
    held = stat_map[direction].values[stat_map.notnull().any(others).values]
    if not held.size:
        raise InputError("The map holds no value: every voxel is missing.")
    return [float(p) for p in np.round(np.linspace(held.min(), held.max(), n_slices + 2)[1:-1])]


def _title(stat_map: xr.DataArray) -> str:
    name = str(stat_map.attrs.get("long_name", stat_map.name))
    return f"{name}: {stat_map['contrast'].item()}" if "contrast" in stat_map.coords else name
