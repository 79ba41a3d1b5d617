r"""
Two-sample tests, unpaired and paired
=====================================

Do vertical and horizontal checkerboards drive the brain differently? 16 people have seen both, so there are 32 maps,
two of each person. Two designs ask whether the means of the two kinds differ. The unpaired one takes the maps for those
of 32 strangers. The paired one knows who is who: what sets a person's maps apart from others', both of them alike, no
longer counts as noise. The difference is the same in both; its standard error is not.

Offline the maps are simulated: as many people and maps, voxels of 3 mm, noise that is new in each map and some that a
person's two maps share, and a difference that is put in at two places. With ``--download`` they are those of the
Brainomics/Localizer dataset (Papadopoulos Orfanos et al. 2017, NeuroImage 144:309), which ``nilearn.datasets`` fetches.
"""

# %%
# One row a map
# -------------
#
# A row of the table is a map, not a person; each has a label of its own in ``participant_id``. Who it is of stands in
# the column ``participant``, what was seen in ``condition``.

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
DIFFERENCES = (  # vertical less horizontal
    Region("condition", "right visual cortex", (15, -90, 3), 2.4, 10),
    Region("condition", "left visual cortex", (-24, -78, -9), -2.4, 10),
)
PARTICIPANT_SD = 1.5  # of what a person's maps share, where the noise of each map has 1

if download:
    from nilearn.datasets import fetch_localizer_contrasts

    fetched = fetch_localizer_contrasts(["vertical checkerboard", "horizontal checkerboard"], n_subjects=16)
    files = [Path(path) for path in fetched["cmaps"]]
    images = pd.DataFrame(
        {
            "participant": [file.parent.name for file in files],
            "condition": ["vertical" if "Vertical" in file.name else "horizontal" for file in files],
            "effect_path": [str(file) for file in files],
        }
    )
    images.insert(0, "participant_id", images["participant"] + "-" + images["condition"])
    images = images[images.groupby("participant")["condition"].transform("nunique") == 2]  # who has both
else:
    pairs = [(f"S{i + 1:02d}", condition) for i in range(16) for condition in ("horizontal", "vertical")]
    images = pd.DataFrame(pairs, columns=["participant", "condition"])
    images.insert(0, "participant_id", images["participant"] + "-" + images["condition"])
    seen = Region("mean", "visual cortex", (0, -84, 3), 2.0, 14)
    vx.simulate_cohort(
        folder / "images",
        participants=images,
        regions=(seen, *DIFFERENCES),
        participant_sd=PARTICIPANT_SD,
        seed=32,
    )
    images = pd.read_csv(folder / "images/participants.tsv", sep="\t")
    images["effect_path"] = [str(folder / "images" / path) for path in images["effect_path"]]

print(images.drop(columns="effect_path").head(4).to_string(index=False))

# %%

cohort = vx.stack(images, folder / "cohort.zarr", maps={"effect": "effect_path"}, smoothing_fwhm=8)
people = np.unique(cohort.participant)
print(f"{cohort.sizes['subject']} maps of {len(people)} people, {int(cohort.mask.sum()):,} voxels")

# %%
# Two designs
# -----------
#
# ``condition`` is text, and becomes a column of 0 and 1: by the alphabet horizontal comes first, so the column
# ``condition[T.vertical]`` is 1 for vertical, and its coefficient is vertical less horizontal. The paired design has a
# column for each further person as well.

unpaired = vx.make_design(cohort, "~ condition")
paired = vx.make_design(cohort, "~ condition + C(participant)")
print(f"unpaired: {unpaired.sizes['regressor']} columns, paired: {paired.sizes['regressor']}")

# %%

vx.figures.plot_design(unpaired)

# %%

vx.figures.plot_design(paired)

# %%
# The same difference, another error
# ----------------------------------

contrast = {"vertical-horizontal": "condition[T.vertical]"}
by_strangers = vx.compute(vx.contrast(vx.fit_glm(cohort, unpaired), contrast))
by_person = vx.compute(vx.contrast(vx.fit_glm(cohort, paired), contrast))

mask = cohort.mask.values
difference = float(np.abs(by_strangers.effect - by_person.effect).max())
lost = np.median(by_strangers.variance.values[0][mask] / by_person.variance.values[0][mask])
print(f"largest difference between the effects: {difference:.1g}")
print(f"variance of the effect, unpaired over paired: {lost:.2f} (median over voxels)")
print(f"degrees of freedom: {by_strangers.dof.item():g} and {by_person.dof.item():g}")

# %%
# That the paired test is nothing else than a test of the mean difference, person by person, is seen by doing it by
# hand:

order = [f"{person}-{condition}" for condition in ("vertical", "horizontal") for person in people]
maps = cohort.effect.sel(subject=order).values.astype(float)[:, mask]
differences = maps[: len(people)] - maps[len(people) :]
by_hand = stats.ttest_1samp(differences, 0)
t = by_person.stat.sel(contrast="vertical-horizontal").values[mask]
print(f"largest difference from the t of {len(people)} differences: {np.abs(t - by_hand.statistic).max():.1g}")

# %%
# Pairing is not free. The columns of the people cost degrees of freedom, and t has to be larger for the same p. It pays
# where a person's maps are alike, as they nearly always are. But it is not a matter of taste: maps of one person are
# not independent, and the unpaired test, which supposes that they are, has another level than it claims.

cuts = (-9, -3, 3, 9) if not download else 5
for name, result in (("unpaired", by_strangers), ("paired", by_person)):
    z = result.z_score.sel(contrast="vertical-horizontal")
    vx.figures.plot_slices(z, threshold=3.1, vmax=7, cuts=cuts, title=f"{name}: z, |z| > 3.1, uncorrected")

# %%
# Permutation tests
# -----------------
#
# If the kind of checkerboard did not matter, its labels could be dealt out anew. Among strangers all 32 labels are
# shuffled. In pairs that would mix people up; only the two labels of one person may change places. ``blocks`` says so:
# rows of one block are exchanged among themselves. What blocks allow they tell in words:

print(vx.Blocks("participant").explain(paired, covariates=cohort.coords))

# %%
# 1,000 relabellings of each, corrected for all voxels:

shuffled = vx.permutation_test(cohort, unpaired, contrast, n_permutations=1000)
swapped = vx.permutation_test(cohort, paired, contrast, blocks="participant", n_permutations=1000)
in_strangers = vx.threshold(shuffled, correction="fwe")
in_pairs = vx.threshold(swapped, correction="fwe")
for name, found in (("unpaired", in_strangers), ("paired", in_pairs)):
    print(f"{name}: |t| has to exceed {found.threshold.item():.2f}")
    print(f"    {found.attrs['summary'][0]}")

# %%
# The paired limit is the higher one, for it has half the degrees of freedom; t has gained more than that.

significant = in_pairs.significant.sel(contrast="vertical-horizontal")
t_map = swapped.stat.sel(contrast="vertical-horizontal").where(significant)
vx.figures.plot_slices(t_map, cuts=cuts, title="paired: t of what is significant, vertical less horizontal")

# %%
# To swap the labels of a person's maps is to turn the sign of their difference. So the test by swaps is that of the
# :doc:`one-sample test <one_sample_test>` of differences. In a ball around a place that is chosen beforehand all swaps
# and all flips are done in a moment, and none is left to chance:

x, y, z = np.meshgrid(cohort.x, cohort.y, cohort.z, indexing="ij")
ball = np.sqrt((x - 15) ** 2 + (y + 90) ** 2 + (z - 3) ** 2) <= 12
every = 2 ** len(people)
swaps = vx.permutation_test(cohort, paired, contrast, blocks="participant", mask=ball, n_permutations=every)

pairs = np.full((len(people), *mask.shape), np.nan)
pairs[:, mask] = differences
affine = vx.to_nifti(by_person.effect.sel(contrast="vertical-horizontal")).affine
pairs = vx.from_arrays({"difference": pairs}, affine=affine, mask=mask)
flips = vx.permutation_test(pairs, "~ 1", {"mean": "Intercept"}, mask=ball, n_permutations=every)

for test in (swaps, flips):
    print(
        f"{test.relabelling.item()}: {test.n_relabellings.item():,} relabellings, exhaustive: {test.exhaustive.item()}"
    )
unequal = float(np.abs(swaps.voxel_p_fwe.values - flips.voxel_p_fwe.values)[0][ball & mask].max())
print(f"largest difference of corrected p: {unequal:.1g}")

# %%
# Against the truth
# -----------------
#
# Of simulated people the variances are known. A map's noise has variance 1, what a person's maps share has 1.5², and
# smoothing lowers both alike. The unpaired test sees the sum, the paired one the noise alone.

if not download:
    np.testing.assert_allclose(by_strangers.effect, by_person.effect, rtol=0, atol=1e-9)
    np.testing.assert_allclose(t, by_hand.statistic, rtol=1e-6, atol=1e-6)
    assert unequal == 0
    assert swaps.n_relabellings.item() == flips.n_relabellings.item() == 2**16
    assert by_strangers.dof.item() == 30
    assert by_person.dof.item() == 15

    ratio = by_strangers.variance.values[0][mask].mean() / by_person.variance.values[0][mask].mean()
    print(f"mean variance, unpaired over paired: {ratio:.2f}; put in {1 + PARTICIPANT_SD**2:.2f}")
    assert abs(ratio / (1 + PARTICIPANT_SD**2) - 1) < 0.1

    # 95% intervals of the paired difference hold the truth, smoothed as the maps were, in 95% of the brain.
    truth, brain = (nib.load(folder / "images" / name) for name in ("truth/condition.nii.gz", "mask.nii.gz"))
    put_in = np.nan_to_num(truth.get_fdata())
    filled = nib.Nifti1Image(put_in, truth.affine), nib.Nifti1Image(brain.get_fdata(), brain.affine)
    smooth, weight = (smooth_img(image, 8).get_fdata() for image in filled)
    expected = smooth[mask] / weight[mask]
    half = stats.t.isf(0.025, 15) * np.sqrt(by_person.variance.values[0][mask])
    coverage = (np.abs(by_person.effect.values[0][mask] - expected) <= half).mean()
    print(f"95% intervals of the paired difference hold the truth in {100 * coverage:.1f}% of the voxels")
    assert 0.925 < coverage < 0.975

    # Where nothing differs the paired p is below 0.05 in 5%; the unpaired one, which takes people for noise, rarely.
    far = np.abs(expected) < 0.01
    levels = [(test.p_uncorrected.values[0][mask][far] <= 0.05).mean() for test in (shuffled, swapped)]
    print(f"p <= 0.05 where nothing differs: unpaired {100 * levels[0]:.1f}%, paired {100 * levels[1]:.1f}%")
    assert levels[0] < 0.01
    assert 0.03 < levels[1] < 0.07

    # Both places are found, with their signs, and nothing else; and pairing finds more.
    assert swapped.n_relabellings.item() == shuffled.n_relabellings.item() == 1000
    assert int(in_pairs.significant.sum()) > int(in_strangers.significant.sum())
    for region in DIFFERENCES:
        there = vx.at_mm(in_pairs.sel(contrast="vertical-horizontal"), *region.centre_mm)
        assert bool(there.significant)
        assert there.stat * region.height > 0
    reached, affected = np.argwhere(significant.values), np.argwhere(put_in != 0)
    assert max(np.sqrt(((affected - voxel) ** 2).sum(axis=1)).min() * 3 for voxel in reached) <= 5

# %%

plt.show()
scratch.cleanup()
