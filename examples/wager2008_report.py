"""Reappraisal in the brain of 30 subjects: what is significant, how much of it is active, and a report.

The contrast maps (reappraise - look at negative pictures) are those of Wager et al. (2008), Neuron 59:1037. Each
subject lacks other voxels, so every voxel is tested in the subjects that have it. The mean is thresholded at a false
discovery rate of 5%, its clusters and peaks are listed, and for each cluster beyond z = 3.1 a lower bound says how many
of its voxels are active. (wager2008.py says why left and right are turned around in these images.)

Run it with ``python examples/wager2008_report.py DATA OUTPUT``. DATA is the folder that holds ``wager2008``, by default
the one that the environment variable VOXSTACK_DATA names. The same on the command line, with a table of the files::

    voxstack stack participants.tsv cohort.zarr --map effect=path --mask 0.05
    voxstack fit cohort.zarr --design "~ 1" --contrast mean=Intercept --missing available --output fit
    voxstack threshold fit --cluster-extent 10 --output significant
    voxstack clusters significant --output significant
    voxstack report significant --cohort cohort.zarr
"""

import argparse
import os
from pathlib import Path

from wager2008 import participants

import voxstack as vx


def main(data: Path, output: Path) -> None:
    """Stack, fit, threshold, tabulate, bound, report."""
    folder = data / "wager2008"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there. Name the folder that holds wager2008, or set VOXSTACK_DATA.")

    maps = {"effect": "path"}
    cohort = vx.stack(participants(folder), output / "cohort.zarr", maps=maps, mask=0.05, overwrite=True)
    fit = vx.fit_glm(cohort, "~ 1", missing="available")
    result = vx.compute(vx.contrast(fit, {"mean": "Intercept"}))

    significant = vx.threshold(result, correction="fdr", cluster_extent=10)
    print(significant.attrs["summary"][0])
    table = vx.clusters_table(significant)
    table.to_csv(output / "clusters.tsv", sep="\t", index=False)
    highest = table[table["peak"] == 1].head(8).drop(columns=["contrast", "peak"])
    print(highest.to_string(index=False, float_format="{:.4g}".format))

    bounds = vx.true_discovery_proportion(result, cluster_forming_z=3.1, alternative="two-sided")
    largest = bounds.sel(contrast="mean", cluster_forming_z=3.1, region=1)
    active = int(largest.true_discoveries)
    print(f"largest cluster beyond z = 3.1: {int(largest.n_voxels)} voxels, {active} or more active")

    page = vx.report(
        significant,
        output / "report.html",
        cohort=cohort,
        title="Reappraisal of negative pictures (Wager et al. 2008)",
        background=folder / "brainmask.nii",
    )
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("VOXSTACK_DATA", "../shared/data"))
    parser.add_argument("output", type=Path, nargs="?", default="wager2008-report")
    arguments = parser.parse_args()
    main(Path(arguments.data), Path(arguments.output))
