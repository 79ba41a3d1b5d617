"""
Voxel-based morphometry with age and sex
========================================

Where does gray matter shrink with age, and is it another in women and in men? Maps of gray matter of 100 people from 18
to 96, warped to one template: in each voxel a regression on age and sex at once, so that what belongs to age is not
taken for sex. What is significant is told twice, by the false discovery rate and by relabelling, and all of it goes
into a report.

Offline the maps are simulated: as many people, as many voxels (91 x 109 x 91 of 2 mm), ages over the same range,
losses with age at four places, and no effect of sex anywhere, so that to find one would be false. With
``--download`` they are those of OASIS (Marcus et al. 2007, Journal of Cognitive Neuroscience 19:1498), segmented and
normalised by DARTEL, which ``nilearn.datasets`` fetches; using them means to agree with the data usage agreement at
https://sites.wustl.edu/oasisbrains/.
"""

# %%
# People, their maps, and a mask
# ------------------------------
#
# Voxels outside gray matter are of no interest, and each would be one more to correct for. The mask comes from the
# template, on a lattice of its own; voxstack takes the nearest of its voxels for each one of the maps.

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
LOSSES = (  # of gray matter, per year
    Region("age", "left insula", (-38, 6, 2), -0.0030, 9, 50),
    Region("age", "right insula", (38, 6, 2), -0.0030, 9, 50),
    Region("age", "medial frontal cortex", (0, 44, 14), -0.0024, 10, 50),
    Region("age", "left hippocampus", (-26, -22, -14), -0.0020, 7, 50),
)

if download:
    from nilearn.datasets import fetch_icbm152_brain_gm_mask, fetch_oasis_vbm

    oasis = fetch_oasis_vbm(n_subjects=100)
    people = pd.DataFrame({
        "participant_id": oasis["ext_vars"]["id"].astype(str).to_numpy(),
        "age": pd.to_numeric(oasis["ext_vars"]["age"]).to_numpy(),
        "sex": oasis["ext_vars"]["mf"].astype(str).to_numpy(),
        "gray_matter_path": oasis["gray_matter_maps"],
    })  # fmt: skip
    mask = fetch_icbm152_brain_gm_mask()
else:
    from nilearn.datasets import load_mni152_gm_mask

    # Half of the people young, half of them of any age, and more women among the old.
    rng = np.random.default_rng(2007)
    age = np.where(rng.random(100) < 0.5, rng.uniform(18, 30, 100), rng.uniform(30, 96, 100)).round()
    sex = np.where(rng.random(100) < 0.4 + 0.4 * (age - 18) / 78, "F", "M")
    people = pd.DataFrame({"participant_id": [f"OAS1_{i + 1:04d}" for i in range(100)], "age": age, "sex": sex})
    brain = Region("mean", "everywhere", (0, -18, 12), 0.5, 70)
    vx.simulate_cohort(
        folder / "people", participants=people, regions=(brain, *LOSSES), resolution=2, noise_sd=0.1, seed=2007
    )
    people = pd.read_csv(folder / "people/participants.tsv", sep="\t")
    people["gray_matter_path"] = [str(folder / "people" / path) for path in people.pop("effect_path")]
    mask = load_mni152_gm_mask(resolution=2)

print(people.groupby("sex")["age"].describe()[["count", "mean", "min", "max"]].round(1).to_string())

# %%
# One cohort
# ----------
#
# A little smoothing makes up for what normalisation leaves. Where there is no gray matter, its amount is 0, and is not
# missing: what lies outside is smoothed as 0.

smoothing = {"smoothing_fwhm": 2, "smoothing_missing": "zero"}
cohort = vx.stack(people, folder / "cohort.zarr", maps={"gray_matter": "gray_matter_path"}, mask=mask, **smoothing)
print(f"{cohort.sizes['subject']} people, {int(cohort.mask.sum()):,} voxels of gray matter")

# %%
# Age beside sex
# --------------
#
# The slope on age is that of people of one sex, and the difference of the sexes that of people of one age.

design = vx.make_design(cohort, "~ age + sex")
vx.figures.plot_design(design)

# %%

contrasts = {"age": "age", "men - women": "sex[T.M]"}
fit = vx.fit_glm(cohort, design)
result = vx.compute(vx.contrast(fit, contrasts))
fdr = vx.threshold(result, correction="fdr")
print(*fdr.attrs["summary"], sep="\n")

# %%
# The family-wise error rate by 500 relabellings, for each contrast what the other one explains is kept in the model
# (Freedman and Lane 1983; Winkler et al. 2014, NeuroImage 92:381):

tests = vx.permutation_test(cohort, design, contrasts, n_permutations=500)
fwe = vx.threshold(tests, correction="fwe")
print(*fwe.attrs["summary"], sep="\n")

# %%

cuts = (-18, -14, -8, 2, 8, 14) if not download else 6
z = result.z_score.sel(contrast="age")
for name, found in (("false discovery rate", fdr), ("family-wise error", fwe)):
    significant = found.significant.sel(contrast="age").values
    if significant.any():
        vx.figures.plot_slices(z.where(significant), cuts=cuts, title=f"z of age, {name} of 0.05")

# %%
# One voxel, by age
# -----------------
#
# A map of z does not say how much there is of what. Gray matter at the highest peak, each person a point; the line is
# not adjusted for sex.

table = vx.clusters_table(fwe.sel(contrast=["age"]))
print(table.drop(columns="contrast").head(8).to_string(index=False, float_format="{:.4g}".format))
if len(table):
    strongest = table.loc[table["value"].abs().idxmax()]
    vx.figures.plot_effect(cohort, "age", (strongest["x"], strongest["y"], strongest["z"]))

# %%
# A report
# --------
#
# One page with the cohort, the design, maps, tables, and a paragraph for the methods section; it needs no network. Here
# it goes where all else goes that this example has written: ``folder`` is removed at its end.

page = vx.report([fdr, fwe], folder / "report.html", cohort=cohort, title="Gray matter, age and sex")
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")

# %%
# Against the truth
# -----------------
#
# Sex does nothing in these people, so there is nothing to be found for it, and p <= 0.05 in about one voxel in twenty.
# The losses with age are where they were put in, as fast as put in; smoothing lowers them by a known factor. Voxels
# that even smoothing leaves at exactly 0 are inactive: of what the false discovery rate finds few may be among them,
# and of what family-wise control finds none, with a chance of 95%.

if not download:
    for found in (fdr, fwe):
        assert not found.significant.sel(contrast="men - women").any()
    p = result.p_value.sel(contrast="men - women").values
    share = np.nanmean(np.where(np.isnan(p), np.nan, p <= 0.05))
    print(f"men - women: p <= 0.05 in {100 * share:.1f}% of the voxels")
    assert abs(share - 0.05) < 0.02

    sigma = 2 / np.sqrt(8 * np.log(2))
    for region in LOSSES:
        there = vx.at_mm(result.sel(contrast="age"), *region.centre_mm)
        expected = region.height * (region.width_mm**2 / (region.width_mm**2 + sigma**2)) ** 1.5
        error = (there.effect - expected) / np.sqrt(there.variance)
        print(f"{region.name}: {there.effect:.4f} a year, put in {expected:.4f}: {error:+.1f} standard errors")
        assert abs(error) < 3
        assert bool(vx.at_mm(fdr.sel(contrast="age"), *region.centre_mm).significant)

    truth = pd.DataFrame({"participant_id": ["truth"], "path": [str(folder / "people/truth/age.nii.gz")]})
    truth = vx.stack(truth, folder / "truth.zarr", maps={"loss": "path"}, mask=vx.to_nifti(cohort.mask), **smoothing)
    inactive = truth.loss.sel(subject="truth", drop=True) == 0
    by_rate, by_error = (found.significant.sel(contrast="age") for found in (fdr, fwe))
    n_false, n_found = int((by_rate & inactive).sum()), int(by_rate.sum())
    print(f"false positives: {n_false} of {n_found:,} by the false discovery rate")
    assert n_false / n_found < 0.1
    assert by_error.any()
    assert not (by_error & inactive).any()
    assert (table["value"] < 0).all()  # gray matter is lost, not won

# %%

plt.show()
scratch.cleanup()
