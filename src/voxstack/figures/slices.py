"""Maps as slices of a brain, drawn by nilearn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import nibabel as nib
import numpy as np
import xarray as xr

from voxstack.checks import check_number
from voxstack.errors import InputError
from voxstack.figures.drawing import (
    check_map,
    colours_of,
    drawing,
    drawn,
    image_of,
    nothing_may_pass,
    template_for,
    title_of,
)
from voxstack.grid import Grid
from voxstack.schema import SPACE, SUBJECT, map_names
from voxstack.store.coverage import counts_other_subjects

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Background = str | Path | nib.spatialimages.SpatialImage


def plot_slices(
    stat_map: xr.DataArray,
    *,
    threshold: float = 0.0,
    title: str | None = None,
    direction: Literal["x", "y", "z"] = "z",
    cuts: int | Sequence[float] = 7,
    background: Background | None = None,
    vmax: float | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> "Figure":
    """Slices of a map on a background.

    Parameters
    ----------
    stat_map : (x, y, z)
        Such as ``result.z_score.sel(contrast="age")``; NaN is not drawn. p-values are drawn as -log10 p.
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
    vmax
        Value of the last colour; by default the largest of the map.
    storage_options
        Credentials and settings for the URL of the background.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    VoxstackError
        nilearn and matplotlib are not installed (``pip install 'voxstack[report]'``).
    """
    plt, plotting = drawing()
    check_map(stat_map)
    shown = drawn(stat_map)
    image = image_of(shown)
    if direction not in SPACE:
        raise InputError(f"direction must be 'x', 'y' or 'z', not {direction!r}.")
    if isinstance(cuts, int | np.integer):
        check_number("cuts, or a list of positions in mm,", cuts, 1)
        positions = _cuts(stat_map, SPACE.index(direction), int(cuts))
    else:
        positions = [float(p) for p in cuts]
    figure = plt.figure(figsize=(1.9 * len(positions) + 0.8, 2.9))
    with nothing_may_pass():
        plotting.plot_stat_map(
            image,
            bg_img=template_for(image, background, storage_options),
            threshold=max(threshold, np.finfo(float).tiny),
            display_mode=direction,
            cut_coords=positions,
            figure=figure,
            axes=(0, 0, 1, 0.86),  # nilearn would write the title over the first slice
            draw_cross=False,
            resampling_interpolation="nearest",  # of oblique grids: nothing is drawn but values of the map
            black_bg=False,
            **colours_of(shown, vmax),
        )
    figure.suptitle(title_of(shown) if title is None else title, x=0.01, ha="left")
    drawn_figure: Figure = figure
    return drawn_figure


def plot_coverage(
    cohort: xr.Dataset,
    *,
    background: Background | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> "Figure":
    """Slices of the share of subjects that have data.

    Parameters
    ----------
    cohort
        Of `open_cohort` or `stack`.
    background, storage_options
        As of `plot_slices`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        The cohort does not count its subjects with data, or did so for others than it has now.
    """
    if "n_valid" not in cohort.variables:
        raise InputError("The cohort does not count its valid subjects (n_valid): open a stored one.")
    if counts_other_subjects(cohort):
        raise InputError(
            f"n_valid was not counted for the {cohort.sizes[SUBJECT]} subjects of this cohort, but before some were "
            "selected or added. Plot the cohort as it was opened, or count anew: "
            f"plot_slices(cohort[{map_names(cohort)[0]!r}].notnull().mean('subject').compute())."
        )
    share = cohort["n_valid"] / cohort.sizes[SUBJECT]
    return plot_slices(
        share.where(share > 0),
        title=f"share of {cohort.sizes[SUBJECT]} subjects with data",
        background=background,
        vmax=1.0,
        storage_options=storage_options,
    )


def _cuts(stat_map: xr.DataArray, axis: int, n_slices: int) -> list[float]:
    """Positions in world mm spread evenly over the part of the map that holds values."""
    known = stat_map.transpose(*SPACE).notnull().values
    voxels = np.argwhere(known | ~known.any())  # the whole grid, where nothing is known
    held = nib.affines.apply_affine(Grid.from_dataset(stat_map).affine, voxels)[:, axis]
    return [float(p) for p in np.unique(np.round(np.linspace(held.min(), held.max(), n_slices + 2)[1:-1]))]
