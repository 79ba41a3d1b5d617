"""Where each image lies: on the cohort's lattice, on a flipped copy of it, or elsewhere and to be resampled."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby, islice
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from voxstack.errors import GridMismatch, InputError, VoxstackError
from voxstack.grid import Grid
from voxstack.io.image import ABSENT, ImageHeader
from voxstack.io.places import Remote
from voxstack.io.readers import ImageSource

_HEADERS_AT_ONCE = 16
_TRIED, _QUICK = 8, 0.001  # that many headers one by one; seconds each on a local disk


@dataclass(frozen=True)
class Placed:
    """One subject's map, and how its array comes to the cohort's lattice.

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
    affine : (4, 4) float64 or None
        From voxel numbers, in that order, to mm, where the image lies on another lattice and is resampled.
    fingerprint
        Of the file when its header was read; None for an image in memory.
    """

    label: str
    source: ImageSource
    order: tuple[int, int, int]
    flips: tuple[int, ...] = ()
    affine: NDArray[np.float64] | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class _Lattice:
    header: ImageHeader
    grid: Grid
    order: tuple[int, int, int]
    flips: tuple[int, ...] | None


def place(
    sources: Mapping[str, Sequence[ImageSource]],
    labels: Sequence[str],
    *,
    grid: Grid | None = None,
    resample: bool = False,
) -> tuple[Grid, dict[str, list[Placed]]]:
    """Open every header and lay every image onto one lattice.

    Parameters
    ----------
    sources
        For each map one source per subject.
    labels
        Of the subjects.
    grid
        The lattice; by default that of the first subject's first map.
    resample
        Take images on other lattices, too.

    Returns
    -------
    grid : Grid
    placed : dict
        For each map, in the order of the subjects.

    Raises
    ------
    InputError
        All images that cannot be read or lie on other lattices, together.
    """
    first = "the cohort"
    placed: dict[str, list[Placed]] = {name: [] for name in sources}
    unreadable, elsewhere = [], []
    known: _Lattice | None = None
    for name, label, source, look in _looks(sources, labels):
        try:
            if isinstance(look, VoxstackError):
                raise look
            header, version = look
            fingerprint = None if version is None else f"{version}, {source.volume}"
            if grid is None:
                grid, first = header.grid(), f"{label} ({source.name})"
            if known is None or not _alike(known.header, header):
                lattice = header.grid()
                known = _Lattice(header, lattice, header.order, lattice.flips_to(grid))
            if known.flips is None and not resample:
                elsewhere.append(f"{label}: {source.name}: {known.grid}")
                continue
            affine = known.grid.affine if known.flips is None else None
            placed[name].append(Placed(label, source, known.order, known.flips or (), affine, fingerprint))
        except VoxstackError as error:
            unreadable.append(f"{label}: {error}")
    _refuse(unreadable, elsewhere, first, grid)
    assert grid is not None
    return grid, placed


_Look = tuple[ImageHeader, str | None]
"""Header of an image, and version of its file."""


def _looks(
    sources: Mapping[str, Sequence[ImageSource]], labels: Sequence[str]
) -> Iterator[tuple[str, str, ImageSource, _Look | VoxstackError]]:
    names = list(chain.from_iterable([name] * len(of_map) for name, of_map in sources.items()))
    images = list(chain.from_iterable(sources.values()))
    told = zip(names, list(labels) * len(sources), images, strict=True)
    # Volumes of one image share its header, and one look at it.
    groups = [list(group) for _, group in groupby(images, key=lambda source: (id(source.image), source.volume is None))]
    with ThreadPoolExecutor(_HEADERS_AT_ONCE) as pool:
        for group, look in zip(groups, _in_order([group[0] for group in groups], pool), strict=True):
            for name, label, source in islice(told, len(group)):
                yield name, label, source, look


def _in_order(images: Sequence[ImageSource], pool: Executor) -> Iterator[_Look | VoxstackError]:
    # On a local disk threads would only be in each other's way; on a network opening a file mostly is waiting.
    start = perf_counter()
    first, others = images[:_TRIED], images[_TRIED:]
    if any(isinstance(image.image, Remote) for image in first):
        looks = list(pool.map(_look, first))
        _refuse_unreachable(first, looks)
        return chain(looks, pool.map(_look, others))
    looks = [_look(image) for image in first]
    quick = (perf_counter() - start) / _TRIED < _QUICK
    return chain(looks, map(_look, others) if quick else pool.map(_look, others))


def _refuse_unreachable(images: Sequence[ImageSource], looks: Sequence[_Look | VoxstackError]) -> None:
    """Where no image is within reach the others are not tried: each may take minutes to fail."""
    causes = [look.__cause__ if isinstance(look, VoxstackError) else None for look in looks]
    if all(isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError) for cause in causes):
        raise InputError(
            f"The first {len(images)} images cannot be reached, and the others were not tried: {looks[0]} Are the "
            "storage_options (--storage-options, --source-options) those of this place?"
        )


def _look(source: ImageSource) -> _Look | VoxstackError:
    try:
        return source.header(), source.version()
    except VoxstackError as error:
        return error
    except OSError as error:
        return InputError(f"{source.name}: cannot be read ({error}).")


def _alike(known: ImageHeader, header: ImageHeader) -> bool:
    """Files of one study mostly share one header: then nothing has to be compared again."""
    return known.shape[:3] == header.shape[:3] and np.array_equal(known.affine, header.affine)


def _refuse(unreadable: list[str], elsewhere: list[str], first: str, grid: Grid | None) -> None:
    problems = []
    if unreadable:
        listed = "\n  ".join(unreadable)
        advice = "Put the files right, or leave these subjects out of the table, and call again."
        if all(problem.endswith(ABSENT) for problem in unreadable):
            advice += " Relative paths start at the table's folder, those of a DataFrame at the current one."
        problems.append(f"{_images(unreadable, '')} cannot be used:\n  {listed}\n{advice}")
    if elsewhere:
        listed = "\n  ".join(elsewhere)
        advice = 'Bring them to one grid with resample="linear" (--resample linear).'
        where = f"on another lattice than that of {first}, which has {grid}"
        problems.append(f"{_images(elsewhere, 'lie')} {where}:\n  {listed}\n{advice}")
    if problems:
        error = InputError if unreadable else GridMismatch
        raise error("\n".join(problems) + "\nNothing was written.")


def _images(problems: list[str], verb: str) -> str:
    if len(problems) == 1:
        return f"1 image {verb}s" if verb else "1 image"
    return f"{len(problems)} images {verb}".rstrip()
