"""Designs and contrasts as pictures, drawn by nilearn."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from voxstack.errors import InputError
from voxstack.figures.drawing import drawing, label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_design(design: xr.DataArray) -> "Figure":
    """A design matrix, each column in a scale of its own: over its value farthest from 0.

    Parameters
    ----------
    design : (subject, regressor)
        Of `make_design`, or ``fit.design``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    plt, plotting = drawing()
    if set(design.dims) != {"subject", "regressor"}:
        raise InputError(f"A design has the dimensions subject and regressor, not {design.dims}.")
    names = [label(name) for name in design["regressor"].values]
    matrix = design.transpose("subject", "regressor").values
    largest = np.maximum(np.abs(matrix).max(axis=0, initial=0.0), np.finfo(float).tiny)
    table = pd.DataFrame(matrix / largest, columns=names)  # 0 and 1 look alike in all columns of factors
    width = min(0.7 * len(names), max(4.9, 0.36 * len(names)))  # columns of many people are narrow ones
    figure, axes = plt.subplots(figsize=(1.2 + width, 5.2), layout="constrained")
    plotting.plot_design_matrix(table, rescale=False, axes=axes)
    axes.set_ylabel("subject")
    drawn_figure: Figure = figure
    return drawn_figure


def plot_contrasts(result: xr.Dataset) -> "Figure":
    """Weights of a result's contrasts: a row for each t contrast, several for an F contrast.

    Parameters
    ----------
    result
        Of `contrast` or `permutation_test`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    plt, _ = drawing()
    record = result.attrs.get("provenance", {})
    if not record.get("regressors"):
        raise InputError("The result does not say the weights of its contrasts.")
    rows, labels = [], []
    for name in map(str, result["contrast"].values):
        weights = np.atleast_2d(record["contrasts"][name])
        rows.append(weights)
        labels += [label(name) if len(weights) == 1 else f"{label(name)} [{k + 1}]" for k in range(len(weights))]
    matrix = np.concatenate(rows)
    limit = max(float(np.abs(matrix).max()), np.finfo(float).tiny)
    names = [label(name) for name in record["regressors"]]
    beside, below = (0.09 * max(map(len, texts)) for texts in (labels, names))  # inches, generously
    size = 2.2 + beside + 0.7 * matrix.shape[1], 1.1 + below + 0.4 * len(matrix)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    picture = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(matrix.shape[1]), names, rotation=40, ha="right")
    axes.set_yticks(range(len(matrix)), labels)
    figure.colorbar(picture, ax=axes, label="weight")
    drawn_figure: Figure = figure
    return drawn_figure
