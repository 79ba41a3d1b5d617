"""What cohorts of any size come to: files and objects, their sizes, requests of a pass over the data, tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from faked import SHAPE, brain
from numpy.typing import NDArray

from voxstack.plan import CHUNKS_PER_TASK, SUBJECTS_PER_CHUNK, Resources, voxel_chunks
from voxstack.plan.permutation import PermutationWork

_ITEMSIZE = 4  # bytes of a voxel


@dataclass(frozen=True)
class Layout:
    """How the maps of a cohort lie in its store, of those parts of the grid where the mask is.

    Attributes
    ----------
    subjects, chunks, shards
        How many.
    raw, stored
        Bytes of all values of the grid, and of what is stored.
    requests_of_chunks, requests_of_shards
        To read everything once from an object store: without shards a chunk, and the root behind it; with shards the
        index of each, too, once for each process that reads it, here one.
    """

    subjects: int
    chunks: int
    shards: int
    raw: float
    stored: float

    @classmethod
    def of(cls, n_subjects: int, bytes_each: float) -> "Layout":
        """Of so many subjects, of each of which so many bytes are stored."""
        rows, blocks = -(-n_subjects // SUBJECTS_PER_CHUNK), blocks_of(brain())
        slabs = len({block[2] for block in blocks})
        raw = float(n_subjects) * prod(SHAPE) * _ITEMSIZE
        return cls(n_subjects, rows * len(blocks), rows * slabs, raw, n_subjects * bytes_each)

    @property
    def requests_of_chunks(self) -> int:
        """Of one pass over plain chunks in an object store."""
        return 2 * self.chunks

    @property
    def requests_of_shards(self) -> int:
        """Of one pass by one process over shards in an object store."""
        return 2 * self.chunks + self.shards


def blocks_of(inside: NDArray[np.bool_]) -> dict[tuple[int, int, int], int]:
    """Blocks of voxels with any voxel of a mask, and how many."""
    x, y, z = voxel_chunks(SHAPE)
    found: dict[tuple[int, int, int], int] = {}
    for i, j, k in np.ndindex(*(-(-n // side) for n, side in zip(SHAPE, (x, y, z), strict=True))):
        number = int(inside[i * x : (i + 1) * x, j * y : (j + 1) * y, k * z : (k + 1) * z].sum())
        if number:
            found[i, j, k] = number
    return found


@dataclass(frozen=True)
class Tasks:
    """How many tasks a study of three contrasts has: those that read, and of TFCE those that put maps together."""

    subjects: int
    stack: int
    fit: int
    max_t: int
    tfce: int
    passes: int


def tasks_of(n_subjects: int, resources: Resources, number: int, n_contrasts: int) -> Tasks:
    """By the plans that voxstack makes."""
    blocks = blocks_of(brain())
    rows = -(-n_subjects // SUBJECTS_PER_CHUNK)
    tests = []
    for statistics in (0, 1):
        work = PermutationWork(
            tuple(blocks.values()), n_subjects, _ITEMSIZE, SUBJECTS_PER_CHUNK * prod(voxel_chunks(SHAPE)) * _ITEMSIZE,
            number, n_contrasts, statistics, 1.0, available=False,
        )  # fmt: skip
        schedule = work.schedule(resources)
        tests.append((work.tasks(schedule), work.rounds(schedule)))
    fit = len(blocks) * -(-rows // CHUNKS_PER_TASK)
    return Tasks(n_subjects, rows, fit, tests[0][0], tests[1][0], tests[1][1])


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
