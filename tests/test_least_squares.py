"""Streamed least squares against numpy.linalg.lstsq and exact rational arithmetic, whatever the chunks of subjects."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voxstack.kernels.basis import decompose
from voxstack.kernels.least_squares import Fit, Reduced, combine, reduce, solve

Float = NDArray[np.float64]

properties = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])


def chunks(n: int, rng: np.random.Generator) -> list[slice]:
    """1 to n subjects a chunk."""
    cuts = np.flatnonzero(rng.random(n - 1) < rng.random()) + 1
    return [slice(a, b) for a, b in zip([0, *cuts], [*cuts, n], strict=True)]


def streamed(y: NDArray[np.floating], X: Float, rng: np.random.Generator, *, available: bool) -> Fit:
    """Fit in random chunks of subjects that are combined pair by pair, any two at a time."""
    basis = decompose(X)
    states = [reduce(y[rows], basis.rows[rows], basis.constant, available=available) for rows in chunks(len(y), rng)]
    while len(states) > 1:
        first: Reduced = states.pop(rng.integers(len(states)))
        second: Reduced = states.pop(rng.integers(len(states)))
        states.append(combine(first, second))
    return solve(states[0], basis, available=available)


def random_design(rng: np.random.Generator, *, constant: str, n: int | None = None) -> Float:
    """Full column rank. The constant is a column, a sum of two columns, or nowhere."""
    n = int(rng.integers(8, 40)) if n is None else n
    X = rng.normal(size=(n, int(rng.integers(2, 5))))
    if constant == "column":
        X[:, rng.integers(X.shape[1])] = 1
    if constant == "spanned":
        X[:, 0] = np.arange(n) % 2
        X[:, 1] = 1 - X[:, 0]
    return X


def random_missing(y: Float, rng: np.random.Generator) -> None:
    """Nothing in some voxels, a few or many subjects in others, one voxel without anyone."""
    rate = rng.choice([0, 0.1, 0.6], size=y.shape[1])
    y[rng.random(y.shape) < rate] = np.nan
    y[:, rng.integers(y.shape[1])] = np.nan


def exact(y: NDArray[np.floating], X: Float) -> tuple[Float, float]:
    """Coefficients and residual sum of squares of one voxel by the normal equations in rational numbers."""
    rows = [[Fraction(float(value)) for value in row] for row in X]
    values = [Fraction(float(value)) for value in y]
    p = X.shape[1]
    table = [[sum(r[a] * r[b] for r in rows) for b in range(p)] for a in range(p)]
    for a in range(p):
        table[a].append(sum(r[a] * value for r, value in zip(rows, values, strict=True)))
    for a in range(p):
        swap = next(b for b in range(a, p) if table[b][a] != 0)
        table[a], table[swap] = table[swap], table[a]
        table[a] = [entry / table[a][a] for entry in table[a]]
        for b in set(range(p)) - {a}:
            table[b] = [x - table[b][a] * z for x, z in zip(table[b], table[a], strict=True)]
    beta = [row[p] for row in table]
    residuals = [
        value - sum(x * b for x, b in zip(r, beta, strict=True)) for r, value in zip(rows, values, strict=True)
    ]
    return np.array([float(b) for b in beta]), float(sum(e * e for e in residuals))


@given(seed=seeds, constant=st.sampled_from(["column", "spanned", "none"]), dtype=dtypes)
@properties
def test_complete_data_equal_lstsq(seed: int, constant: str, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    X = random_design(rng, constant=constant)
    n, p = X.shape
    y = (X @ rng.normal(size=(p, 300)) + rng.normal(size=(n, 300))).astype(dtype)
    beta, rss, _, _ = np.linalg.lstsq(X, y.astype(np.float64))
    for available in (False, True):
        fit = streamed(y, X, rng, available=available)
        np.testing.assert_allclose(fit.beta, beta, rtol=0, atol=1e-11)
        np.testing.assert_allclose(fit.residual_variance, rss / (n - p), rtol=1e-11)
        np.testing.assert_array_equal(fit.dof, n - p)
    assert fit.covariance is not None
    expected = np.linalg.inv(X.T @ X)
    np.testing.assert_allclose(fit.covariance, np.repeat(expected[:, :, None], 300, axis=2), rtol=0, atol=1e-11)


@given(seed=seeds, constant=st.sampled_from(["column", "spanned", "none"]), dtype=dtypes)
@properties
def test_available_cases_equal_lstsq_on_the_subjects_of_each_voxel(seed: int, constant: str, dtype: type) -> None:
    rng = np.random.default_rng(seed)
    X = random_design(rng, constant=constant)
    n, p = X.shape
    y = (X @ rng.normal(size=(p, 12)) + rng.normal(size=(n, 12))).astype(dtype)
    random_missing(y, rng)
    fit = streamed(y, X, rng, available=True)
    assert fit.covariance is not None
    for voxel in range(12):
        there = ~np.isnan(y[:, voxel])
        dof = there.sum() - p
        if dof <= 0 or np.linalg.matrix_rank(X[there]) < p:
            for part in (fit.beta, fit.residual_variance[None], fit.dof[None], fit.covariance):
                assert np.isnan(part[..., voxel]).all()
            continue
        beta, rss, _, singular = np.linalg.lstsq(X[there], y[there, voxel].astype(np.float64))
        condition = singular[0] / singular[-1]
        np.testing.assert_allclose(fit.beta[:, voxel], beta, rtol=0, atol=1e-12 * condition**2)
        np.testing.assert_allclose(fit.residual_variance[voxel], rss[0] / dof, rtol=1e-12 * condition**2)
        assert fit.dof[voxel] == dof
        covariance = np.linalg.inv(X[there].T @ X[there])
        np.testing.assert_allclose(
            fit.covariance[..., voxel], covariance, rtol=0, atol=1e-13 * condition**2 * np.abs(covariance).max()
        )


@given(seed=seeds)
@properties
def test_complete_cases_are_nan_where_any_subject_is_missing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = random_design(rng, constant="column")
    y = rng.normal(size=(len(X), 20))
    complete_data = y.copy()
    random_missing(y, rng)
    missing = np.isnan(y).any(axis=0)
    fit = streamed(y, X, rng, available=False)
    whole = np.linalg.lstsq(X, complete_data)[0]
    assert fit.covariance is None
    assert np.isnan(fit.beta[:, missing]).all()
    assert np.isnan(fit.residual_variance[missing]).all()
    assert np.isnan(fit.dof[missing]).all()
    np.testing.assert_allclose(fit.beta[:, ~missing], whole[:, ~missing], rtol=0, atol=1e-12)


@given(seed=seeds, available=st.booleans())
@properties
def test_rank_deficient_designs_give_the_solution_of_minimum_norm(seed: int, available: bool) -> None:
    rng = np.random.default_rng(seed)
    n, groups = 24, 3
    member = np.eye(groups)[np.arange(n) % groups]
    covariate = rng.normal(size=n)
    X = np.column_stack([np.ones(n), member, covariate, 2 * covariate - 1])
    order = rng.permutation(X.shape[1])
    X, rank = X[:, order], groups + 1
    y = 100 * rng.normal(size=8) + rng.normal(size=(n, 8))
    if available:
        y[rng.random(y.shape) < 0.2] = np.nan
    fit = streamed(y, X, rng, available=available)
    for voxel in range(8):
        there = ~np.isnan(y[:, voxel])
        if np.linalg.matrix_rank(X[there]) < rank or there.sum() <= rank:
            assert np.isnan(fit.beta[:, voxel]).all()
            continue
        beta, _, found, _ = np.linalg.lstsq(X[there], y[there, voxel], rcond=1e-10)
        assert found == rank
        residuals = y[there, voxel] - X[there] @ beta
        np.testing.assert_allclose(fit.beta[:, voxel], beta, rtol=0, atol=1e-9)
        np.testing.assert_allclose(X[there] @ fit.beta[:, voxel], X[there] @ beta, rtol=0, atol=1e-10)
        np.testing.assert_allclose(
            fit.residual_variance[voxel], residuals @ residuals / (there.sum() - rank), rtol=1e-9
        )
        # A difference of two groups can be estimated, whatever the solution.
        difference = np.array([0, 1, -1, 0, 0, 0.0])[order]
        np.testing.assert_allclose(difference @ fit.beta[:, voxel], difference @ beta, rtol=0, atol=1e-10)
        if fit.covariance is not None:
            expected = np.linalg.pinv(X[there].T @ X[there], rcond=1e-10, hermitian=True)
            np.testing.assert_allclose(fit.covariance[..., voxel], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("constant", ["column", "spanned", "none"])
@pytest.mark.parametrize("available", [False, True])
def test_means_of_a_million_deviations_lose_nothing(constant: str, available: bool) -> None:
    rng = np.random.default_rng(1)
    for _ in range(3):
        X = random_design(rng, constant=constant, n=14)
        n, p = X.shape
        y = 1e6 * rng.choice([-1, 1], size=6) + rng.normal(size=(n, 6))
        if available:
            y[rng.random(y.shape) < 0.15] = np.nan
        fit = streamed(y, X, rng, available=available)
        for voxel in range(6):
            there = ~np.isnan(y[:, voxel])
            assert there.sum() > p
            beta, rss = exact(y[there, voxel], X[there])
            # Slopes beside a constant are of the order of 1, whatever the mean.
            slope = np.ones(p, dtype=bool) if constant == "none" else ~np.isin(X, [0, 1]).all(axis=0)
            scale = np.where(slope & (constant != "none"), 1, 1e6)
            assert np.abs(beta / scale).max() < 100
            np.testing.assert_array_less(np.abs(fit.beta[:, voxel] - beta) / scale, 1e-12)
            np.testing.assert_allclose(fit.residual_variance[voxel], rss / (there.sum() - p), rtol=1e-11)


@pytest.mark.parametrize("available", [False, True])
def test_designs_that_explain_all_but_a_millionth_of_a_millionth(available: bool) -> None:
    rng = np.random.default_rng(2)
    for _ in range(3):
        X = random_design(rng, constant="column", n=14)
        n, p = X.shape
        signal = X @ rng.normal(size=(p, 5))
        y = 1e6 * signal / signal.std(axis=0) + rng.normal(size=(n, 5))
        if available:
            y[rng.random(y.shape) < 0.15] = np.nan
        fit = streamed(y, X, rng, available=available)
        for voxel in range(5):
            there = ~np.isnan(y[:, voxel])
            beta, rss = exact(y[there, voxel], X[there])
            total = np.nanvar(y[:, voxel]) * there.sum()
            assert 1e-14 < rss / total < 1e-11
            np.testing.assert_allclose(fit.beta[:, voxel], beta, rtol=0, atol=1e-12 * np.abs(beta).max())
            np.testing.assert_allclose(fit.residual_variance[voxel], rss / (there.sum() - p), rtol=1e-7)


@given(seed=seeds, dtype=dtypes, value=st.sampled_from([0.1, -3.7e5, 1e-20, 0.0]))
@properties
def test_constant_voxels_have_no_residual_variance_at_all(seed: int, dtype: type, value: float) -> None:
    rng = np.random.default_rng(seed)
    X = random_design(rng, constant=str(rng.choice(["column", "spanned"])))
    y = np.full((len(X), 9), value, dtype=dtype)
    y[:, 4] = rng.normal(size=len(X))
    y[rng.random(len(X)) < 0.2, 5:] = np.nan
    there = ~np.isnan(y)
    solvable = np.array([np.linalg.matrix_rank(X[rows]) == X.shape[1] < rows.sum() for rows in there.T])
    constant = np.arange(9) != 4
    fit = streamed(y, X, rng, available=True)
    assert (fit.residual_variance[solvable & constant] == 0.0).all()
    assert fit.residual_variance[4] > 0.01
    stored = float(dtype(value))
    fitted = X @ fit.beta[:, solvable & constant]
    np.testing.assert_allclose(fitted, stored, rtol=1e-11, atol=0)


@given(seed=seeds, offset=st.sampled_from([0, 3, 100_000]))
@properties
def test_exact_combinations_of_regressors_have_no_residual_variance(seed: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 30))
    X = np.column_stack([np.ones(n), np.arange(n) % 2, rng.permutation(n)])
    y = X @ rng.integers(-5, 6, size=(3, 10)) + offset  # whole numbers: exact
    fit = streamed(y, X, rng, available=bool(rng.integers(2)))
    np.testing.assert_array_equal(fit.residual_variance, 0.0)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_chunks_with_fewer_subjects_than_regressors(rows: int) -> None:
    rng = np.random.default_rng(3)
    X = np.column_stack([np.ones(24), rng.normal(size=(24, 4))])
    y = rng.normal(size=(24, 7)) + 50
    y[rng.random(y.shape) < 0.1] = np.nan
    basis = decompose(X)
    states = [
        reduce(y[i : i + rows], basis.rows[i : i + rows], basis.constant, available=True) for i in range(0, 24, rows)
    ]
    state = states[0]
    for other in states[1:]:
        state = combine(state, other)
    fit = solve(state, basis, available=True)
    for voxel in range(7):
        there = ~np.isnan(y[:, voxel])
        beta, rss, _, _ = np.linalg.lstsq(X[there], y[there, voxel])
        np.testing.assert_allclose(fit.beta[:, voxel], beta, rtol=0, atol=1e-10)
        np.testing.assert_allclose(fit.residual_variance[voxel], rss[0] / (there.sum() - 5), rtol=1e-10)


def test_a_voxel_without_data_in_whole_chunks_is_fitted_to_the_others() -> None:
    rng = np.random.default_rng(4)
    X = np.column_stack([np.ones(20), rng.normal(size=20)])
    y = rng.normal(size=(20, 4)) + 1e6
    y[:5, 0] = y[5:10, 1] = y[15:, 2] = y[:, 3] = np.nan
    basis = decompose(X)
    for order in ([0, 1, 2, 3], [3, 0, 2, 1], [1, 3, 0, 2]):
        states = [
            reduce(y[5 * k : 5 * k + 5], basis.rows[5 * k : 5 * k + 5], basis.constant, available=True) for k in order
        ]
        fit = solve(combine(combine(states[0], states[1]), combine(states[2], states[3])), basis, available=True)
        for voxel in range(3):
            there = ~np.isnan(y[:, voxel])
            beta, rss = exact(y[there, voxel], X[there])
            np.testing.assert_allclose(fit.beta[0, voxel], beta[0], rtol=1e-15)
            np.testing.assert_allclose(fit.beta[1, voxel], beta[1], rtol=0, atol=1e-12)
            np.testing.assert_allclose(fit.residual_variance[voxel], rss / 13, rtol=1e-11)
        assert np.isnan(fit.beta[:, 3]).all()
        assert np.isnan([fit.residual_variance[3], fit.dof[3]]).all()


def test_the_rank_of_a_design_does_not_depend_on_units() -> None:
    rng = np.random.default_rng(5)
    full = np.column_stack([np.ones(30), rng.normal(size=(30, 3))])
    units = np.array([1, 1e-12, 1e9, 1e3])
    assert decompose(full * units).rank == 4
    assert decompose(full * units).dependent == ()
    deficient = np.column_stack([full, full[:, 1] - 2 * full[:, 3], np.zeros(30)])
    basis = decompose(deficient * np.array([*units, 1e6, 1]))
    assert basis.rank == 4
    assert basis.dependent == (4, 5)
    np.testing.assert_allclose(basis.rows.T @ basis.rows, np.eye(4), atol=1e-14)


def test_nearly_collinear_columns_still_give_an_orthonormal_basis() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=50)
    X = np.column_stack([np.ones(50), x, x + 1e-9 * rng.normal(size=50)])
    basis = decompose(X)
    assert basis.rank == 3
    np.testing.assert_allclose(basis.rows.T @ basis.rows, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(basis.rows @ (basis.rows.T @ X), X, rtol=0, atol=1e-13)
