"""Images in memory of which only the voxels within a mask are kept."""

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import DTypeLike, NDArray

from voxstack.kernels.resample import nearest


class MaskedVolume:
    """A volume as nibabel's array proxies are: an array when asked for. A brain fills a quarter of its grid.

    Parameters
    ----------
    volume : (i, j, k) array
        Real numbers.
    mask : (i, j, k) bool
        Voxels that are kept; all others are missing.
    """

    is_proxy = True
    ndim = 3

    def __init__(self, volume: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        assert volume.shape == mask.shape
        self.shape, self._mask = volume.shape, np.packbits(mask)
        self._values = volume[mask].astype(np.result_type(volume, np.float32), copy=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """One that has NaN."""
        return self._values.dtype

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        whole = np.full(self.shape, np.nan, self.dtype if dtype is None else dtype)
        whole[np.unpackbits(self._mask, count=whole.size).reshape(self.shape).astype(bool)] = self._values
        return whole

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]


def within_mask(image: SpatialImage, mask: Any) -> SpatialImage:
    """A copy of the image with NaN outside of a mask, where nilearn writes 0; with all of its values without one.

    Models may use a buffer or a file again for the next image, so what they give is read at once.

    Parameters
    ----------
    image
        Of one volume.
    mask
        Image of the mask, or whatever else stands in its place; by nearest neighbour where it is on another lattice.
    """
    i, j, k = image.shape[:3]
    volume = np.array(np.asanyarray(image.dataobj)).reshape(i, j, k)
    if not isinstance(mask, SpatialImage):
        return nib.Nifti1Image(volume, image.affine, image.header)
    inside = np.asanyarray(mask.dataobj).reshape(mask.shape[:3]) != 0
    if inside.shape != volume.shape or not np.allclose(mask.affine, image.affine, rtol=0, atol=1e-4):
        inside = nearest(inside.astype(np.uint8), mask.affine, (i, j, k), image.affine) != 0
    return nib.Nifti1Image(MaskedVolume(volume, inside), image.affine)
