"""Tabulated z of r and of R against the exact tails of t and F."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxstack.kernels import pvalues
from voxstack.kernels.permuted import to_statistic
from voxstack.kernels.z_table import to_z, z_table

Float = NDArray[np.float64]

properties = settings(deadline=None, max_examples=30)
dofs = st.one_of(st.integers(1, 60), st.integers(60, 100_000), st.floats(1, 200))
numerators = st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)
ERROR = 1e-11  # times max(1, z), as its documentation says


def ratios(rng: np.random.Generator, dof: float, q: int) -> Float:
    """R from 0 to 1, of which many have a z of less than 40."""
    close_to_1 = 1 - 10.0 ** rng.uniform(-15, 0, 1000)
    f = np.concatenate([rng.gamma(q, size=1000), 10.0 ** rng.uniform(-8, 4, 1000)])
    return np.concatenate([close_to_1, f / (f + dof)])


@given(seeds, dofs)
@example(0, 1)
@example(0, 100_000)
@properties
def test_z_of_r_is_that_of_the_tail_of_t(seed: int, dof: float) -> None:
    rng = np.random.default_rng(seed)
    r = np.sqrt(ratios(rng, dof, 1)) * rng.choice([-1, 1], 3000)
    expected = pvalues.t_to_z(to_statistic(r, 1, dof, False), dof)
    z = to_z(r, z_table(1, dof, joint=False))
    there = np.abs(expected) < 40
    assert np.abs(expected[there]).max() > 4
    assert (np.abs(z - expected) <= ERROR * np.maximum(1, np.abs(expected)))[there].all()
    np.testing.assert_array_equal(np.sign(z), np.sign(expected))


@given(seeds, dofs, numerators)
@example(0, 1, 1)
@example(0, 1, 60)
@example(0, 100_000, 2)
@properties
def test_z_of_large_r2_is_that_of_the_tail_of_f(seed: int, dof: float, q: int) -> None:
    """Where it is positive; below, where nothing is enhanced, it is 0."""
    R = ratios(np.random.default_rng(seed), dof, q)
    expected = pvalues.f_to_z(to_statistic(R, q, dof, True), q, dof)
    z = to_z(R, z_table(q, dof, joint=True))
    there = (expected > 0) & (expected < 40)
    assert expected[there].max() > 3
    assert (np.abs(z - expected) <= ERROR * np.maximum(1, expected))[there].all()
    assert (z[expected < -ERROR] == 0).all()
    assert (z >= 0).all()


@given(seeds, dofs, numerators, st.booleans())
@properties
def test_z_never_falls_where_the_ratio_rises(seed: int, dof: float, q: int, joint: bool) -> None:
    rng = np.random.default_rng(seed)
    some = ratios(rng, dof, q)[::10]
    close = some * (1 + 1e-15 * np.arange(-20, 21)[:, None])  # neighbours among numbers
    R = np.sort(np.clip(np.concatenate([some, close.ravel(), [0.0, 1.0]]), 0, 1))
    r = R if joint else np.concatenate([-np.sqrt(R[::-1]), np.sqrt(R)])
    table = z_table(q if joint else 1, dof, joint=joint)
    z = to_z(r, table)
    assert (np.diff(z) >= -1e-14 * np.maximum(1, np.abs(z[1:]))).all()
    if not joint:
        np.testing.assert_array_equal(to_z(-r, table), -z)


@pytest.mark.parametrize("joint", [False, True])
def test_ends_missing_values_and_shapes(joint: bool) -> None:
    q = 3 if joint else 1
    table = z_table(q, 20, joint=joint)
    r = np.array([[0.0, np.nan, 1.0], [0.5, 1 - 1e-16, 0.9]])
    z = to_z(r, table)
    assert z.shape == r.shape
    np.testing.assert_array_equal(np.isnan(z), np.isnan(r))
    assert z[0, 0] == 0
    assert np.isfinite(z[0, 2])
    assert z[0, 2] >= z[1, 1] > z[1, 2] > z[1, 0]
    np.testing.assert_array_equal(to_z(np.asfortranarray(r.T), table), z.T)
    np.testing.assert_array_equal(to_z(r[:, ::2], table), z[:, ::2])
    assert to_z(np.empty((0, 4)), table).shape == (0, 4)
    assert to_z(np.array([0.1]), table)[0] == (0 if joint else to_z(np.array([-0.1]), table)[0] * -1)
