"""Reappraisal and the right ventrolateral prefrontal cortex: a published cohort, from its files to a tested slope.

The contrast maps (reappraise - look at negative pictures) of the 30 subjects of Wager et al. (2008), Neuron 59:1037,
are Analyze images in which each subject lacks other voxels. Activity of the right VLPFC is the covariate X. At each
voxel the map is regressed on X over the subjects that have the voxel, and the slopes are held against those of another
toolbox, ``X-M_effect.img``.

Analyze headers do not say which side is left. By nibabel's convention, which voxstack follows, the highest t comes out
on the left. That voxel lies in the region that X was taken from, so these images were stored the other way round.

Run it with ``python examples/wager2008.py DATA OUTPUT``. DATA is the folder that holds ``wager2008``, by default the
one that the environment variable VOXSTACK_DATA names.
"""

import argparse
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

import voxstack as vx


def participants(folder: Path) -> pd.DataFrame:
    """One row an image: the rows of the covariates are in the order of the files."""
    table = pd.read_csv(folder / "X_Y_data.txt", sep="\t").set_axis(["X", "Y"], axis=1)
    labels = [f"sub-{i + 1:02d}" for i in range(len(table))]
    images = sorted((folder / "maps").glob("*.img"))
    return table.assign(participant_id=labels, path=[str(image.resolve()) for image in images])


def main(data: Path, output: Path) -> None:
    """Stack, fit, test, compare, write."""
    folder = data / "wager2008"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not there. Name the folder that holds wager2008, or set VOXSTACK_DATA.")

    # Voxels that at least one subject in twenty has.
    store = output / "cohort.zarr"
    cohort = vx.stack(participants(folder), store, maps={"effect": "path"}, mask=0.05, overwrite=True)
    lacking = int((cohort.n_valid < cohort.sizes["subject"]).sum())
    print(f"{cohort.sizes['subject']} subjects; {lacking:,} voxels that some of them lack")

    fit = vx.fit_glm(cohort, "~ X", missing="available")
    result = vx.compute(vx.contrast(fit, "X"))

    published = nib.load(folder / "X-M_effect.img").get_fdata().squeeze()
    defined = np.isfinite(published) & (published != 0)
    slope = result.effect.sel(contrast="X").values
    difference = np.abs(slope - published)[defined].max()
    print(f"{int(defined.sum()):,} published slopes; the largest difference is {difference:.1e}")
    assert difference < 1e-6

    there = result.sel(contrast="X")
    there = there.isel(there.z_score.argmax(["x", "y", "z"]))
    print(f"highest t: {there.stat:.2f}, z {there.z_score:.2f}, at ({there.x:.0f}, {there.y:.0f}, {there.z:.0f}) mm")

    paths = vx.write_maps(result, output / "maps")
    vx.save_results(result, output / "maps" / "results.zarr", overwrite=True)
    figure = vx.figures.plot_slices(
        result.z_score.sel(contrast="X"),
        threshold=3.1,
        cuts=(-12, 0, 12, 24, 36, 48),
        background=folder / "brainmask.nii",
        title="slope on right VLPFC activity, |z| > 3.1 (sides by the Analyze convention)",
    )
    figure.savefig(output / "slope.png", dpi=150)
    print(f"{len(paths)} maps, results.zarr and slope.png in {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("VOXSTACK_DATA", "../shared/data"))
    parser.add_argument("output", type=Path, nargs="?", default="wager2008-results")
    arguments = parser.parse_args()
    main(Path(arguments.data), Path(arguments.output))
