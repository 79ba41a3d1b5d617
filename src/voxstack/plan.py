"""The memory plan: how many subjects a task takes, and how voxels are cut into blocks."""

from voxstack.errors import InputError

SUBJECTS_PER_CHUNK = 64
VOXELS_PER_SIDE = 32

_SHARE = 0.6  # of a task's memory that its arrays may fill; the rest is for decoders and the interpreter


def subjects_per_batch(
    n_subjects: int, shape: tuple[int, int, int], *, itemsize: int, readers: int, memory: int
) -> int:
    """Subjects that one stacking task reads and writes: one row of chunks.

    Parameters
    ----------
    n_subjects
        In the cohort.
    shape
        Of the grid.
    itemsize
        Bytes a voxel in the store.
    readers
        Images that a task decodes at the same time; each needs its file's bytes, its scaled values in float64, and
        flags.
    memory
        Bytes that a task may use.

    Returns
    -------
    int
        `SUBJECTS_PER_CHUNK`, or less where so many do not fit.

    Raises
    ------
    InputError
        Not even one subject fits.
    """
    voxels = shape[0] * shape[1] * shape[2]
    fixed = readers * voxels * (8 + 8 + 1) + 2 * 4 * voxels  # decoding, and two counts per voxel
    each = voxels * (itemsize + 1)  # a map and where it is valid
    fits = int((_SHARE * memory - fixed) // each)
    if fits < 1:
        needed = (fixed + each) / _SHARE
        raise InputError(
            f"One map of {shape[0]} x {shape[1]} x {shape[2]} voxels needs {needed / 2**30:.1f} GiB of memory to be "
            f"stacked, and a task has {memory / 2**30:.1f} GiB. Use fewer threads or workers with more memory."
        )
    return min(SUBJECTS_PER_CHUNK, n_subjects, fits)


def voxel_chunks(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sides of a chunk of voxels."""
    return min(shape[0], VOXELS_PER_SIDE), min(shape[1], VOXELS_PER_SIDE), min(shape[2], VOXELS_PER_SIDE)
