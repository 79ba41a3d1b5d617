"""Smoothing: against sums written out from the definition, and against nilearn and scipy.ndimage."""

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.image import smooth_img
from numpy.typing import NDArray

from random_images import MNI, onto, properties, random_affine, random_map, seeds
from voxstack.kernels.resample import linear, smooth


def kernel(n: int, fwhm: float, size: float) -> NDArray[np.float64]:
    """Weight of voxel j for voxel i along an axis, from the density of the normal distribution; cut at 4 sigma."""
    if fwhm == 0:
        return np.eye(n)
    sigma = fwhm / 2.3548200450309493 / size
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    return np.exp(-(apart**2) / (2 * sigma**2)) * (apart <= np.floor(4 * sigma + 0.5))


fwhms = st.sampled_from([0.0, 0.3, 1.0, 4.0, 6.5, 40.0])
sizes = st.sampled_from([0.8, 2.0, 3.3])


@properties
@given(seeds, st.tuples(fwhms, fwhms, fwhms), st.tuples(sizes, sizes, sizes), st.sampled_from([0.0, 0.2, 0.9, 1.0]))
def test_smoothing_is_the_weighted_mean_of_the_values_that_are_there(
    seed: int, fwhm: tuple[float, ...], size: tuple[float, ...], missing: float
) -> None:
    rng = np.random.default_rng(seed)
    values = random_map(rng, tuple(rng.integers(1, 7, 3)), missing)
    known = ~np.isnan(values)
    weights = [kernel(n, f, s) for n, f, s in zip(values.shape, fwhm, size, strict=True)]
    total = np.einsum("ai,bj,ck,ijk->abc", *weights, np.where(known, values, 0))
    weight = np.einsum("ai,bj,ck,ijk->abc", *weights, known.astype(float))
    expected = np.full(values.shape, np.nan)
    expected[known] = total[known] / weight[known]
    np.testing.assert_allclose(smooth(values, fwhm, size), expected, rtol=1e-10)


@properties
@given(
    seeds,
    st.tuples(fwhms, fwhms, fwhms),
    st.sampled_from(["f4", "f8"]),
    st.sampled_from([0.0, 0.2, 0.9]),
    st.booleans(),
)
def test_smoothing_with_zero_for_missing_equals_nilearn(
    seed: int, fwhm: tuple[float, ...], dtype: str, missing: float, oblique: bool
) -> None:
    rng = np.random.default_rng(seed)
    values = random_map(rng, tuple(rng.integers(1, 9, 3)), missing, dtype)
    voxel = np.array([0.8, 2.0, 3.3])
    affine = random_affine(rng, voxel) if oblique else np.diag([-0.8, 2.0, -3.3, 1])
    if missing == 0.9:
        values[0, 0, 0] = np.inf  # which counts as missing too
    result = smooth(values, fwhm, voxel, missing="zero")
    assert result.dtype == values.dtype
    expected = smooth_img(nib.Nifti1Image(values, affine), list(fwhm)).get_fdata()
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-30)


def test_away_from_edges_both_ways_of_smoothing_a_whole_map_are_nilearns() -> None:
    values = random_map(np.random.default_rng(7), (20, 22, 19), 0)
    expected = smooth_img(nib.Nifti1Image(values, MNI), 5).get_fdata()
    inner = (slice(5, -5),) * 3  # 4 sigma are 4.2 voxels
    np.testing.assert_allclose(smooth(values, 5, [2, 2, 2])[inner], expected[inner], rtol=1e-12)


@properties
@given(
    seeds,
    st.floats(-1e30, 1e30).filter(lambda c: c == 0 or abs(c) > 1e-30),
    st.tuples(fwhms, fwhms, fwhms),
    st.sampled_from([0.0, 0.3, 0.95]),
    st.sampled_from(["f4", "f8"]),
)
def test_a_constant_stays_constant(
    seed: int, constant: float, fwhm: tuple[float, ...], missing: float, dtype: str
) -> None:
    """Beside missing values and at the edge of the grid too, when smoothed and when interpolated."""
    rng = np.random.default_rng(seed)
    values = np.full(tuple(rng.integers(1, 9, 3)), constant, dtype)
    values[rng.random(values.shape) < missing] = np.nan
    rounding = 30 * np.finfo("f8").eps if dtype == "f8" else np.finfo("f4").eps
    np.testing.assert_allclose(smooth(values, fwhm, (2, 3, 1.5)), values, rtol=rounding)
    resampled = linear(values, MNI, (6, 6, 6), onto(rng, values, MNI))
    np.testing.assert_allclose(resampled[~np.isnan(resampled)], values.dtype.type(constant), rtol=rounding)


@pytest.mark.parametrize("fwhm", [0, 0.01, 4, 1000])
def test_a_lone_voxel_keeps_its_value_and_the_rest_stays_missing(fwhm: float) -> None:
    values = np.full((9, 8, 30), np.nan, dtype="f4")
    values[4, 4, 0] = 7
    np.testing.assert_allclose(smooth(values, fwhm, 2), values, rtol=1e-6)


def test_a_hole_changes_smoothing_only_within_reach() -> None:
    whole = random_map(np.random.default_rng(8), (30, 8, 8), 0)
    holed = whole.copy()
    holed[0, 0, 0] = np.nan
    reach = 6  # 4 sigma are 5.1 voxels
    np.testing.assert_allclose(smooth(holed, 6, 2)[reach:], smooth(whole, 6, 2)[reach:], rtol=1e-13)


def test_smoothing_keeps_the_centre_and_widens_by_the_kernel() -> None:
    """A point becomes a Gaussian of the asked width in mm along each axis."""
    values = np.zeros((41, 31, 29))
    values[19, 16, 13] = 3
    size, fwhm = np.array([1.0, 2.0, 3.0]), np.array([5.0, 8.0, 10.0])
    for missing in ("normalise", "zero"):
        result = smooth(values, fwhm, size, missing=missing)
        assert result.sum() == pytest.approx(3, rel=1e-6)
        places = np.indices(values.shape).reshape(3, -1).T * size
        centre = np.average(places, axis=0, weights=result.ravel())
        np.testing.assert_allclose(centre, [19, 32, 39], rtol=1e-9)
        variance = np.average((places - centre) ** 2, axis=0, weights=result.ravel())
        np.testing.assert_allclose(np.sqrt(variance * 8 * np.log(2)), fwhm, rtol=2e-3)


@properties
@given(seeds, st.tuples(fwhms, fwhms, fwhms))
def test_smoothing_with_zero_for_missing_keeps_the_sum(seed: int, fwhm: tuple[float, ...]) -> None:
    """The mirrored edge gives back what leaves the grid."""
    values = random_map(np.random.default_rng(seed), (6, 7, 5), 0.3)
    result = smooth(values, fwhm, (2, 3, 1.5), missing="zero")
    assert result.sum() == pytest.approx(np.nansum(values), rel=1e-12)


@pytest.mark.parametrize("missing", ["normalise", "zero"])
def test_width_zero_leaves_an_axis_alone(missing: Any) -> None:
    values = random_map(np.random.default_rng(9), (6, 7, 5), 0.2)
    alone = np.nan_to_num(values) if missing == "zero" else values
    np.testing.assert_array_equal(smooth(values, 0, (2, 2, 2), missing=missing), alone)
    result = smooth(values, (6, 0, 4), (2, 2, 2), missing=missing)
    for y in range(7):
        alone = smooth(values[:, y : y + 1], (6, 5, 4), (2, 2, 2), missing=missing)
        np.testing.assert_allclose(result[:, y : y + 1], alone, rtol=1e-12)
