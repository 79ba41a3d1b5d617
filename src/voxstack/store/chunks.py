"""Chunks of maps as bytes: little-endian values under zstd, whole chunks only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

from voxstack.errors import StoreError

LEVEL = 1
"""Of zstd: higher ones, and shuffling, gain nothing on float maps."""

_zstd = Zstd(level=LEVEL)
_CODECS = ["bytes", "zstd"]


def encode_chunk(chunk: NDArray[np.floating]) -> bytes:
    """A whole chunk as its key holds it."""
    return bytes(_zstd.encode(chunk.astype(chunk.dtype.newbyteorder("<"), copy=False)))


def decode_chunk(content: bytes | None, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[np.floating]:
    """A whole chunk from what its key holds; all values are missing where there is no key.

    Raises
    ------
    StoreError
        It is damaged.
    """
    if content is None:
        return np.full(shape, np.nan, dtype=dtype)
    chunk = np.empty(shape, dtype=dtype.newbyteorder("<"))
    try:
        _zstd.decode(content, chunk)
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"A chunk is damaged ({error}).") from error
    return chunk.astype(dtype, copy=False)


def is_plain(metadata: Mapping[str, Any]) -> bool:
    """Whether the chunks of an array are such as these."""
    names = [codec["name"] for codec in metadata["codecs"]]
    return names == _CODECS and metadata["data_type"] in ("float32", "float64") and metadata["fill_value"] == "NaN"
