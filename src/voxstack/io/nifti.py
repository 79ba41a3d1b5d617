"""NIfTI-1 and NIfTI-2 (.nii, .nii.gz), header and image pairs and Analyze (.hdr/.img): headers and volumes.

Compressed files are inflated by zlib-ng in one piece and handed to nibabel as bytes, which is several times faster than
nibabel's own stream and does not use indexed_gzip, slower still, where a user has it installed.
"""

import logging
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray
from zlib_ng import gzip_ng, zlib_ng

from voxstack.errors import InputError
from voxstack.io.image import ABSENT, ImageHeader, require_real, volume_index
from voxstack.io.places import Place

_HEAD = 1024  # bytes, enough for every header
_LONGEST = 540  # bytes of a header
_BROKEN: Any = (ImageFileError, HeaderDataError, OverflowError)
_DAMAGED: Any = zlib_ng.error  # which has no type
# In the order in which nibabel tries them.
_PAIRS = (nib.Nifti1Pair, nib.Nifti2Pair, nib.Spm2AnalyzeImage, nib.Spm99AnalyzeImage, nib.AnalyzeImage)
# nibabel logs what it repairs in a header and also, without the file's name, what it raises for.
_repairs = logging.getLogger(f"{nib.imageglobals.logger.name}.voxstack")
_repairs.addFilter(lambda record: record.levelno < nib.imageglobals.error_level)
_GZIP_MAGIC = b"\x1f\x8b"
_MOST_DEFLATED = 1100  # bytes that deflate can make of one; a larger size is not to be believed


def read_header(path: Place) -> ImageHeader:
    """Shape, affine and type of an image, and a check that the file is as long as its header says.

    Raises
    ------
    InputError
        Missing, unreadable, not an image, truncated, or of a data type that is not a number.
    """
    with _named_errors(path):
        return _checked_header(path)


def read_volume(path: Place) -> NDArray[Any]:
    """All data of an image, scaled as its header says, in the type that the scaling gives."""
    with _named_errors(path):
        return _whole_image(path)


def read_volumes(path: Place, volumes: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Some volumes of a 4-D image, in ascending order; the file is gone through once and not held."""
    with _named_errors(path), ExitStack() as stack:
        if _is_single_file(path):
            kind = _single_class(path, _start(path).head)
            stream = stack.enter_context(_inflating(path))
            image = kind.from_file_map({"image": FileHolder(filename=str(path), fileobj=stream)})
        else:
            image = _pair(path)
            holder = image.file_map["image"]
            holder.fileobj = stack.enter_context(_inflating(_beside(path, holder)))
            image = type(image).from_file_map(image.file_map)
        for volume in volumes:
            yield np.asanyarray(image.dataobj[volume_index(image.shape, volume)])


@contextmanager
def _named_errors(path: Place) -> Iterator[None]:
    """Whatever goes wrong with a file is an `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: {ABSENT}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except EOFError as error:
        raise InputError(f"{path}: truncated ({error}). Copy it again.") from error
    except _DAMAGED as error:
        raise InputError(f"{path}: damaged, it cannot be inflated ({error}). Copy it again.") from error
    except _BROKEN as error:
        raise InputError(f"{path}: not a whole NIfTI or Analyze image ({error}).") from error
    except ValueError as error:
        raise InputError(f"{path}: its data cannot be read ({error}).") from error


def _checked_header(path: Place) -> ImageHeader:
    if _is_single_file(path):
        start, data_file = _start(path), path
        told = _single_header(path, start.head)
        if told.offset < told.length:
            raise InputError(f"{path}: its data would begin at byte {told.offset}, inside its header.")
    else:
        image = _pair(path)
        told, data_file = _told(image.header, image.affine), _beside(path, image.file_map["image"])
        if not data_file.is_file():
            raise InputError(f"{path}: its image file {data_file.name} is missing.")
        start = _start(data_file)
    require_real(told.dtype, str(path))
    found = _inflated_size(data_file, start.told, told.stop) if start.is_gzip else start.told
    if found < told.stop:
        what = found or "fewer"  # of a compressed stream that breaks off they are not counted
        raise InputError(f"{path}: truncated, {what} of {told.stop} bytes are there. Copy it again.")
    return ImageHeader(told.shape, told.affine, told.code)


def _whole_image(path: Place) -> NDArray[Any]:
    if not _is_single_file(path):
        image = _pair(path)
        holder = image.file_map["image"]
        holder.fileobj = BytesIO(_content(_beside(path, holder)))
        return np.asanyarray(type(image).from_file_map(image.file_map).dataobj)
    content = _content(path)
    # What nibabel does with an image, without the image.
    told = _single_header(path, content)
    if len(content) < told.stop:
        raise EOFError(f"{len(content)} bytes are there")
    raw: NDArray[Any] = np.ndarray(told.shape, told.dtype, buffer=content, offset=told.offset, order="F")
    return np.asanyarray(apply_read_scaling(raw, told.slope, told.inter))


def _pair(path: Place) -> Any:
    """A header and image pair with its header read, and its data left alone."""
    if not path.is_file():
        raise InputError(f"{path}: {ABSENT}")
    for kind in _PAIRS:
        file_map: Any = kind.filespec_to_file_map(str(path))
        header_file = _beside(path, file_map["header"])
        if not header_file.is_file():
            raise InputError(f"{path}: its header file {header_file.name} is missing.")
        head = _content(header_file)
        if kind.header_class.may_contain_header(head):
            file_map["header"].fileobj = BytesIO(head)
            if "mat" in file_map and (matrix := _beside(path, file_map["mat"])).is_file():  # an affine of SPM
                file_map["mat"].fileobj = BytesIO(matrix.read_bytes())
            return kind.from_file_map(file_map)
    raise InputError(f"{path}: not a NIfTI or Analyze image.")


def _beside(path: Place, holder: FileHolder) -> Place:
    """The file of a pair that nibabel names."""
    return path.with_name(str(holder.filename).rpartition(os.sep)[2].rpartition("/")[2])


def _content(path: Place) -> bytes:
    content = path.read_bytes()
    if content[:2] != _GZIP_MAGIC:
        return content
    (told,) = struct.unpack("<I", content[-4:].rjust(4, b"\0"))
    if told <= len(content) * _MOST_DEFLATED:
        # In one step into a buffer of the size that the file tells.
        whole = zlib_ng.decompressobj(wbits=31)
        inflated = whole.decompress(content, max(told, 1))
        if whole.eof and not whole.unused_data and len(inflated) == told:
            return bytes(inflated)
    return bytes(gzip_ng.decompress(content))  # of several gzip members, or larger than 4 GiB


@contextmanager
def _inflating(path: Place) -> Iterator[Any]:
    """The content of a file, to be gone through."""
    with path.open("rb") as raw:
        if raw.peek(2)[:2] != _GZIP_MAGIC:
            yield raw
            return
        with gzip_ng.GzipNGFile(fileobj=raw) as stream:
            yield stream


def _is_single_file(path: Place) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


class _Start(NamedTuple):
    """What opening a file once tells.

    Attributes
    ----------
    head
        The first bytes of its content.
    told
        Size of the file or, of a gzip file, of its content as the last four bytes tell it.
    is_gzip
        Whether it is one.
    """

    head: bytes
    told: int
    is_gzip: bool


def _start(path: Place) -> _Start:
    with path.open("rb", buffering=0) as file:  # of an object no more is fetched than what is read here
        head = file.read(_HEAD)
        size = file.seek(0, os.SEEK_END)
        if head[:2] != _GZIP_MAGIC:
            return _Start(head, size, False)
        file.seek(-4, os.SEEK_END)
        (told,) = struct.unpack("<I", file.read(4))
    inflated = zlib_ng.decompressobj(wbits=31).decompress(head, _HEAD)
    if len(inflated) < _LONGEST:  # a small file, or one of several gzip members
        with _inflating(path) as stream:
            inflated = stream.read(_HEAD)
    return _Start(bytes(inflated), told, True)


def _single_class(path: Place, head: bytes) -> Any:
    for kind, magic, at in ((nib.Nifti1Image, b"n+1\0", 344), (nib.Nifti2Image, b"n+2\0", 4)):
        if head[at : at + 4] == magic and len(head) >= kind.header_class.template_dtype.itemsize:
            return kind
    raise InputError(f"{path}: not a NIfTI image.")


class _Told(NamedTuple):
    """What a header tells.

    Attributes
    ----------
    shape, dtype
        Of the data.
    offset, stop
        Bytes where they begin and end.
    slope, inter
        That scale them.
    affine : (4, 4) float64
        From voxel numbers to mm.
    code
        NIfTI code of the space.
    length
        Of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    stop: int
    slope: float
    inter: float
    affine: NDArray[np.float64]
    code: int
    length: int


def _told(header: Any, affine: Any) -> _Told:
    shape, dtype = tuple(int(n) for n in header.get_data_shape()), header.get_data_dtype()
    offset = int(header.get_data_offset())
    slope, inter = header.get_slope_inter()  # raises where they cannot be read
    scaling = 1.0 if slope is None else slope, 0.0 if inter is None else inter
    code = int(header["sform_code"]) or int(header["qform_code"]) if "sform_code" in header else 0
    stop = offset + math.prod(shape) * dtype.itemsize
    return _Told(shape, dtype, offset, stop, *scaling, np.asarray(affine, float), code, int(header.sizeof_hdr))


def _single_header(path: Place, head: bytes) -> _Told:
    kind = _single_class(path, head).header_class
    return _parsed(kind, head[: kind.template_dtype.itemsize])


@lru_cache(maxsize=256)
def _parsed(kind: Any, head: bytes) -> _Told:
    """Files of one study mostly share one header, and nibabel takes longer to read it than to inflate it."""
    header = kind(head, check=False)
    header.check_fix(_repairs)
    return _told(header, header.get_best_affine())


def _inflated_size(path: Place, told: int, expected: int) -> int:
    """Size of a gzip file's content; what its last four bytes tell, but for files of several gzip members."""
    if told == expected % 2**32:
        return expected
    size = 0
    try:
        with _inflating(path) as stream:
            while chunk := stream.read(1 << 22):
                size += len(chunk)
    except (EOFError, OSError, _DAMAGED):
        return min(size, expected - 1)
    return size
