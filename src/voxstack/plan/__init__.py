"""The memory plan: how many subjects a task takes, how voxels are cut into blocks, and what that needs."""

import math
from dataclasses import dataclass

from voxstack.errors import InputError

SUBJECTS_PER_CHUNK = 64
VOXELS_PER_SIDE = 32

PROCESS = 400 * 2**20
"""Bytes of a process before any data: the interpreter, the packages, compiled kernels. Measured."""

FREED = 2**25
"""Bytes of freed memory that each thread of a worker process keeps while a task runs; see `voxstack.run.allocation`."""

CHUNKS_PER_TASK = 8
"""Chunks of subjects that a task of a fit goes through, and states of tasks that another one combines."""

_SHARE = 0.6  # of a task's memory that its arrays may fill; the rest is for the interpreter and for fragmentation


@dataclass(frozen=True)
class Resources:
    """What tasks may use: of this process' threads, or of the workers of a cluster.

    Attributes
    ----------
    memory
        Bytes that the process of the tasks may use.
    at_once
        Tasks of one thread each that share it.
    tasks
        That run at once in all.
    remote
        Whether the process that asks for results is another one, as on a cluster.
    """

    memory: int
    at_once: int
    tasks: int
    remote: bool

    @property
    def threads_each(self) -> int:
        """Threads of a task that can use several: all of this process, one on a worker."""
        return 1 if self.remote else self.at_once

    @property
    def memory_each(self) -> int:
        """Bytes of a task that can use several threads."""
        return self.memory // self.at_once if self.remote else self.memory

    @property
    def freed(self) -> int:
        """Bytes that a worker's threads keep, where each task has one of its own for files."""
        return 2 * self.at_once * FREED if self.remote else 0

    def peak(self, task: int, *, shared: int = 0, results: int = 0) -> int:
        """Bytes of a process in which tasks run: its own, those of each task, of what they share and of results.

        A worker has no results, but memory that is freed and kept.
        """
        return PROCESS + shared + self.at_once * task + (self.freed if self.remote else results)

    def __str__(self) -> str:
        threads = f"{self.at_once} thread{'s' if self.at_once > 1 else ''}"
        where = f"on each worker of {threads}" if self.remote else f"on {threads}"
        return f"{where}, and {self.memory / 2**30:.2f} GiB may be used"


def voxel_chunks(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sides of a chunk of voxels."""
    return min(shape[0], VOXELS_PER_SIDE), min(shape[1], VOXELS_PER_SIDE), min(shape[2], VOXELS_PER_SIDE)


@dataclass(frozen=True)
class StackWork:
    """What a task of `stack` has in memory.

    Attributes
    ----------
    shape
        Of the grid.
    itemsize
        Bytes a voxel in the store.
    n_maps
        Of each subject.
    filtered
        Whether images are resampled or smoothed.
    sharded
        Whether chunks are written in shards.
    """

    shape: tuple[int, int, int]
    itemsize: int
    n_maps: int
    filtered: bool
    sharded: bool = False

    def needs(self, n_subjects: int, threads: int) -> int:
        """Bytes that a task needs for so many subjects, on so many threads."""
        voxels = math.prod(self.shape)
        sides = voxel_chunks(self.shape)
        padded = math.prod(-(-n // side) * side for n, side in zip(self.shape, sides, strict=True))
        flags = 0 if self.n_maps == 1 else 3  # where all maps have data, so far and with the next one
        rows = n_subjects * padded * (self.itemsize + flags)
        # The file's bytes, its content, the content scaled in float64 and without zeros; filters need as much again.
        reading = voxels * (8 + 8 + 8 + 8 + (32 if self.filtered else 0))
        chunk = n_subjects * math.prod(sides)
        writing = threads * chunk * (2 * self.itemsize + 2)  # compressed it may be no smaller
        if self.sharded:  # one on its way to the store, and the chunks of the next one
            writing += 2 * rows // -(-self.shape[2] // sides[2])
        counts = (2 + 4 * self.n_maps) * voxels
        return rows + max(threads * reading, writing) + counts

    def subjects_per_batch(self, *, memory: int, threads: int) -> int:
        """Subjects that one task reads and writes, which are one row of chunks.

        It does not depend on how many there are: others may be appended to a cohort of few.

        Parameters
        ----------
        memory
            Bytes that a task may use.
        threads
            That a task uses.

        Returns
        -------
        int
            `SUBJECTS_PER_CHUNK`, or the largest half, quarter ... of it that fits.

        Raises
        ------
        InputError
            Not even one subject fits.
        """
        size = SUBJECTS_PER_CHUNK
        while size >= 1:
            if self.needs(size, threads) <= _SHARE * memory:
                return size
            size //= 2
        raise self._too_little(self.needs(1, threads) / _SHARE, memory)

    def check(self, n_subjects: int, *, memory: int, threads: int) -> None:
        """Raise `InputError` where so many subjects, which the store's chunks have already, do not fit."""
        needed = self.needs(n_subjects, threads)
        if needed > memory:
            raise self._too_little(needed, memory, f"{n_subjects} subjects, as many as a chunk of the store holds,")

    def _too_little(self, needed: float, memory: int, what: str = "A subject") -> InputError:
        return InputError(
            f"{what} of {' x '.join(map(str, self.shape))} voxels need{'s' if what == 'A subject' else ''} "
            f"{needed / 2**20:.2f} MiB of memory to be stacked, and a task has {memory / 2**20:.2f} MiB. Raise the "
            "limit, use fewer threads, or workers with more memory."
        )


@dataclass(frozen=True)
class FitWork:
    """What a fit and its contrasts have in memory.

    Attributes
    ----------
    shape
        Of the grid.
    chunk
        Subjects, and voxels along x, y and z, of a chunk.
    n_subjects, n_regressors, n_contrasts
        Of the model.
    maps_per_contrast
        In the result.
    available
        Whether voxels have triangular factors, and covariances, of their own.
    itemsize
        Bytes a voxel in the store.
    """

    shape: tuple[int, int, int]
    chunk: tuple[int, int, int, int]
    n_subjects: int
    n_regressors: int
    n_contrasts: int
    maps_per_contrast: int
    available: bool
    itemsize: int

    @property
    def task(self) -> int:
        """Bytes that a task needs at most."""
        voxels, p = math.prod(self.chunk[1:]), self.n_regressors
        squares = p * p if self.available else 0
        # Compressed, decoded, taken out of the mask, and in double precision a tile at a time.
        reading = self.chunk[0] * voxels * self.itemsize * 4
        chunks = -(-self.n_subjects // self.chunk[0])
        states = min(chunks, 8 + math.ceil(math.log(max(chunks, 2), 8)))  # which are combined by eights
        reduced = (states + 2) * (p + 3 + squares) * 8 * voxels
        solved = (2 * p + 3 + 4 * squares + (2 * self.maps_per_contrast + 4) * self.n_contrasts) * 8 * voxels
        return reading + reduced + solved

    @property
    def results(self) -> int:
        """Bytes of the result maps, which the process that asks for them holds."""
        return self.maps_per_contrast * self.n_contrasts * 8 * math.prod(self.shape)

    @property
    def tasks(self) -> int:
        """Tasks that read: some chunks of subjects of one block of voxels each; masked blocks are fewer."""
        blocks = math.prod(-(-n // side) for n, side in zip(self.shape, self.chunk[1:], strict=True))
        return blocks * math.ceil(math.ceil(self.n_subjects / self.chunk[0]) / CHUNKS_PER_TASK)

    def check(self, resources: Resources) -> None:
        """Raise `InputError` where a fit does not fit into the memory."""
        needed = resources.peak(self.task, results=self.results)
        if needed > resources.memory:
            raise InputError(
                f"A fit with {self.n_regressors} regressors and {self.n_contrasts} contrasts needs "
                f"{needed / 2**30:.2f} GiB of memory {resources}. Raise the limit, use fewer threads, or test fewer "
                "contrasts at a time."
            )
