"""Permutation tests against nilearn, and against the matrix products that they consist of.

    python benchmarks/permutation.py [--repeats 3] [--results DIR]

Random maps of 100 subjects, smoothed by 6 mm, in the MNI 2 mm mask. What counts is the time of one more relabelling:
the difference of two runs of different length. The machine's rate of products in single precision is measured in the
same run, on as many threads. Run nothing else meanwhile.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import nibabel as nib
import numpy as np
import xarray as xr
from measure import Number
from nilearn.datasets import load_mni152_brain_mask
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from numpy.typing import NDArray
from run import RESULTS, table
from scipy import ndimage
from threadpoolctl import threadpool_limits

import voxstack as vx
from voxstack.run import thread_count

N = 100


def main() -> None:
    """Measure, and write a table and a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    mask = load_mni152_brain_mask(resolution=2)
    maps, design = _maps(np.asarray(mask.dataobj) > 0, N), _design(N)
    cohort = _cohort(maps, mask)
    times = {
        name: {"voxstack": _marginal(ours, options.repeats, few), "nilearn": _marginal(theirs, 1, peer)}
        for name, ours, few, theirs, peer in (
            ("max-T", _ours(cohort, design[:, :1]), 2048, _nilearn(maps, mask, design[:, :1]), 64),
            ("max-T, two nuisance columns", _ours(cohort, design), 1024, _nilearn(maps, mask, design), 32),
            (
                "cluster extent",
                _ours(cohort, design[:, :1], statistics=("cluster_extent",), cluster_forming_p=0.001),
                128,
                _nilearn(maps, mask, design[:, :1], threshold=0.001),
                16,
            ),
            (
                "TFCE",
                _ours(cohort, design[:, :1], statistics=("tfce",)),
                128,
                _nilearn(maps, mask, design[:, :1], tfce=True),
                8,
            ),
        )
    }
    rates = {n: _rate(n, mask, options.repeats) for n in (100, 500, 2000)}
    targets = {"max-T": 12, "max-T, two nuisance columns": 20, "cluster extent": 30, "TFCE": 50}
    numbers = [
        Number(f"{name} against nilearn", times[name]["nilearn"] / times[name]["voxstack"], target, "times")
        for name, target in targets.items()
    ]
    numbers += [
        Number(f"max-T with counts against products alone, n = {n}", 100 * rate["share"], 60, "%")
        for n, rate in rates.items()
    ]
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("voxstack", "nilearn", "numpy", "numba", "dask")},
        "numbers": [{**asdict(number), "reached": number.reached} for number in numbers],
        "measured": {"seconds_per_relabelling": times, "rates": rates},
    }
    options.results.mkdir(parents=True, exist_ok=True)
    print(table(numbers))
    (options.results / "permutation.json").write_text(json.dumps(document, indent=2) + "\n")
    (options.results / "permutation.md").write_text(table(numbers))
    print(json.dumps(document["measured"], indent=1))


def _maps(inside: NDArray[np.bool_], n: int) -> NDArray[np.float32]:
    """Smoothed noise (n, x, y, z)."""
    rng = np.random.default_rng(0)
    noise = np.stack([ndimage.gaussian_filter(rng.standard_normal(inside.shape), 3 / 2.355) for _ in range(n)])
    return np.where(inside, noise, 0).astype(np.float32)


def _design(n: int) -> NDArray[np.float64]:
    """A regressor and two nuisance columns that are correlated with it."""
    rng = np.random.default_rng(1)
    tested = rng.standard_normal(n)
    return np.column_stack([tested, rng.standard_normal((n, 2)) + 0.3 * tested[:, None]])


def _cohort(maps: NDArray[np.float32], mask: nib.Nifti1Image) -> xr.Dataset:
    return vx.from_arrays({"effect": maps}, affine=mask.affine, mask=np.asarray(mask.dataobj) > 0)


def _ours(
    cohort: xr.Dataset, columns: NDArray[np.float64], statistics: tuple[str, ...] = ("voxel",), **options: float
) -> Callable[[int], object]:
    design = np.column_stack([columns, np.ones(len(columns))])
    weights = {"tested": [1.0] + [0.0] * columns.shape[1]}

    def run(number: int) -> object:
        return vx.permutation_test(
            cohort, design, weights, n_permutations=number, statistics=statistics, relabelling="permute", **options
        )

    return run


def _nilearn(
    maps: NDArray[np.float32],
    mask: nib.Nifti1Image,
    columns: NDArray[np.float64],
    *,
    threshold: float | None = None,
    tfce: bool = False,
) -> Callable[[int], object]:
    masker = NiftiMasker(mask_img=mask, standardize=None).fit()
    target = maps[:, np.asarray(mask.dataobj) > 0]
    confounds = columns[:, 1:] if columns.shape[1] > 1 else None

    def run(number: int) -> object:
        return permuted_ols(
            columns[:, :1],
            target,
            confounding_vars=confounds,
            n_perm=number,
            n_jobs=2,
            masker=masker,
            tfce=tfce,
            threshold=threshold,
            random_state=0,
        )

    return run


def _marginal(run: Callable[[int], object], repeats: int, number: int) -> float:
    """Seconds of one more relabelling: from runs of `number` and of three times as many."""
    run(max(number // 8, 2))
    differences = []
    for _ in range(repeats):
        start = perf_counter()
        run(number)
        middle = perf_counter()
        run(3 * number)
        differences.append((perf_counter() - middle - (middle - start)) / (2 * number))
    return median(differences)


def _rate(n: int, mask: nib.Nifti1Image, repeats: int) -> dict[str, float]:
    """Products of a permutation test of one regressor a second, and of matrices alone."""
    rng = np.random.default_rng(2)
    inside = np.asarray(mask.dataobj) > 0
    if n > N:  # fewer voxels, so that all fit into memory
        inside &= np.arange(inside.shape[2]) % (n // N) == 0
    values = np.zeros((n, *inside.shape), dtype=np.float32)
    values[:, inside] = rng.standard_normal((n, int(inside.sum())), dtype=np.float32)
    cohort = vx.from_arrays({"effect": values}, affine=mask.affine, mask=inside)
    each = _marginal(_ours(cohort, rng.standard_normal((n, 1))), repeats, 4096 if n <= N else 2048)
    ours = 2 * n * int(inside.sum()) / each
    a, b = rng.standard_normal((4096, n), dtype=np.float32), rng.standard_normal((n, 8192), dtype=np.float32)

    def multiply(_: int) -> None:
        for _ in range(4):
            a @ b

    alone = []
    with threadpool_limits(1), ThreadPoolExecutor(thread_count()) as pool:
        for _ in range(repeats + 2):
            start = perf_counter()
            list(pool.map(multiply, range(thread_count())))
            alone.append(2 * n * len(a) * b.shape[1] * 4 * thread_count() / (perf_counter() - start))
    return {"ours": ours / 1e9, "alone": median(alone) / 1e9, "share": ours / median(alone)}


if __name__ == "__main__":
    main()
