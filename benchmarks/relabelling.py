"""Permutation tests of random maps, and the time of one more relabelling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from nilearn.datasets import load_mni152_brain_mask
from numpy.typing import NDArray
from scipy import ndimage

import voxstack as vx

Mask = NDArray[np.bool_]
Maps = NDArray[np.float32]
Run = Callable[[int], object]
"""Of a test with so many relabellings, the identity included."""

_SIGMA = 3 / np.sqrt(8 * np.log(2))  # voxels: 6 mm full width at half maximum where voxels are of 2 mm


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    repeats
        Of each measurement.
    resolution
        Of the MNI mask, in mm.
    fraction
        Of the usual relabellings.
    """

    repeats: int
    resolution: int = 2
    fraction: float = 1

    def relabellings(self, usual: int) -> int:
        """How many to run; no fewer than 4, the least that keeps two jobs of a peer busy with two each."""
        return max(round(self.fraction * usual), 4)


@dataclass(frozen=True)
class Contender:
    """A test that is timed.

    Attributes
    ----------
    run
        The test.
    shorter, more
        Relabellings of one run, and how many more another one has. What is done before the first relabelling is not in
        the difference of their times.
    """

    run: Run
    shorter: int
    more: int


def marginal(contenders: Mapping[str, Contender], effort: Effort) -> dict[str, list[float]]:
    """Seconds of one more relabelling of each contender, timed in turn, so that a busy machine disturbs all alike."""
    for contender in contenders.values():
        contender.run(effort.relabellings(contender.shorter))  # compiles, and starts what has to be started
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(effort.repeats):
        for name, contender in contenders.items():
            shorter, more = effort.relabellings(contender.shorter), effort.relabellings(contender.more)
            start = perf_counter()
            contender.run(shorter)
            middle = perf_counter()
            contender.run(shorter + more)
            seconds[name].append((perf_counter() - middle - (middle - start)) / more)
    return seconds


def mni_mask(resolution: int) -> Mask:
    """Of the brain, (x, y, z)."""
    return np.asarray(load_mni152_brain_mask(resolution=resolution).dataobj) > 0


def slab(mask: Mask, share: float) -> slice:
    """The axial slices in the middle of the brain that hold at least a share of the mask's voxels."""
    voxels = np.cumsum(mask.sum(axis=(0, 1)))
    outside = (1 - share) / 2 * voxels[-1]
    first = int(np.searchsorted(voxels, outside, side="right"))
    last = int(np.searchsorted(voxels, voxels[-1] - outside, side="left"))
    return slice(first, last + 1)


def smooth_noise(mask: Mask, n: int) -> Maps:
    """Maps (n, x, y, z) of noise that neighbours share, 0 outside the mask."""
    rng = np.random.default_rng(0)
    maps = np.empty((n, *mask.shape), dtype=np.float32)
    for one in maps:
        noise = rng.standard_normal(mask.shape, dtype=np.float32)
        one[:] = np.where(mask, ndimage.gaussian_filter(noise, _SIGMA), 0)
    return maps


def regressors(n: int) -> NDArray[np.float64]:
    """One that is tested, and two nuisance ones that are correlated with it: (n, 3)."""
    rng = np.random.default_rng(1)
    tested = rng.standard_normal(n)
    return np.column_stack([tested, rng.standard_normal((n, 2)) + 0.3 * tested[:, None]])


def ours(maps: Maps, mask: Mask, design: NDArray[np.float64], **options: Any) -> Run:
    """voxstack's test of the first column of a design (n, p), by permutation if no option says otherwise."""
    cohort = vx.from_arrays({"effect": maps}, affine=np.diag([2.0, 2.0, 2.0, 1.0]), mask=mask)
    weights = {"tested": np.eye(design.shape[1])[0].tolist()}

    def run(number: int) -> object:
        return vx.permutation_test(
            cohort, design, weights, n_permutations=number, **{"relabelling": "permute", **options}
        )

    return run
