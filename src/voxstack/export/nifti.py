"""Labelled arrays as NIfTI images."""

from typing import Any

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import InputError, listing
from voxstack.grid import Grid
from voxstack.schema import SPACE

_ALIGNED = 2


def to_nifti(dataarray: xr.DataArray) -> nib.Nifti1Image:
    """A labelled map as a NIfTI image, on the lattice that its coordinates say.

    Parameters
    ----------
    dataarray
        Dimensions x, y, z in any order, and at most one more, which becomes the fourth axis. An axis that was reduced
        to one position (``.sel(z=0)``) counts as one of a single voxel. Lazy data are computed.

    Returns
    -------
    nibabel.Nifti1Image
        Of the array's own type: float32 and float64 stay, bool becomes uint8, int64 becomes int32. The affine is that
        of the array's voxels, also for subsets and flipped copies.

    Raises
    ------
    InputError
        Other dimensions, or integers that int32 cannot hold.
    """
    if not isinstance(dataarray, xr.DataArray):
        raise InputError(f"An image is made of a map, such as result.z_score, not of a {type(dataarray).__name__}.")
    grid = Grid.from_dataset(dataarray)
    others = [dim for dim in dataarray.dims if dim not in SPACE]
    if len(others) > 1:
        raise InputError(f"An image has one axis besides x, y and z, not {listing(others)}. Select along all but one.")
    scalars = [dim for dim in SPACE if dim not in dataarray.dims]
    values = dataarray.expand_dims(scalars).transpose(*SPACE, *others).values
    image = nib.Nifti1Image(_storable(values, str(dataarray.name)), grid.affine)
    image.header.set_xyzt_units("mm")
    # Readers ignore an affine of code 0 (unknown), as Analyze images have it; 2 says that it is aligned to something.
    code = grid.code or _ALIGNED
    image.set_sform(grid.affine, code=code)
    image.set_qform(grid.affine, code=code)
    return image


def _storable(values: NDArray[Any], name: str) -> NDArray[Any]:
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind in "iu" and values.dtype.itemsize > 4:
        limits = np.iinfo(np.int32)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise InputError(
                f"{name} holds integers beyond int32, which NIfTI tools read. Convert it to float64 first."
            )
        return values.astype(np.int32)
    if values.dtype.kind not in "iuf":
        raise InputError(f"{name} holds {values.dtype}, not numbers.")
    return values.astype(np.float32) if values.dtype == np.float16 else values
