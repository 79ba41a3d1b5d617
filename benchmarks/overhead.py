"""How long a small fit takes in a fresh process, after the imports: 30 subjects at 3 mm on threads."""

import subprocess
import sys
from pathlib import Path
from statistics import median

from measure import Number

import voxstack as vx

_FIT = """
import sys, time
import voxstack as vx
vx.stack, vx.open_cohort, vx.fit_glm, vx.contrast, vx.compute
start = time.perf_counter()
vx.compute(vx.contrast(vx.fit_glm(vx.open_cohort(sys.argv[1]), "~ age + sex"), "age"))
print(time.perf_counter() - start)
"""


def measure(folder: Path, repeats: int) -> tuple[dict[str, object], list[Number]]:
    """Seconds in fresh processes."""
    table = vx.simulate_cohort(folder / "small", n_subjects=30, resolution=3) / "participants.tsv"
    store = folder / "small.zarr"
    vx.stack(table, store, maps={"effect": "effect_path"}, overwrite=True)
    seconds = [
        float(
            subprocess.run([sys.executable, "-c", _FIT, str(store)], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(repeats)
    ]
    return {"seconds": seconds}, [Number("fit of 30 subjects at 3 mm", median(seconds), 2, "s", at_most=True)]
