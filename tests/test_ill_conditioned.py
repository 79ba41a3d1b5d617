"""Designs whose columns have other units or nearly repeat each other: F and t against nested models."""

import numpy as np
import pytest
from numpy.typing import NDArray

import voxstack as vx

N = 60
RNG = np.random.default_rng(3)
AGE = RNG.normal(50, 10, N)
VOLUME = RNG.normal(1.5e6, 1.3e5, N)  # intracranial, in mm3
YEAR = RNG.uniform(1950, 2010, N)

DESIGNS = {
    "two regressors that nearly agree": [AGE, AGE + 1e-4 * RNG.standard_normal(N)],
    "a volume and its square": [AGE, VOLUME, VOLUME**2],
    "a cube": [AGE, VOLUME**3],
    "years": [YEAR, YEAR**2, YEAR**3],
    "a huge unit": [AGE, 1e100 * RNG.standard_normal(N)],
    "a tiny unit": [AGE, 1e-100 * RNG.standard_normal(N)],
}


def rss(design: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residual sums of squares, by Householder QR of columns of unit length."""
    Q = np.linalg.qr(design / np.linalg.norm(design, axis=0))[0]
    residual = y - Q @ (Q.T @ y)
    residual -= Q @ (Q.T @ residual)
    return (residual**2).sum(axis=0)


@pytest.mark.parametrize("columns", DESIGNS.values(), ids=DESIGNS)
@pytest.mark.parametrize("missing", ["complete", "available"])
def test_statistics_are_those_of_nested_models(columns: list[NDArray[np.float64]], missing: str) -> None:
    X = np.column_stack([np.ones(N), *columns])
    p = X.shape[1]
    y = RNG.standard_normal((N, 12)) + AGE[:, None] / 10
    if missing == "available":
        y[:3] = np.nan
    cohort = vx.from_arrays({"effect": y.reshape(N, 3, 2, 2)}, affine=np.eye(4), mask=np.ones((3, 2, 2)))
    fit = vx.fit_glm(cohort, X, missing=missing)
    result = vx.contrast(fit, {"F": np.eye(p)[1:], "last": np.eye(p)[-1]}).compute()

    present = ~np.isnan(y[:, 0])
    X, y = X[present], y[present]
    full = rss(X, y)
    variance = full / (len(X) - p)
    F = (rss(X[:, :1], y) - full) / (p - 1) / variance
    t_squared = (rss(X[:, :-1], y) - full) / variance
    condition = np.linalg.cond(X / np.linalg.norm(X, axis=0))
    # (X'X)^-1 of each voxel squares the condition of what is tested together.
    rtol = min(1e-10 + 1e-15 * (condition if missing == "complete" else condition**2), 1e-5)
    np.testing.assert_allclose(result["stat"].sel(contrast="F").values.ravel(), F, rtol=rtol)
    np.testing.assert_allclose(result["stat"].sel(contrast="last").values.ravel() ** 2, t_squared, rtol=1e-6, atol=1e-9)
    assert result["dof_num"].sel(contrast="F") == p - 1


def test_the_sum_of_two_regressors_that_nearly_agree_is_as_exact_as_their_mean() -> None:
    first, second = DESIGNS["two regressors that nearly agree"]
    y = RNG.standard_normal((N, 3, 2, 2)) + AGE[:, None, None, None] / 10
    cohort = vx.from_arrays({"effect": y}, affine=np.eye(4))
    given = vx.fit_glm(cohort, np.column_stack([np.ones(N), first, second]))
    turned = vx.fit_glm(cohort, np.column_stack([np.ones(N), (first + second) / 2, (first - second) / 2]))
    added, mean = vx.contrast(given, "x2 + x3"), vx.contrast(turned, "x2")
    np.testing.assert_allclose(added["stat"], mean["stat"], rtol=1e-8)


def test_each_row_of_an_f_contrast_must_be_estimable() -> None:
    groups = np.repeat(np.eye(3), N // 3, axis=0)
    cohort = vx.from_arrays({"effect": RNG.standard_normal((N, 2, 2, 2))}, affine=np.eye(4))
    with pytest.warns(vx.errors.VoxstackWarning, match="rank 3"):
        fit = vx.fit_glm(cohort, np.column_stack([groups, np.ones(N)]))
    vx.contrast(fit, {"F": [[1e9, -1e9, 0, 0], [0, 1, -1, 0]]})
    with pytest.raises(vx.errors.DesignError, match="cannot estimate the contrast 'F'"):
        vx.contrast(fit, {"F": [[1e9, -1e9, 0, 0], [0, 1, 0, 0]]})
