"""Maps seen through a glass brain, drawn by nilearn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from voxstack.checks import check_number
from voxstack.errors import InputError
from voxstack.figures.drawing import check_map, colours_of, drawing, drawn, image_of, label, nothing_may_pass, title_of
from voxstack.schema import SPACE, SUBJECT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_glass_brain(
    stat_map: xr.DataArray, *, threshold: float = 0.0, title: str | None = None, vmax: float | None = None
) -> "Figure":
    """A map through a glass brain, from all sides; it has to be in MNI space for the outlines to fit.

    Parameters
    ----------
    stat_map : (x, y, z)
        NaN is not drawn, and p-values are drawn as -log10 p. Of each line of sight the value farthest from 0 is shown.
    threshold
        Values closer to 0 are not drawn.
    title
        Of the figure; by default the map's long name and its contrast.
    vmax
        Value of the last colour; by default the largest of the map.

    Returns
    -------
    matplotlib.figure.Figure
    """
    plt, plotting = drawing()
    check_map(stat_map)
    shown = drawn(stat_map)
    figure = plt.figure(figsize=(10.4, 2.9))
    with nothing_may_pass():
        plotting.plot_glass_brain(
            image_of(shown),
            threshold=max(threshold, np.finfo(float).tiny),
            display_mode="lyrz",
            plot_abs=False,
            colorbar=True,
            resampling_interpolation="nearest",
            figure=figure,
            axes=(0, 0, 1, 0.86),
            black_bg=False,
            **colours_of(shown, vmax),
        )
    figure.suptitle(title_of(shown) if title is None else title, x=0.01, ha="left")
    drawn_figure: Figure = figure
    return drawn_figure


def plot_montage(
    maps: xr.DataArray,
    *,
    subjects: Sequence[str] | None = None,
    threshold: float = 0.0,
    columns: int = 5,
    vmax: float | None = None,
) -> "Figure":
    """Maps of several subjects, through glass brains from above, in one scale of colours.

    Parameters
    ----------
    maps : (subject, x, y, z)
        Such as ``cohort.effect``. Only the subjects that are drawn are read.
    subjects
        Labels; by default the first 20.
    threshold
        Values closer to 0 are not drawn.
    columns
        Of the grid.
    vmax
        Value of the last colour; by default the 99.9th percentile of the absolute values of a map, in the median over
        the maps that are drawn: one that is out of scale does not take the colours from all others.

    Returns
    -------
    matplotlib.figure.Figure
    """
    plt, plotting = drawing()
    if set(maps.dims) != {SUBJECT, *SPACE}:
        raise InputError(f"Maps of subjects have the dimensions subject, x, y and z, not {maps.dims}.")
    check_number("columns", columns, 1)
    known = maps.indexes[SUBJECT].astype(str)
    wanted = list(known[:20] if subjects is None else map(str, subjects))
    strange = [name for name in wanted if name not in known]
    if strange or not wanted:
        raise InputError(f"There is no subject {', '.join(strange) or 'to draw'}.")
    chosen = maps.isel({SUBJECT: known.get_indexer(wanted)}).load()
    if vmax is None:
        vmax = _usual_extreme(chosen) or 1.0
    rows = -(-len(wanted) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 2.6 * rows), squeeze=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.75 / (2.6 * rows), wspace=0.05, hspace=0.15)
    for axis in axes.ravel():
        axis.axis("off")
    for axis, name, number in zip(axes.ravel(), wanted, range(len(wanted)), strict=False):
        one = chosen.isel({SUBJECT: number})
        axis.set_title(label(name, 24), fontsize=9)
        with nothing_may_pass():
            plotting.plot_glass_brain(
                image_of(one),
                threshold=max(threshold, np.finfo(float).tiny),
                display_mode="z",
                plot_abs=False,
                colorbar=False,
                vmax=vmax,
                axes=axis,
                black_bg=False,
            )
    beyond = f", beyond {threshold:g}" if threshold else ""
    figure.suptitle(f"{label(maps.name)}{beyond}, colours from {-vmax:.3g} to {vmax:.3g}", x=0.01, ha="left")
    drawn_figure: Figure = figure
    return drawn_figure


def _usual_extreme(maps: xr.DataArray) -> float:
    """The 99.9th percentile of absolute values, in the median over maps; 0 where all are empty."""
    extremes = abs(maps).quantile(0.999, SPACE)
    return float(extremes.fillna(0).median())
