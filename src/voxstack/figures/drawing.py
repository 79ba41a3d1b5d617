"""What all figures need: the libraries that draw, and maps as images."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import InputError, VoxstackError
from voxstack.export.nifti import to_nifti
from voxstack.io.places import Remote, located
from voxstack.io.readers import image_source
from voxstack.schema import SPACE, is_p_value

MNI_CODE = 4
"""Of NIfTI headers."""


class Drawing(NamedTuple):
    """matplotlib.pyplot and nilearn.plotting."""

    plt: Any
    plotting: Any


def drawing() -> Drawing:
    """Import them; `VoxstackError` where they are not installed."""
    try:
        from matplotlib import pyplot as plt
        from nilearn import plotting
    except ImportError as error:
        raise VoxstackError(
            "Figures need nilearn and matplotlib. Install them with: pip install 'voxstack[report]'."
        ) from error
    return Drawing(plt, plotting)


@contextmanager
def nothing_may_pass() -> Iterator[None]:
    """An empty picture says that nothing passes its threshold, and nilearn need not warn of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="empty mask", category=UserWarning)
        yield


def check_map(stat_map: xr.DataArray) -> None:
    """Refuse what is not a single map."""
    if set(stat_map.dims) != set(SPACE):
        raise InputError(f"A map has the dimensions x, y and z, not {stat_map.dims}. Select one, such as a contrast.")


def drawn(stat_map: xr.DataArray) -> xr.DataArray:
    """What is drawn of a map: -log10 of p-values, so that what is significant stands out, and others as they are."""
    name = str(stat_map.name)
    if stat_map.dtype == bool:
        return stat_map.astype(np.float64, keep_attrs=True)
    if name == "z_score" and "stat_type" in stat_map.coords and stat_map["stat_type"].item() == "F":
        return stat_map.clip(min=0, keep_attrs=True)  # below 0 p is above 0.5, and is no other direction
    if not is_p_value(name):
        return stat_map
    with np.errstate(divide="ignore"):
        found = 0.0 - np.log10(stat_map.values)
    largest = np.max(found, where=np.isfinite(found), initial=0.0)  # p may underflow to 0
    attrs = {"long_name": f"-log10 of the {stat_map.attrs.get('long_name', name)}"}
    return stat_map.copy(data=np.minimum(found, largest)).assign_attrs(attrs)


def image_of(stat_map: xr.DataArray) -> nib.Nifti1Image:
    """The image that nilearn draws: 0, which it leaves out, where nothing is known; of infinite values the largest."""
    return to_nifti(stat_map.copy(data=within(stat_map.values)).fillna(0))


def within(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values, infinite ones as far from 0 as the farthest of the others; NaN stays."""
    farthest = np.max(np.abs(values), where=np.isfinite(values), initial=0.0)
    clipped: NDArray[np.float64] = np.clip(values, -farthest, farthest)
    return clipped


def colours_of(stat_map: xr.DataArray, vmax: float | None) -> dict[str, Any]:
    """Options of nilearn: diverging colours around 0 where there are negative values, and rising ones elsewhere."""
    if vmax is None and not np.nan_to_num(stat_map).any():
        vmax = 1.0  # of a map in which nothing is significant, which has no largest value
    # Left alone, nilearn spreads the diverging colours over -vmax to 0 where no value is positive: small ones turn red.
    signs = {"symmetric_cbar": True} if float(stat_map.min()) < 0 else {"cmap": "inferno", "symmetric_cbar": False}
    return {"vmax": vmax, **signs}


def template_for(image: nib.Nifti1Image, background: Any, storage_options: Mapping[str, Any] | None = None) -> Any:
    """What to draw on: what is given, or nilearn's MNI template for maps in MNI space, or nothing."""
    if background is not None or image.header["sform_code"] != MNI_CODE:
        return background_image(background, storage_options)
    from nilearn.datasets import load_mni152_template

    return load_mni152_template(resolution=2)


def background_image(background: Any, storage_options: Mapping[str, Any] | None = None) -> Any:
    """What nilearn draws on, after a look at its header; at a URL, which nilearn does not read, as an image."""
    if background is None:
        return None
    source = image_source(located(background, storage_options), "A background")
    if not isinstance(source.image, Remote):
        source.header()
        return background
    values, grid = source.read()
    return nib.Nifti1Image(np.asarray(values, dtype=np.float32), grid.affine)


def label(text: object, most: int = 40) -> str:
    """Text of users for matplotlib: not longer than this, and without formulas."""
    told = str(text)
    return (told if len(told) <= most else f"{told[: most - 3]}...").replace("$", r"\$")


def title_of(stat_map: xr.DataArray) -> str:
    """Long name, and contrast or subject."""
    name = str(stat_map.attrs.get("long_name", stat_map.name))
    of = [label(stat_map[key].item()) for key in ("contrast", "subject") if key in stat_map.coords]
    return ": ".join([name, *of])
