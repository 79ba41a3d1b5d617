"""All benchmarks in one run: a table, the numbers as JSON, and a plot.

    python benchmarks/run.py [--subjects 200] [--resolution 2] [--repeats 5] [--folder DIR]

Everything is a ratio to a peer or to a limit measured in the same run, but for one time in seconds. Run nothing
else meanwhile.
"""

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import memory
import overhead
import pandas as pd
import speed
from matplotlib import pyplot as plt
from measure import Number

import voxstack as vx

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Make the cohort, measure, and write the table, the JSON file and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--resolution", type=float, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the cohort here, and use it again if it is there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        _make_cohort(folder, options.subjects, options.resolution)
        parts = {
            "speed": speed.measure(folder, options.repeats),
            "memory": memory.measure(folder),
            "overhead": overhead.measure(folder, options.repeats),
        }
    numbers = [number for _, some in parts.values() for number in some]
    document = {
        "cohort": {"subjects": options.subjects, "resolution_mm": options.resolution},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("voxstack", "nilearn", "zarr", "dask", "numpy", "numba")},
        "numbers": [{**asdict(number), "reached": number.reached} for number in numbers],
        "measured": {name: details for name, (details, _) in parts.items()},
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "benchmarks.json").write_text(json.dumps(document, indent=2) + "\n")
    (options.results / "benchmarks.md").write_text(table(numbers))
    plot(numbers, options.results / "benchmarks.png")
    print(table(numbers))


def _make_cohort(folder: Path, n_subjects: int, resolution: float) -> None:
    participants = folder / "participants.tsv"
    if not participants.is_file() or len(pd.read_csv(participants, sep="\t")) != n_subjects:
        vx.simulate_cohort(folder, n_subjects=n_subjects, resolution=resolution, progress=True)


def shown(value: float, unit: str) -> str:
    """A number with its unit."""
    return f"{value:.0f}%" if unit == "%" else f"{value:.{1 if unit in ('times', 's') else 0}f} {unit}"


def table(numbers: list[Number]) -> str:
    """In Markdown."""
    lines = ["| what | measured | asked for | |", "|---|---|---|---|"]
    for number in numbers:
        limit = f"{'at most' if number.at_most else 'at least'} {shown(number.target, number.unit)}"
        lines.append(
            f"| {number.name} | {shown(number.value, number.unit)} | {limit} | {'' if number.reached else 'missed'} |"
        )
    return "\n".join(lines) + "\n"


def plot(numbers: list[Number], path: Path) -> None:
    """How far each number is from its target; to the right of the line is better."""
    mpl.use("Agg")
    numbers = [number for number in numbers if number.target]  # that nothing may be left is no ratio
    scores = [number.target / number.value if number.at_most else number.value / number.target for number in numbers]
    colours = ["#2a6f97" if number.reached else "#c1121f" for number in numbers]
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(numbers) + 1), layout="constrained")
    axes.barh(range(len(numbers)), scores, color=colours, height=0.6)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(yticks=range(len(numbers)), yticklabels=[number.name for number in numbers], xscale="log")
    axes.set_xlabel("measured against what is asked for (right of the line: reached)")
    axes.invert_yaxis()
    for row, (number, score) in enumerate(zip(numbers, scores, strict=True)):
        axes.text(max(score, 1) * 1.04, row, shown(number.value, number.unit), va="center", fontsize=9)
    axes.set_xlim(min(0.5, *scores) * 0.9, max(scores) * 1.6)
    axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
