"""Fit and one contrast: nilearn, decoding the same blocks alone, and voxstack, in one run.

Each is timed several times in turn, and medians are compared, so that a busy machine disturbs all alike.

    python benchmarks/glm.py [--subjects 200] [--resolution 2] [--repeats 5] [--folder DIR]
"""

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from nilearn.glm.second_level import SecondLevelModel

import voxstack as vx


def main() -> None:
    """Make the cohort, time the contenders, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--resolution", type=float, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the cohort here, and use it again if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        table = _cohort(folder, options.subjects, options.resolution)
        results = _measure(folder, table, options.repeats)
    results |= {"subjects": options.subjects, "resolution_mm": options.resolution, "machine": platform.processor()}
    _print(results)
    output = Path(__file__).parent / "results"
    output.mkdir(exist_ok=True)
    (output / "glm.json").write_text(json.dumps(results, indent=2) + "\n")


def _cohort(folder: Path, n_subjects: int, resolution: float) -> Path:
    table = folder / "participants.tsv"
    if not table.is_file() or len(pd.read_csv(table, sep="\t")) != n_subjects:
        vx.simulate_cohort(folder, n_subjects=n_subjects, resolution=resolution, progress=True)
    return table


def _measure(folder: Path, table: Path, repeats: int) -> dict[str, object]:
    store = folder / "cohort.zarr"

    def stack() -> xr.Dataset:
        return vx.stack(table, store, maps={"effect": "effect_path"}, overwrite=True)

    stack()
    contenders: dict[str, Callable[[], object]] = {
        "nilearn": lambda: _nilearn(folder, table),
        "stack": stack,
        "fit": lambda: vx.compute(vx.contrast(vx.fit_glm(vx.open_cohort(store), "~ age + sex"), "age")),
        "decode": lambda: _decode(vx.open_cohort(store)["effect"]),
    }
    contenders["fit"]()  # compiles the kernels
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name, run in contenders.items():
            if name == "nilearn" and repeat >= 3:  # minutes each
                continue
            start = perf_counter()
            run()
            seconds[name].append(perf_counter() - start)
    _check_agreement(vx.open_cohort(store), _nilearn(folder, table))
    medians = {name: median(times) for name, times in seconds.items()}
    return {
        "seconds": seconds,
        "median_seconds": medians,
        "nilearn_over_fit": medians["nilearn"] / medians["fit"],
        "nilearn_over_stack_and_fit": medians["nilearn"] / (medians["stack"] + medians["fit"]),
        "decode_over_fit": medians["decode"] / medians["fit"],
    }


def _nilearn(folder: Path, table: Path) -> nib.Nifti1Image:
    """nilearn's second-level model on the same files, as its users write it."""
    participants = pd.read_csv(table, sep="\t")
    design = pd.DataFrame(
        {"Intercept": 1.0, "age": participants["age"], "sex": (participants["sex"] == "M").astype(float)}
    )
    images = [str(folder / path) for path in participants["effect_path"]]
    model = SecondLevelModel(mask_img=str(folder / "mask.nii.gz"))
    return model.fit(images, design_matrix=design).compute_contrast("age", output_type="stat")


def _decode(maps: xr.DataArray) -> None:
    """Read every chunk, and throw it away: what a fit cannot be faster than."""
    dask.compute(*[dask.delayed(len, pure=False)(block) for block in maps.data.to_delayed().ravel()])


def _check_agreement(cohort: xr.Dataset, reference: nib.Nifti1Image) -> None:
    """Speed of a wrong answer is worth nothing: t must be nilearn's."""
    ours = vx.contrast(vx.fit_glm(cohort, "~ age + sex"), "age")["stat"].sel(contrast="age").values
    theirs = reference.get_fdata()
    inside = cohort["mask"].values & (theirs != 0)
    worst = np.abs(ours - theirs)[inside].max()
    assert worst < 1e-3, f"t differs from nilearn's by up to {worst}"


def _print(results: dict[str, object]) -> None:
    medians = results["median_seconds"]
    assert isinstance(medians, dict)
    print(f"{results['subjects']} subjects at {results['resolution_mm']:g} mm, medians")
    for name, seconds in medians.items():
        print(f"  {name:8} {seconds:8.2f} s")
    print(f"  fit is {results['nilearn_over_fit']:.1f} times as fast as nilearn's fit and contrast")
    print(f"  stack and fit are {results['nilearn_over_stack_and_fit']:.1f} times as fast")
    print(f"  fit runs at {results['decode_over_fit']:.0%} of the speed of decoding alone")


if __name__ == "__main__":
    main()
