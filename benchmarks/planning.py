"""Studies of 1,000 to 100,000 subjects: what they come to, and how long 1 to 1,000 workers take. In one run.

    python benchmarks/planning.py [--memory 8GiB] [--network 1] [--price 0] [--results DIR] [--quick]

Tasks of each kind are run and timed on one core of this machine. The graphs that voxstack builds of cohorts of 40,000
and 100,000 subjects at 2 mm, which have everything but data, are then simulated with these times (`scheduling` says
how), and with what a Dask scheduler on this machine spends on a task of such a graph. Real runs on one and two workers
show how good that is. Takes some eight minutes on two cores, and 2 GB of disk meanwhile. Run nothing else.

A core-hour has the price that you say; none is built in. A quick run shows that everything runs; its numbers say
nothing.
"""

import argparse
import json
import os
import platform
import tempfile
from collections import defaultdict
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import capacity
import dask
import matplotlib as mpl
import rates
import validation
from capacity import Capacity
from faked import CONTRASTS, brain, fake_cohort
from matplotlib import pyplot as plt
from rates import Rates
from run import RESULTS
from scheduling import Network, Outcome
from stores import Layout, table, tasks_of
from studies import STEPS, Study
from validation import Check

from voxstack.plan import CHUNKS_PER_TASK, SUBJECTS_PER_CHUNK, Resources

SUBJECTS = (1000, 5000, 10_000, 20_000, 40_000, 100_000)
STUDIES = (40_000, 100_000)
WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SPILL = 0.7  # of a worker's memory, before which Dask does not spill

Outcomes = dict[int, dict[str, dict[int, Outcome]]]
"""By subjects, step and workers."""


def main() -> None:
    """Measure, check, simulate, and write a table, a JSON file and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", default="8GiB", help="of each worker [8GiB]")
    parser.add_argument("--network", type=float, default=1.0, help="GB/s that a worker, or the client, receives [1]")
    parser.add_argument("--price", type=float, help="of a core-hour, in whatever currency [none]")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; medians count [3]")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="only show that everything runs; needs --results")
    options = parser.parse_args()
    if options.quick and options.results == RESULTS:
        parser.error("--quick needs --results, for its numbers must not be taken for real ones")
    started = perf_counter()
    memory = int(SPILL * dask.utils.parse_bytes(options.memory))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured, checks, scheduler, outcomes = _measure(folder, options, memory)
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("voxstack", "dask", "distributed", "zarr", "numpy", "numba")},
        "assumed": {"memory": options.memory, "network_GB_s": options.network, "price_core_hour": options.price},
        "seconds": round(perf_counter() - started),
        "rates": _plain(measured),
        "scheduler": {str(n): asdict(one) for n, one in scheduler.items()},
        "checks": [{**asdict(one), "ratio": one.ratio} for one in checks],
        "outcomes": [
            {"subjects": n, "step": step, "workers": workers, **asdict(one)}
            for n, steps in outcomes.items()
            for step, some in steps.items()
            for workers, one in some.items()
        ],
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "planning.json").write_text(json.dumps(document, indent=2) + "\n")
    text = _page(measured, checks, scheduler, outcomes, options, memory)
    (options.results / "planning.md").write_text(text)
    plot(outcomes, options.results / "planning.png")
    print(text)


def _measure(
    folder: Path, options: argparse.Namespace, memory: int
) -> tuple[Rates, list[Check], dict[int, Capacity], Outcomes]:
    repeats = 1 if options.quick else options.repeats
    effort = rates.Effort(1, rates.QUICK_CASES) if options.quick else rates.Effort(repeats)
    size = validation.Size(512, 200, 8, 1) if options.quick else validation.Size()
    studies, workers = ((2000,), (1, 10)) if options.quick else (STUDIES, WORKERS)
    table_, measured = rates.measure(folder, effort)
    scheduler = {n: capacity.measure(folder, n, min(repeats, 2)) for n in studies}
    network = Network(scheduler[studies[0]].per_task, options.network * 1e9)
    checks = validation.validate(folder, table_, measured, network, size)
    outcomes: Outcomes = {}
    for n in studies:
        study = Study(fake_cohort(folder / f"study-{n}.zarr", n), measured)
        outcomes[n] = {
            step: {w: study.simulate(step, Resources(memory, 1, w, remote=True), network) for w in workers}
            for step in STEPS
        }
    return measured, checks, scheduler, outcomes


def _plain(measured: Rates) -> dict[str, Any]:
    """Rates as JSON holds them; of a fit the sums over all blocks."""
    fit: dict[str, float] = defaultdict(float)
    for (name, _), cost in measured.fit.items():
        fit[name] += cost.seconds
    laws = {name: asdict(law) for name, law in (("voxels", measured.voxels), ("maps", measured.maps))}
    return {
        "stack_batch_s": measured.batch,
        "fit_s": dict(fit),
        **laws,
        "tfce_map_s": measured.enhance,
        "bytes_image": measured.image,
        "bytes_stored_each": measured.subject,
    }


def _page(
    measured: Rates,
    checks: list[Check],
    scheduler: dict[int, Capacity],
    outcomes: Outcomes,
    options: argparse.Namespace,
    memory: int,
) -> str:
    """Tables in Markdown, each behind a mark by which the documentation includes it."""
    resources = Resources(memory, 1, 100, remote=True)
    layouts = [Layout.of(n, measured.subject) for n in SUBJECTS]
    parts = {
        "rates": _rates_table(measured),
        "stores": table(
            [
                (
                    f"{one.subjects:,}",
                    _bytes(one.raw),
                    _bytes(one.stored),
                    f"{one.chunks:,}",
                    _bytes(one.stored / one.chunks),
                    f"{one.shards:,}",
                    _bytes(one.stored / one.shards),
                    f"{one.requests_of_chunks:,}",
                    f"{one.requests_of_shards:,}",
                )
                for one in layouts
            ],
            ("subjects", "values", "stored", "chunks", "of", "shards", "of", "requests, chunks", "requests, shards"),
        ),
        "tasks": table(
            [
                (
                    f"{one.subjects:,}",
                    *(f"{count:,}" for count in (one.stack, one.fit, one.max_t, one.tfce, one.passes)),
                )
                for one in (tasks_of(n, resources, rates.N_RELABELLINGS, len(CONTRASTS)) for n in SUBJECTS)
            ],
            ("subjects", "stack", "fit", "max-T", "TFCE", "times that TFCE reads the data"),
        ),
        "scheduler": table(
            [
                (
                    f"{n:,}",
                    f"{one.tasks:,}",
                    f"{one.building:.2f} s",
                    f"{one.megabytes:.1f} MB",
                    f"{1e3 * one.per_task:.2f} ms",
                    f"{1 / one.per_task:,.0f}",
                    f"{one.throughput:,.0f}",
                )
                for n, one in scheduler.items()
            ],
            (
                "subjects",
                "tasks",
                "opened and built in",
                "sent",
                "scheduler's time a task",
                "so tasks/s at most",
                "tasks/s seen",
            ),
        ),
        "checks": table(
            [(c.step, c.workers, f"{c.measured:.1f} s", f"{c.predicted:.1f} s", f"{c.ratio:.2f}") for c in checks],
            ("step", "workers", "measured", "simulated", "ratio"),
        ),
    }
    for n, steps in outcomes.items():
        workers = list(next(iter(steps.values())))
        parts[f"time of {n}"] = table(
            [(w, *(f"{_time(steps[s][w].wall)} ({steps[s][w].efficiency(w):.0%})" for s in STEPS)) for w in workers],
            ("workers", *STEPS),
        )
        parts[f"core-hours of {n}"] = table(
            [(w, *(_cost(steps[s][w].wall * w / 3600, options.price) for s in STEPS)) for w in workers],
            ("workers", *STEPS),
        )
        parts[f"load of {n}"] = table(
            [
                (
                    w,
                    *(
                        f"{steps[s][w].stored / steps[s][w].wall / 1e9:.2g} GB/s, "
                        f"{steps[s][w].scheduler / steps[s][w].wall:.0%}"
                        for s in STEPS
                    ),
                )
                for w in workers
            ],
            ("workers", *STEPS),
        )
    return "\n".join(f"<!-- {name} -->\n\n{text}" for name, text in parts.items()) + "\n<!-- end -->\n"


def _rates_table(measured: Rates) -> str:
    plain = _plain(measured)
    reading = sum(seconds for name, seconds in plain["fit_s"].items() if name.endswith("-reduce"))
    per_subject = reading / CHUNKS_PER_TASK / SUBJECTS_PER_CHUNK
    n, part, number = 40_000, 1024, rates.N_RELABELLINGS
    share = brain().sum() / part
    voxels = measured.voxels(**rates.sizes(n, part, number)) * share
    maps = measured.maps(**rates.sizes(n, part, 256)) * share / 256 / len(CONTRASTS)
    rows = [
        ("stack, a subject", f"{1e3 * measured.batch / SUBJECTS_PER_CHUNK:.1f} ms"),
        ("fit, a subject", f"{1e3 * per_subject:.1f} ms"),
        (f"max-T, a relabelling of {n:,} subjects, three contrasts", f"{voxels / number:.2f} s"),
        (f"TFCE, the map of a relabelling of {n:,} subjects, made", f"{maps:.2f} s"),
        ("TFCE, a map enhanced", f"{1e3 * measured.enhance:.0f} ms"),
        ("an image (.nii.gz)", _bytes(measured.image)),
        ("a subject in the store", _bytes(measured.subject)),
    ]
    return table(rows, ("on one core", "measured"))


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def _cost(core_hours: float, price: float | None) -> str:
    told = f"{core_hours:.3g}"
    return told if price is None else f"{told} ({core_hours * price:.3g})"


def plot(outcomes: Outcomes, path: Path) -> None:
    """Time against workers; dashed lines are those of workers who never wait."""
    mpl.use("Agg")
    colours = dict(zip(STEPS, ("#606c38", "#2a6f97", "#bc6c25", "#7b2d8b"), strict=True))
    figure, panels = plt.subplots(
        1, len(outcomes), figsize=(5.5 * len(outcomes), 5), layout="constrained", sharey=True, squeeze=False
    )
    for axes, (n, steps) in zip(panels[0], outcomes.items(), strict=True):
        for step, some in steps.items():
            workers, seconds = list(some), [one.wall for one in some.values()]
            axes.plot(workers, seconds, "o-", color=colours[step], label=step, markersize=4)
            axes.plot(workers, [some[workers[0]].busy / w for w in workers], "--", color=colours[step], linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="workers of one core", title=f"{n:,} subjects at 2 mm")
        axes.set_xticks(workers, labels=[str(w) for w in workers], rotation=45)
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axes.set_yticks([1, 60, 3600, 86400, 7 * 86400], labels=["1 s", "1 min", "1 h", "1 day", "1 week"])
        axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("simulated time")
    panels[0][0].legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
