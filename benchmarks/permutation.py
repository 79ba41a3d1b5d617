"""Permutation tests against their peers and against matrix products, and how their time grows, in one run.

    python benchmarks/permutation.py [--repeats 3] [--results DIR] [--quick]

Random maps of 100 subjects, smoothed by 6 mm. What counts against peers is the time of one more relabelling: the
difference of two runs of different length. Who does what on how many threads is said in `against_nilearn`,
`against_mne` and `products`, `growth` makes the plot. Takes a quarter of an hour on two cores. Run nothing else
meanwhile. A quick run, on a coarse mask with few relabellings, shows in a minute or two that everything runs; its
numbers say nothing.
"""

import argparse
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import against_mne
import against_nilearn
import growth
import products
from relabelling import Effort
from run import RESULTS, table
from threadpoolctl import threadpool_info

PACKAGES = ("voxstack", "nilearn", "mne", "numpy", "scipy", "numba", "dask")


def main() -> None:
    """Measure, and write a table, a JSON file and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; medians count [3]")
    parser.add_argument(
        "--results", type=Path, help=f"folder to write to [{RESULTS.relative_to(Path(__file__).parent)}]"
    )
    parser.add_argument("--quick", action="store_true", help="only show that everything runs; needs --results")
    options = parser.parse_args()
    if options.quick and options.results is None:
        parser.error("--quick needs --results, for its numbers must not be taken for real ones")
    effort = Effort(1, resolution=8, fraction=1 / 16) if options.quick else Effort(options.repeats)
    parts = {
        "nilearn": against_nilearn.measure(effort),
        "MNE-Python": against_mne.measure(effort),
        "products": products.measure(effort),
    }
    panels = growth.measure(effort)
    numbers = [number for _, some in parts.values() for number in some]
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "blas": _blas()},
        "versions": {name: version(name) for name in PACKAGES},
        "repeats": effort.repeats,
        "numbers": [{**asdict(number), "reached": number.reached} for number in numbers],
        "measured": {name: details for name, (details, _) in parts.items()},
        "growth": [asdict(panel) for panel in panels],
    }
    results = options.results or RESULTS
    results.mkdir(parents=True, exist_ok=True)
    (results / "permutation.json").write_text(json.dumps(document, indent=2) + "\n")
    (results / "permutation.md").write_text(table(numbers))
    growth.plot(panels, results / "permutation.png")
    print(table(numbers))


def _blas() -> list[str]:
    """Libraries that multiply matrices, and the processors whose instructions they chose."""
    found = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return sorted({f"{one['internal_api']} {one['version']} {one.get('architecture', '')}".strip() for one in found})


if __name__ == "__main__":
    main()
