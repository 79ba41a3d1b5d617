"""Reading results: bounds of true discoveries and the report, at 2 mm, beside nilearn in the same run.

    python benchmarks/reading.py [--repeats 5] [--results DIR] [--quick]

A smooth random map of z with a planted effect in the MNI mask. Bounds of all clusters beyond z = 3.1 against nilearn's
`cluster_level_inference`; the report of a fit of 20 subjects with two contrasts, which a fresh process writes, Python's
start and all imports included, and its size. Takes two minutes on two cores. Run nothing else meanwhile.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import nibabel as nib
import numpy as np
import pandas as pd
from measure import Number, in_turn, medians
from nilearn.glm import cluster_level_inference
from relabelling import mni_mask, smooth_noise
from run import RESULTS, table

import voxstack as vx

_WRITE = """
import sys
import voxstack as vx
vx.report(vx.open_results(sys.argv[1]), sys.argv[2], cohort=vx.open_cohort(sys.argv[3]))
"""


def main() -> None:
    """Measure, and write a table and a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement; medians count [5]")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="only show that everything runs; needs --results")
    options = parser.parse_args()
    if options.quick and options.results == RESULTS:
        parser.error("--quick needs --results, for its numbers must not be taken for real ones")
    resolution, repeats = (8, 1) if options.quick else (2, options.repeats)
    numbers = [*_discoveries(resolution, repeats), *_report(resolution, repeats)]
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "repeats": repeats,
        "numbers": [{**asdict(number), "reached": number.reached} for number in numbers],
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "reading.json").write_text(json.dumps(document, indent=2) + "\n")
    (options.results / "reading.md").write_text(table(numbers))
    print(table(numbers))


def _discoveries(resolution: int, repeats: int) -> list[Number]:
    mask = mni_mask(resolution)
    z = smooth_noise(mask, 1)[0].astype(np.float64)
    z /= z[mask].std()
    middle = tuple(slice(n // 3, n // 2) for n in mask.shape)
    z[middle] += 3
    affine = np.diag([float(resolution)] * 3 + [1.0])
    image = nib.Nifti1Image(np.where(mask, z, 0), affine)
    inside = nib.Nifti1Image(mask.astype(np.uint8), affine)
    result = vx.read_map(image, mask=mask)
    contenders = {
        "voxstack": partial(vx.true_discovery_proportion, result, connectivity=6),
        "nilearn": partial(cluster_level_inference, image, mask_img=inside, threshold=3.1),
    }
    for run in contenders.values():
        run()  # compiles
    seconds = medians(in_turn(contenders, dict.fromkeys(contenders, repeats)))
    return [
        Number(f"true discoveries of {int(mask.sum()):,} voxels", seconds["voxstack"], 2.0, "s", at_most=True),
        Number("true discoveries against nilearn", seconds["nilearn"] / seconds["voxstack"], 1.0, "times"),
    ]


def _report(resolution: int, repeats: int) -> list[Number]:
    mask, n = mni_mask(resolution), 20
    maps = smooth_noise(mask, n)
    people = pd.DataFrame({"age": np.linspace(20, 80, n)}, index=[f"sub-{i:02d}" for i in range(n)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        people.assign(path=[str(folder / f"{i}.nii.gz") for i in range(n)]).to_csv(
            folder / "people.csv", index_label="id"
        )
        affine = np.diag([float(resolution)] * 3 + [1.0])
        affine[:3, 3] = -90, -126, -72
        for i, one in enumerate(maps):
            image = nib.Nifti1Image(one, affine)
            image.set_sform(affine, code=4)
            nib.save(image, folder / f"{i}.nii.gz")
        cohort = vx.stack(folder / "people.csv", folder / "c.zarr", maps={"effect": "path"}, label="id")
        result = vx.contrast(vx.fit_glm(cohort, "~ age"), {"mean": "Intercept", "age": "age"})
        vx.save_results(result, folder / "r.zarr")
        command = [sys.executable, "-c", _WRITE, *(str(folder / part) for part in ("r.zarr", "page.html", "c.zarr"))]
        seconds = []
        for _ in range(repeats):
            start = perf_counter()
            subprocess.run(command, check=True)
            seconds.append(perf_counter() - start)
        size = (folder / "page.html").stat().st_size / 1e6
    return [
        Number("report of two contrasts", median(seconds), 15.0, "s", at_most=True),
        Number("size of the report", size, 10.0, "MB", at_most=True),
    ]


if __name__ == "__main__":
    main()
