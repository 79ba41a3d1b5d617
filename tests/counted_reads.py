"""Dask arrays that count how often each of their blocks is read."""

import threading
from collections import Counter
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray


def counted(array: da.Array) -> tuple[da.Array, Counter[tuple[int, ...]]]:
    """The same array, and the numbers of reads by block number, which grow while it is computed with."""
    reads: Counter[tuple[int, ...]] = Counter()
    lock = threading.Lock()

    def count(block: NDArray[Any], block_info: Any = None) -> NDArray[Any]:
        with lock:
            reads[tuple(block_info[0]["chunk-location"])] += 1
        return block

    return array.map_blocks(count, dtype=array.dtype, meta=np.empty((0,) * array.ndim, dtype=array.dtype)), reads
