"""What stacking and fitting a cohort needs of memory, told before the work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack import plan
from voxstack.checks import check_choice, check_number
from voxstack.errors import InputError
from voxstack.inference.options import choose_statistics, choose_threshold
from voxstack.inference.statistics import STATISTICS, VOXEL, share_beyond
from voxstack.plan.permutation import LEAST_SHARE, PermutationWork, Schedule
from voxstack.run import resources
from voxstack.schema import SPACE, SUBJECT, map_names


@dataclass(frozen=True)
class MemoryPlan:
    """What a cohort needs of memory, in bytes, and how work on it is divided.

    Attributes
    ----------
    resources
        Memory and threads that tasks may use, of this process or of each worker of the active client.
    stacking, fitting, permuting
        What the tasks of `stack`, a fit with its contrasts and a permutation test have in memory.
    subjects_per_batch
        Subjects that a task of `stack` reads and writes, which are the chunks of the store.
    schedule
        Of the permutation test: voxels and relabellings of a task. None where nothing fits.
    """

    resources: plan.Resources
    stacking: plan.StackWork
    fitting: plan.FitWork
    permuting: PermutationWork
    subjects_per_batch: int
    schedule: Schedule | None

    @property
    def limit(self) -> int:
        """Bytes that this process may use, or each worker."""
        return self.resources.memory

    @property
    def threads(self) -> int:
        """That share it."""
        return self.resources.at_once

    @property
    def stack(self) -> int:
        """The most that stacking takes of a process in which tasks run: the process itself, data and results."""
        task = self.stacking.needs(self.subjects_per_batch, self.resources.threads_each)
        return plan.PROCESS + self.resources.freed + (self.resources.at_once if self.resources.remote else 1) * task

    @property
    def fit(self) -> int:
        """The same of a fit and its contrasts."""
        return self.resources.peak(self.fitting.task, results=self.fitting.results)

    @property
    def permute(self) -> int:
        """The same of a permutation test."""
        schedule = self.schedule or Schedule(1, 1)
        return self.permuting.peak(schedule, self.resources)

    def check(self, verb: Literal["fit", "permute"]) -> None:
        """Raise `InputError`, with the numbers, where a fit or a permutation test does not fit into the memory."""
        check_choice("verb", verb, ("fit", "permute"))
        if verb == "fit":
            self.fitting.check(self.resources)
        else:
            self.permuting.schedule(self.resources)

    def explain(self, verb: Literal["stack", "fit", "permute"]) -> str:
        """Say how the work of one verb is divided, and what each part needs, a line each."""
        rows = {"may be used": _told(self.limit) + " " + str(self.resources).split(",")[0]}
        rows |= {"stack": self._explain_stack, "fit": self._explain_fit, "permute": self._explain_permute}[verb]()
        rows["at most needed"] = f"{_told(getattr(self, verb))}, the process itself ({_told(plan.PROCESS)}) included"
        if self.resources.remote and verb != "stack":
            results = (self.fitting if verb == "fit" else self.permuting).results
            rows["here"] = f"{_told(results)} for the results, which this process holds"
        width = max(map(len, rows))
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())

    def _explain_stack(self) -> dict[str, str]:
        size, work = self.subjects_per_batch, self.stacking
        return {
            "batches": f"of {size} subjects, one task each",
            "a task": _told(work.needs(size, self.resources.threads_each)),
        }

    def _explain_fit(self) -> dict[str, str]:
        work = self.fitting
        return {
            "blocks": f"{' x '.join(map(str, work.chunk[1:]))} voxels, {work.chunk[0]} subjects a chunk",
            "tasks": f"at most {work.tasks:,} that read, {plan.CHUNKS_PER_TASK} chunks each",
            "a task": _told(work.task),
        }

    def _explain_permute(self) -> dict[str, str]:
        work, schedule = self.permuting, self.schedule
        if schedule is None:
            return {}
        rows = {
            "parts": f"{work.parts(schedule):,} of at most {schedule.part:,} voxels, with {work.n_subjects:,} subjects",
            "windows": f"of {min(schedule.window, work.n_relabellings):,} relabellings",
            "tasks": f"{work.tasks(schedule):,}",
            "a task": _told(work.task(schedule, remote=self.resources.remote)),
            "reads": f"the map {work.rounds(schedule):,} times",
        }
        if work.n_statistics:
            rows["batches"] = f"of {schedule.batch:,} relabellings, for maps"
        return rows

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"stack {_told(self.stack)}, in batches of {self.subjects_per_batch} subjects; fit {_told(self.fit)}; "
            f"permute {_told(self.permute)}; "
            f"{_told(self.limit)} may be used by {threads}"
        )


def _told(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


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
    statistics: str | Sequence[str] = (VOXEL,),
    cluster_forming_p: float | None = None,
    cluster_forming_z: float | None = None,
    n_permutations: int = 5000,
) -> MemoryPlan:
    """Plan the memory of working on a cohort, on the active Dask client or on this process' threads.

    That of stacking and fitting does not grow with the number of subjects: a batch of subjects, or a block of voxels of
    one chunk of subjects, is in memory at a time for each task. A task of a permutation test holds some voxels of all
    subjects, as many as fit.

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
        Of `permutation_test`, one or several.
    cluster_forming_p, cluster_forming_z
        Threshold of clusters: the lower, the more voxels lie beyond it. By default one of p < 0.0025.
    n_permutations
        Of `permutation_test`.

    Returns
    -------
    MemoryPlan
        It prints as one line.

    Raises
    ------
    InputError
        Neither a cohort nor its numbers; numbers below 1, or no such type, statistic or treatment of missing data; or
        not one subject fits into the memory.
    """
    statistics = choose_statistics(statistics)
    check_choice("missing", missing, ("complete", "available"))
    counts = {"n_maps": n_maps, "n_regressors": n_regressors, "n_contrasts": n_contrasts}
    counts |= {"maps_per_contrast": maps_per_contrast, "n_permutations": n_permutations}
    counts |= {} if mask_voxels is None else {"mask_voxels": mask_voxels}
    for name, count in counts.items():
        check_number(name, count, 1)
    chunk: tuple[int, ...] | None = None
    if cohort is not None:
        names = map_names(cohort)
        if not names:
            raise InputError("This is no cohort: it has no variable with the dimensions subject, x, y and z.")
        first = cohort[names[0]].transpose(SUBJECT, *SPACE)
        n_subjects, n_maps, dtype = first.sizes[SUBJECT], len(names), str(first.dtype)
        shape = (first.sizes["x"], first.sizes["y"], first.sizes["z"])
        chunk = None if first.chunks is None else tuple(max(axis) for axis in first.chunks)
    if n_subjects is None or shape is None:
        raise InputError("Give a cohort, or its n_subjects and shape=(x, y, z).")
    check_number("n_subjects", n_subjects, 1)
    if len(shape) != 3:
        raise InputError(f"The grid is given as shape=(x, y, z), not {shape!r}.")
    for side in shape:
        check_number(f"Each of shape=(x, y, z), which is {shape!r},", side, 1)
    given, itemsize = resources(), _itemsize(dtype)
    stacking = plan.StackWork(shape, itemsize, n_maps, filtered, shard)
    size = stacking.subjects_per_batch(memory=given.memory_each, threads=given.threads_each)
    if chunk is not None and chunk[0] < n_subjects:  # else the chunks may have room for more subjects than there are
        size = chunk[0]
    x, y, z = plan.voxel_chunks(shape) if chunk is None else chunk[1:]
    available = missing == "available"
    fitting = plan.FitWork(
        shape, (size, x, y, z), n_subjects, n_regressors, n_contrasts, maps_per_contrast, available, itemsize
    )
    inside = None if cohort is None or "mask" not in cohort.coords else _mask_of(cohort)
    of_maps = [name for name in statistics if name != VOXEL]
    permuting = PermutationWork(
        blocks=_blocks(inside, shape, (x, y, z), mask_voxels),
        n_subjects=n_subjects,
        itemsize=itemsize,
        chunk=size * x * y * z * itemsize,
        n_relabellings=n_permutations,
        n_hypotheses=n_contrasts,
        n_statistics=len(of_maps),
        suprathreshold=_share(of_maps, cluster_forming_p, cluster_forming_z),
        available=available,
    )
    try:
        schedule = permuting.schedule(given)
    except InputError:
        schedule = None
    return MemoryPlan(given, stacking, fitting, permuting, size, schedule)


def _share(statistics: Sequence[str], p: float | None, z: float | None) -> float:
    """Of a map's voxels that is in memory besides, for statistics of whole maps."""
    threshold = None if p is None and z is None else choose_threshold(statistics, p, z)
    if any(STATISTICS[name].of == "heights" for name in statistics):
        return 1.0
    return LEAST_SHARE if threshold is None else share_beyond(threshold)


def _itemsize(dtype: str) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError as error:
        raise InputError(f"dtype={dtype!r} is no type of numbers, such as 'float32'.") from error


def _mask_of(cohort: xr.Dataset) -> NDArray[np.bool_]:
    """Voxels that all masks of the cohort have: concatenated ones have a mask for each subject."""
    mask = cohort["mask"]
    mask = mask.all(SUBJECT) if SUBJECT in mask.dims else mask
    if not mask.any():
        raise InputError("The mask of the cohort has no voxel.")
    return np.asarray(mask.transpose(*SPACE).values)


def _blocks(
    inside: NDArray[np.bool_] | None, shape: tuple[int, int, int], sides: tuple[int, ...], voxels: int | None
) -> tuple[int, ...]:
    """Voxels of each block that are in the mask; of a mask that is not known, as if they were in as few as possible."""
    if inside is None or (voxels is not None and voxels != np.count_nonzero(inside)):
        number = math.prod(shape) if voxels is None else voxels
        size = math.prod(sides)
        return tuple(min(size, number - first) for first in range(0, number, size))
    for axis, side in enumerate(sides):
        inside = np.add.reduceat(inside, range(0, shape[axis], side), axis=axis, dtype=np.int64)
    assert inside is not None
    return tuple(int(size) for size in inside.ravel() if size)
