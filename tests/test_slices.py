"""Slices of maps on any background, or on none."""

import nibabel as nib
import numpy as np
import pytest
import xarray as xr

import voxstack as vx

plt = pytest.importorskip("matplotlib.pyplot")
pytest.importorskip("nilearn")

SHAPE = (20, 24, 18)
AFFINE = np.diag([4.0, 4, 4, 1])


def stat_map(code: int) -> xr.DataArray:
    """One hot block of voxels, in the space of a code of NIfTI's; 4 is MNI."""
    maps = np.random.default_rng(0).normal(0, 0.1, (6, *SHAPE))
    maps[:, 5:15, 5:15, 5:15] += 1
    image = nib.Nifti1Image(np.ones(SHAPE, "int16"), AFFINE)
    cohort = vx.from_arrays({"effect": maps}, affine=AFFINE, mask=np.asarray(image.dataobj) > 0)
    stat = vx.compute(vx.contrast(vx.fit_glm(cohort, "~ 1"), "Intercept")).stat.isel(contrast=0)
    stat["spatial_ref"].attrs["space_code"] = code
    return stat


@pytest.mark.parametrize("code", [1, 2, 4])
def test_maps_of_any_space_are_drawn(code: int) -> None:
    from voxstack.figures.slices import plot_slices

    figure = plot_slices(stat_map(code), threshold=3.0, cuts=3)
    assert len([axes for axes in figure.axes if axes.images]) >= 3
    plt.close(figure)
