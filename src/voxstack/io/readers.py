"""Where the images are, and how each is read: one registry of formats, one type for every kind of source."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from voxstack.errors import InputError
from voxstack.grid import Grid
from voxstack.io import nifti
from voxstack.io.image import ImageHeader, require_real, volume_index
from voxstack.io.places import Place, Remote, place_of, version_of


@dataclass(frozen=True)
class Reader:
    """How images of one format are read.

    Attributes
    ----------
    header
        place -> ImageHeader. A place is a path, or a `Remote` with the same methods.
    volume
        place -> all data, as in the file.
    volumes
        (place, volume numbers in ascending order) -> those volumes of a 4-D image, one by one.
    """

    header: Callable[[Place], ImageHeader]
    volume: Callable[[Place], NDArray[Any]]
    volumes: Callable[[Place, Sequence[int]], Iterator[NDArray[Any]]]


_NIFTI = Reader(nifti.read_header, nifti.read_volume, nifti.read_volumes)

READERS: Mapping[str, Reader] = {
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".img": _NIFTI,
    ".hdr": _NIFTI,
    ".img.gz": _NIFTI,
    ".hdr.gz": _NIFTI,
}


def reader_of(path: Place) -> Reader:
    """The reader of a file, by its ending."""
    name = path.name.lower()
    for suffix, reader in READERS.items():
        if name.endswith(suffix):
            return reader
    raise InputError(f"{path}: no image format ends like this; voxstack reads {', '.join(READERS)}.")


def looks_like_image(path: str) -> bool:
    """Whether a text ends like an image file."""
    return path.lower().endswith(tuple(READERS))


@dataclass(frozen=True)
class ImageSource:
    """One subject's map: a file, a volume of a 4-D file, or an image in memory.

    Attributes
    ----------
    image
        Place, or in-memory image.
    volume
        Number of the volume of a 4-D image; None for an image of one map.
    """

    image: Place | SpatialImage
    volume: int | None = None

    @property
    def name(self) -> str:
        """What to call it in messages."""
        name = str(self.image) if isinstance(self.image, Place) else "an image in memory"
        return name if self.volume is None else f"{name}, volume {self.volume}"

    def version(self) -> str | None:
        """Which file it is and when that was last changed; None for an image in memory, which may change unseen."""
        if not isinstance(self.image, Place):
            return None
        name = self.image.name.removesuffix(".gz")
        ends = (".hdr", ".img", ".mat")  # SPM keeps affines in the last one
        pair = [self.image.with_name(f"{name[:-4]}{end}{zipped}") for zipped in ("", ".gz") for end in ends]
        files = [self.image, *(pair if name.lower().endswith((".hdr", ".img")) else [])]
        told = [version for version in map(version_of, files) if version is not None]
        return f"{self.image}: {told}"

    def read(self) -> tuple[NDArray[Any], Grid]:
        """Values (x, y, z), scaled, in the type that scaling gives, and their lattice."""
        header = self.header()
        ((_, values),) = read_maps([self], [header.order])
        return values, header.grid()

    def header(self) -> ImageHeader:
        """Header of the image; a 4-D image without a `volume` is an error."""
        if isinstance(self.image, Place):
            header = reader_of(self.image).header(self.image)
        else:
            told: Any = self.image.header
            require_real(np.dtype(self.image.get_data_dtype()), self.name)
            code = int(told["sform_code"]) or int(told["qform_code"]) if "sform_code" in told else 0
            header = ImageHeader(self.image.shape, np.asarray(self.image.affine, float), code)
        header.require_volume(self.name)
        if self.volume is None and header.n_volumes != 1:
            raise InputError(
                f"{self.name}: holds {header.n_volumes} volumes (shape {header.shape}) where one map is expected. "
                "Name one image per subject, or a single 4-D image for the whole table."
            )
        return header


def image_source(image: Any, what: str) -> ImageSource:
    """An image or its path that a user gives; `InputError`, which says what it was to be, for anything else."""
    if not isinstance(image, str | Path | Remote | SpatialImage):
        raise InputError(f"{what} is an image or its path, not a {type(image).__name__}.")
    return ImageSource(image if isinstance(image, SpatialImage) else place_of(image))


def read_maps(
    sources: Sequence[ImageSource], orders: Sequence[tuple[int, int, int]]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Data of some sources, one after the other, with their axes in the order x, y, z.

    Volumes of the same 4-D image are read in one go through the file, and only one of them is held.

    Parameters
    ----------
    sources
        What to read.
    orders
        For each the array axes that run along x, y and z.

    Yields
    ------
    number : int
        Of the source; sources do not come in order.
    volume : (x, y, z) array
        Scaled, in the type that scaling gives.
    """
    by_image: dict[Any, list[int]] = {}
    for number, source in enumerate(sources):
        if source.volume is None:
            yield number, _in_order(_single(source.image), orders[number])
        else:
            key = source.image if isinstance(source.image, Place) else id(source.image)
            by_image.setdefault(key, []).append(number)
    for numbers in by_image.values():
        numbers.sort(key=lambda number: sources[number].volume or 0)
        image, wanted = sources[numbers[0]].image, [sources[number].volume or 0 for number in numbers]
        for number, volume in zip(numbers, _several(image, wanted), strict=True):
            yield number, _in_order(volume, orders[number])


def _single(image: Place | SpatialImage) -> NDArray[Any]:
    return reader_of(image).volume(image) if isinstance(image, Place) else np.asanyarray(image.dataobj)


def _several(image: Place | SpatialImage, volumes: Sequence[int]) -> Iterator[NDArray[Any]]:
    if isinstance(image, Place):
        return reader_of(image).volumes(image, volumes)
    return (np.asanyarray(image.dataobj[volume_index(image.shape, volume)]) for volume in volumes)


def _in_order(array: NDArray[Any], order: tuple[int, int, int]) -> NDArray[Any]:
    return array.reshape(array.shape[:3]).transpose(order)
