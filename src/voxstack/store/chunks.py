"""Chunks of maps as bytes: little-endian values under zstd, whole chunks only.

Within a chunk the voxels lie as in a NIfTI file, x fastest: to cut an image into chunks is then to copy lines of it,
and not to turn it, which takes five times as long. Zarr calls that a transpose codec.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.codecs import TransposeCodec, ZstdCodec

from voxstack.errors import StoreError

LEVEL = 1
"""Of zstd: higher ones, and shuffling, gain nothing on float maps."""

CODECS: Mapping[str, Any] = {"filters": [TransposeCodec(order=(0, 3, 2, 1))], "compressors": [ZstdCodec(level=LEVEL)]}
"""Of arrays (n, x, y, z) with such chunks, as Zarr and xarray take them."""

_zstd = Zstd(level=LEVEL)
_NAMES = ["transpose", "bytes", "zstd"]


def encode_chunk(chunk: NDArray[np.floating]) -> bytes:
    """A whole chunk (n, z, y, x) as its key holds it."""
    return bytes(_zstd.encode(chunk.astype(chunk.dtype.newbyteorder("<"), copy=False)))


def decode_chunk(content: bytes | None, shape: tuple[int, int, int, int], dtype: np.dtype[Any]) -> NDArray[np.floating]:
    """A whole chunk (n, x, y, z) from what its key holds, x fastest; all values are missing where there is no key.

    Raises
    ------
    StoreError
        It is damaged.
    """
    n, x, y, z = shape
    if content is None:
        return np.full((n, z, y, x), np.nan, dtype=dtype).transpose(0, 3, 2, 1)
    chunk = np.empty((n, z, y, x), dtype=dtype.newbyteorder("<"))
    try:
        _zstd.decode(content, chunk)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"A chunk is damaged ({error}).") from error
    return chunk.astype(dtype, copy=False).transpose(0, 3, 2, 1)


def is_plain(metadata: Mapping[str, Any]) -> bool:
    """Whether the chunks of an array are such as these."""
    codecs = metadata["codecs"]
    if [codec["name"] for codec in codecs] != _NAMES or tuple(codecs[0]["configuration"]["order"]) != (0, 3, 2, 1):
        return False
    return metadata["data_type"] in ("float32", "float64") and metadata["fill_value"] == "NaN"
