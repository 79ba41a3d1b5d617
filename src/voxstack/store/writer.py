"""Stacking in batches: each task reads its subjects' images and writes its own row of chunks."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import zarr
from numpy.typing import NDArray

from voxstack.errors import GridMismatch, InputError, VoxstackError, listing
from voxstack.grid import Grid
from voxstack.io.readers import ImageSource, read_maps
from voxstack.store.location import Location


@dataclass(frozen=True)
class Placed:
    """One subject's map, and how its array is laid onto the cohort's lattice.

    Attributes
    ----------
    label
        The subject.
    source
        The image.
    order
        Array axes that run along x, y and z.
    flips
        Axes to reverse after that.
    """

    label: str
    source: ImageSource
    order: tuple[int, int, int]
    flips: tuple[int, ...]


def place(sources: Mapping[str, Sequence[ImageSource]], labels: Sequence[str]) -> tuple[Grid, dict[str, list[Placed]]]:
    """Open every header and lay every image onto the lattice of the first.

    Parameters
    ----------
    sources
        For each map one source per subject.
    labels
        Of the subjects.

    Returns
    -------
    grid : Grid
        Of the first subject's first map.
    placed : dict
        For each map, in the order of the subjects.

    Raises
    ------
    InputError
        All images that cannot be read or lie on other lattices, together.
    """
    grid: Grid | None = None
    first = ""
    placed: dict[str, list[Placed]] = {name: [] for name in sources}
    unreadable, elsewhere = [], []
    for name, of_map in sources.items():
        known: tuple[object, tuple[int, int, int], tuple[int, ...] | None] | None = None
        for label, source in zip(labels, of_map, strict=True):
            try:
                header = source.header()
                key = (header.shape[:3], header.affine.tobytes())
                # Files of one study mostly share one header: then nothing has to be compared again.
                if known is None or known[0] != key:
                    lattice = header.grid()
                    if grid is None:
                        grid, first = lattice, f"{label} ({source.name})"
                    known = key, header.order, lattice.flips_to(grid)
                _, order, flips = known
                if flips is None:
                    elsewhere.append(f"{label}: {source.name}: {header.grid()}")
                    continue
                placed[name].append(Placed(label, source, order, flips))
            except VoxstackError as error:
                unreadable.append(f"{label}: {error}")
    _refuse(unreadable, elsewhere, first, grid)
    assert grid is not None
    return grid, placed


def _refuse(unreadable: list[str], elsewhere: list[str], first: str, grid: Grid | None) -> None:
    problems = []
    if unreadable:
        problems.append(f"{len(unreadable)} images cannot be used:\n  " + "\n  ".join(unreadable))
    if elsewhere:
        problems.append(
            f"{len(elsewhere)} images lie on another lattice than that of {first}, which has {grid}:\n  "
            + "\n  ".join(elsewhere)
            + "\nBring all images to one grid first, for example with nilearn.image.resample_to_img."
        )
    if problems:
        error = InputError if unreadable else GridMismatch
        raise error("\n".join(problems) + "\nNothing was written.")


@dataclass(frozen=True)
class Coverage:
    """Where the subjects of a batch have data.

    Attributes
    ----------
    n_valid : (x, y, z) int32
        Subjects with data in every map.
    informative : (maps, x, y, z) bool
        Whether some subject's value is neither 0 nor missing.
    n_zero : (maps, x, y, z) int32
        Subjects whose value is exactly 0.
    """

    n_valid: NDArray[np.int32]
    informative: NDArray[np.bool_]
    n_zero: NDArray[np.int32]

    def __add__(self, other: "Coverage") -> "Coverage":
        return Coverage(self.n_valid + other.n_valid, self.informative | other.informative, self.n_zero + other.n_zero)


@dataclass(frozen=True)
class Batch:
    """The subjects of one task: one row of chunks of every map.

    Attributes
    ----------
    start
        Row of the first subject.
    maps
        For each map its images.
    location
        The store, whose arrays exist already.
    outside : (x, y, z) bool or None
        Voxels outside an explicit mask, which are set to NaN.
    zero_is_missing
        Set exact zeros to NaN.
    readers
        Images that are read at the same time.
    """

    start: int
    maps: Mapping[str, Sequence[Placed]]
    location: Location
    outside: NDArray[np.bool_] | None
    zero_is_missing: bool
    readers: int


def write_batch(batch: Batch) -> Coverage:
    """Read a batch's images, write its chunks, and count where there are data.

    Raises
    ------
    InputError
        An image that cannot be read whole, holds infinities or has no data at all; it names the subject.
    """
    store = batch.location.open(read_only=False)
    valid: NDArray[np.bool_] | None = None
    informative, n_zero = [], []
    for name, images in batch.maps.items():
        target = zarr.open_array(store, path=name, mode="r+")
        assert isinstance(target, zarr.Array)
        block = np.empty((len(images), *target.shape[1:]), dtype=target.dtype)
        with ThreadPoolExecutor(batch.readers) as pool:
            # Volumes of one 4-D file are read in one go through it, by one thread.
            share = len(images) if images[0].source.volume is not None else 1
            parts = [slice(start, start + share) for start in range(0, len(images), share)]
            for job in [pool.submit(_fill, block[part], images[part], batch) for part in parts]:
                job.result()
        if valid is None:
            valid = np.ones(block.shape, dtype=bool)
        informative.append(np.zeros(block.shape[1:], dtype=bool))
        n_zero.append(np.zeros(block.shape[1:], dtype=np.int32))
        for row, present in zip(block, valid, strict=True):  # one subject at a time, to need little memory
            known, zero = ~np.isnan(row), row == 0
            present &= known
            n_zero[-1] += zero
            informative[-1] |= known & ~zero
        target[batch.start : batch.start + len(images)] = block
    assert valid is not None
    return Coverage(valid.sum(axis=0, dtype=np.int32), np.stack(informative), np.stack(n_zero))


def _fill(block: NDArray[np.floating], images: Sequence[Placed], batch: Batch) -> None:
    for number, volume in read_maps([image.source for image in images], [image.order for image in images]):
        row, image = block[number], images[number]
        row[...] = np.flip(volume, image.flips)
        if np.isinf(row).any():
            raise InputError(
                f"{image.label}: {image.source.name} holds {int(np.isinf(row).sum())} infinite values in "
                f"{row.dtype}. Mark missing values as NaN."
            )
        if batch.zero_is_missing:
            row[row == 0] = np.nan
        if batch.outside is not None:
            row[batch.outside] = np.nan
        if np.isnan(row).all():
            within = "" if batch.outside is None else " inside the mask"
            raise InputError(f"{image.label}: {image.source.name} has no data{within}: every voxel is missing.")


def zero_warning(coverage: Coverage, mask: NDArray[np.bool_], n_subjects: int, maps: Sequence[str]) -> str | None:
    """What to say where some subjects, not all, are exactly 0 within the mask; None where none is."""
    partly = (coverage.n_zero > 0) & (coverage.n_zero < n_subjects) & mask
    counts = {name: int(where.sum()) for name, where in zip(maps, partly, strict=True) if where.any()}
    if not counts:
        return None
    told = listing(f"{count:,} voxels of {name!r}" for name, count in counts.items())
    return (
        f"{told} within the mask are exactly 0 in some subjects. They are taken as data. If 0 means missing in these "
        "maps, stack them with zero_is_missing=True (--zero-is-missing)."
    )
