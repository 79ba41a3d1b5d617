"""
How much of a cluster is active
===============================

A cluster with a corrected p-value of 0.002 holds an active voxel. Which one, and how many more, the p-value does not
say: it would be as small if all of the others were idle. Lower bounds for the share of active voxels do say it, for as
many clusters, thresholds and regions of an atlas as one likes, and after a look at the map, too.

Offline the maps are simulated: 30 people, voxels of the size of the Brainomics/Localizer dataset, and four places that
are active, so that the bounds can be held against the number of voxels that really are. The atlas is made up as well.
With ``--download`` the maps are those of that dataset, sentences heard or read (Papadopoulos Orfanos et al. 2017,
NeuroImage 144:309), and the atlas is the Harvard-Oxford one (Desikan et al. 2006, NeuroImage 31:968); both come by
``nilearn.datasets``.
"""

# %%
# Maps and an atlas
# -----------------
#
# An atlas is an image of labels, on any lattice, and a table of their names.

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from scipy.spatial import KDTree

import voxstack as vx
from voxstack.simulate import Region

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--download", action="store_true", help="take real maps and a real atlas by nilearn.datasets")
download = parser.parse_args().download

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
LANGUAGE = (
    Region("mean", "left temporal cortex", (-54, -30, 3), 2.5, 8),
    Region("mean", "right temporal cortex", (54, -18, -3), 2.0, 7),
    Region("mean", "left inferior frontal gyrus", (-45, 21, 15), 2.0, 7),
    Region("mean", "visual cortex", (0, -84, 0), 1.5, 7),
)

if download:
    from nilearn.datasets import fetch_atlas_harvard_oxford, fetch_localizer_contrasts

    maps = fetch_localizer_contrasts(["sentence listening and reading"], n_subjects=30)["cmaps"]
    people = pd.DataFrame({"participant_id": [Path(path).parent.name for path in maps], "effect_path": maps})
    harvard_oxford = fetch_atlas_harvard_oxford("cort-maxprob-thr25-2mm")
    atlas = (harvard_oxford["maps"], harvard_oxford["lut"])
else:
    people = pd.DataFrame({"participant_id": [f"sub-{i + 1:02d}" for i in range(30)]})
    vx.simulate_cohort(folder / "people", participants=people, regions=LANGUAGE, seed=30)
    people = folder / "people/participants.tsv"

    # A parcellation: each voxel of the brain belongs to the nearest of 60 of them.
    brain = nib.load(folder / "people/mask.nii.gz")
    inside = np.argwhere(brain.get_fdata() > 0)
    centres = np.random.default_rng(60).choice(inside, size=60, replace=False)
    labels = np.zeros(brain.shape, dtype=np.int16)
    labels[tuple(inside.T)] = KDTree(centres).query(inside)[1] + 1
    places = nib.affines.apply_affine(brain.affine, centres).astype(int)
    names = {i + 1: f"parcel at {x}, {y}, {z}" for i, (x, y, z) in enumerate(places)}
    atlas = (nib.Nifti1Image(labels, brain.affine), names)

cohort = vx.stack(people, folder / "cohort.zarr", maps={"effect": "effect_path"})
result = vx.compute(vx.contrast(vx.fit_glm(cohort, "~ 1"), {"sentences": "Intercept"}, alternative="greater"))
print(f"{cohort.sizes['subject']} people, {int(cohort.mask.sum()):,} voxels")

# %%
# The bounds
# ----------
#
# All-resolution inference (Rosenblatt et al. 2018, NeuroImage 181:786) tests all sets of voxels at once, by closed
# testing with Simes' test. What it says of one set therefore needs no correction for having looked at others: all
# bounds hold together with 95% confidence. It takes the z of each voxel, no relabelling, and no more than a sort of the
# map.
#
# Of the three largest clusters at each of four thresholds:

THRESHOLDS = [1.6, 2.3, 3.1, 4.0]
bounds = vx.true_discovery_proportion(result, cluster_forming_z=THRESHOLDS).sel(contrast="sentences", drop=True)
numbers = bounds[["n_voxels", "true_discoveries", "proportion"]].drop_vars("spatial_ref")
table = numbers.isel(region=slice(3)).to_dataframe().query("n_voxels > 0")
print(table.round(2).to_string())

# %%
# The share of each cluster that is active at the least, at two of the thresholds:

cuts = (-12, -6, 0, 6, 12, 18) if not download else 6
for threshold in (1.6, 4.0):
    share = bounds.true_discovery_proportion.sel(cluster_forming_z=threshold)
    title = f"share that is active, at least, of clusters beyond z = {threshold:g}"
    if share.max() > 0:
        vx.figures.plot_slices(share.where(share > 0), cuts=cuts, title=title, vmax=1.0)

# %%
# Bounds beside p-values of clusters
# ----------------------------------
#
# A low threshold makes large clusters, with small p-values. But what p-values speak of is one voxel anywhere in the
# cluster: the larger it is, the less is known of where. Rosenblatt et al. call this the spatial specificity paradox;
# Woo et al. (2014, NeuroImage 91:412) found low thresholds to be common, and warn of reading anatomy off such clusters.
# Bounds keep two things apart: how many voxels are active, and how large a share of the cluster they are. The first can
# only grow when the threshold is lowered, and the second will mostly fall.

p_values = {}
for threshold in THRESHOLDS:
    tests = vx.permutation_test(
        cohort, "~ 1", {"sentences": "Intercept"}, statistics=["cluster_extent"], cluster_forming_z=threshold,
        n_permutations=500, alternative="greater",
    )  # fmt: skip
    clusters = vx.clusters_table(tests, peaks=1)
    if not download:  # these are the same clusters, with the same numbers
        sizes = bounds.n_voxels.sel(cluster_forming_z=threshold).values
        assert clusters["n_voxels"].tolist() == sizes[sizes > 0].tolist()
    p_values |= {(threshold, row.cluster): row.cluster_extent_p_fwe for row in clusters.itertuples()}
table["cluster_p"] = pd.Series(p_values)
print(table.round(3).to_string())

# %%
# Regions of an atlas
# -------------------
#
# Regions are sets of voxels like any others. Those of which most is active at the least:

regions = vx.true_discovery_proportion(result, regions=atlas).sel(contrast="sentences", drop=True)
in_regions = regions[["n_voxels", "true_discoveries", "proportion"]].drop_vars("spatial_ref").to_dataframe()
in_regions = in_regions.sort_values("proportion", ascending=False)
print(in_regions.head(8).round(2).to_string(index=False))

# %%
# Against the truth
# -----------------
#
# The maps were not smoothed, so it is known of each voxel whether it is active: where something was put in, be it
# little. Bounds do not count what could be noise, so the true share is higher. How much closer a bound comes at a high
# threshold says what the strong voxels are worth.

if not download:
    truth = nib.load(folder / "people/truth/mean.nii.gz").get_fdata()
    active = np.nan_to_num(truth) > 0

    def actives(labels, numbers):
        """How many voxels of each set are active, of sets that have these numbers."""
        return np.bincount(labels.values[active], minlength=numbers.max() + 1)[numbers]

    number = np.array([actives(labels, bounds.region.values) for labels in bounds.label])
    true_number = bounds.n_voxels.copy(data=number).drop_vars("spatial_ref")
    table["active"] = true_number.to_series()
    table["true_share"] = table["active"] / table["n_voxels"]
    print(table.round(3).to_string())

    in_regions["active"] = pd.Series(actives(regions.label, regions.region.values), regions.region.values)
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    axes.scatter(in_regions["active"], in_regions["true_discoveries"], s=18, label="regions of the atlas")
    axes.scatter(table["active"], table["true_discoveries"], s=18, label="clusters")
    axes.axline((0, 0), slope=1, color="#444444", linestyle="--", label="all that is active")
    axes.set(xlabel="active voxels", ylabel="active voxels, at least", title="bounds stay below the truth")
    axes.legend(frameon=False)

# %%
# With 95% confidence no bound exceeds the truth, of whatever set. The hardest one nobody could choose who does not know
# the truth: all inactive voxels. Its bound has to be 0, and so has that of their highest ones; one study in twenty may
# fail in this.

if not download:
    assert (bounds.true_discoveries <= true_number).all()
    assert (in_regions["true_discoveries"] <= in_regions["active"]).all()

    z = result.z_score.sel(contrast="sentences", drop=True)
    inactive = z.notnull() & ~active
    hardest = {"all inactive voxels": inactive, "those beyond z = 3": inactive & (z > 3)}
    for name, chosen in hardest.items():
        one = vx.true_discovery_proportion(result, regions=chosen.astype(int))
        print(f"{name}: {int(chosen.sum()):,}, of which active at least {one.true_discoveries.item()}")
        assert chosen.any()
        assert one.true_discoveries.item() == 0

    # Not by saying too little: of each of the largest clusters at the highest threshold most is active.
    assert (bounds.proportion.sel(cluster_forming_z=4.0, region=[1, 2, 3]) > 0.5).all()
    # A larger set holds at least as much, so that a lower threshold never has fewer, and that is a smaller share.
    largest = bounds.sel(region=1)
    assert (largest.true_discoveries.diff("cluster_forming_z") <= 0).all()
    assert (largest.proportion.diff("cluster_forming_z") > 0).all()

# %%

plt.show()
scratch.cleanup()
