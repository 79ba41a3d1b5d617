"""5,000 subjects at 2 mm on two workers of 1.5 GiB, and workers and drivers that are killed while the result stays.

    python benchmarks/scale.py [--subjects 5000] [--folder DIR] [--part scale|chaos]

The subjects are the files of a pool of 100 simulated ones, each under many labels. Needs 10 GB of disk in DIR (by
default a temporary folder), all of which is removed afterwards, and Linux. Run nothing else meanwhile.
"""

import argparse
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median

import chaos
import numpy as np
import pandas as pd
from dask.utils import parse_bytes
from distributed import Client
from measure import Number
from run import RESULTS, plot, table
from workers import LIMIT, watched, workers

import voxstack as vx
from voxstack.blocks import as_blocks
from voxstack.run import Task, allocation, call, run

POOL, FEW = 100, 500
DESIGN = "~ age + sex + C(site)"
CONTRASTS = ["age", "sex[T.M]", "C(site)[T.south]"]
STEPS = ("stack", "fit", "max-T", "TFCE")


def main() -> None:
    """Measure, and write the table, the JSON file and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=5000)
    parser.add_argument("--resolution", type=float, default=2)
    parser.add_argument("--folder", type=Path, help="work here")
    parser.add_argument("--part", choices=["scale", "chaos"], help="only this one; results of the other one stay")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        vx.simulate_cohort(folder / "pool", n_subjects=POOL, resolution=options.resolution, progress=True)
        if options.part != "chaos":
            _write(options, *_scale(folder, options.subjects))  # which stays, whatever comes of the rest
        if options.part != "scale":
            details, numbers = chaos.measure(folder, repeated)
            _write(options, {"chaos": details}, numbers)


def _write(options: argparse.Namespace, measured: dict[str, object], numbers: list[Number]) -> None:
    """Results of one part, beside those of the other one that are there."""
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / "scale.json"
    before = json.loads(path.read_text()) if path.exists() else {"measured": {}, "numbers": []}
    for one in before["numbers"]:
        one.pop("reached")
    named = {one["name"]: Number(**one) for one in before["numbers"]} | {one.name: one for one in numbers}
    measured, numbers = before["measured"] | measured, list(named.values())
    document = {
        "cohort": {"subjects": options.subjects, "resolution_mm": options.resolution, "pool": POOL},
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("voxstack", "zarr", "dask", "distributed", "numpy", "numba")},
        "numbers": [{**asdict(number), "reached": number.reached} for number in numbers],
        "measured": measured,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    (options.results / "scale.md").write_text(table(numbers))
    plot(numbers, options.results / "scale.png")
    print(table(numbers), flush=True)


def repeated(folder: Path, n: int) -> Path:
    """A table of n subjects with covariates of their own, whose maps are those of the pool in turns."""
    pool = pd.read_csv(folder / "pool" / "participants.tsv", sep="\t")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "participant_id": [f"sub-{i:05d}" for i in range(n)],
            "age": rng.uniform(20, 80, n).round(1),
            "sex": rng.choice(["F", "M"], n),
            "site": rng.choice(["north", "south"], n),
            "effect_path": [f"pool/{pool['effect_path'][i % POOL]}" for i in range(n)],
        }
    )
    path = folder / f"participants-{n}.tsv"
    rows.to_csv(path, sep="\t", index=False)
    return path


def _scale(folder: Path, many: int) -> tuple[dict[str, object], list[Number]]:
    with workers(2) as client:
        few = {name: watched(client, step) for name, step in _steps(folder, FEW).items()}
        two = {name: watched(client, step) for name, step in _steps(folder, many).items()}
        planned = _planned(folder, many)
        decoding = {2: _decoding(client, folder, many)}
    with workers(1) as client:
        decoding[1] = _decoding(client, folder, many)
        alone = {name: _steps(folder, many)[name] for name in STEPS[:3]}
        one = {name: watched(client, step) for name, step in alone.items()}
    limit = parse_bytes(LIMIT)
    shutil.rmtree(folder / f"{many}.zarr")
    most = {name: max(step.peaks) for name, step in two.items()}
    scaling = decoding[1] / decoding[2]
    numbers = [
        _at_most(f"{name} of {many:,} subjects: peak of a worker against its limit", 100 * most[name] / limit, 100, "%")
        for name in STEPS
    ]
    numbers += [
        _at_most(f"{name} of {many:,} subjects: peak of a worker against its plan", 100 * most[name] / plan, 100, "%")
        for name, plan in planned.items()
    ]
    numbers.append(_at_most("bytes that workers spilled to disk", sum(s.spilled for s in two.values()), 0, "bytes"))
    numbers.append(_at_most("workers that were restarted", sum(s.restarts for s in two.values()), 0, "workers"))
    for name in STEPS:
        ratio = (two[name].seconds / many) / (few[name].seconds / FEW)
        numbers.append(_at_most(f"{name}: time a subject of {many:,} against {FEW}", 100 * ratio, 120, "%"))
    for name, step in one.items():
        ratio = step.seconds / two[name].seconds / scaling
        numbers.append(Number(f"{name}: gain by a second worker against that of decoding alone", 100 * ratio, 90, "%"))
    details = {str(FEW): few, str(many): two, "one worker": one}
    told: dict[str, object] = {key: {name: asdict(step) for name, step in of.items()} for key, of in details.items()}
    return told | {"decoding_seconds": decoding}, numbers


def _at_most(name: str, value: float, target: float, unit: str) -> Number:
    return Number(name, float(value), target, unit, at_most=True)


def _steps(folder: Path, n: int) -> dict[str, Callable[[], object]]:
    store = folder / f"{n}.zarr"

    def stack() -> None:
        vx.stack(repeated(folder, n), store, maps={"effect": "effect_path"}, overwrite=True)

    def fit() -> None:
        vx.compute(vx.contrast(vx.fit_glm(vx.open_cohort(store), DESIGN), CONTRASTS))

    def permute(number: int, *statistics: str) -> None:
        vx.permutation_test(vx.open_cohort(store), DESIGN, "age", n_permutations=number, statistics=statistics)

    return {"stack": stack, "fit": fit, "max-T": partial(permute, 1000, "voxel"), "TFCE": partial(permute, 100, "tfce")}


def _planned(folder: Path, n: int) -> dict[str, int]:
    """Bytes of a worker that the plan says for each step, whose worker this process' client has."""
    cohort = vx.open_cohort(folder / f"{n}.zarr")
    fitted = vx.memory_plan(cohort, n_regressors=4, n_contrasts=len(CONTRASTS))
    of_voxels = vx.memory_plan(cohort, n_permutations=1000)
    of_maps = vx.memory_plan(cohort, n_permutations=100, statistics=["tfce"])
    return dict(zip(STEPS, (fitted.stack, fitted.fit, of_voxels.permute, of_maps.permute), strict=True))


def _decoding(client: Client, folder: Path, n: int) -> float:
    """Seconds, the median of three."""
    return median(watched(client, partial(_decode, folder, n)).seconds for _ in range(3))


def _decode(folder: Path, n: int) -> None:
    """Decode every chunk, and drop it."""
    array = as_blocks(vx.open_cohort(folder / f"{n}.zarr")["effect"])
    graph = array.__dask_graph__()
    rows = [[graph[(array.name, *index)] for index in np.ndindex(array.numblocks) if index[0] == row]
            for row in range(array.numblocks[0])]  # fmt: skip
    for _ in run(Task(row, call("decode", _dropped, tasks)) for row, tasks in enumerate(rows)):
        pass


def _dropped(tasks: list[tuple[Callable[..., object], ...]]) -> int:
    with allocation.reused_memory:  # as all tasks that decode
        for function, *arguments in tasks:
            function(*arguments)
    return len(tasks)


if __name__ == "__main__":
    main()
