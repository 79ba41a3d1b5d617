"""
Association with a behavioural score
====================================

Where does brain activity follow how fast people read? 94 maps of one contrast, the speed at which each person reads
pseudo-words aloud, and the question in which voxels the one goes with the other. Five people have no score, so 89 are
analysed: smoothed by 5 mm, regressed on the score, and corrected for all voxels twice, by Bonferroni and by 1,000
relabellings.

Offline the maps are simulated: as many people, voxels of the same size, the same number of missing scores, and an
association that is put in at two places, so that what is found can be held against it. With ``--download`` they are
those of the Brainomics/Localizer dataset (Papadopoulos Orfanos et al. 2017, NeuroImage 144:309), left button presses on
an auditory cue, which ``nilearn.datasets`` fetches.
"""

# %%
# People and their maps
# ---------------------
#
# A table with one row a person. Of the columns ``effect_path`` says where the maps are; all others are covariates.

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import voxstack as vx
from voxstack.simulate import Region

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--download", action="store_true", help="take the real maps, which nilearn.datasets fetches")
download = parser.parse_args().download

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
ASSOCIATIONS = (
    Region("score", "left temporal cortex", (-51, -36, 6), 0.2, 11),
    Region("score", "right putamen", (27, 3, 3), -0.17, 10),
)

if download:
    from nilearn.datasets import fetch_localizer_contrasts

    localizer = fetch_localizer_contrasts(["left button press (auditory cue)"], n_subjects=94)
    people = pd.DataFrame(localizer["ext_vars"]).set_index("participant_id")
    people = pd.DataFrame({"score": pd.to_numeric(people["pseudo"], errors="coerce")})
    # By name, since a person may lack a map: each one's lie in a folder of their own.
    people["effect_path"] = pd.Series({Path(path).parent.name: path for path in localizer["cmaps"]})
    people = people.dropna(subset="effect_path").reset_index()
else:
    rng = np.random.default_rng(94)
    score = rng.normal(17.7, 3.5, size=94).round()  # the real scores have this mean and spread
    score[rng.choice(94, size=5, replace=False)] = np.nan
    people = pd.DataFrame({"participant_id": [f"sub-{i + 1:02d}" for i in range(94)], "score": score})
    press = Region("mean", "right motor cortex", (38, -24, 54), 1.5, 9)
    vx.simulate_cohort(folder / "people", participants=people, regions=(press, *ASSOCIATIONS), seed=94)
    people = pd.read_csv(folder / "people/participants.tsv", sep="\t")
    people["effect_path"] = [str(folder / "people" / path) for path in people["effect_path"]]

scored = people[people["score"].notna()]
print(f"{len(scored)} of {len(people)} people have a score")

# %%
# One cohort
# ----------
#
# Every header is checked, then the maps are read once, smoothed, and stored in chunks. The mask holds the voxels that
# all of them have.

cohort = vx.stack(scored, folder / "cohort.zarr", maps={"effect": "effect_path"}, smoothing_fwhm=5)
print(f"{cohort.sizes['subject']} subjects, {int(cohort.mask.sum()):,} voxels")

# %%
# The parametric test, corrected by Bonferroni
# --------------------------------------------
#
# The slope on the score, its standard error, and z. Bonferroni's correction multiplies p by the number of voxels, as if
# none of them knew of its neighbours.

result = vx.compute(vx.contrast(vx.fit_glm(cohort, "~ score"), "score"))
bonferroni = vx.threshold(result, correction="bonferroni")
print(bonferroni.attrs["summary"][0])

# %%
# The permutation test
# --------------------
#
# If the score had nothing to do with the maps, then it could as well be dealt out anew. Of each of 1,000 such
# relabellings the largest \|t\| of the brain is kept: corrected p is the share of relabellings whose maximum reaches
# the voxel's \|t\|. This knows how smooth the maps are, and how heavy their tails.

tests = vx.permutation_test(cohort, "~ score", "score", n_permutations=1000)
corrected = vx.threshold(tests, correction="fwe")
print(corrected.attrs["summary"][0])
print(f"|t| has to exceed {corrected.threshold.item():.2f}; the parametric |z| {bonferroni.threshold.item():.2f}")

# %%
# The maxima of all relabellings, and the largest \|t\| of the data:

vx.figures.plot_null(tests)

# %%
# What both find
# --------------
#
# The map of z, beyond 3.1 but corrected for nothing:

cuts = (-6, 0, 6, 12) if not download else 5
z = result.z_score.sel(contrast="score")
vx.figures.plot_slices(z, threshold=3.1, cuts=cuts, title="slope on the score, |z| > 3.1")


def plot_significant(found, name):
    """z of the voxels that are significant, if any are."""
    significant = found.significant.sel(contrast="score").values
    if significant.any():
        vx.figures.plot_slices(z.where(significant), cuts=cuts, title=f"significant by {name}")


# %%
# What is left by Bonferroni's correction:

plot_significant(bonferroni, "Bonferroni")

# %%
# And by relabelling:

plot_significant(corrected, "1,000 relabellings")

# %%
# Peaks of the clusters:

table = vx.clusters_table(corrected)
print(table.drop(columns="contrast").to_string(index=False, float_format="{:.4g}".format))

# %%
# Against the truth
# -----------------
#
# Of simulated people it is known where the score matters. Relabelling finds no fewer voxels than Bonferroni; all that
# it finds lies where something was put in, or so near that smoothing carries it there; and at the centres the slope is
# the one that was put in, which smoothing lowers by a known factor: two Gaussians in a row are a wider and lower one.

if not download:
    import nibabel as nib

    n_bonferroni, n_relabelled = int(bonferroni.significant.sum()), int(corrected.significant.sum())
    assert 0 < n_bonferroni <= n_relabelled

    truth = nib.load(folder / "people/truth/score.nii.gz")
    affected = np.nan_to_num(truth.get_fdata()) != 0
    ijk = np.argwhere(corrected.significant.sel(contrast="score").values)
    nearest = [np.sqrt(((np.argwhere(affected) - voxel) ** 2).sum(axis=1)).min() * 3 for voxel in ijk]
    print(f"{len(ijk)} voxels are significant, the farthest {max(nearest):.1f} mm from a true association")
    assert max(nearest) <= 5

    sigma = 5 / np.sqrt(8 * np.log(2))
    for region in ASSOCIATIONS:
        there = vx.at_mm(result.sel(contrast="score"), *region.centre_mm)
        expected = region.height * (region.width_mm**2 / (region.width_mm**2 + sigma**2)) ** 1.5
        error = (there.effect - expected) / np.sqrt(there.variance)
        print(f"{region.name}: slope {there.effect:.3f}, put in {expected:.3f}: {error:+.1f} standard errors")
        assert abs(error) < 3
        assert bool(vx.at_mm(corrected.sel(contrast="score"), *region.centre_mm).significant)

# %%

plt.show()
scratch.cleanup()
