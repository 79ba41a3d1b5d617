r"""
One-sample test, parametric and by permutation
==============================================

Where do 16 people's brains differ between pressing a button with the left hand and with the right one? Each person has
one map, left less right, and the question is where its mean is not 0. First Student's t-test answers it, then a test
that supposes less: it flips the signs of the maps. In one call it corrects voxels, clusters by their extent and by
their mass, and TFCE for all places at which one has looked. The four do not answer quite the same question.

Offline the maps are simulated: as many people, voxels of 3 mm, and a difference that is put in at five places, so that
what is found can be held against it. With ``--download`` they are the first 16 of the Brainomics/Localizer dataset
(Papadopoulos Orfanos et al. 2017, NeuroImage 144:309), which ``nilearn.datasets`` fetches.
"""

# %%
# People and their maps
# ---------------------
#
# A table with one row a person, and where each one's map is.

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.image import smooth_img
from scipy import stats

import voxstack as vx
from voxstack.simulate import Region

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--download", action="store_true", help="take the real maps, which nilearn.datasets fetches")
download = parser.parse_args().download

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
REGIONS = (
    Region("mean", "right motor cortex", (39, -24, 54), 1.7, 9),
    Region("mean", "left motor cortex", (-39, -24, 54), -1.7, 9),
    Region("mean", "left cerebellum", (-21, -54, -24), 1.7, 7),
    Region("mean", "right cerebellum", (21, -54, -24), -1.7, 7),
    Region("mean", "right frontal cortex", (30, 36, 24), 0.9, 14),  # low and wide
)

if download:
    from nilearn.datasets import fetch_localizer_contrasts

    localizer = fetch_localizer_contrasts(["left vs right button press"], n_subjects=16)
    paths = {Path(path).parent.name: path for path in localizer["cmaps"]}
    people = pd.DataFrame({"participant_id": paths.keys(), "effect_path": paths.values()})
else:
    people = pd.DataFrame({"participant_id": [f"sub-{i + 1:02d}" for i in range(16)]})
    vx.simulate_cohort(folder / "people", participants=people, regions=REGIONS, seed=16)
    people = folder / "people/participants.tsv"

# %%
# One cohort
# ----------
#
# People differ in where exactly their hand area is. Smoothing by 8 mm lets them overlap, and voxels lose noise.

cohort = vx.stack(people, folder / "cohort.zarr", maps={"effect": "effect_path"}, smoothing_fwhm=8)
n = cohort.sizes["subject"]
print(f"{n} people, {int(cohort.mask.sum()):,} voxels")

# %%
# The parametric test
# -------------------
#
# The model of a mean is a design of ones, which formulas call the intercept: ``~ 1``. Its t is the mean over its
# standard error, with one degree of freedom less than there are people.

fit = vx.fit_glm(cohort, "~ 1")
mean = vx.compute(vx.contrast(fit, {"left-right": "Intercept"}))
print(f"{mean.dof.item():g} degrees of freedom")

for correction in ("none", "fdr", "bonferroni"):
    print(vx.threshold(mean, correction=correction).attrs["summary"][0])

# %%
# Without correction one voxel in twenty is significant where nothing is. Bonferroni's correction is valid, but takes
# neighbours for strangers to each other.
#
# The test by flipping signs
# --------------------------
#
# Suppose that at some voxel left and right do not differ, and that errors are symmetric about 0. Then each person's map
# could as well have come out with the other sign. A set of signs, one for each map, gives new data and a new map of t;
# the same signs hold for a person's whole map, so that neighbours stay neighbours. Of each such map the largest value
# is kept, and corrected p is the share of maps whose largest value reaches the observed one (Nichols and Holmes 2002,
# Human Brain Mapping 15:1).
#
# All four statistics are taken of the same flips:
#
# - ``voxel``: \|t\|;
# - ``cluster_extent``: how many voxels a cluster beyond p = 0.001 has;
# - ``cluster_mass``: the sum of its \|z\|;
# - ``tfce``: threshold-free cluster enhancement, which lets a voxel gain from neighbours at all thresholds at once
#   (Smith and Nichols 2009, NeuroImage 44:83).

tests = vx.permutation_test(
    cohort,
    "~ 1",
    {"left-right": "Intercept"},
    statistics=["voxel", "cluster_extent", "cluster_mass", "tfce"],
    cluster_forming_p=0.001,
    n_permutations=1000,
)
print(f"{tests.relabelling.item()}, {tests.n_relabellings.item():,} of {2**n:,}, exhaustive: {tests.exhaustive.item()}")

# %%
# Why it has flipped signs and not permuted: people may change places as they like, a mean stays the same. voxstack
# notices that, and says so in the coordinate ``relabelling``.
#
# The maxima of voxels. With 16 people t has to be large; the more so, the less smooth maps are.

vx.figures.plot_null(tests, statistic="voxel")

# %%
# All of them: an exhaustive test
# -------------------------------
#
# 16 signs have 2\ :sup:`16` = 65,536 values. 1,000 of them, drawn without repeats, give p with some error, about 0.007
# at p = 0.05. When there are no more flips than ``n_permutations``, each is done once. Such a test is *exhaustive*:
# its p is no estimate, and no seed matters. Of a place that is chosen beforehand all flips are done in a moment. Take a
# ball of 12 mm around the right hand's area of the cortex.

x, y, z = np.meshgrid(cohort.x, cohort.y, cohort.z, indexing="ij")
ball = np.sqrt((x + 39) ** 2 + (y + 24) ** 2 + (z - 54) ** 2) <= 12
every = vx.permutation_test(cohort, "~ 1", {"left-right": "Intercept"}, mask=ball, n_permutations=2**n)
inside = every.p_uncorrected.sel(contrast="left-right").values
print(f"{every.n_relabellings.item():,} relabellings, exhaustive: {every.exhaustive.item()}")
print(f"{np.isfinite(inside).sum()} voxels, the least p is {np.nanmin(inside) * 2**n:.0f} of {2**n:,}")

# %%
# It cannot be 1 of 65,536: if all signs are turned, so is that of t, and \|t\| stays. A two-sided test counts both.
#
# What each finds
# ---------------
#
# ``threshold`` with ``correction="fwe"`` keeps what has a corrected p of 0.05 or less, of any of the statistics.

STATISTICS = ("voxel", "cluster_extent", "cluster_mass", "tfce")
found = {
    name: vx.threshold(tests, correction="fwe", variable="stat" if name == "voxel" else name).squeeze("contrast")
    for name in STATISTICS
}
for name in STATISTICS:
    print(f"{name:15} {int(found[name].significant.sum()):5,} voxels")

# %%
# The corrected p of each side by side, as -log10 p, in the same colours: 1.3 is p = 0.05, and 3 is as far as 1,000
# flips reach.

cuts = (-24, 24, 54) if not download else 4
for name in STATISTICS:
    p = tests[f"{name}_p_fwe"].sel(contrast="left-right")
    vx.figures.plot_slices(p, threshold=-np.log10(0.05), vmax=3, cuts=cuts, title=f"{name}: -log10 of corrected p")

# %%
# p has no sign. The map of t, where TFCE is significant, shows which hand it is:

shown = tests.stat.sel(contrast="left-right").where(found["tfce"].significant)
vx.figures.plot_glass_brain(shown, title="t where TFCE is significant: left hand red, right hand blue")

# %%
# Voxels answer for themselves: at each one that is found there is an effect, but for a chance of 5% that any of them
# is wrong. They need a high peak. Of a cluster p says that *something* is in it, not where. Extent and mass find what
# is low but wide, and depend on the threshold that forms clusters. TFCE needs no such threshold; its p, too, owes
# something to the neighbours of a voxel. Choose one before looking.
#
# Against the truth
# -----------------
#
# Of simulated people it is known what is in their maps: the truth, smoothed as the maps were.

if not download:
    truth, brain = nib.load(folder / "people/truth/mean.nii.gz"), nib.load(folder / "people/mask.nii.gz")
    put_in = np.nan_to_num(truth.get_fdata())
    filled = nib.Nifti1Image(put_in, truth.affine), nib.Nifti1Image(brain.get_fdata(), brain.affine)
    smooth, weight = (smooth_img(image, 8).get_fdata() for image in filled)
    mask = cohort.mask.values
    expected = smooth[mask] / weight[mask]
    estimate, se = mean.effect.values[0][mask], np.sqrt(mean.variance.values[0][mask])

    # 95% intervals hold the truth in 95% of the brain.
    half = stats.t.isf(0.025, n - 1) * se
    coverage = (np.abs(estimate - expected) <= half).mean()
    print(f"95% intervals hold the truth in {100 * coverage:.1f}% of the voxels")
    assert 0.925 < coverage < 0.975

    # Far from any effect flips find no more than chance does.
    far = np.abs(expected) < 0.01
    share = (tests.p_uncorrected.values[0][mask][far] <= 0.05).mean()
    print(f"p <= 0.05, uncorrected, in {100 * share:.1f}% of {far.sum():,} voxels without effect")
    assert 0.03 < share < 0.07

    # All flips: p is an even number of 65,536ths, and 1,000 flips estimate it.
    counts = inside[np.isfinite(inside)] * 2**n
    sampled = tests.p_uncorrected.values[0][np.isfinite(inside)]
    assert every.exhaustive.item()
    assert every.n_relabellings.item() == 2**n
    assert not tests.exhaustive.item()
    np.testing.assert_allclose(counts, 2 * np.round(counts / 2))
    error = np.sqrt(counts / 2**n * (1 - counts / 2**n) / 1000)
    assert np.all(np.abs(sampled - counts / 2**n) < 5 * error + 1 / 1000)

    # Voxels are found where something is, and with its sign; clusters may reach beyond it, but not lie beside it.
    rows = {}
    for name in STATISTICS:
        significant, t = found[name].significant.values, tests.stat.values[0]
        labels = vx.label_clusters(found[name].expand_dims("contrast")).values[0]
        for cluster in np.unique(labels[labels > 0]):
            assert (put_in[labels == cluster] * t[labels == cluster] > 0).any()
        strong = significant & (np.abs(put_in) > 0.5)
        assert np.all(t[strong] * put_in[strong] > 0)
        rows[name] = {region.name: bool(vx.at_mm(found[name], *region.centre_mm).significant) for region in REGIONS}
    print(pd.DataFrame(rows).replace({True: "found", False: "-"}).to_string())
    reached = np.argwhere(found["voxel"].significant.values)
    there = np.argwhere(put_in != 0)
    assert max(np.sqrt(((there - voxel) ** 2).sum(axis=1)).min() * 3 for voxel in reached) <= 5

    # High peaks are found by all; the low and wide one by what gathers neighbours.
    assert all(rows["voxel"][region.name] for region in REGIONS[:2])
    assert all(rows[name][region.name] for name in STATISTICS[1:] for region in REGIONS)

# %%

plt.show()
scratch.cleanup()
