"""Masks: explicit ones brought to the cohort's grid, others derived from where the subjects have data."""

import math
from pathlib import Path

import numpy as np
import xarray as xr
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from voxstack.errors import InputError
from voxstack.grid import Grid
from voxstack.io.places import Place, Remote, place_of
from voxstack.io.readers import ImageSource, looks_like_image
from voxstack.io.secrets import StorageOptions, refuse_credentials
from voxstack.kernels.resample import nearest
from voxstack.schema import SPACE
from voxstack.store.coverage import Coverage
from voxstack.store.preparation import Preparation

Mask = str | Path | Remote | SpatialImage | float
AnalysisMask = xr.DataArray | NDArray[np.bool_] | str | Path | Remote | SpatialImage


def given_mask(mask: AnalysisMask, grid: Grid) -> NDArray[np.bool_]:
    """A mask that a user gives, on a grid: where it is neither 0 nor NaN.

    Parameters
    ----------
    mask
        An image or its place, which is brought to the grid; a DataArray, which must be on it; or an array (x, y, z) in
        its order.
    grid
        Of the maps.

    Returns
    -------
    (x, y, z) bool

    Raises
    ------
    InputError
        An image that cannot be read or does not overlap the grid, or an array of another shape.
    GridMismatch
        A DataArray on another grid.
    """
    if isinstance(mask, str | Place | SpatialImage):
        return mask_on_grid(mask if isinstance(mask, SpatialImage) else place_of(mask), grid)
    if isinstance(mask, xr.DataArray):
        if set(mask.dims) != set(SPACE):
            raise InputError(f"A mask has the dimensions x, y and z, not {mask.dims}.")
        # Raises GridMismatch where the lattices differ.
        mask, _ = xr.align(grid.label(mask.transpose(*SPACE)), xr.Dataset(coords=grid.coords()), join="inner")
    given = np.asarray(mask)
    if given.shape != grid.shape:
        raise InputError(f"The mask has the shape {given.shape}, the maps' grid {grid.shape}.")
    return np.asarray(np.nan_to_num(given.astype(float)) != 0)


def mask_on_grid(mask: Place | SpatialImage, grid: Grid) -> NDArray[np.bool_]:
    """An explicit mask on a grid, by nearest neighbour: where the image is neither 0 nor NaN.

    Parameters
    ----------
    mask
        Place or image.
    grid
        Of the cohort.

    Returns
    -------
    (x, y, z) bool

    Raises
    ------
    InputError
        The image cannot be read, is empty, or does not overlap the grid.
    """
    source = ImageSource(mask)
    values, lattice = source.read()
    inside = np.nan_to_num(np.asarray(values, float)) != 0
    on_grid = nearest(inside.astype(np.uint8), lattice.affine, grid.shape, grid.affine) != 0
    if not on_grid.any():
        raise InputError(f"The mask {source.name} is empty or does not overlap the maps, which have {grid}.")
    return np.asarray(on_grid)


def mask_place(mask: Mask, storage_options: StorageOptions | None) -> Mask:
    """A mask that a user gives, the path or URL of an image as its place."""
    if isinstance(mask, str):
        refuse_credentials(mask)  # what does not end like an image is quoted
    return place_of(mask, storage_options) if isinstance(mask, str) and looks_like_image(mask) else mask


def mask_grid(mask: Mask) -> Grid | None:
    """Lattice of a mask that is an image; None for others, and `InputError` for what is no mask."""
    if isinstance(mask, Place | SpatialImage):
        return ImageSource(mask).header().grid()
    if isinstance(mask, str):
        if mask != "intersection":
            raise InputError(f"The mask must be 'intersection', a fraction, or the path of an image, not {mask!r}.")
    elif not isinstance(mask, int | float | np.integer | np.floating):
        raise InputError(f"The mask must be 'intersection', a fraction, a path or an image, not {type(mask).__name__}.")
    elif isinstance(mask, bool) or not 0 < mask <= 1:
        raise InputError(f"The mask fraction must be above 0 and at most 1, not {mask!r}.")
    return None


def resolve_mask(mask: Mask, grid: Grid) -> tuple[NDArray[np.bool_] | None, float]:
    """The explicit mask on the grid, if there is one, and the fraction of subjects that must have data."""
    if isinstance(mask, Place | SpatialImage):
        return mask_on_grid(mask, grid), 0.0
    return None, 1.0 if mask == "intersection" else float(mask)


def choose_mask(coverage: Coverage, preparation: Preparation, fraction: float, n: int, mask: Mask) -> NDArray[np.bool_]:
    """Voxels to analyse, from where the n subjects have data; `InputError` where none is left.

    Smoothing carries values out of the brain in maps that are 0 there. What it reaches is analysed where an explicit
    mask asks for it, and is no reason to take a voxel for brain where none does.
    """
    explicit = preparation.inside
    of_maps = coverage.informative if explicit is None else [preparation.reached(one) for one in coverage.informative]
    informative: NDArray[np.bool_] = np.logical_and.reduce(of_maps)
    # Rounding must not turn 0.3 of 10 subjects into 4.
    enough = explicit if explicit is not None else coverage.n_valid >= fraction * n - 1e-9
    chosen = np.asarray(informative & enough & (coverage.n_valid > 0))
    if not chosen.any():
        why = _why(coverage.n_valid, informative, explicit, n)
        raise InputError(f"No voxel is left in the mask ({mask_name(mask)}): {why}")
    return chosen


def _why(n_valid: NDArray[np.int32], informative: NDArray[np.bool_], explicit: NDArray[np.bool_] | None, n: int) -> str:
    """What leaves no voxel, and what helps."""
    covered = (n_valid > 0) if explicit is None else explicit & (n_valid > 0)
    within = "" if explicit is None else " inside it"
    if not covered.any():
        return (
            f"no voxel{within} has data of a subject in every map. See that the maps show the same part of the brain"
            f"{'' if explicit is None else ', and the mask too'}."
        )
    if not (informative & covered).any():
        advice = "" if explicit is None else " and that the mask lies where they have values"
        return f"no voxel{within} has a value other than 0 in every map. See that these are the right images{advice}."
    most = int(n_valid[informative].max())
    share = max(math.floor(100 * most / n), 1) / 100
    return (
        f"the best covered voxel has data of {most} of {n} subjects. Ask for a smaller fraction of the subjects, for "
        f"example mask={share}."
    )


def mask_name(mask: Mask) -> str:
    """The mask for messages and provenance, without the folder of a file."""
    if isinstance(mask, SpatialImage):
        return "an image in memory"
    return mask.name if isinstance(mask, Place) else str(mask).rpartition("/")[2]
