"""
Thresholding: uncorrected, FDR, FWE, cluster extent
===================================================

A map of z has some 50,000 voxels, and at p <= 0.05 one in twenty passes where nothing is. Seven ways to choose a
threshold for one group map, 20 people who press a button with the left hand or with the right one: what each of them
promises, and what came of the promise.

Offline the maps are simulated: as many people, voxels of the same size, and four places where the hands differ, so that
of every voxel it is known whether it is a false positive. With ``--download`` they are those of the
Brainomics/Localizer dataset (Papadopoulos Orfanos et al. 2017, NeuroImage 144:309), which ``nilearn.datasets`` fetches.
"""

# %%
# One map a person
# ----------------
#
# Each map is the difference of the two hands, left less right, as the person's first-level model estimated it. Motor
# cortex works for the hand of the other side, and the cerebellum for the hand of its own.

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

import voxstack as vx
from voxstack.simulate import Region

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--download", action="store_true", help="take the real maps, which nilearn.datasets fetches")
download = parser.parse_args().download

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
HANDS = (
    Region("mean", "right motor cortex", (38, -24, 54), 2.5, 9),
    Region("mean", "left motor cortex", (-38, -24, 54), -2.5, 9),
    Region("mean", "left cerebellum", (-18, -54, -24), 2.5, 8),
    Region("mean", "right cerebellum", (18, -54, -24), -2.5, 8),
)

if download:
    from nilearn.datasets import fetch_localizer_contrasts

    maps = fetch_localizer_contrasts(["left vs right button press"], n_subjects=20)["cmaps"]
    people = pd.DataFrame({"participant_id": [Path(path).parent.name for path in maps], "effect_path": maps})
else:
    people = pd.DataFrame({"participant_id": [f"sub-{i + 1:02d}" for i in range(20)]})
    vx.simulate_cohort(folder / "people", participants=people, regions=HANDS, seed=20)
    people = folder / "people/participants.tsv"

cohort = vx.stack(people, folder / "cohort.zarr", maps={"effect": "effect_path"}, smoothing_fwhm=5)
print(f"{cohort.sizes['subject']} people, {int(cohort.mask.sum()):,} voxels")

# %%
# Two tests of the same mean
# --------------------------
#
# The parametric one gives a p-value for each voxel, from t with 19 degrees of freedom. The other one flips signs: if
# the hands did not differ, a person's map could as well have come out with the opposite sign. The largest \|t\| of the
# brain under each of 1,000 such choices says how large it becomes by chance, and the largest cluster how large clusters
# become (Nichols and Holmes 2002, Human Brain Mapping 15:1). Clusters are formed at p <= 0.001 in each direction.

result = vx.compute(vx.contrast(vx.fit_glm(cohort, "~ 1"), {"left-right": "Intercept"}))
tests = vx.permutation_test(
    cohort, "~ 1", {"left-right": "Intercept"}, n_permutations=1000,
    statistics=["voxel", "cluster_extent"], cluster_forming_p=0.001,
)  # fmt: skip
print(f"relabelled by {tests.relabelling.item()}, {tests.n_relabellings.item():,} times")

# %%
# What each threshold promises
# ----------------------------
#
# ============================  ===========================================================================
# threshold                     what is kept low
# ============================  ===========================================================================
# p <= 0.05, p <= 0.001         the share of the inactive voxels that are found; their number grows with the mask
# ... and 10 voxels             nothing that has a number: 10 is a habit
# false discovery rate (FDR)    the share of false ones among what is found, on average over studies
# Bonferroni, relabelling       the chance of a single false voxel anywhere (family-wise error, FWE)
# cluster extent, relabelling   the chance of a single false cluster; not that all voxels of a true one are active
# ============================  ===========================================================================
#
# The false discovery rate is that of Benjamini and Hochberg (1995, J. R. Stat. Soc. B 57:289; for brain maps Genovese
# et al. 2002, NeuroImage 15:870).

found = {
    "p <= 0.05": vx.threshold(result, correction="none", alpha=0.05),
    "p <= 0.001": vx.threshold(result, correction="none", alpha=0.001),
    "p <= 0.001, 10 voxels": vx.threshold(result, correction="none", alpha=0.001, cluster_extent=10),
    "FDR 0.05": vx.threshold(result, correction="fdr"),
    "Bonferroni 0.05": vx.threshold(result, correction="bonferroni"),
    "FWE 0.05": vx.threshold(tests, correction="fwe"),
    "FWE 0.05 of clusters": vx.threshold(tests, correction="fwe", variable="cluster_extent"),
}
for kept in found.values():
    print(kept.attrs["summary"][0])

# %%
# Where fewer pass, less is left of the noise, and of the edges of what is there:

z = result.z_score.sel(contrast="left-right")
cuts = (-24, -12, 12, 30, 42, 54) if not download else 7
largest = float(np.abs(z).max())
for name, kept in found.items():
    significant = kept.significant.sel(contrast="left-right").values
    if significant.any():
        vx.figures.plot_slices(z.where(significant), cuts=cuts, title=f"z, {name}", vmax=largest)

# %%
# Relabelling promises what Bonferroni does. It also knows that neighbours are alike, so that there are fewer chances
# for a false positive than voxels: the smoother the maps, the lower its limit is in comparison. For maps as little
# smooth as the simulated ones the two are close. The largest \|t\| of all relabellings, of which 50 of 1,000 may lie
# beyond the dashed line:

limit = stats.t.isf(0.05 / 2 / result.z_score.notnull().sum().item(), df=19)
print(f"|t| has to exceed {found['FWE 0.05'].threshold.item():.2f} by relabelling, {limit:.2f} by Bonferroni")
vx.figures.plot_null(tests)

# %%
# Against the truth
# -----------------
#
# The difference that was put in goes through the same smoothing as the maps did. Voxels where it is exactly 0 after
# that are inactive, and to find one is a false positive. Those at the edge, which only smoothing has reached, count as
# neither true nor false. A cluster is false where all of its voxels are inactive.

if not download:
    path, mask = folder / "people/truth/mean.nii.gz", vx.to_nifti(cohort.mask)
    truth = pd.DataFrame({"participant_id": ["truth"], "path": [str(path)]})
    as_given = vx.stack(truth, folder / "given.zarr", maps={"effect": "path"}, mask=mask)
    smoothed = vx.stack(truth, folder / "smoothed.zarr", maps={"effect": "path"}, mask=mask, smoothing_fwhm=5)
    tested = result.z_score.sel(contrast="left-right").notnull().values
    active = tested & (as_given.effect.sel(subject="truth").values != 0)
    inactive = tested & (smoothed.effect.sel(subject="truth").values == 0)
    print(f"{active.sum():,} voxels are active, {inactive.sum():,} are inactive")

    rows = {}
    for name, kept in found.items():
        significant = kept.significant.sel(contrast="left-right").values
        clusters = vx.label_clusters(kept).sel(contrast="left-right").values[significant]
        inside = np.unique(clusters[~inactive[significant]])
        rows[name] = {
            "voxels": significant.sum(),
            "active": (significant & active).sum(),
            "false": (significant & inactive).sum(),
            "clusters": len(np.unique(clusters)),
            "false clusters": len(np.setdiff1d(clusters, inside)),
        }
    table = pd.DataFrame(rows).T
    table["false of inactive"] = table["false"] / inactive.sum()
    table["false of found"] = table["false"] / table["voxels"]
    counts = dict.fromkeys(table.columns[:5], "{:.0f}".format)
    print(table.to_string(formatters=counts, float_format="{:.4f}".format))

# %%
# - Without correction false positives come as promised: one in twenty inactive voxels, or one in a thousand. Of what is
#   found at p <= 0.05 they are a good part.
# - Ten voxels remove most of them here. How many depends on how smooth the maps are; nothing says how many are left.
# - The false discovery rate is a mean over studies; in the single study the share may be higher or lower than 5%.
# - Family-wise control finds less, and nothing that is false, as in at least 19 of 20 studies.
# - Of clusters all are true, and they find more than voxels do. What they cannot say is which voxels of them are
#   active: there may be inactive ones at their rims, and it is no error of the method if there are.
#
# The numbers have to agree with what was promised. Smooth noise comes in blobs, so shares vary more than they would if
# voxels were independent; the limits below are more than three standard deviations of the shares between studies. That
# there is no false voxel, or cluster, has a chance of 95% for each method that promises it: one study in twenty may
# fail.

if not download:
    assert abs(table["false of inactive"]["p <= 0.05"] - 0.05) < 0.02
    assert abs(table["false of inactive"]["p <= 0.001"] - 0.001) < 0.002
    assert 0 < table["false of found"]["FDR 0.05"] < 0.1
    assert table["false"]["Bonferroni 0.05"] == table["false"]["FWE 0.05"] == 0
    assert table["false clusters"]["FWE 0.05 of clusters"] == 0
    assert abs(found["FWE 0.05"].threshold.item() / limit - 1) < 0.1

    # What Bonferroni finds is among what the false discovery rate finds.
    assert not (found["Bonferroni 0.05"].significant & ~found["FDR 0.05"].significant).any()

    # Each method finds all four places, with the hand that was put in.
    for name, kept in found.items():
        for region in HANDS:
            there = vx.at_mm(kept.sel(contrast="left-right"), *region.centre_mm)
            assert bool(there.significant), f"{name}: {region.name}"
            assert np.sign(there.stat) == np.sign(region.height), f"{name}: {region.name}"

# %%

plt.show()
scratch.cleanup()
