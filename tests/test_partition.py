"""Models divided by a contrast, against Beckmann's formula; and rows of a design without rounding errors."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from brute_force import Float, divide
from voxstack.kernels import partition
from voxstack.kernels.basis import decompose
from voxstack.kernels.partition import Partition, without_rounding

properties = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)


def random_model(rng: np.random.Generator) -> tuple[Float, Float]:
    """A design (n, p), in some units, and a contrast (q, p) that it can estimate; some designs are rank deficient."""
    n, p = int(rng.integers(5, 20)), int(rng.integers(1, 5))
    design = rng.normal(size=(n, p)) + rng.choice([0, 3])
    if rng.random() < 0.5:
        design[:, 0] = 1
    if rng.random() < 0.3:
        design = np.column_stack([design, design @ rng.integers(-1, 3, p), np.zeros(n)])
    some = linalg.orth((rng.normal(size=(n, n)) @ design).T)[:, : int(rng.integers(1, p + 1))].T
    weights = rng.normal(size=(len(some), len(some))) @ some if len(some) < 3 else some
    units = 10.0 ** rng.integers(-3, 4, design.shape[1])
    return design * units, weights * units


def onto(columns: Float) -> Float:
    """The projection onto what columns of any size span."""
    columns = columns / np.where(columns.any(axis=0), np.linalg.norm(columns, axis=0), 1)
    basis = linalg.orth(columns, rcond=1e-9)
    return basis @ basis.T


def divided(design: Float, weights: Float) -> Partition:
    return partition.divide(decompose(design), weights, None)


@given(seeds)
@properties
def test_both_parts_span_what_beckmann_s_formula_does(seed: int) -> None:
    design, weights = random_model(np.random.default_rng(seed))
    found = divided(design, weights)
    units = np.where(design.any(axis=0), np.linalg.norm(design, axis=0), 1)  # for the formula, which squares the design
    X, Z = divide(design / units, weights / units)
    rank = np.linalg.matrix_rank(design / units)
    assert found.effect.shape[1] == len(weights)
    assert found.nuisance.shape[1] == rank - len(weights)
    both = np.hstack([found.effect, found.nuisance])
    np.testing.assert_allclose(both.T @ both, np.eye(rank), atol=1e-13)
    np.testing.assert_allclose(found.effect @ found.effect.T, onto(X), atol=1e-8)
    np.testing.assert_allclose(found.nuisance @ found.nuisance.T, onto(Z), atol=1e-8)
    np.testing.assert_allclose(both @ both.T, onto(design), atol=1e-9)


@given(seeds)
@properties
def test_the_effect_of_a_t_contrast_has_its_sign_and_gives_its_t(seed: int) -> None:
    rng = np.random.default_rng(seed)
    design, weights = random_model(rng)
    weights = weights[:1]
    y = rng.normal(size=(len(design), 10))
    found = divided(design, weights)
    units = np.where(design.any(axis=0), np.linalg.norm(design, axis=0), 1)
    inverse = np.linalg.pinv(design / units)
    row = weights / units
    estimate = row @ inverse @ y
    size = np.sqrt(row @ inverse @ inverse.T @ row.T)
    np.testing.assert_allclose(found.effect.T @ y, estimate / size, rtol=1e-8, atol=1e-8)


@given(seeds)
@properties
def test_parts_do_not_depend_on_how_an_f_contrast_is_written(seed: int) -> None:
    rng = np.random.default_rng(seed)
    design, weights = random_model(rng)
    q = len(weights)
    mixed = (np.eye(q) + 0.3 * rng.uniform(-1, 1, (q, q))) @ weights * rng.choice([-1, 1])
    one, other = divided(design, weights), divided(design, mixed)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-8)


@given(seeds)
@properties
def test_what_no_permutation_changes_is_set_apart(seed: int) -> None:
    """The part of Z that is constant wherever subjects may take each other's places."""
    rng = np.random.default_rng(seed)
    design, weights = random_model(rng)
    orbits = rng.integers(0, rng.integers(1, 4), len(design)) * 7
    indicators = (orbits[:, None] == np.unique(orbits)).astype(float)
    added = indicators @ rng.normal(size=(indicators.shape[1], rng.integers(0, 3)))
    design, weights = np.hstack([design, added]), np.hstack([weights, np.zeros((len(weights), added.shape[1]))])
    weights = weights @ onto(design.T)  # what can be estimated
    whole, found = divided(design, weights), partition.divide(decompose(design), weights, orbits)
    np.testing.assert_array_equal(found.effect, whole.effect)
    assert whole.still.shape[1] == 0
    np.testing.assert_allclose(found.nuisance @ found.nuisance.T, whole.nuisance @ whole.nuisance.T, atol=1e-12)
    both = np.hstack([found.still, found.moving])
    np.testing.assert_allclose(both.T @ both, np.eye(both.shape[1]), atol=1e-12)
    for orbit in np.unique(orbits):
        assert np.ptp(found.still[orbits == orbit], axis=0).max(initial=0) < 1e-9
    shared = whole.nuisance.shape[1] + indicators.shape[1]
    shared -= np.linalg.matrix_rank(np.hstack([whole.nuisance, indicators]), tol=1e-8)
    assert found.still.shape[1] == shared


@given(seeds, st.integers(2, 30), st.integers(1, 4))
@properties
def test_values_that_are_equal_but_for_rounding_become_equal(seed: int, n: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([-2.0, -1, 0, 1, 2, 0.3, 2 + 1e-6], (n, p)) * 10.0 ** rng.integers(-5, 6, p)
    size = np.abs(values).max(axis=0, initial=1e-300)
    noise = rng.uniform(-1, 1, (n, p)) * 1e-13 * size
    exact, noisy = without_rounding(values), without_rounding(values + noise)
    np.testing.assert_array_equal(exact, values)
    assert (np.abs(noisy - values) <= 1e-12 * size).all()
    for column, true in zip(noisy.T, values.T, strict=True):
        if not true.any():  # nothing but noise: there is no larger value that it would be small beside
            continue
        # Equal where the values are; of opposite sign where they are; 0 where they are 0.
        np.testing.assert_array_equal(column[:, None] == column, true[:, None] == true)
        np.testing.assert_array_equal(column[:, None] == -column, true[:, None] == -true)
        np.testing.assert_array_equal(column == 0, true == 0)


def test_different_values_stay_apart() -> None:
    values = np.array([[1.0, 20.1], [1 + 1e-8, 20.2], [-1, -20.1], [0, 1e-7]])
    np.testing.assert_array_equal(without_rounding(values), values)
    assert without_rounding(np.empty((4, 0))).shape == (4, 0)
    np.testing.assert_array_equal(without_rounding(np.zeros((3, 2))), 0)
