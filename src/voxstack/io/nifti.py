"""NIfTI-1 and NIfTI-2 (.nii, .nii.gz), header and image pairs and Analyze (.hdr/.img): headers and volumes.

Compressed files are inflated by zlib-ng in one piece and handed to nibabel as bytes, which is several times faster than
nibabel's own stream and does not use indexed_gzip, slower still, where a user has it installed.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from zlib_ng import gzip_ng, zlib_ng

from voxstack.errors import InputError
from voxstack.io.image import ImageHeader, require_real, volume_index

_HEAD = 1024  # bytes, enough for every header
_BROKEN: Any = (ImageFileError, HeaderDataError, zlib_ng.error, EOFError)
# In the order in which nibabel tries them.
_PAIRS = (nib.Nifti1Pair, nib.Nifti2Pair, nib.Spm2AnalyzeImage, nib.Spm99AnalyzeImage, nib.AnalyzeImage)
_GZIP_MAGIC = b"\x1f\x8b"


def read_header(path: Path) -> ImageHeader:
    """Shape, affine and type of an image, and a check that the file is as long as its header says.

    Raises
    ------
    InputError
        Missing, unreadable, not an image, truncated, or of a data type that is not a number.
    """
    with _named_errors(path):
        return _checked_header(path)


def read_volume(path: Path) -> NDArray[Any]:
    """All data of an image, scaled as its header says, in the type that the scaling gives."""
    with _named_errors(path):
        return np.asanyarray(_whole_image(path).dataobj)


def read_volumes(path: Path, volumes: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Some volumes of a 4-D image, in ascending order; the file is gone through once and not held."""
    with _named_errors(path), ExitStack() as stack:
        if _is_single_file(path):
            kind = _single_class(path, _head(path))
            image = kind.from_file_map({"image": FileHolder(filename=str(path), fileobj=_stream(path, stack))})
        else:
            image = _pair(path)
            holder = image.file_map["image"]
            holder.fileobj = _stream(Path(holder.filename), stack)
            image = type(image).from_file_map(image.file_map)
        for volume in volumes:
            yield np.asanyarray(image.dataobj[volume_index(image.shape, volume)])


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file is an `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from error
    except EOFError as error:
        raise InputError(f"{path}: truncated ({error}).") from error
    except _BROKEN as error:
        raise InputError(f"{path}: not a whole NIfTI or Analyze image ({error}).") from error
    except ValueError as error:
        raise InputError(f"{path}: its data cannot be read ({error}).") from error


def _checked_header(path: Path) -> ImageHeader:
    if _is_single_file(path):
        head = _head(path)
        kind = _single_class(path, head)
        header = kind.header_class(head[: kind.header_class.template_dtype.itemsize])
        affine, data_file = header.get_best_affine(), path
    else:
        image = _pair(path)
        header, affine, data_file = image.header, image.affine, Path(image.file_map["image"].filename)
        if not data_file.is_file():
            raise InputError(f"{path}: its image file {data_file.name} is missing.")
    dtype = header.get_data_dtype()
    require_real(dtype, str(path))
    shape = tuple(int(n) for n in header.get_data_shape())
    expected = header.get_data_offset() + int(np.prod(shape)) * dtype.itemsize
    found = _uncompressed_size(data_file, expected)
    if found < expected:
        raise InputError(f"{path}: truncated, {found} of {expected} bytes are there.")
    code = int(header["sform_code"]) or int(header["qform_code"]) if "sform_code" in header else 0
    return ImageHeader(shape, np.asarray(affine, float), code)


def _whole_image(path: Path) -> Any:
    if _is_single_file(path):
        content = _content(path)
        return _single_class(path, content).from_bytes(content)
    image = _pair(path)
    holder = image.file_map["image"]
    holder.fileobj = BytesIO(_content(Path(holder.filename)))
    return type(image).from_file_map(image.file_map)


def _pair(path: Path) -> Any:
    """A header and image pair with its header read, and its data left alone."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.")
    for kind in _PAIRS:
        file_map: Any = kind.filespec_to_file_map(str(path))
        header_file = Path(file_map["header"].filename)
        if not header_file.is_file():
            raise InputError(f"{path}: its header file {header_file.name} is missing.")
        head = _content(header_file)
        if kind.header_class.may_contain_header(head):
            file_map["header"].fileobj = BytesIO(head)
            return kind.from_file_map(file_map)
    raise InputError(f"{path}: not a NIfTI or Analyze image.")


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return bytes(gzip_ng.decompress(content)) if content[:2] == _GZIP_MAGIC else content


def _stream(path: Path, stack: ExitStack) -> Any:
    raw = stack.enter_context(path.open("rb"))
    return stack.enter_context(gzip_ng.GzipNGFile(fileobj=raw)) if _is_gzip(path) else raw


def _is_single_file(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC


def _head(path: Path) -> bytes:
    with ExitStack() as stack:
        return bytes(_stream(path, stack).read(_HEAD))


def _single_class(path: Path, head: bytes) -> Any:
    for kind, magic, at in ((nib.Nifti1Image, b"n+1\0", 344), (nib.Nifti2Image, b"n+2\0", 4)):
        if head[at : at + 4] == magic and len(head) >= kind.header_class.template_dtype.itemsize:
            return kind
    raise InputError(f"{path}: not a NIfTI image.")


def _uncompressed_size(path: Path, expected: int) -> int:
    """Size of a file's content; for gzip the last four bytes tell it, but for files of several gzip members."""
    if not _is_gzip(path):
        return path.stat().st_size
    with path.open("rb") as file:
        file.seek(-4, 2)
        (told,) = struct.unpack("<I", file.read(4))
    if told == expected % 2**32:
        return expected
    size = 0
    try:
        with gzip_ng.open(path, "rb") as stream:
            while chunk := stream.read(1 << 22):
                size += len(chunk)
    except (*_BROKEN, OSError):
        return min(size, expected - 1)
    return size
