"""
Designs with covariates
=======================

A group model says what each person's map should depend on: a mean, an age, a sex, a scanner. voxstack builds the design
matrix from a formula, matches its rows to the maps by the people's labels, and refuses a question that the design
cannot answer. Here are the usual choices, what each column then means, and a fit that shows it.

Offline the people are simulated: 94 of them, aged 18 to 49, at two sites, four of whom did not tell their age, as in
the Brainomics/Localizer dataset (Papadopoulos Orfanos et al. 2017, NeuroImage 144:309), and with effects that are put
in. With ``--download`` they are the people of that dataset, whose table and maps ``nilearn.datasets`` fetches.
"""

# %%
# The people
# ----------

import argparse
import tempfile
import warnings
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

if download:
    from nilearn.datasets import fetch_localizer_contrasts

    localizer = fetch_localizer_contrasts(["sentence listening"], n_subjects=94)
    people = pd.DataFrame(localizer["ext_vars"]).set_index("participant_id")[["age", "sex", "site"]]
    # By name, since a person may lack a map: each one's lie in a folder of their own.
    people["effect_path"] = pd.Series({Path(path).parent.name: path for path in localizer["cmaps"]})
    people = people.dropna(subset="effect_path")
else:
    rng = np.random.default_rng(7)
    people = pd.DataFrame(
        {
            "age": (18 + rng.gamma(2, 4, size=94)).round().clip(max=49),
            "sex": rng.choice(["F", "M"], size=94),
            "site": rng.choice(["Neurospin", "SHFJ"], size=94, p=[0.4, 0.6]),
        },
        index=pd.Index([f"S{i + 1:02d}" for i in range(94)], name="participant_id"),
    )
    people.loc[rng.choice(people.index, size=4, replace=False), "age"] = np.nan
    effects = (
        Region("mean", "left temporal cortex", (-54, -24, 3), 2.0, 12),
        Region("age", "left hippocampus", (-27, -21, -15), -0.12, 10, about=26),
        Region("sex", "medial frontal cortex", (0, 45, -6), 1.2, 10),
        Region("site", "cerebellum", (0, -62, -38), 1.5, 15),
    )
    vx.simulate_cohort(folder / "people", participants=people, regions=effects, resolution=4, seed=7)
    people["effect_path"] = [str(folder / f"people/{who}/{who}_stat-effect_statmap.nii.gz") for who in people.index]

cohort = vx.stack(people, folder / "cohort.zarr", maps={"effect": "effect_path"})
print(people.drop(columns="effect_path").head())

# %%
# A formula
# ---------
#
# Text becomes a factor: of two sites there is one column, which is 1 for the second. Of people whose age is not known
# the model cannot say anything: they are an error, which names them, unless they are to be left out.

try:
    vx.make_design(cohort, "~ age + sex + site")
except vx.errors.DesignError as error:
    print(error)

design = vx.make_design(cohort, "~ age + sex + site", drop_missing=True)
print(f"{design.sizes['subject']} people; left out: {', '.join(design.attrs['dropped_subjects'])}")
vx.figures.plot_design(design)

# %%
# What the columns mean
# ---------------------
#
# In this design the intercept is the value of a woman at Neurospin of age 0, whom nobody asked about, and her value is
# known badly, since everybody is older. ``center`` moves age 0 to the mean age; ``C(sex, contr.sum)`` codes the sexes
# by 1 and -1, so that the intercept is the mean of both. The other columns' tests do not change by this.

plain = vx.fit_glm(cohort, design)
centred = vx.fit_glm(
    cohort,
    vx.make_design(cohort, "~ center(age) + C(sex, contr.sum) + C(site, contr.sum)", drop_missing=True),
)
print(centred.regressor.values.tolist())

intercepts = {
    "a woman at Neurospin of age 0": vx.compute(vx.contrast(plain, "Intercept")),
    "people of the mean age, both sexes and sites alike": vx.compute(vx.contrast(centred, "Intercept")),
}
for name, intercept in intercepts.items():
    error = float(np.sqrt(intercept.variance).median())
    print(f"{name}: median standard error {error:.2f}")

# %%
# The design's columns may go together, as age and sex do where the women are the older ones. A column's variance
# inflation says by how much that widens the variance of its estimate; from some 5 or 10 on one should think again.

print(design.variance_inflation.to_series().round(2).to_string())

# %%
# Interactions, curves, tables
# ----------------------------
#
# ``*`` lets the slope on age differ between the sexes, ``bs`` lets it bend, and a table or an array says it column by
# column. Rows are matched by label: the order of the table does not matter.

for formula in ("~ age * sex + site", "~ bs(age, df=4) + sex", "~ 0 + site"):
    print(formula, vx.make_design(cohort, formula, drop_missing=True).regressor.values.tolist(), sep=": ")

table = design.to_pandas()
shuffled = vx.make_design(cohort.sel(subject=table.index), table.sample(frac=1, random_state=1))
np.testing.assert_array_equal(shuffled, design)

# %%
# A question that the design cannot answer
# ----------------------------------------
#
# With a column for each site beside the intercept there is one column too many, which a warning names. The difference
# of the sites can still be estimated, and is; a site by itself cannot, and is refused.

dummies = pd.get_dummies(cohort.site.to_series(), dtype=float).assign(Intercept=1.0)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    both = vx.fit_glm(cohort, dummies)
print(told[0].message)

difference = vx.contrast(both, {"difference": "SHFJ - Neurospin"})
try:
    vx.contrast(both, "SHFJ")
except vx.errors.DesignError as error:
    print(error)

# %%
# Contrasts
# ---------
#
# A t contrast for each question, and an F contrast for "any of them": age, sex and site all at once are the gain over
# the mean alone.

questions = {"age": "age", "sex": "sex[T.M]", "site": "site[T.SHFJ]", "any": ["age", "sex[T.M]", "site[T.SHFJ]"]}
result = vx.compute(vx.contrast(plain, questions))
vx.figures.plot_contrasts(result)

# %%

found = vx.threshold(result, correction="fdr")
for line in found.attrs["summary"]:
    print(line)

# %%
vx.figures.plot_glass_brain(result.z_score.sel(contrast="any"), threshold=4, title="age, sex or site: z of F > 4")

# %%
# Against the truth
# -----------------
#
# Of simulated people it is known what was put in. Errors of the estimates, in their standard errors, have a mean near 0
# and a spread near 1 all over the brain, so that a 95% interval covers the truth in 95% of the voxels, give or take
# what smooth noise allows. At the centres all effects are found. The mean at the mean age is what ``about=26`` says.

if not download:
    import nibabel as nib
    from scipy import stats

    truth = {
        name: nib.load(folder / f"people/truth/{name}.nii.gz").get_fdata() for name in ("mean", "age", "sex", "site")
    }
    mean_age = float(cohort.age.mean())
    expected = {name: truth[name] for name in ("age", "sex", "site")}
    expected["mean"] = truth["mean"] + (mean_age - 26) * truth["age"]
    estimates = {name: result.sel(contrast=name) for name in ("age", "sex", "site")}
    estimates["mean"] = intercepts["people of the mean age, both sexes and sites alike"].squeeze("contrast")

    inside, critical = cohort.mask.values, stats.t.isf(0.025, design.sizes["subject"] - 4)
    for name, estimate in estimates.items():
        error = ((estimate.effect - expected[name]) / np.sqrt(estimate.variance)).values[inside]
        covered = np.mean(np.abs(error) < critical)
        print(f"{name}: mean error {error.mean():+.2f}, spread {error.std():.2f}, covered {covered:.1%}")
        assert abs(error.mean()) < 0.25
        assert 0.9 < error.std() < 1.15
        assert 0.92 < covered < 0.98

    for region in effects[1:]:
        assert bool(vx.at_mm(found.sel(contrast=region.effect), *region.centre_mm).significant), region.name
    assert float(vx.at_mm(found.sel(contrast="any"), *effects[3].centre_mm).p_value) < 1e-6

    # The difference of the sites is the same question in another design, which leaves age and sex to the noise.
    there = vx.at_mm(difference.sel(contrast="difference"), *effects[3].centre_mm)
    assert abs(there.effect - effects[3].height) < 3 * np.sqrt(there.variance)

# %%

plt.show()
scratch.cleanup()
