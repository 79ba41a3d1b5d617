"""How the time of a permutation test grows: with subjects, with voxels, and with relabellings.

Times are of whole runs on all cores. A task holds many relabellings, so short runs do not keep all cores busy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from relabelling import Effort, Maps, Mask, mni_mask, ours, regressors, slab, smooth_noise

N = 100
_SUBJECTS = (50, 100, 200, 400, 800)
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1)  # of the mask's voxels


@dataclass(frozen=True)
class _Test:
    """A statistic, and how it is drawn.

    Attributes
    ----------
    name
        In the legend.
    options
        Of the test.
    relabellings
        Where subjects or voxels grow.
    series
        Of relabellings, where these grow.
    colour, marker
        Of its line.
    """

    name: str
    options: Mapping[str, Any]
    relabellings: int
    series: tuple[int, ...]
    colour: str
    marker: str


_TESTS = (
    _Test("max-T", {"statistics": ("voxel",)}, 2000, (500, 1000, 2000, 4000, 8000), "#2a6f97", "o"),
    _Test("TFCE", {"statistics": ("tfce",)}, 128, (32, 64, 128, 256), "#bc6c25", "s"),
)


_Points = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Panel:
    """Times of whole runs while one thing grows.

    Attributes
    ----------
    grows, held
        What grows, and what does not.
    points
        By statistic: how much there is of what grows, and seconds.
    """

    grows: str
    held: str
    points: _Points


def measure(effort: Effort) -> list[Panel]:
    """Medians over repeats."""
    mask = mni_mask(effort.resolution)
    maps, part = smooth_noise(mask, N), slab(mask, _SHARES[1])
    few = mask[..., part]
    many = smooth_noise(few, _SUBJECTS[-1])
    for test in _TESTS:
        _seconds(test, maps, mask, effort.relabellings(test.series[0]), 1)  # compiles
    subjects: _Points = {}
    voxels: _Points = {}
    relabellings: _Points = {}
    for test in _TESTS:
        usual, repeats = effort.relabellings(test.relabellings), effort.repeats
        subjects[test.name] = [(n, _seconds(test, many[:n], few, usual, repeats)) for n in _SUBJECTS]
        slices = [slab(mask, share) for share in _SHARES]
        voxels[test.name] = [
            (int(mask[..., some].sum()), _seconds(test, maps[..., some], mask[..., some], usual, repeats))
            for some in slices
        ]
        numbers = [effort.relabellings(number) for number in test.series]
        relabellings[test.name] = [(number, _seconds(test, maps, mask, number, repeats)) for number in numbers]
    return [
        Panel("subjects", f"at {few.sum():,} voxels", subjects),
        Panel("voxels", f"at {N} subjects", voxels),
        Panel("relabellings", f"at {N} subjects and {mask.sum():,} voxels", relabellings),
    ]


def _seconds(test: _Test, maps: Maps, mask: Mask, number: int, repeats: int) -> float:
    n = len(maps)
    run = ours(maps, mask, np.column_stack([regressors(n)[:, 0], np.ones(n)]), **test.options)
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        run(number)
        seconds.append(perf_counter() - start)
    return median(seconds)


def plot(panels: list[Panel], path: Path) -> None:
    """Small multiples on one scale of time; a dashed line is time in proportion to what grows."""
    mpl.use("Agg")
    figure, rows = plt.subplots(1, len(panels), figsize=(10.5, 4.2), sharey=True, layout="constrained")
    for axes, panel in zip(rows, panels, strict=True):
        _draw(axes, panel)
    rows[0].set_ylabel("seconds")
    rows[0].yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    rows[0].yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    rows[0].yaxis.set_minor_locator(mpl.ticker.NullLocator())
    handles = [mpl.lines.Line2D([], [], color=test.colour, marker=test.marker, label=_label(test)) for test in _TESTS]
    handles.append(mpl.lines.Line2D([], [], color="0.55", linestyle="--", linewidth=1, label="in proportion"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _label(test: _Test) -> str:
    return f"{test.name} ({test.relabellings:,} relabellings, where these do not grow)"


def _draw(axes: Axes, panel: Panel) -> None:
    for test in _TESTS:
        x, seconds = (np.array(values, dtype=float) for values in zip(*panel.points[test.name], strict=True))
        axes.plot(x, seconds[-1] * x / x[-1], color="0.55", linestyle="--", linewidth=1, zorder=1)
        axes.plot(x, seconds, color=test.colour, marker=test.marker, markersize=5, linewidth=1.8)
    axes.set(xscale="log", yscale="log", xlabel=panel.grows)
    axes.set_title(panel.held, fontsize=10, loc="left")
    ticks = sorted({x for points in panel.points.values() for x, _ in points})
    axes.set_xticks(ticks, labels=[_short(x) for x in ticks], fontsize=8)
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _short(x: float) -> str:
    return f"{x / 1000:.0f}k" if x >= 1000 else f"{x:.0f}"
