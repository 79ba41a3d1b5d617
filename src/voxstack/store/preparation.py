"""From an image to a subject's map: missing values, resampling, smoothing and the mask, in this order."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxstack.checks import check_flag
from voxstack.errors import InputError
from voxstack.grid import Grid
from voxstack.kernels import resample
from voxstack.store.placing import Placed

Resampling = Literal["linear", "nearest"]
SmoothingMissing = Literal["normalise", "zero"]


@dataclass(frozen=True)
class Options:
    """What users say of how maps are prepared.

    Attributes
    ----------
    zero_is_missing
        Take exact zeros for missing values.
    resample
        Interpolation for images on other lattices; None refuses them.
    smoothing_fwhm
        Full width at half maximum in mm, one number or one for each of x, y and z; None does not smooth.
    smoothing_missing
        How missing values are smoothed over; see `voxstack.kernels.resample.smooth`.
    dtype
        Of the stored maps.
    """

    zero_is_missing: bool
    resample: Resampling | None
    smoothing_fwhm: tuple[float, float, float] | None
    smoothing_missing: SmoothingMissing
    dtype: str

    @classmethod
    def check(
        cls, zero_is_missing: bool, resample: Any, smoothing_fwhm: Any, smoothing_missing: Any, dtype: Any
    ) -> "Options":
        """Refuse what none of them may be."""
        check_flag("zero_is_missing", zero_is_missing)
        if dtype not in ("float32", "float64"):
            raise InputError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
        if resample not in (None, "linear", "nearest"):
            raise InputError(f"resample must be None, 'linear' or 'nearest', not {resample!r}.")
        if smoothing_missing not in ("normalise", "zero"):
            raise InputError(f"smoothing_missing must be 'normalise' or 'zero', not {smoothing_missing!r}.")
        return cls(bool(zero_is_missing), resample, _widths(smoothing_fwhm), smoothing_missing, dtype)

    def details(self) -> dict[str, Any]:
        """For provenance: plain values, and only those that say something."""
        details: dict[str, Any] = {"zero_is_missing": self.zero_is_missing, "dtype": self.dtype}
        if self.resample is not None:
            details["resample"] = self.resample
        if self.smoothing_fwhm is not None:
            details |= {"smoothing_fwhm": list(self.smoothing_fwhm), "smoothing_missing": self.smoothing_missing}
        return details


def _widths(fwhm: Any) -> tuple[float, float, float] | None:
    if fwhm is None:
        return None
    try:
        if isinstance(fwhm, str):
            raise TypeError
        x, y, z = (float(width) for width in np.broadcast_to(np.asarray(fwhm, dtype=float), 3))
    except (ValueError, TypeError):
        x = y = z = np.nan
    if not all(np.isfinite(width) and width >= 0 for width in (x, y, z)):
        raise InputError(f"smoothing_fwhm must be a width in mm, or three of them, not {fwhm!r}.")
    return None if x == y == z == 0 else (x, y, z)


@dataclass(frozen=True)
class Preparation:
    """How every image of a cohort is prepared.

    Attributes
    ----------
    options
        The user's.
    grid
        Of the cohort.
    outside : (x, y, z) bool or None
        Voxels outside an explicit mask, which become NaN.
    """

    options: Options
    grid: Grid
    outside: NDArray[np.bool_] | None

    @property
    def inside(self) -> NDArray[np.bool_] | None:
        """Voxels (x, y, z) inside an explicit mask."""
        return None if self.outside is None else ~self.outside

    def digest(self) -> str:
        """Of everything that the prepared values depend on beside the images."""
        told = [self.options.details(), self.grid.shape, self.grid.affine.tolist(), mask_digest(self.outside)]
        return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()

    def placed(self, volume: NDArray[Any], image: Placed) -> NDArray[np.floating]:
        """A subject's map on the cohort's grid, before it is smoothed.

        Parameters
        ----------
        volume
            As read, with its axes in the order x, y, z.
        image
            Where it lies.

        Returns
        -------
        (x, y, z) float32 or float64, with any strides; infinite values are left to the caller where nothing is filtered
        """
        values = np.flip(volume, image.flips)
        if values.dtype not in (np.float32, np.float64) or not values.dtype.isnative:
            values = values.astype(np.float64 if values.dtype.itemsize > 4 else self.options.dtype)
        if self.options.zero_is_missing:
            values = np.where(values == 0, np.nan, values)
        filtered = image.affine is not None or self.smooths
        if filtered:
            values = values.astype(np.promote_types(values.dtype, self.options.dtype), copy=False)
        if filtered and np.isinf(values).any():
            raise infinite(image, int(np.isinf(values).sum()), values.dtype)
        return values if image.affine is None else self._resampled(values, image.affine)

    def finished(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """The map of `placed`, smoothed and within an explicit mask."""
        values = self._smoothed(values, self.options.smoothing_missing)
        return values if self.outside is None else np.where(self.outside, np.nan, values)

    @property
    def smooths(self) -> bool:
        """Whether maps are smoothed."""
        return self.options.smoothing_fwhm is not None

    def zero_and_nonzero(self, values: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Voxels (2, x, y, z) where smoothing takes the map of `placed` for 0, and for another value."""
        nonzero = (values != 0) & ~np.isnan(values)
        zero = ~nonzero if self.zeros_for_missing else values == 0
        return np.stack([zero, nonzero])

    def reached(self, voxels: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Voxels (x, y, z) to which smoothing carries the values of these, and these."""
        return self._smoothed(voxels.astype(np.float64), "zero") > 0

    @property
    def zeros_for_missing(self) -> bool:
        """Whether missing values are smoothed as zeros, so that it does not matter which are which."""
        return self.smooths and self.options.smoothing_missing == "zero"

    def _smoothed(self, values: NDArray[np.floating], missing: SmoothingMissing) -> NDArray[np.floating]:
        if self.options.smoothing_fwhm is None:
            return values
        sizes = tuple(abs(size) for size in self.grid.voxel_size)
        return resample.smooth(values, self.options.smoothing_fwhm, sizes, missing=missing)

    def _resampled(self, values: NDArray[np.floating], affine: NDArray[np.float64]) -> NDArray[np.floating]:
        target = self.grid.shape, self.grid.affine
        if self.options.resample == "nearest":
            return resample.nearest(values, affine, *target, fill=np.nan)
        return resample.linear(values, affine, *target)


def infinite(image: Placed, count: int, dtype: Any) -> InputError:
    """What to say of an image with infinite values."""
    return InputError(
        f"{image.label}: {image.source.name} holds {count} infinite values in {dtype}. Mark missing values as NaN."
    )


def mask_digest(outside: NDArray[np.bool_] | None) -> str | None:
    """Of an explicit mask on the cohort's grid; None where there is none."""
    return None if outside is None else hashlib.blake2b(np.packbits(outside).tobytes(), digest_size=16).hexdigest()
