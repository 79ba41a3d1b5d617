"""
From first-level models to a table of clusters
==============================================

The whole way of a task study: a first-level model of each person's time series, one contrast of each model, and the
group: the test of the mean, its thresholds with and without correction, and the table of clusters. nilearn fits the
first level; voxstack takes the fitted models as they are, matches them by their labels, and does the rest.

Offline ten people are simulated, time series and all, as in the language localizer that nilearn offers: 12 blocks of
sentences and 12 of consonant strings, voxels of 4.5 mm. What each person's brain does is known, so that both levels can
be held against it. With ``--download`` they are the ten people of that data set, which ``nilearn.datasets`` fetches.
"""

# %%
# First level
# -----------
#
# Of real data ``first_level_from_bids`` makes the models, with their labels, runs, events and confounds.

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.first_level import FirstLevelModel, first_level_from_bids, make_first_level_design_matrix
from nilearn.maskers import NiftiMasker

import voxstack as vx
from voxstack.simulate import Region

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--download", action="store_true", help="take the real data, which nilearn.datasets fetches")
download = parser.parse_args().download

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)


def downloaded():
    """Unfitted models of ten people, and what each is fitted to."""
    from nilearn.datasets import fetch_language_localizer_demo_dataset

    data = fetch_language_localizer_demo_dataset()
    filters = [("desc", "preproc")]
    return zip(
        *first_level_from_bids(data["data_dir"], "languagelocalizer", space_label="", img_filters=filters, verbose=0),
        strict=True,
    )


# %%
# Of the simulated people each has a map of what sentences do more than strings, the common effect and their own, in
# percent of the signal. The time series is 100, what both conditions do, this map's response, and noise that remembers
# itself from one volume to the next.

TR, N_SCANS = 2.0, 160
LANGUAGE = (
    Region("mean", "left temporal cortex", (-54, -33, 0), 1.0, 12),
    Region("mean", "left inferior frontal gyrus", (-48, 24, 12), 0.9, 11),
)
onsets = 8 + 12.5 * np.arange(24)
blocks = pd.DataFrame({"onset": onsets, "duration": 11.0, "trial_type": ["language", "string"] * 12})
confounds = pd.DataFrame({"drift": np.linspace(-1, 1, N_SCANS)})


def simulated():
    """The same of simulated people."""
    labels = [f"sub-{i + 1:02d}" for i in range(10)]
    people = pd.DataFrame({"participant_id": labels})
    vx.simulate_cohort(folder / "people", participants=people, regions=LANGUAGE, resolution=4.5, noise_sd=0.3, seed=10)
    mask = nib.load(folder / "people/mask.nii.gz")
    inside, masker = mask.get_fdata() > 0, NiftiMasker(mask).fit()
    times = TR * np.arange(N_SCANS)
    design = make_first_level_design_matrix(times, blocks, drift_model=None)[["language", "string"]].to_numpy()
    for number, label in enumerate(labels):
        own = nib.load(folder / f"people/{label}/{label}_stat-effect_statmap.nii.gz").get_fdata()[inside]
        white = np.random.default_rng([10, number]).normal(size=(N_SCANS, own.size))
        for scan in range(1, N_SCANS):
            white[scan] = 0.3 * white[scan - 1] + np.sqrt(1 - 0.3**2) * white[scan]
        series = 100 + design @ np.stack([0.5 + own / 2, 0.5 - own / 2]) + 0.5 * confounds.to_numpy() + white
        volume = np.zeros((*inside.shape, N_SCANS), dtype=np.float32)
        volume[inside] = series.T
        model = FirstLevelModel(t_r=TR, mask_img=masker, high_pass=0.01, subject_label=label)
        yield model, [nib.Nifti1Image(volume, mask.affine)], [blocks], [confounds]


models = [
    model.fit(runs, events=events, confounds=nuisance)
    for model, runs, events, nuisance in (downloaded() if download else simulated())
]
print(f"{len(models)} models: {', '.join(model.subject_label for model in models)}")

# %%
# The models as a cohort
# ----------------------
#
# ``stack`` asks each model for its effect and the variance of its effect. Labels are those of the models; a table of
# covariates would be matched by them.

cohort = vx.stack(models, folder / "cohort.zarr", first_level_contrast="language - string")
print(cohort)

# %%
# Sentences against strings, in each person: the effect over its standard error, within the mask, beyond 6. People
# differ, and much of what is seen is each one's own.

t_maps = (cohort.effect / np.sqrt(cohort.variance.where(cohort.mask))).rename("t of each person")
vx.figures.plot_montage(t_maps, threshold=6)

# %%
# The group
# ---------
#
# One column of ones: the mean. The t-test takes for granted that people's effects are normal. Flipping signs takes only
# symmetry for granted; of ten people there are 1,024 ways to flip, all of which are tried, so that p is exact.

result = vx.compute(vx.contrast(vx.fit_glm(cohort, "~ 1", variable="effect"), {"language": "Intercept"}))
tests = vx.permutation_test(
    cohort,
    "~ 1",
    {"language": "Intercept"},
    variable="effect",
    statistics=("voxel", "cluster_extent", "tfce"),
    cluster_forming_p=0.001,
    n_permutations=5000,
)
print(f"{int(tests.n_relabellings.item()):,} sign flips, exhaustive: {bool(tests.exhaustive.item())}")

# %%
# Multiple comparisons
# --------------------
#
# Thousands of voxels are tested. At p <= 0.001, uncorrected, one in a thousand of those in which nothing happens is
# found. The false discovery rate bounds their share in what is found; a family-wise error rate of 5% means that in 19
# of 20 such studies there is none at all.

found = {
    "p <= 0.001, uncorrected": vx.threshold(result, alpha=0.001, correction="none"),
    "false discovery rate 0.05": vx.threshold(result, correction="fdr"),
    "Bonferroni 0.05": vx.threshold(result, correction="bonferroni"),
    "flips, voxels 0.05": vx.threshold(tests, correction="fwe"),
    "flips, cluster extent 0.05": vx.threshold(tests, correction="fwe", variable="cluster_extent"),
    "flips, TFCE 0.05": vx.threshold(tests, correction="fwe", variable="tfce"),
}
for name, one in found.items():
    print(f"{name}: {int(one.significant.sum())} voxels")

# %%
# TFCE, corrected for all voxels:

z = result.z_score.sel(contrast="language")
passing = found["flips, TFCE 0.05"].significant.sel(contrast="language").values
vx.figures.plot_glass_brain(z.where(passing), title="sentences - strings: z where TFCE is significant")

# %%
# Clusters
# --------
#
# The clusters beyond p = 0.001, with what the test says of their extent and of their peaks.

table = vx.clusters_table(found["flips, cluster extent 0.05"])
print(table.drop(columns="contrast").to_string(index=False, float_format="{:.4g}".format))

# %%
# Against the truth
# -----------------
#
# First level: errors of the estimated effects, in the standard errors that the models give, have a spread of about 1 (a
# little more, since the memory of the noise has to be estimated, too), and each person's map is most like that person's
# own truth, and no other's. Second level: both regions are found, and what is significant with correction lies in them;
# without it some of what is found lies elsewhere.

if not download:
    paths = [folder / f"people/{who}/{who}_stat-effect_statmap.nii.gz" for who in cohort.subject.values]
    own = [nib.load(path).get_fdata() for path in paths]
    inside = cohort.mask.values
    own, effect, variance = (np.asarray(maps)[:, inside] for maps in (own, cohort.effect, cohort.variance))
    error = (effect - own) / np.sqrt(variance)
    print(f"first level: mean error {error.mean():+.3f}, spread {error.std():.2f} standard errors")
    assert abs(error.mean()) < 0.05
    assert 0.95 < error.std() < 1.2
    assert (np.corrcoef(effect, own)[:10, 10:].argmax(axis=1) == np.arange(10)).all()

    truth = np.nan_to_num(nib.load(folder / "people/truth/mean.nii.gz").get_fdata())
    outside = {name: int((one.significant.values[0] & (truth == 0)).sum()) for name, one in found.items()}
    print({name: f"{count} outside" for name, count in outside.items()})
    assert outside["Bonferroni 0.05"] == outside["flips, voxels 0.05"] == 0
    assert outside["p <= 0.001, uncorrected"] > 0
    share = outside["false discovery rate 0.05"] / int(found["false discovery rate 0.05"].significant.sum())
    assert share < 0.15  # 5% on average over studies

    assert int(tests.n_relabellings.item()) == 2**10
    for region in LANGUAGE:
        for name in ("flips, cluster extent 0.05", "flips, TFCE 0.05"):
            assert bool(vx.at_mm(found[name].sel(contrast="language"), *region.centre_mm).significant), (name, region)
        there = vx.at_mm(result.sel(contrast="language"), *region.centre_mm)
        assert abs(there.effect - region.height) < 3 * np.sqrt(there.variance)

# %%

plt.show()
scratch.cleanup()
