"""Random bits of Philox4x32-10 against its published answers, and numbers made of them."""

import numpy as np
import pytest
from scipy import stats

from voxstack.kernels.philox import STREAM, begin, below, scramble, word


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of the Random123 library of Salmon et al.
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_its_published_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    block = np.empty(4, dtype=np.uint64)
    scramble(np.array(counter, dtype=np.uint64), np.array(key, dtype=np.uint64), block)
    assert block.tolist() == expected


def test_a_stream_counts_through_the_blocks_of_its_place() -> None:
    stream, block = np.empty(STREAM, dtype=np.uint64), np.empty(4, dtype=np.uint64)
    seed, index = 0x123456789ABCDEF0, 0x1FFFFFFFF
    begin(stream, np.uint64(seed), 5, index)
    found = [int(word(stream)) for _ in range(12)]
    for number in range(3):
        counter = np.array([number, 5, 0xFFFFFFFF, 1], dtype=np.uint64)
        scramble(counter, np.array([0x9ABCDEF0, 0x12345678], dtype=np.uint64), block)
        assert found[4 * number : 4 * number + 4] == block.tolist()


@pytest.mark.parametrize(("n", "cells"), [(2, 2), (3, 3), (7, 7), (100, 5), (3 * 2**30, 3)])
def test_bounded_numbers_are_uniform(n: int, cells: int) -> None:
    """Of the last bound, words cut to size without drawing again would give every third number twice as often."""
    stream = np.empty(STREAM, dtype=np.uint64)
    begin(stream, np.uint64(1), 0, 0)
    assert below(stream, 1) == 0
    drawn = np.array([below(stream, n) for _ in range(20_000)])
    assert drawn.min() >= 0
    assert drawn.max() < n
    assert stats.chisquare(np.bincount(drawn % cells, minlength=cells)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(drawn * cells // n, minlength=cells)).pvalue > 1e-3
