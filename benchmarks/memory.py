"""The most memory that stacking and fitting take, for few subjects and for many; each in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from measure import Number

FEW, MANY = 200, 1600

_WORK = """
import json, resource, sys
from pathlib import Path
import voxstack as vx
what, table, store = sys.argv[1:]
if what == "stack":
    vx.stack(table, store, maps={"effect": "effect_path"}, overwrite=True)
else:
    vx.compute(vx.contrast(vx.fit_glm(vx.open_cohort(store), "~ age + sex"), "age"))
status = Path("/proc/self/status")
if status.exists():  # Linux tells the peak of the parent, too, in ru_maxrss
    peak = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plan = vx.memory_plan(vx.open_cohort(store), n_regressors=3)
print(json.dumps({"peak": peak, "plan": getattr(plan, what)}))
"""


def measure(folder: Path) -> tuple[dict[str, object], list[Number]]:
    """Peaks and plans in bytes, and what is to be true of them.

    The many subjects are the files of the few, each under several labels: stacking reads every file that often.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for n in (FEW, MANY):
        table = _repeated(folder, n)
        found[str(n)] = {what: _run(what, table, folder / f"{n}.zarr") for what in ("stack", "fit")}
    few, many = found[str(FEW)], found[str(MANY)]
    grown = f"peak memory of {{}}, {MANY:,} against {FEW} subjects"
    planned = f"peak memory of {{}} of {MANY:,} subjects against its plan"
    ratios = [(grown, few, "peak", 110), (planned, many, "plan", 100)]
    numbers = [
        Number(name.format(what), 100 * many[what]["peak"] / whole[what][against], limit, "%", at_most=True)
        for name, whole, against, limit in ratios
        for what in ("stack", "fit")
    ]
    return {"bytes": found}, numbers


def _repeated(folder: Path, n: int) -> Path:
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    rows = pd.concat([table] * -(-n // len(table)), ignore_index=True)[:n]
    rows["participant_id"] = [f"sub-{i:05d}" for i in range(n)]
    path = folder / f"participants-{n}.tsv"
    rows.to_csv(path, sep="\t", index=False)
    return path


def _run(what: str, table: Path, store: Path) -> dict[str, float]:
    command = [sys.executable, "-c", _WORK, what, str(table), str(store)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
