"""Maps for the viewer in the page: two bytes a voxel, and one of backgrounds, compressed."""

import base64
import zlib
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import VoxstackError
from voxstack.export.nifti import to_nifti
from voxstack.grid import Grid
from voxstack.schema import SPACE

_MARGIN = 2  # voxels around the mask


class Window:
    """The part of a grid that holds the mask, each axis rising, so that left is on the left.

    Parameters
    ----------
    mask : (x, y, z)
        What is shown.
    """

    def __init__(self, mask: xr.DataArray) -> None:
        inside = mask.transpose(*SPACE).values
        grid = Grid.from_dataset(mask)
        self._slices: list[slice] = []
        affine = grid.affine.copy()
        for axis, step in enumerate(grid.voxel_size):
            there = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
            first, last = max(int(there[0]) - _MARGIN, 0), min(int(there[-1]) + _MARGIN, inside.shape[axis] - 1)
            if step > 0:
                self._slices.append(slice(first, last + 1))
                affine[:3, 3] += affine[:3, axis] * first
            else:
                self._slices.append(slice(last, first - 1 if first else None, -1))
                affine[:3, 3] += affine[:3, axis] * last
                affine[:3, axis] *= -1
        self.affine: NDArray[np.float64] = affine
        self.shape: list[int] = list(self._cut(inside).shape)

    def _cut(self, values: NDArray[Any]) -> NDArray[Any]:
        return values[tuple(self._slices)]

    def coded(self, values: NDArray[np.float64], largest: float) -> str:
        """Text of a map (x, y, z): 0 is no value, 1 to 65,535 go from minus to plus the largest, 32,768 is 0."""
        codes = np.clip(np.rint(values / (largest or 1.0) * 32767), -32767, 32767) + 32768
        return _text(self._cut(np.where(np.isnan(values), 0, codes)).astype("<u2"))

    def background(self, values: NDArray[np.float64]) -> str:
        """Text of a background (x, y, z), dark to light."""
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, [2, 99.5]) if known.size else (0.0, 1.0)
        shades = np.clip(np.nan_to_num((self._cut(values) - low) / max(high - low, 1e-12)) * 255, 0, 255)
        return _text(shades.astype(np.uint8))


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(order="F"), 9)).decode()


def on_grid(background: Any, like: xr.DataArray) -> NDArray[np.float64]:
    """A background image on the grid of a map, by linear interpolation."""
    try:
        from nilearn.image import resample_to_img
    except ImportError as error:
        raise VoxstackError("Reports need nilearn. Install it with: pip install 'voxstack[report]'.") from error
    target = to_nifti(like.astype(np.float32))
    image = resample_to_img(background, target, interpolation="linear", force_resample=True, copy_header=True)
    values: NDArray[np.float64] = np.asarray(image.get_fdata())
    return values
