r"""
Button presses, step by step
============================

A first walk through voxstack, from the maps of 20 people to a report of what they have in common. Each has pressed
buttons with the left hand and with the right one; a model of each person's own data, the *first level*, has made one
map of it: the activity of left presses less that of right ones, in each voxel. What is asked here is the question of
the *second level*: where does the group differ between its hands?

The steps are those of any such study: look at the maps, stack them, look for what is odd, fit a model, decide what is
significant, tabulate it, and write it down.

Offline the maps are simulated: as many people, voxels of 3 mm, a difference that is put in at four places, and two
mishaps as they happen: maps that end too high, and one in other units. With ``--download`` the maps are the first 20 of
the Brainomics/Localizer dataset (Papadopoulos Orfanos et al. 2017, NeuroImage 144:309), which ``nilearn.datasets``
fetches.
"""

# %%
# The maps
# --------
#
# All that voxstack needs is an image for each person, and a table that says whose it is: a row a person, a column with
# a label, ``participant_id``, and one with the image's path.

import argparse
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd

import voxstack as vx
from voxstack.simulate import Region

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--download", action="store_true", help="take the real maps, which nilearn.datasets fetches")
download = parser.parse_args().download

scratch = tempfile.TemporaryDirectory()
folder = Path(scratch.name)
REGIONS = (
    Region("mean", "right motor cortex", (39, -24, 54), 3.0, 9),
    Region("mean", "left motor cortex", (-39, -24, 54), -3.0, 9),
    Region("mean", "left cerebellum", (-21, -54, -24), 3.0, 8),
    Region("mean", "right cerebellum", (21, -54, -24), -3.0, 8),
)

if download:
    from nilearn.datasets import fetch_localizer_contrasts

    localizer = fetch_localizer_contrasts(["left vs right button press"], n_subjects=20)
    paths = {Path(path).parent.name: path for path in localizer["cmaps"]}
else:
    labels = [f"S{i + 1:02d}" for i in range(20)]
    table = pd.DataFrame({"participant_id": labels})
    vx.simulate_cohort(folder / "people", participants=table, regions=REGIONS, seed=20)
    paths = {label: str(folder / f"people/{label}/{label}_stat-effect_statmap.nii.gz") for label in labels}
    for label in ("S04", "S17"):  # the scanner's field of view ended above the lower cerebellum
        image = nib.load(paths[label])
        values = image.get_fdata(dtype=np.float32)
        height = nib.affines.apply_affine(image.affine, [[0, 0, k] for k in range(image.shape[2])])[:, 2]
        values[:, :, height < -45] = np.nan
        nib.save(nib.Nifti1Image(values, image.affine, image.header), paths[label])
    image = nib.load(paths["S09"])  # in other units than the others
    nib.save(nib.Nifti1Image(5 * image.get_fdata(dtype=np.float32), image.affine, image.header), paths["S09"])

people = pd.DataFrame({"participant_id": paths.keys(), "map": paths.values()})
print(f"{len(people)} people, the first of them {people['participant_id'][0]}")

# %%
# Stack
# -----
#
# ``stack`` opens the headers of all images, and says at once if one is missing, broken or on another grid. Then it
# reads the maps, smooths them by 5 mm, and writes them into one store on the disk, the *cohort*. From then on nobody
# needs the images any more: ``open_cohort`` opens the store again, in an instant and however large it is.

cohort = vx.stack(people, folder / "cohort.zarr", maps={"effect": "map"}, smoothing_fwhm=5)
cohort = vx.open_cohort(folder / "cohort.zarr")
print(dict(cohort.sizes))

# %%
# The cohort is an ``xarray.Dataset``: arrays with names. ``cohort.effect`` has a subject's label and the position in mm
# beside each value. Of one person, at one place:

print(cohort.effect.sel(subject=people["participant_id"][2]).sel(x=39, y=-24, z=54, method="nearest").values)

# %%
# Look at everybody
# -----------------
#
# Before any model, look at the data. All maps through a glass brain, in the same colours, and of each what is farther
# from 0 than 97% of all values:

maps = cohort.effect.where(cohort.mask).compute()
vx.figures.plot_montage(maps, threshold=float(np.abs(maps).quantile(0.97)))

# %%
# Red is left, blue is right, seen from above through all depths. A hand has the opposite hemisphere of the cortex, and
# its own side of the cerebellum: two spots of each colour. A map that is full of colour, as one of the simulated ones
# is, calls for a closer look. The eye is good at this, and numbers are a help: how far do a person's values spread,
# over the whole brain?

size = maps.std(["x", "y", "z"]).to_series()
deviation = np.abs(np.log(size) - np.log(size).median())
odd = size.index[deviation > 5 * deviation.median()]

figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
axes.scatter(range(len(size)), size, color=["#c0392b" if label in odd else "#2c6e9b" for label in size.index])
axes.set_xticks(range(len(size)), size.index, rotation=90)
axes.set(ylabel="spread of the map", ylim=(0, None), title=f"odd: {', '.join(odd) or 'nobody'}")
axes.spines[["top", "right"]].set_visible(False)

# %%
# A map five times as large as all others is no strong brain, but most likely one in other units. Find out why, and mend
# it, or leave the person out and say so; decide that before you have seen the results. Here who is odd stays out. A
# cohort is cut as any ``xarray.Dataset``:

kept = cohort.drop_sel(subject=list(odd))
print(f"{kept.sizes['subject']} of {cohort.sizes['subject']} people stay")

# %%
# Coverage
# --------
#
# Not every map reaches as far as the others. The share of people who have data, in slices from below to above:

vx.figures.plot_coverage(cohort)

# %%
# By default the analysis keeps to the voxels that *everybody* has, the cohort's ``mask``. If that cost parts of the
# brain that you care for, ``stack(..., mask=0.8)`` would keep those that 8 in 10 people have, and ``fit_glm(...,
# missing="available")`` would use whoever has data.

some, everybody = int((cohort.n_valid > 0).sum()), int(cohort.mask.sum())
print(f"{some:,} voxels of somebody, {everybody:,} of everybody")

# %%
# A model
# -------
#
# The question is whether the mean differs from 0, and the model of a mean is ``~ 1``, the intercept. Had the table a
# column ``age``, then ``~ age`` would be the way to ask for it. A *contrast* says which coefficient is tested, and
# under which name.

fit = vx.fit_glm(kept, "~ 1")
result = vx.contrast(fit, {"left-right": "Intercept"})
result = vx.compute(result)
print(", ".join(result.data_vars))

# %%
# Up to ``compute`` nothing has happened: voxstack plans first, and then goes through the data in pieces. The result has
# in each voxel the mean (``effect``), its squared standard error (``variance``), t (``stat``), and the same as z and p.
#
# What is significant
# -------------------
#
# There are some 50,000 voxels, so p = 0.05 would be reached by chance in 2,500 of them. The false discovery rate is the
# share of false ones among those that are found. Let it be 5% (Benjamini and Hochberg 1995, J. R. Stat. Soc. B 57:289),
# and leave out specks of fewer than 10 voxels:

found = vx.threshold(result, correction="fdr", alpha=0.05, cluster_extent=10)
print(found.attrs["summary"][0])

# %%

z = found.z_score.sel(contrast="left-right")
vx.figures.plot_glass_brain(z, title="z of what is significant: left hand red, right hand blue")

# %%
# The same in slices, on a template of the brain:

vx.figures.plot_slices(z, cuts=(-24, 48, 54, 60) if not download else 6)

# %%
# A table of clusters
# -------------------
#
# Clusters are numbered, first those of positive values in falling size, then the negative ones. The first row of each
# is its peak, positions are in mm.

clusters = vx.clusters_table(found, peaks=1)
print(clusters.drop(columns=["contrast", "peak"]).to_string(index=False, float_format="{:.4g}".format))

# %%
# Of voxels 5% may be false, not of clusters: a small one may well be made of nothing else. For p-values of clusters
# there are :doc:`permutation tests <one_sample_test>`.
#
# A look back from the peak to the people: what has each of them there?

if len(clusters):
    x, y, z_mm = clusters.loc[0, ["x", "y", "z"]]
    there = vx.at_mm(kept, x, y, z_mm).effect.to_series()
    print(f"at ({x:g}, {y:g}, {z_mm:g}) mm {(there > 0).sum()} of {len(there)} people have more of the left hand")

# %%
# Write it down
# -------------
#
# ``write_maps`` writes an image that any other program reads for each map, and beside each a JSON file that says what
# it is and how it came about. ``save_results`` keeps the labelled dataset, and ``report`` makes one HTML page of
# everything, to be opened in a browser or sent to a colleague.

results = folder / "results"
vx.write_maps(result, results)
vx.write_maps(found, results)
vx.save_results(found, results / "results.zarr")
vx.report(found, results / "report.html", cohort=kept, title="Button presses, left less right")
for path in sorted(results.iterdir()):
    print(path.name)

# %%
# Against the truth
# -----------------
#
# Of simulated people it is known what should have come out. Who is odd: one person, whose map is in other units. Where
# two maps end, 18 of 20 have data. And the difference of the hands: smoothing lowers it by a known factor, since two
# Gaussians in a row are a wider and lower one.

if not download:
    assert list(odd) == ["S09"]
    assert "S09" not in kept.subject
    assert kept.sizes["subject"] == 19
    below, above = vx.at_mm(cohort, 0, -60, -54), vx.at_mm(cohort, 0, -60, -36)
    assert below.n_valid == 18
    assert not below.mask
    assert above.n_valid == 20
    assert above.mask

    # A cluster at each place, of the right sign.
    for region in REGIONS:
        away = np.sqrt(((clusters[["x", "y", "z"]] - np.array(region.centre_mm)) ** 2).sum(axis=1))
        nearest = clusters.loc[away.idxmin()]
        assert away.min() < 9
        assert nearest["value"] * region.height > 0

    # The mean, as large as it was put in; of other units it would be off by a fifth.
    sigma = 5 / np.sqrt(8 * np.log(2))
    for region in REGIONS:
        there = vx.at_mm(result.sel(contrast="left-right"), *region.centre_mm)
        expected = region.height * (region.width_mm**2 / (region.width_mm**2 + sigma**2)) ** 1.5
        error = (there.effect - expected) / np.sqrt(there.variance)
        print(f"{region.name}: mean {there.effect:.2f}, put in {expected:.2f}: {error:+.1f} standard errors")
        assert abs(error) < 3

    # Of what is found at a false discovery rate of 5%, few voxels are false; they vary with the noise.
    put_in = np.nan_to_num(nib.load(folder / "people/truth/mean.nii.gz").get_fdata())
    significant = found.significant.sel(contrast="left-right").values
    false = (put_in[significant] == 0).mean()
    print(f"{100 * false:.1f}% of the voxels that are found lie where nothing was put in")
    assert false < 0.15

    # The image that was written says the same, wherever its own header puts the place.
    (written,) = results.glob("*stat-effect_statmap.nii.gz")
    image = nib.load(written)
    for region in REGIONS:
        voxel = np.round(nib.affines.apply_affine(np.linalg.inv(image.affine), region.centre_mm)).astype(int)
        here = vx.at_mm(result.sel(contrast="left-right"), *region.centre_mm).effect
        assert np.isclose(image.get_fdata()[tuple(voxel)], here, rtol=1e-5)
        assert here * region.height > 0

# %%

plt.show()
scratch.cleanup()
