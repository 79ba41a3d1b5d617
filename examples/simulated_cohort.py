"""
A simulated cohort and its truth
================================

A cohort whose effects are known shows what the maps of a model mean, and whether they can be trusted. First come 32
subjects as NIfTI files, with effects of age and sex in some regions; then arrays in memory, with holes.
"""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

import voxstack as vx

# %%
# From files to maps
# ------------------
#
# The simulator writes real NIfTI files, a participants table, and the truth: one map per effect.

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
vx.simulate_cohort(folder, n_subjects=32, resolution=6, seed=3)
print(pd.read_csv(folder / "participants.tsv", sep="\t").head(3).to_string(index=False))

cohort = vx.stack(folder / "participants.tsv", folder / "cohort.zarr", maps={"effect": "effect_path"})
result = vx.compute(vx.contrast(vx.fit_glm(cohort, "~ age + sex"), {"age": "age", "sex": "sex[T.M]"}))

# %%
# Estimates against the truth
# ---------------------------
#
# The error of an estimate, in units of its own standard error, follows Student's t with n - 3 = 29 degrees of freedom,
# wherever in the brain and however large the effect. So a 95% confidence interval covers the truth in 95% of the
# voxels, give or take what smooth noise allows: neighbouring voxels err together.

inside = result["mask"].values
for name in ("age", "sex"):
    truth = nib.load(folder / "truth" / f"{name}.nii.gz").get_fdata()
    found = result.sel(contrast=name)
    error = ((found.effect - truth) / np.sqrt(found.variance)).values[inside]
    covered = np.mean(np.abs(error) < 2.045)  # the 97.5th percentile of t with 29 degrees of freedom
    print(f"{name}: mean error {error.mean():+.2f}, spread {error.std():.2f}, the 95% interval covers {covered:.1%}")
    assert abs(error.mean()) < 0.2
    assert 0.9 < error.std() < 1.2
    assert 0.92 < covered < 0.98

# %%
# The effects lie where they were put: at the centre of each region, which ``at_mm`` looks up in world coordinates, the
# estimate is many standard errors from zero.

centres = {"left hippocampus": ("age", -27, -21, -15), "medial frontal cortex": ("sex", 0, 45, -6)}
for region, (name, x, y, z) in centres.items():
    here = vx.at_mm(result.sel(contrast=name), x, y, z)
    print(f"{region}: {here.effect:.3f} per unit of {name}, z {here.z_score:.1f}")
    assert abs(here.z_score) > 3.1

# %%
# Arrays in memory, with holes
# ----------------------------
#
# Without noise least squares must give back exactly what was put in. Here each voxel lacks up to a third of its
# subjects.

rng = np.random.default_rng(11)
n, shape = 30, (6, 7, 8)
dose = rng.uniform(0, 10, n)
slope, offset = rng.normal(size=shape), rng.normal(100, 10, size=shape)
maps = offset + slope * dose[:, None, None, None]
maps[rng.random((n, *shape)) < rng.uniform(0, 0.33, shape)] = np.nan

labels = [f"mouse-{i + 1}" for i in range(n)]
mice = vx.from_arrays(
    {"uptake": maps},
    affine=np.diag([0.2, 0.2, 0.2, 1.0]),
    mask=np.ones(shape),
    participants=pd.DataFrame({"dose": dose}, index=labels),
)
print(f"{np.isnan(maps).mean():.0%} of the values are missing; {int((mice.n_valid == n).sum())} voxels are complete")

# %%
# Complete cases leave hardly any voxel. Available cases leave all of them, each with its own degrees of freedom.

complete = vx.fit_glm(mice, "~ dose").compute()
available = vx.fit_glm(mice, "~ dose", missing="available").compute()
print(f"complete: {int(complete.dof.notnull().sum())} voxels, available: {int(available.dof.notnull().sum())}")

np.testing.assert_array_equal(complete.dof.notnull(), np.isfinite(maps).all(axis=0))
np.testing.assert_array_equal(available.dof, np.isfinite(maps).sum(axis=0) - 2)
np.testing.assert_allclose(available.beta.sel(regressor="dose"), slope, atol=1e-10)
np.testing.assert_allclose(available.beta.sel(regressor="Intercept"), offset, atol=1e-10)

# %%

scratch.cleanup()
