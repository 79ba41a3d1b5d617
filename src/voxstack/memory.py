"""What stacking and fitting a cohort needs of memory, told before the work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from voxstack import plan
from voxstack.errors import InputError
from voxstack.run import share
from voxstack.schema import SPACE, SUBJECT, map_names


@dataclass(frozen=True)
class MemoryPlan:
    """What a cohort needs of memory, in bytes.

    Attributes
    ----------
    limit
        What this process may use, or a thread of each worker of the active client.
    threads
        That share it.
    subjects_per_batch
        Subjects that a task of `stack` reads and writes, which are the chunks of the store.
    relabellings_per_batch
        Whose whole maps a task of `permutation_test` holds, for statistics that need them.
    stack, fit, permute
        The most that stacking, a fit with its contrasts, and a permutation test take: the process itself, data and
        results.
    """

    limit: int
    threads: int
    subjects_per_batch: int
    relabellings_per_batch: int
    stack: int
    fit: int
    permute: int

    def __str__(self) -> str:
        def told(size: int) -> str:
            return f"{size / 2**30:.2f} GiB"

        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"stack {told(self.stack)}, in batches of {self.subjects_per_batch} subjects; fit {told(self.fit)}; "
            f"permute {told(self.permute)}; "
            f"{told(self.limit)} may be used by {threads}"
        )


def memory_plan(
    cohort: xr.Dataset | None = None,
    *,
    n_subjects: int | None = None,
    shape: tuple[int, int, int] | None = None,
    n_maps: int = 1,
    dtype: str = "float32",
    filtered: bool = False,
    shard: bool = False,
    n_regressors: int = 4,
    n_contrasts: int = 1,
    maps_per_contrast: int = 5,
    missing: Literal["complete", "available"] = "complete",
    mask_voxels: int | None = None,
    statistics: Sequence[str] = ("voxel",),
) -> MemoryPlan:
    """Plan the memory of working on a cohort, on the active Dask client or on this process' threads.

    That of stacking and fitting does not grow with the number of subjects: a batch of subjects, or a block of voxels of
    one chunk of subjects, is in memory at a time for each task. A permutation test holds a block of voxels of all
    subjects.

    Parameters
    ----------
    cohort
        Of `open_cohort`; or say with the next four how it will be.
    n_subjects, shape, n_maps, dtype
        Number of subjects, voxels along x, y and z, maps of each subject, and type of the stored maps.
    filtered
        Whether `stack` resamples or smooths.
    shard
        Whether `stack` writes shards, as it does to object stores.
    n_regressors, n_contrasts
        Of the model.
    maps_per_contrast
        In the result: 5, and one for each effect size and confidence bound.
    missing
        Of `fit_glm`. For available cases it is the most that may be needed, where every voxel misses somebody.
    mask_voxels
        Voxels in the mask; by default those of the cohort's, or all.
    statistics
        Of `permutation_test`; those of clusters with thresholds of p < 0.0025.

    Returns
    -------
    MemoryPlan
        It prints as one line.

    Raises
    ------
    InputError
        Neither a cohort nor its numbers, or not one subject fits into the memory.
    """
    chunk: tuple[int, ...] | None = None
    if cohort is not None:
        names = map_names(cohort)
        if not names:
            raise InputError("This is no cohort: it has no variable with the dimensions subject, x, y and z.")
        first = cohort[names[0]].transpose(SUBJECT, *SPACE)
        n_subjects, n_maps, dtype = first.sizes[SUBJECT], len(names), str(first.dtype)
        shape = (first.sizes["x"], first.sizes["y"], first.sizes["z"])
        chunk = None if first.chunks is None else tuple(max(axis) for axis in first.chunks)
    if n_subjects is None or shape is None or n_subjects < 1 or min(shape) < 1:
        raise InputError("Give a cohort, or its n_subjects and shape=(x, y, z).")
    means, itemsize = share(), np.dtype(dtype).itemsize
    stacking = plan.StackWork(shape, itemsize, n_maps, filtered, shard)
    size = stacking.subjects_per_batch(memory=means.memory, threads=means.threads)
    if chunk is not None and chunk[0] < n_subjects:  # else the chunks may have room for more subjects than there are
        size = chunk[0]
    x, y, z = plan.voxel_chunks(shape) if chunk is None else chunk[1:]
    available = missing == "available"
    fitting = plan.FitWork(
        shape, (size, x, y, z), n_subjects, n_regressors, n_contrasts, maps_per_contrast, available, itemsize
    )
    if mask_voxels is None:
        mask_voxels = int(cohort["mask"].sum()) if cohort is not None and "mask" in cohort.coords else math.prod(shape)
    of_maps = [name for name in statistics if name != "voxel"]
    share_of_maps = 1.0 if "tfce" in of_maps else plan.LEAST_SHARE
    permuting = plan.PermutationWork(
        mask_voxels, min(x * y * z, mask_voxels), n_subjects, itemsize, n_contrasts, len(of_maps), share_of_maps
    )
    batch = permuting.relabellings_per_batch(plan.WINDOW, memory=means.memory, threads=means.threads, tasks=means.tasks)
    return MemoryPlan(
        means.memory,
        means.threads,
        size,
        batch,
        plan.PROCESS + stacking.needs(size, means.threads),
        plan.PROCESS + fitting.needs(means.threads),
        plan.PROCESS + permuting.needs(batch, means.threads),
    )
