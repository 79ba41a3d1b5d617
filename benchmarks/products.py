"""How much of the machine's rate of products in single precision a test of maxima and counts sustains.

A relabelling of one regressor is a product of n numbers with each voxel, 2 n operations. What else the test does, the
making of relabellings, maxima and counts and reading the data anew for each window of relabellings, is in its time but
not in its operations. The machine's rate is that of NumPy's products alone, of the same inner length, on as many
threads, into memory that is there already: of tiles that stay in cache or of large matrices, before the test or after
it, whichever is fastest.
"""

from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

import numpy as np
from measure import Number
from numpy.typing import NDArray
from relabelling import Contender, Effort, marginal, mni_mask, ours, slab
from threadpoolctl import threadpool_limits

from voxstack.plan.permutation import WINDOW
from voxstack.run import thread_count

_SHARES = {100: 1.0, 500: 1 / 2, 2000: 1 / 4}  # of the mask's voxels, for so many subjects: all fit into memory
_TILES = (256, 2048), (4096, 8192)


def measure(effort: Effort) -> tuple[dict[str, object], list[Number]]:
    """Operations a second of the test and of products alone, by the number of subjects."""
    rates = {n: _rates(n, share, effort) for n, share in _SHARES.items()}
    numbers = [
        Number(f"max-T with counts against products alone, n = {n}", 100 * rate["test"] / rate["products"], 60, "%")
        for n, rate in rates.items()
    ]
    return {"operations_per_second": rates}, numbers


def _rates(n: int, share: float, effort: Effort) -> dict[str, float]:
    rng = np.random.default_rng(2)
    mask = mni_mask(effort.resolution)
    mask = mask[..., slab(mask, share)]
    maps = np.zeros((n, *mask.shape), dtype=np.float32)
    maps[:, mask] = rng.standard_normal((n, int(mask.sum())), dtype=np.float32)
    design = np.column_stack([rng.standard_normal(n), np.ones(n)])
    # A whole window of relabellings more, so that what is done once for each window is in the difference.
    test = Contender(ours(maps, mask, design), 512, WINDOW)
    before = _products_alone(n, effort.repeats)
    seconds = median(marginal({"test": test}, effort)["test"])
    return {
        "voxels": int(mask.sum()),
        "test": 2 * n * int(mask.sum()) / seconds,
        "products": max(before, _products_alone(n, effort.repeats)),
    }


def _products_alone(n: int, repeats: int) -> float:
    return max(_rate(n, rows, columns, repeats) for rows, columns in _TILES)


def _rate(n: int, rows: int, columns: int, repeats: int) -> float:
    """Operations a second of all threads together."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((rows, n), dtype=np.float32), rng.standard_normal((n, columns), dtype=np.float32)
    outs = [np.zeros((rows, columns), dtype=np.float32) for _ in range(thread_count())]
    times = max(round(2e10 / (2 * n * rows * columns)), 1)

    def multiply(out: NDArray[np.float32]) -> None:
        for _ in range(times):
            np.matmul(a, b, out=out)

    seconds = []
    with threadpool_limits(1), ThreadPoolExecutor(thread_count()) as pool:
        for _ in range(repeats + 2):
            start = perf_counter()
            list(pool.map(multiply, outs))
            seconds.append(perf_counter() - start)
    return 2 * n * rows * columns * times * thread_count() / median(seconds)
