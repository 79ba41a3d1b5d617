"""The memory plan: how many subjects a task takes, how voxels are cut into blocks, and what that needs."""

import math
from dataclasses import dataclass

from voxstack.errors import InputError

SUBJECTS_PER_CHUNK = 64
VOXELS_PER_SIDE = 32

PROCESS = 350 * 2**20
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

    def needs(self, threads: int) -> int:
        """Bytes that a fit needs at most on so many threads, the result maps included."""
        voxels, p = math.prod(self.chunk[1:]), self.n_regressors
        squares = p * p if self.available else 0
        # Compressed, decoded, taken out of the mask, and in double precision a tile at a time.
        reading = self.chunk[0] * voxels * self.itemsize * 4
        chunks = -(-self.n_subjects // self.chunk[0])
        states = min(chunks, 8 + math.ceil(math.log(max(chunks, 2), 8)))  # which are combined by eights
        reduced = (states + 2) * (p + 3 + squares) * 8 * voxels
        solved = (2 * p + 3 + 4 * squares + (2 * self.maps_per_contrast + 4) * self.n_contrasts) * 8 * voxels
        maps = self.maps_per_contrast * self.n_contrasts * 8 * math.prod(self.shape)
        return threads * (reading + reduced + solved) + maps


WINDOW = 8192
"""Relabellings of one task of a permutation test that takes maxima of voxels: those of the default number in one."""

MAPS_TOGETHER = 16
"""Whole maps that are put together from their blocks at a time."""

VECTOR_BYTES = 2**25
"""Of relabelled designs that a task holds at a time."""

LEAST_SHARE = 0.01
"""Of a map's voxels that lists of suprathreshold voxels have room for at least."""

_TILE = 2048  # voxels whose residuals are held in double precision


@dataclass(frozen=True)
class PermutationWork:
    """What a permutation test has in memory.

    Attributes
    ----------
    voxels, block
        In the mask, and in a block of it.
    n_subjects, itemsize
        Of the maps: subjects, and bytes a voxel.
    n_hypotheses, n_statistics
        That are tested in one pass; statistics beside that of voxels.
    suprathreshold
        Share of a map's voxels that these statistics need: 1 if they need whole maps.
    """

    voxels: int
    block: int
    n_subjects: int
    itemsize: int
    n_hypotheses: int
    n_statistics: int
    suprathreshold: float

    def needs(self, batch: int, threads: int) -> int:
        """Bytes that a test needs on so many threads, with maps of so many relabellings a task, results included."""
        reading = 3 * self.n_subjects * self.block * self.itemsize  # as chunks, joined, and taken out of the mask
        tile = 4 * 8 * self.n_subjects * _TILE + 4 * VECTOR_BYTES
        # Lists are joined to those of the whole map, and sorted on the way.
        each = 8 * self.n_hypotheses if self._whole else 16 * self.suprathreshold * (self.n_hypotheses + 4)
        together = 8 * MAPS_TOGETHER if self._whole else 0
        maps = int((batch * each + together) * self.voxels) if self.n_statistics else 0
        enhancing = (68 + 8 * 13) * self.voxels if self.n_statistics else 0
        results = 8 * self.voxels * self.n_hypotheses * (9 + 4 * self.n_statistics)
        relabellings = 8 * WINDOW * self.n_subjects * self.n_hypotheses
        return threads * (reading + tile + maps + enhancing) + results + relabellings

    @property
    def _whole(self) -> bool:
        return self.suprathreshold == 1

    def relabellings_per_batch(self, number: int, *, memory: int, threads: int, tasks: int) -> int:
        """Relabellings whose maps one task holds, a power of 2 that fits.

        A task reads the data once. So the fewer and larger they are the better, but for threads that have nothing to do
        at the end; and small tasks show how the test goes on, and lose little when they are stopped. This is the
        smallest size that takes at most 15% longer than the best one.

        Parameters
        ----------
        number
            Relabellings of the test.
        memory, threads
            Bytes that may be used, on so many threads.
        tasks
            That are worked on at once, by all workers.
        """
        sizes = [1 << k for k in range(WINDOW.bit_length())]
        fit = [size for size in sizes if PROCESS + self.needs(size, threads) <= memory] or sizes[:1]
        rounds = {size: -(-number // (size * tasks)) for size in fit}
        times = {size: rounds[size] * (self._reading + min(size, number)) for size in fit}
        return min(size for size in fit if times[size] <= 1.15 * min(times.values()))

    @property
    def _reading(self) -> float:
        """How many relabellings take as long as to read the data, by rates of one core (measured)."""
        read = 20.0  # ns a voxel of a subject
        product, enhance = (0.08, 60.0) if self._whole else (0.03, 3.0)  # ns a voxel: of a subject, and of a map
        return read * self.n_subjects / (product * self.n_subjects + enhance)

    def check(self, batch: int, *, memory: int, threads: int) -> None:
        """Raise `InputError` where maps of so many relabellings do not fit."""
        needed = PROCESS + self.needs(batch, threads)
        if needed > memory:
            raise InputError(
                f"A permutation test of {self.n_subjects} subjects and {self.voxels:,} voxels needs "
                f"{needed / 2**30:.2f} GiB of memory on {threads} threads, and {memory / 2**30:.2f} GiB may be used. "
                "Raise the limit, or use fewer threads or smaller chunks."
            )
