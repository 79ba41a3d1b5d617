"""Reappraisal in the brain of 30 subjects: permutation tests of a mean and of a slope on a published cohort.

The contrast maps (reappraise - look at negative pictures) are those of Wager et al. (2008), Neuron 59:1037, at the
voxels that every subject has. Two questions are asked of each: does reappraisal change activity on average, and does
its change go along with that of the right VLPFC, the covariate X? X is centred, so the mean is that of the group, and
its test flips signs; that of the slope permutes subjects. All p-values are corrected for all voxels.

X was taken from these very images. What is found in and around the right VLPFC is circular: it shows where X is from.
(wager2008.py says why the VLPFC comes out on the left.)

Run it with ``python examples/wager2008_permutation.py DATA OUTPUT``. DATA is the folder that holds ``wager2008``, by
default the one that the environment variable VOXSTACK_DATA names.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import xarray as xr
from scipy import stats
from wager2008 import participants

import voxstack as vx

RELABELLINGS = 400  # no p-value is below 1 / 400; publish with 5,000 or more
ALPHA = 0.05


def tell(test: xr.Dataset) -> None:
    """What was found of one contrast."""
    number, kind = int(test.n_relabellings), str(test.relabelling.item())
    print(f"\n{test.contrast.item()}: {number} relabellings ({kind})")

    # A relabelling's largest |t| has to be exceeded by all but 5% of them.
    maxima = np.sort(test.null_max.sel(statistic="voxel"))[::-1]
    by_maximum = maxima[int(ALPHA * number)]
    by_bonferroni = stats.t.isf(ALPHA / 2 / int(test.mask.sum()), float(test.dof))
    print(f"  |t| is significant above {by_maximum:.2f}; Bonferroni's limit is {by_bonferroni:.2f}")

    for name, values in (("voxel", test.stat), ("cluster_extent", test.cluster_extent), ("tfce", test.tfce)):
        p, size = test[f"{name}_p_fwe"], abs(values)
        at = abs(test.stat).where(size == size.max()).argmax(["x", "y", "z"])
        where = ", ".join(f"{float(size[at][axis]):.0f}" for axis in "xyz")
        print(f"  {name}: {float(values[at]):,.5g} at ({where}) mm, p = {float(p[at]):.4f};", end=" ")
        print(f"{int((p <= ALPHA).sum()):,} voxels with p <= {ALPHA}")


def main(data: Path, output: Path) -> None:
    """Stack, test, tell, write."""
    folder = data / "wager2008"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there. Name the folder that holds wager2008, or set VOXSTACK_DATA.")

    cohort = vx.stack(participants(folder), output / "cohort.zarr", maps={"effect": "path"}, overwrite=True)
    print(f"{cohort.sizes['subject']} subjects; {int(cohort.mask.sum()):,} voxels that all of them have")

    tests = vx.permutation_test(
        cohort,
        "~ center(X)",
        {"Intercept": "Intercept", "X": "center(X)"},
        n_permutations=RELABELLINGS,
        statistics=["voxel", "cluster_extent", "tfce"],
        cluster_forming_p=0.001,
    )
    for name in tests.contrast.values:
        tell(tests.sel(contrast=name))

    paths = vx.write_maps(tests, output / "maps")
    vx.save_results(tests, output / "maps" / "results.zarr", overwrite=True)
    print(f"\n{len(paths)} maps and results.zarr in {output / 'maps'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("VOXSTACK_DATA", "../shared/data"))
    parser.add_argument("output", type=Path, nargs="?", default="wager2008-permutation")
    arguments = parser.parse_args()
    main(Path(arguments.data), Path(arguments.output))
