"""Distributions of maxima under relabelling."""

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from voxstack.checks import check_real
from voxstack.errors import InputError, listing
from voxstack.figures.drawing import drawing, label
from voxstack.kernels.pvalues import TIE, corrected_p, critical_maximum
from voxstack.schema import SPACE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_null(
    result: xr.Dataset, *, contrast: str | None = None, statistic: str = "voxel", alpha: float = 0.05
) -> "Figure":
    """Largest values of all relabellings, the observed one, and the value that fewer than alpha of them exceed.

    Parameters
    ----------
    result
        Of `permutation_test`.
    contrast, statistic
        Which; the contrast may be left out where there is one.
    alpha
        Level of the limit that is drawn.

    Returns
    -------
    matplotlib.figure.Figure
    """
    plt, _ = drawing()
    if "null_max" not in result:
        raise InputError("This is no result of permutation_test: it has no null_max.")
    check_real("alpha", alpha, 0, 1, inside=True)
    names = [str(name) for name in result["contrast"].values]
    if contrast is None and len(names) > 1:
        raise InputError(f"Choose contrast= among {listing(names)}.")
    contrast = names[0] if contrast is None else contrast
    statistics = [str(name) for name in result["statistic"].values]
    if contrast not in names or statistic not in statistics:
        raise InputError(f"There is no {statistic} of {contrast}: there are {listing(statistics)} of {listing(names)}.")
    one = result["null_max"].sel(contrast=contrast, statistic=statistic)
    maxima = one.values[: int(one["n_relabellings"])]
    finite = maxima[np.isfinite(maxima)]
    if not finite.size:
        raise InputError(f"No voxel of {contrast} could be tested.")
    limit = critical_maximum(maxima, alpha)
    p = float(corrected_p(maxima[0], maxima, TIE * max(abs(maxima[0]), 1.0)))
    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    axes.hist(finite, bins="auto", color="#9db4c8", edgecolor="white", linewidth=0.4)
    axes.axvline(limit, color="#444444", linestyle="--", label=f"exceeded by at most {100 * alpha:g}%: {limit:.4g}")
    axes.axvline(maxima[0], color="#c0392b", linewidth=2, label=f"observed: {maxima[0]:.4g}, p = {p:.3g}")
    axes.set(
        xlabel=f"largest {_measured(result, contrast, statistic)} of a relabelling",
        ylabel="relabellings",
        title=label(contrast),
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False)  # not over the line that all is about
    axes.spines[["top", "right"]].set_visible(False)
    drawn_figure: Figure = figure
    return drawn_figure


_WORDS = {"cluster_extent": "cluster extent", "cluster_mass": "cluster mass", "tfce": "TFCE"}
_SIDES = {"two-sided": "|{}|", "greater": "{}", "less": "-{}"}


def _measured(result: xr.Dataset, contrast: str, statistic: str) -> str:
    """What the maxima are of, in words: of voxels the value that is compared, such as |t|."""
    if statistic in _WORDS:
        return _WORDS[statistic]
    if (stat_type := str(result["stat_type"].sel(contrast=contrast).item())) == "F":
        side = "greater"
    else:
        side = str(result.attrs.get("alternative", "two-sided"))
    available = set(SPACE) <= set(result["dof"].dims)  # voxels of different degrees of freedom compare by z
    return _SIDES[side].format("z" if available else stat_type)
