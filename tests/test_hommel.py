"""Hommel's value and true discoveries against closed testing of all subsets, step by step."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxstack.kernels.hommel import hommel_value, true_discoveries

Float = NDArray[np.float64]


def simes(p: Float, alpha: float) -> bool:
    """Whether the hypotheses' intersection is rejected."""
    return any(k * alpha >= len(p) * value * (1 - 1e-9) for k, value in enumerate(np.sort(p), 1))


class ClosedTest:
    """Of m hypotheses: every subset is rejected if all that hold it are rejected by Simes' test."""

    def __init__(self, p: Float, alpha: float) -> None:
        m = len(p)
        members = [[i for i in range(m) if subset >> i & 1] for subset in range(2**m)]
        local = [bool(inside) and simes(p[inside], alpha) for inside in members]
        self.kept = [not rejected for rejected in local]  # not rejected by closed testing either
        for subset in reversed(range(2**m)):
            for i in range(m):
                if not subset >> i & 1 and self.kept[subset | 1 << i]:
                    self.kept[subset] = True
        self.size = [len(inside) for inside in members]

    def most_true(self, subset: int) -> int:
        """The most hypotheses of a subset that may all be true."""
        some = (one for one in range(len(self.kept)) if one & ~subset == 0 and self.kept[one])
        return max(self.size[one] for one in some)


@pytest.mark.parametrize("discrete", [False, True])
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 9), alpha=st.sampled_from([0.01, 0.05, 0.25, 0.5]))
@settings(deadline=None, max_examples=40)
def test_bounds_are_those_of_closed_testing(discrete: bool, seed: int, m: int, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random(m) ** rng.integers(1, 8)
    if discrete:  # many ties with the steps of Simes' test, p of 0 and 1 among them
        p = np.clip(rng.integers(0, 3 * m, size=m) * alpha / m, 0, 1)
    closed, everything = ClosedTest(p, alpha), 2**m - 1
    h = hommel_value(p, alpha)
    assert h == closed.most_true(everything)
    for subset in range(1, 2**m, max(2**m // 40, 1)):
        labels = np.array([subset >> i & 1 for i in range(m)])
        assert true_discoveries(p, labels, 1, h, alpha)[0] == labels.sum() - closed.most_true(subset)


def test_twelve_hypotheses() -> None:
    p = np.array([1e-5, 2e-4, 0.001, 0.004, 0.012, 0.013, 0.02, 0.05, 0.2, 0.5, 0.7, 0.9])
    closed, h = ClosedTest(p, 0.05), hommel_value(p, 0.05)
    assert h == closed.most_true(2**12 - 1)
    assert 0 < h < 12
    for members in itertools.combinations(range(12), 4):
        labels = np.isin(np.arange(12), members).astype(int)
        subset = sum(1 << i for i in members)
        assert true_discoveries(p, labels, 1, h, 0.05)[0] == 4 - closed.most_true(subset)


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(0, 5))
@settings(deadline=None, max_examples=40)
def test_sets_do_not_depend_on_each_other(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    p, labels = rng.random(60) ** 4, rng.integers(0, number + 1, size=60)
    h = hommel_value(p, 0.1)
    together = true_discoveries(p, labels, number, h, 0.1)
    assert together.shape == (number,)
    for label in range(1, number + 1):
        alone = true_discoveries(p, (labels == label).astype(int), 1, h, 0.1)
        assert together[label - 1] == alone[0]


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(1e-9, 7), (1e-7, 6), (0.059, 6), (0.061, 5), (0.249, 5), (0.251, 4), (0.399, 4), (0.401, 3), (0.899, 3),
     (0.901, 0)],
)  # fmt: skip
def test_the_example_of_meijer_and_others(alpha: float, expected: int) -> None:
    """Example of Meijer, Krebs and Goeman (2017), arXiv:1710.08273, which nilearn's test_hommel takes, too."""
    assert hommel_value(np.array([1e-8, 0.01, 0.08, 0.1, 0.5, 0.7, 0.9]), alpha) == expected


def test_all_or_nothing() -> None:
    assert hommel_value(np.ones(5), 0.05) == 5
    assert hommel_value(np.zeros(5), 0.05) == 0
    assert hommel_value(np.array([]), 0.05) == 0
    labels = np.array([1, 1, 1, 2, 2])
    np.testing.assert_array_equal(true_discoveries(np.zeros(5), labels, 3, 0, 0.05), [3, 2, 0])
    np.testing.assert_array_equal(true_discoveries(np.ones(5), labels, 2, 5, 0.05), [0, 0])
