"""Subjects' values at a voxel against a covariate."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from voxstack.errors import InputError, listing
from voxstack.figures.drawing import drawing, label
from voxstack.grid import at_mm
from voxstack.schema import SUBJECT, covariate_names, map_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_effect(
    cohort: xr.Dataset, covariate: str, at: tuple[float, float, float], *, variable: str | None = None
) -> "Figure":
    """Values of the subjects at a voxel against a covariate: points and their line, or groups and their means.

    The line is that of least squares; nothing is adjusted for other covariates.

    Parameters
    ----------
    cohort
        Of `open_cohort`, `stack` or `from_arrays`; only the voxel is read.
    covariate
        Its name; of numbers a line is drawn, of anything else groups.
    at
        Position in world mm; the nearest voxel is taken.
    variable
        Map; may be left out where there is one.

    Returns
    -------
    matplotlib.figure.Figure
    """
    plt, _ = drawing()
    names, maps = covariate_names(cohort), map_names(cohort)
    if covariate not in names:
        raise InputError(f"The cohort has no covariate {covariate!r}. It has: {listing(names)}.")
    if variable is None and len(maps) != 1:
        raise InputError(f"Choose variable= among {listing(maps)}.")
    name = maps[0] if variable is None else variable
    if name not in maps:
        raise InputError(f"The cohort has no map {name!r}. It has: {listing(maps)}.")
    voxel = at_mm(cohort[[name]], *at)
    y, x = voxel[name].values.astype(float), cohort[covariate].to_series().reset_index(drop=True)
    known = ~np.isnan(y) & x.notna().to_numpy()
    figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    if pd.api.types.is_numeric_dtype(x) and not pd.api.types.is_bool_dtype(x):
        numbers = x.to_numpy(dtype=float)
        axes.scatter(numbers[known], y[known], s=18, color="#2c6e9b", alpha=0.8)
        if known.sum() > 1 and np.ptp(numbers[known]) > 0:
            slope, intercept = np.polyfit(numbers[known], y[known], 1)
            ends = np.array([numbers[known].min(), numbers[known].max()])
            axes.plot(ends, intercept + slope * ends, color="#c0392b")
    else:
        groups = x[known].astype(str)
        levels = sorted(groups.unique())
        rng = np.random.default_rng(0)  # spreads points that would hide each other
        for k, level in enumerate(levels):
            values = y[known][(groups == level).to_numpy()]
            axes.scatter(k + rng.uniform(-0.12, 0.12, values.size), values, s=18, color="#2c6e9b", alpha=0.8)
            axes.hlines(values.mean(), k - 0.25, k + 0.25, color="#c0392b", linewidth=2)
        axes.set_xticks(range(len(levels)), [label(level, 20) for level in levels])
    place = ", ".join(f"{float(voxel[dim]):g}" for dim in "xyz")
    lost = "" if known.all() else f", {int((~known).sum())} of {cohort.sizes[SUBJECT]} subjects missing"
    axes.set(xlabel=label(covariate), ylabel=label(name), title=f"voxel at ({place}) mm{lost}")
    axes.spines[["top", "right"]].set_visible(False)
    drawn_figure: Figure = figure
    return drawn_figure
