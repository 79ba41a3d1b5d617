"""From one lattice to another, and Gaussian smoothing, of maps with missing values.

Both are normalised convolution (Knutsson and Westin 1993, Normalized and differential convolution, *Proc. IEEE CVPR*,
515-523): the weighted mean of the values that are there, ``filter(map x valid) / filter(valid)``. A missing value
(NaN, or anything else that is not finite) then neither counts as 0 nor spreads, and all that lies outside the grid is
missing too.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

Float = NDArray[np.float64]
Shape = tuple[int, int, int]

SAME_LATTICE_MM = 1e-3
"""Voxels that lie closer than this are the same: headers hold lattices in single precision."""

_ROUNDING = 1e-6  # of positions in voxels and of weights: far above that of float64, far below what a map can show
_TILE = 1 << 15  # positions interpolated at a time: they fit the cache, and threads seldom wait for each other
_FWHM_OF_SIGMA = np.sqrt(8 * np.log(2))


def nearest(
    values: NDArray[Any], affine: Float, target_shape: Shape, target_affine: Float, *, fill: float = 0
) -> NDArray[Any]:
    """Values of the nearest voxel.

    Half-way between two voxels, within rounding, it is the one of the higher number.

    Parameters
    ----------
    values : (i, j, k)
        Of any type; NaN is a value like any other.
    affine, target_affine : (4, 4) float64
        From voxel numbers to mm, of both lattices.
    target_shape
        Of the result.
    fill
        For voxels whose centre lies more than half a voxel outside.

    Returns
    -------
    (x, y, z) array of the type of `values`
    """
    assert values.ndim == 3, values.shape
    to_source = np.linalg.solve(affine, target_affine)
    result: NDArray[Any] = ndimage.affine_transform(
        values,
        to_source[:3, :3],
        offset=to_source[:3, 3] + _ROUNDING,  # else rounding decides, row by row, what half-way is
        output_shape=target_shape,
        order=0,
        mode="grid-constant",
        cval=fill,
    )
    return result


def linear(values: NDArray[Any], affine: Float, target_shape: Shape, target_affine: Float) -> NDArray[Any]:
    """Trilinear interpolation by normalised convolution.

    A target voxel is the mean of the up to eight source voxels around it that have data, weighted by trilinear
    interpolation, and missing where these have less than half of the weight. What lies outside the source has no data.

    A target voxel that lies on a source voxel gets exactly its value, NaN included. Where all voxels of the target do
    so within `SAME_LATTICE_MM`, the two are taken for parts of one lattice.

    Parameters
    ----------
    values : (i, j, k) of a float type
        Missing where not finite.
    affine, target_affine : (4, 4) float64
        From voxel numbers to mm, of both lattices.
    target_shape
        Of the result.

    Returns
    -------
    (x, y, z) array of the type of `values`
        Computed in float64. NaN where missing.

    Notes
    -----
    Beside the result it holds one map of booleans and, where values are missing or not in C order, one copy of the
    source; positions and weights exist for some thirty thousand voxels at a time.

    A position outside is moved to the edge of the source: what is inside keeps its proportions. In a cell without
    missing values the weights then sum to 1, to the last bit as `_between` computes them. So where the source has none
    the division is left out, and the result is the same.
    """
    assert values.ndim == 3, values.shape
    assert values.dtype.kind == "f", values.dtype
    known = np.isfinite(values)
    whole = bool(known.all())
    source = np.ascontiguousarray(values if whole else np.where(known, values, 0))
    weights = np.ascontiguousarray(known)
    result = np.empty(target_shape, values.dtype)
    by_row = result.reshape(-1, target_shape[2])
    for rows, positions in _tiles(_to_source(affine, target_shape, target_affine), target_shape):
        corner, fractions, inside = _cells(positions, values.shape)
        found = _between(source, corner, fractions)
        if not whole:
            weight = _between(weights, corner, fractions)
            np.divide(found, weight, out=found, where=weight > 0)
            inside = inside * weight
        found[inside < 0.5 - _ROUNDING] = np.nan
        by_row[rows] = found
    return result


def smooth(
    values: NDArray[Any],
    fwhm_mm: ArrayLike,
    voxel_size_mm: ArrayLike,
    *,
    missing: Literal["normalise", "zero"] = "normalise",
) -> NDArray[Any]:
    """Convolution with a Gaussian, cut off at four standard deviations.

    Parameters
    ----------
    values : (x, y, z) of a float type
        Missing where not finite.
    fwhm_mm
        Full width at half maximum, in mm: one number, or one for each axis. An axis of width 0 is left alone.
    voxel_size_mm
        Distance between voxels along each axis, in mm: three numbers above 0.
    missing
        "normalise": the mean of the values that are there, weighted by the Gaussian; the grid ends at its edge, and
        beyond it values are missing. A constant stays constant, beside missing values and at the edge too. Missing
        values stay missing.
        "zero": missing values count as 0, and every voxel gets a value; beyond its edge the grid is mirrored. This is
        ``nilearn.image.smooth_img``.

    Returns
    -------
    (x, y, z) array of the type of `values`
        Computed in float64.

    Notes
    -----
    Beside the result it holds one float64 map, or two where values are missing and normalised: three in all.

    At a voxel with data the weight cannot vanish, since its own value has the largest of the kernel.
    """
    fwhm, voxel_size = (np.broadcast_to(np.asarray(mm, float), 3) for mm in (fwhm_mm, voxel_size_mm))
    assert values.ndim == 3, values.shape
    assert values.dtype.kind == "f", values.dtype
    assert np.isfinite(fwhm).all(), fwhm
    assert np.all(fwhm >= 0), fwhm
    assert np.all(voxel_size > 0), voxel_size
    assert missing in ("normalise", "zero"), missing
    sigma = fwhm / (_FWHM_OF_SIGMA * voxel_size)
    known = np.isfinite(values)
    data = _filled(values, known)
    if missing == "zero":
        _convolve(data, sigma, "reflect")
    elif known.all():
        # The weights of a whole grid are the product of those along its axes.
        _convolve(data, sigma, "constant")
        for axis, n in enumerate(data.shape):
            weight = np.ones((n, 1, 1))
            _convolve(weight, (sigma[axis], 0, 0), "constant")
            data /= np.moveaxis(weight, 0, axis)
    else:
        weight = known.astype(np.float64, order="C")
        _convolve(data, sigma, "constant")
        _convolve(weight, sigma, "constant")
        np.divide(data, weight, out=data, where=known)
        data[~known] = np.nan
    return data.astype(values.dtype, copy=False)


def _filled(values: NDArray[Any], known: NDArray[np.bool_]) -> Float:
    """A copy in float64 with 0 where values are missing."""
    filled = np.zeros(values.shape)
    np.copyto(filled, values, where=known)
    return filled


def _convolve(data: Float, sigma: ArrayLike, mode: Literal["reflect", "constant"]) -> None:
    """Convolve with a Gaussian of standard deviations in voxels, axis by axis, in place."""
    for axis, width in enumerate(np.asarray(sigma, float)):
        # Below 1/8 voxel four standard deviations do not reach the next voxel.
        if width >= 0.125:
            ndimage.gaussian_filter1d(data, width, axis, output=data, mode=mode, truncate=4.0)


def _to_source(affine: Float, target_shape: Shape, target_affine: Float) -> Float:
    """From target to source voxels (4, 4): whole numbers where the target's voxels are voxels of the source."""
    transform = np.asarray(np.linalg.solve(affine, target_affine), np.float64)
    whole = np.asarray(np.rint(transform), np.float64)
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in target_shape], [1.0], indexing="ij")).reshape(4, -1)
    apart = affine @ (transform - whole) @ corners  # in mm, largest at a corner
    if np.linalg.norm(apart[:3], axis=0).max() <= SAME_LATTICE_MM:
        return whole
    return transform


def _tiles(to_source: Float, target_shape: Shape) -> Iterator[tuple[slice, list[Float]]]:
    """Rows of target voxels along the last axis, and where they lie in the source, in voxels.

    The three positions broadcast to (rows, z): one that is the same in all rows, or all along a row, is given once.
    """
    step = max(1, _TILE // target_shape[2])
    n_rows = target_shape[0] * target_shape[1]
    k = np.arange(target_shape[2])
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        i, j = np.divmod(np.arange(rows.start, rows.stop), target_shape[1])
        across = [m[0] * i + m[1] * j if m[:2].any() else np.zeros(1) for m in to_source[:3]]
        along = [m[2] * k + m[3] if m[2] else m[3:] for m in to_source[:3]]
        yield rows, [a[:, None] + b for a, b in zip(across, along, strict=True)]


def _cells(positions: list[Float], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], tuple[Float | None, ...], Float]:
    """Where positions lie in a grid.

    Returns
    -------
    corner : (rows, z) intp
        The cell's first voxel, as a number into the flat grid. A position outside is moved to the grid's edge.
    fractions
        How far along each axis the position lies in its cell, from 0 to below 1; None where it is 0 throughout.
    inside : (rows, z) float64
        The part of the interpolation weight that falls inside the grid.
    """
    corner: NDArray[np.intp] = np.zeros((1, 1), np.intp)
    inside: Float = np.ones((1, 1))
    fractions: list[Float | None] = []
    for position, n in zip(positions, shape, strict=True):
        whole = np.rint(position)
        np.copyto(position, whole, where=np.abs(position - whole) < _ROUNDING)
        within = np.clip(position, 0, n - 1)
        inside = inside * np.maximum(1 - np.abs(position - within), 0)
        first = np.floor(within)
        corner = corner * n + first.astype(np.intp)
        fraction = within - first
        fractions.append(fraction if fraction.any() else None)
    return corner, tuple(fractions), inside


def _between(grid: Float, corner: NDArray[np.intp], fractions: tuple[Float | None, ...]) -> Float:
    """Trilinear interpolation in the cells of `_cells`: (rows, z).

    Along one axis it is ``low + fraction x (high - low)``, which gives the value itself where both are the same, and
    `low` where the fraction is 0. So at the end of an axis, where there is no next voxel, any other will do.
    """
    if not fractions:
        found: Float = grid.ravel().take(corner, mode="clip").astype(np.float64, copy=False)
        return found
    axis = 3 - len(fractions)
    fraction, *others = fractions
    low = _between(grid, corner, tuple(others))
    if fraction is None:
        return low
    value = _between(grid, corner + grid[(0,) * (axis + 1)].size, tuple(others))
    value -= low
    value *= fraction
    value += low
    return value
