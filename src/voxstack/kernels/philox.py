"""Random bits that depend on a seed and a place alone: a counter-based generator of our own.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw (2011, Parallel random numbers: as easy as 1, 2, 3, SC'11): a keyed
bijection of 128-bit counters, so that any part of any stream is had without what comes before it. NumPy's streams may
change between its versions; these never do.
"""

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit

Words = NDArray[np.uint64]  # each below 2**32

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)

# A stream: counter (4 words), key (2), the latest block (4), how many of its words are used.
STREAM = 11
_KEY, _BLOCK, _USED = 4, 6, 10


@jit
def scramble(counter: Words, key: Words, block: Words) -> None:
    """One block of random words, written into `block` (4,), of a counter (4,) under a key (2,)."""
    a, b, c, d = counter[0], counter[1], counter[2], counter[3]
    k, m = key[0], key[1]
    for _ in range(10):
        p, q = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (q >> _HALF) ^ b ^ k, q & _LOW, (p >> _HALF) ^ d ^ m, p & _LOW
        k, m = (k + _WEYL[0]) & _LOW, (m + _WEYL[1]) & _LOW
    block[0], block[1], block[2], block[3] = a, b, c, d


@jit
def begin(stream: Words, seed: np.uint64, purpose: int, index: int) -> None:
    """Turn `stream` (STREAM,) to the beginning of the one of a seed, a purpose below 2**32 and an index."""
    stream[0], stream[1] = np.uint64(0), np.uint64(purpose)
    stream[2], stream[3] = np.uint64(index) & _LOW, np.uint64(index) >> _HALF
    stream[_KEY], stream[_KEY + 1] = seed & _LOW, seed >> _HALF
    stream[_USED] = np.uint64(4)


@jit
def word(stream: Words) -> np.uint64:
    """The next 32 random bits of a stream."""
    if stream[_USED] == np.uint64(4):
        scramble(stream[:_KEY], stream[_KEY:_BLOCK], stream[_BLOCK:_USED])
        stream[0] += np.uint64(1)
        stream[_USED] = np.uint64(0)
    value: np.uint64 = stream[_BLOCK + np.int64(stream[_USED])]
    stream[_USED] += np.uint64(1)
    return value


@jit
def below(stream: Words, n: int) -> int:
    """A random number of 0, ..., n - 1, each exactly as likely, for 0 < n < 2**32.

    Lemire 2019, ACM Transactions on Modeling and Computer Simulation 29:3: the upper half of a product, drawn again in
    the few cases that would make some numbers likelier.
    """
    bound = np.uint64(n)
    product = word(stream) * bound
    if product & _LOW < bound:
        least = (np.uint64(1) << _HALF) % bound
        while product & _LOW < least:
            product = word(stream) * bound
    return int(np.int64(product >> _HALF))
