"""The memory plan: how many subjects a task takes, how voxels are cut into blocks, and what that needs."""

import math
from dataclasses import dataclass

from voxstack.errors import InputError

SUBJECTS_PER_CHUNK = 64
VOXELS_PER_SIDE = 32

PROCESS = 330 * 2**20
"""Bytes of a process before any data: the interpreter, the packages, compiled kernels. Measured."""

_SHARE = 0.6  # of a task's memory that its arrays may fill; the rest is for the interpreter and for fragmentation


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
    """

    shape: tuple[int, int, int]
    itemsize: int
    n_maps: int
    filtered: bool

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
        writing = chunk * (2 * self.itemsize + 2)  # compressed it may be no smaller
        counts = (2 + 4 * self.n_maps) * voxels
        return rows + threads * max(reading, writing) + counts

    def subjects_per_batch(self, n_subjects: int, *, memory: int, threads: int) -> int:
        """Subjects that one task reads and writes, which are one row of chunks.

        Parameters
        ----------
        n_subjects
            In the cohort.
        memory
            Bytes that a task may use.
        threads
            That a task uses.

        Returns
        -------
        int
            `SUBJECTS_PER_CHUNK`, or the largest half, quarter ... of it that fits; no more than there are subjects.

        Raises
        ------
        InputError
            Not even one subject fits.
        """
        size = SUBJECTS_PER_CHUNK
        while size >= 1:
            if self.needs(min(size, n_subjects), threads) <= _SHARE * memory:
                return min(size, n_subjects)
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
            f"{needed / 2**30:.1f} GiB of memory to be stacked, and a task has {memory / 2**30:.1f} GiB. Use fewer "
            "threads, or workers with more memory."
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
    itemsize
        Bytes a voxel in the store.
    """

    shape: tuple[int, int, int]
    chunk: tuple[int, int, int, int]
    n_subjects: int
    n_regressors: int
    n_contrasts: int
    itemsize: int

    def needs(self, threads: int) -> int:
        """Bytes that a fit needs on so many threads, the result maps included."""
        voxels = math.prod(self.chunk[1:])
        # Compressed, decoded, taken out of the mask, and in double precision a tile at a time.
        reading = self.chunk[0] * voxels * self.itemsize * 4
        levels = 1 + math.ceil(math.log(max(-(-self.n_subjects // self.chunk[0]), 2), 8))
        states = (8 + levels) * (self.n_regressors + 3) * 8 * voxels  # which are combined by eights
        results = (2 * self.n_regressors + 3 + 10 * self.n_contrasts) * 8 * voxels
        maps = 5 * self.n_contrasts * 8 * math.prod(self.shape)
        return threads * (reading + states + results) + maps
