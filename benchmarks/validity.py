"""False positives of permutation tests in studies without any effect, and their power against nilearn's.

    python benchmarks/validity.py [--simulations 5000] [--scenarios NAME ...] [--results DIR]

A cell is a scenario and a statistic; one simulated study with relabellings of its own is one trial of it. A study is
rejected where p <= 0.05 anywhere in its map (corrected p), or at one voxel that was chosen in advance (uncorrected p).
Where the relabellings leave the errors' distribution as it is, the observed statistic is equally likely to have each
rank among the 60 relabellings, itself included, however these were drawn (Phipson and Smyth 2010, Statistical
Applications in Genetics and Molecular Biology 9:39; Hemerik and Goeman 2018, TEST 27:811). Without ties 5% of the
studies are rejected, exactly, and the number of rejected ones is binomial.

Upper bound: the number that a binomial variable of 5% exceeds with a probability of 0.1% divided by the number of cells
that it is for. So if all tests are valid, all cells are below it with a probability of 99.9% at least, however the
cells depend on each other; scenarios may share their data. Lower bound: the same on the other side, for continuous
statistics: cluster extents are whole numbers, often equal, and their p-values may only be too large. Cluster mass is
continuous as well, since at least one in twenty maps has a cluster.

Who has to keep the bounds: the default method, where its suppositions hold; data may be missing, but irrespective of
what is tested. With nuisance regressors Freedman and
Lane's method is not exact; with 24 subjects it is asked for all the same. Who is shown without a bound to keep: ten
subjects with nuisance regressors; the other methods, of which Manly's leaves the effects of the nuisance in the data
that it permutes (what voxels then have in common keeps the maxima small), and Still and White's leaves the nuisance out
of the relabelled models, but not of the observed one; and tests whose suppositions do not hold, which are to be seen
failing: signs of skewed errors flipped, groups of unequal size and variance, families whose blocks are ignored. They
also show that the simulations would notice a test that is not valid.

Power: an effect is found where any of the voxels that it was planted in has a corrected p <= 0.05. voxstack and nilearn
test the same hypothesis in the same studies, with as many relabellings, so the difference of their rates has a small
standard error, that of McNemar's test. voxstack may not be worse by more than three of them, where both have the same
statistic: t of voxels, extent (with 6 neighbours, and one threshold), TFCE of t. Two of voxstack's are others, and are
shown beside it: TFCE of z, and cluster mass, which sums all of z and not what exceeds the threshold as in nilearn. With
few subjects t of high peaks is much larger than z, so what weighs extent less against height finds small regions more
often, and large ones less often. TFCE is slow in nilearn: where it is compared there are a tenth of the simulations,
elsewhere a fifth.

A result does not depend on the number of processes. 5,000 simulations take about half an hour on two cores.
"""

import argparse
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import dask
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from run import RESULTS
from scipy import stats
from simulations import (
    LEVEL,
    N_RELABELLINGS,
    SCENARIOS,
    TFCE_OF_T,
    UNCORRECTED,
    WITH_EFFECT,
    count_detected,
    count_rejected,
)
from threadpoolctl import threadpool_limits

Key = TypeVar("Key", bound=Hashable)

CONFIDENCE = 0.999
STANDARD_ERRORS = 3
STATISTICS = {
    UNCORRECTED: "uncorrected",
    "voxel": "voxel",
    "cluster_extent": "cluster extent",
    "cluster_mass": "cluster mass",
    "tfce": "TFCE",
}
NAMES = {**STATISTICS, TFCE_OF_T: "TFCE of t"}
AS_IN_NILEARN = ("voxel", "cluster_extent", TFCE_OF_T)
CONTINUOUS = {*STATISTICS} - {"cluster_extent"}
COLOURS = dict(zip(STATISTICS, ("#7f7f7f", "#2a6f97", "#e09f3e", "#6a994e", "#8e4a8f"), strict=True))
MARKERS = dict(zip(STATISTICS, "oDsP^", strict=True))
_PER_TASK = 25


@dataclass(frozen=True)
class Cell:
    """A scenario and a statistic.

    Attributes
    ----------
    scenario, statistic
        Names.
    rejected, simulations
        Numbers of studies.
    """

    scenario: str
    statistic: str
    rejected: int
    simulations: int

    @property
    def expected(self) -> str:
        """As of its scenario."""
        return SCENARIOS[self.scenario].expected

    @property
    def rate(self) -> float:
        """Of false positives, in %."""
        return 100 * self.rejected / self.simulations


@dataclass(frozen=True)
class Bounds:
    """How many studies may be rejected."""

    least: int
    most: int

    @classmethod
    def over(cls, cells: Sequence[Cell], simulations: int) -> "Bounds":
        """Of all cells that have to keep them, simultaneously."""
        bound = [cell for cell in cells if cell.expected == "valid"]
        continuous = [cell for cell in bound if cell.statistic in CONTINUOUS]
        trials = stats.binom(simulations, LEVEL)
        error = 1 - CONFIDENCE
        return cls(int(trials.ppf(error / max(len(continuous), 1))), int(trials.isf(error / max(len(bound), 1))))

    def side(self, cell: Cell) -> str:
        """Where a cell is: "above", "below" or "within" them."""
        if cell.rejected > self.most:
            return "above"
        return "below" if cell.rejected < self.least and cell.statistic in CONTINUOUS else "within"


@dataclass(frozen=True)
class Comparison:
    """Of voxstack and nilearn, where there is an effect.

    Attributes
    ----------
    scenario, statistic
        Names.
    both, only_voxstack, only_nilearn, neither
        In how many studies they found it.
    """

    scenario: str
    statistic: str
    both: int
    only_voxstack: int
    only_nilearn: int
    neither: int

    @property
    def simulations(self) -> int:
        """Number of studies."""
        return self.both + self.only_voxstack + self.only_nilearn + self.neither

    @property
    def power(self) -> tuple[float, float]:
        """Of voxstack and of nilearn, in %."""
        each = self.both + self.only_voxstack, self.both + self.only_nilearn
        return 100 * each[0] / self.simulations, 100 * each[1] / self.simulations

    @property
    def difference(self) -> float:
        """voxstack less nilearn, in percentage points."""
        return 100 * (self.only_voxstack - self.only_nilearn) / self.simulations

    @property
    def standard_error(self) -> float:
        """Of the difference."""
        n, discordant = self.simulations, self.only_voxstack + self.only_nilearn
        return float(100 * np.sqrt(max(discordant - (self.only_voxstack - self.only_nilearn) ** 2 / n, 0)) / n)

    @property
    def reached(self) -> bool | None:
        """Whether voxstack is as good as nilearn, or differs by chance; None where their statistics differ."""
        if self.statistic not in AS_IN_NILEARN:
            return None
        return self.difference >= -STANDARD_ERRORS * self.standard_error


def main() -> None:
    """Simulate, and write a table, a JSON file and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=5000)
    parser.add_argument("--scenarios", nargs="+", choices=[*SCENARIOS, "power"], default=[*SCENARIOS, "power"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    cells: list[Cell] = []
    comparisons: list[Comparison] = []
    seconds: dict[str, float] = {}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), initializer=_one_thread) as pool:
        for name in options.scenarios:
            start = perf_counter()
            if name == "power":
                comparisons = [one for effect in WITH_EFFECT for one in compare(pool, effect, options.simulations)]
            else:
                cells += false_positives(pool, name, options.simulations)
            seconds[name] = round(perf_counter() - start, 1)
            print(f"{name}: {seconds[name]:.0f} s", flush=True)
    bounds = Bounds.over(cells, options.simulations)
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("voxstack", "nilearn", "numpy", "scipy", "numba")},
        "simulations": options.simulations,
        "relabellings": N_RELABELLINGS,
        "bounds": asdict(bounds),
        "cells": [
            {**asdict(cell), "rate": cell.rate, "expected": cell.expected, "side": bounds.side(cell)} for cell in cells
        ],
        "power": [
            {**asdict(one), "difference": one.difference, "standard_error": one.standard_error, "reached": one.reached}
            for one in comparisons
        ],
        "seconds": seconds,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "validity.json").write_text(json.dumps(document, indent=2) + "\n")
    text = "\n".join([*table_of_rates(cells, bounds, options.simulations), "", *table_of_power(comparisons)]) + "\n"
    (options.results / "validity.md").write_text(text)
    plot(cells, bounds, comparisons, options.results / "validity.png")
    print(text)


def _one_thread() -> None:
    """Of each process."""
    threadpool_limits(1)
    dask.config.set(num_workers=1)


def _in_parallel(
    pool: Executor, count: Callable[[str, int, int], Counter[Key]], name: str, simulations: int
) -> Counter[Key]:
    starts = range(0, simulations, _PER_TASK)
    stops = [min(start + _PER_TASK, simulations) for start in starts]
    return sum(pool.map(count, repeat(name), starts, stops), start=Counter())


def false_positives(pool: Executor, name: str, simulations: int) -> list[Cell]:
    """The cells of a scenario."""
    counts = _in_parallel(pool, count_rejected, name, simulations)
    return [Cell(name, one, counts[one], simulations) for one in SCENARIOS[name].looked_at]


def compare(pool: Executor, name: str, simulations: int) -> list[Comparison]:
    """voxstack and nilearn in studies with an effect."""
    tfce = "tfce" in WITH_EFFECT[name].statistics
    counts = _in_parallel(pool, count_detected, name, max(simulations // (10 if tfce else 5), 1))
    statistics = [*WITH_EFFECT[name].statistics, *([TFCE_OF_T] if tfce else [])]
    outcomes = ((True, True), (True, False), (False, True), (False, False))
    return [Comparison(name, one, *(counts[one, ours, theirs] for ours, theirs in outcomes)) for one in statistics]


def table_of_rates(cells: Sequence[Cell], bounds: Bounds, simulations: int) -> list[str]:
    """In Markdown."""
    if not cells:
        return []
    least, most = (100 * number / simulations for number in (bounds.least, bounds.most))
    lines = [
        f"Rejected at 5%, in % of {simulations:,} simulated studies without any effect.",
        f"Bounds of all valid tests: at most {most:.2f}%, and, but for cluster extents, at least {least:.2f}%.",
        "",
        f"| scenario | {' | '.join(STATISTICS.values())} | |",
        f"|---|{'---|' * len(STATISTICS)}---|",
    ]
    for name in dict.fromkeys(cell.scenario for cell in cells):
        row = {cell.statistic: cell for cell in cells if cell.scenario == name}
        shown = [f"{row[one].rate:.2f}" if one in row else "" for one in STATISTICS]
        lines.append(f"| {SCENARIOS[name].title} | {' | '.join(shown)} | {_verdict([*row.values()], bounds)} |")
    return lines


def _verdict(row: Sequence[Cell], bounds: Bounds) -> str:
    """What a scenario shows."""
    outside = [f"{STATISTICS[cell.statistic]} {side}" for cell in row if (side := bounds.side(cell)) != "within"]
    found = ", ".join(outside) or "within the bounds"
    if row[0].expected == "valid":
        return f"missed: {found}" if outside else "reached"
    return f"{'known to fail' if row[0].expected == 'fails' else 'shown only'}: {found}"


def table_of_power(comparisons: Sequence[Comparison]) -> list[str]:
    """In Markdown."""
    if not comparisons:
        return []
    lines = [
        "Planted effects found, in % of simulated studies.",
        "",
        "| scenario | statistic | studies | voxstack | nilearn | difference | standard error | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    verdicts = {True: "reached", False: "missed", None: "another statistic, shown only"}
    for one in comparisons:
        ours, theirs = one.power
        lines.append(
            f"| {WITH_EFFECT[one.scenario].title} | {NAMES[one.statistic]} | {one.simulations:,} | {ours:.1f} | "
            f"{theirs:.1f} | {one.difference:+.1f} | {one.standard_error:.1f} | {verdicts[one.reached]} |"
        )
    return lines


def plot(cells: Sequence[Cell], bounds: Bounds, comparisons: Sequence[Comparison], path: Path) -> None:
    """Rates with their bounds, and below them differences of power."""
    mpl.use("Agg")
    names = list(dict.fromkeys(cell.scenario for cell in cells))
    rows = [row for row in (len(names), len(comparisons)) if row]
    size = (9, 0.32 * sum(rows) + 1.2 * len(rows))
    figure, axes = plt.subplots(len(rows), figsize=size, height_ratios=rows, squeeze=False, layout="constrained")
    if cells:
        _plot_rates(axes[0, 0], cells, names, bounds)
    if comparisons:
        _plot_power(axes[-1, 0], comparisons)
    for one in axes[:, 0]:
        one.invert_yaxis()
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _plot_rates(axes: Axes, cells: Sequence[Cell], names: Sequence[str], bounds: Bounds) -> None:
    for offset, (statistic, label) in enumerate(STATISTICS.items()):
        some = [cell for cell in cells if cell.statistic == statistic]
        axes.plot(
            [max(cell.rate, 0.5) for cell in some],
            [names.index(cell.scenario) + 0.14 * (offset - 2) for cell in some],
            linestyle="none",
            marker=MARKERS[statistic],
            markersize=5,
            color=COLOURS[statistic],
            label=label,
        )
    simulations = cells[0].simulations
    axes.axvspan(100 * bounds.least / simulations, 100 * bounds.most / simulations, color="#dddddd", zorder=0)
    axes.axvline(100 * LEVEL, color="black", linewidth=0.8, zorder=1)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    notes = {"valid": "", "fails": " (known to fail)", "shown": " (shown only)"}
    labels = [SCENARIOS[name].title + notes[SCENARIOS[name].expected] for name in names]
    axes.set(xscale="log", xlim=(0.45, 100), yticks=range(len(names)), yticklabels=labels)
    axes.set(xticks=(0.5, 1, 2, 5, 10, 20, 50, 100), xticklabels=("0.5", "1", "2", "5", "10", "20", "50", "100"))
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.set_xlabel("false positives at 5%, in %; grey: within the bounds")
    axes.legend(loc="upper right", fontsize=8)


def _plot_power(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    for row, one in enumerate(comparisons):
        axes.errorbar(
            one.difference,
            row,
            xerr=STANDARD_ERRORS * one.standard_error,
            fmt="o",
            markersize=5,
            color="#2a6f97" if one.reached is not None else "#7f7f7f",
            markerfacecolor=None if one.reached is not None else "white",
        )
    axes.axvline(0, color="black", linewidth=0.8)
    labels = [f"{WITH_EFFECT[one.scenario].title}, {NAMES[one.statistic]}" for one in comparisons]
    axes.set(yticks=range(len(comparisons)), yticklabels=labels)
    axes.set_xlabel(f"power of voxstack less nilearn's, ± {STANDARD_ERRORS} standard errors\n(open: other statistics)")


if __name__ == "__main__":
    main()
