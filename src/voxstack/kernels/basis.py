"""The column space of a design: an orthonormal basis, its rank, and the way back to coefficients."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)


class Basis(NamedTuple):
    """An orthonormal basis of a design's column space.

    Attributes
    ----------
    rows : (n, r) float64
        The basis Q, one row a subject.
    to_beta : (p, r) float64
        Turns Q'y into coefficients: the least-squares solution of minimum norm where the design is rank deficient.
    constant : (r,) float64
        The constant vector's coordinates in the basis; zeros where it is not in the column space.
    beta_of_constant : (p,) float64
        Coefficients of the constant vector: what adding 1 to the data adds to beta.
    dependent : tuple of int
        Columns that are linear combinations of the columns before them.
    """

    rows: Float
    to_beta: Float
    constant: Float
    beta_of_constant: Float
    dependent: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Rank r of the design."""
        return int(self.to_beta.shape[1])

    @property
    def covariance(self) -> Float:
        """(X'X)^-1, or its Moore-Penrose inverse: (p, p)."""
        product: Float = self.to_beta @ self.to_beta.T
        return product


def decompose(design: Float) -> Basis:
    """Orthonormal basis and rank of a design by twice-repeated Gram-Schmidt, column by column.

    A column counts as dependent when less than ``8 max(n, p) eps`` of its length is left after the columns before it
    are taken out; the test does not depend on the columns' units.

    Parameters
    ----------
    design : (n, p) float64

    Returns
    -------
    Basis
    """
    assert design.ndim == 2, design.shape
    n, p = design.shape
    tolerance = 8 * max(n, p) * _EPS
    Q = np.empty((n, 0))
    dependent = []
    for column in range(p):
        norm = float(np.linalg.norm(design[:, column]))
        rest = design[:, column] / norm if norm > 0 else np.zeros(n)
        for _ in range(2):
            rest = rest - Q @ (Q.T @ rest)
        left = float(np.linalg.norm(rest))
        if left <= tolerance:
            dependent.append(column)
            continue
        # Where little was left, the remainder is orthogonal only up to that cancellation: once more, at unit length.
        rest = rest / left
        rest = rest - Q @ (Q.T @ rest)
        Q = np.column_stack([Q, rest / np.linalg.norm(rest)])
    to_beta = _solution(Q, design, dependent)
    constant = Q.sum(axis=0)
    if n - constant @ constant > n * tolerance:
        return Basis(Q, to_beta, np.zeros_like(constant), np.zeros(p), tuple(dependent))
    beta_of_constant = to_beta @ constant
    # Coefficients that are zero but for rounding would be multiplied by means of any size.
    size = np.abs(beta_of_constant) * np.linalg.norm(design, axis=0)
    beta_of_constant[size <= tolerance * np.sqrt(n)] = 0.0
    whole = np.round(beta_of_constant)
    near = np.allclose(whole, beta_of_constant, rtol=0, atol=1e-8)
    if near and np.array_equal(design @ whole, np.ones(n)):  # as for an intercept, or the indicators of groups
        beta_of_constant = whole
    return Basis(Q, to_beta, constant, beta_of_constant, tuple(dependent))


def _solution(Q: Float, design: Float, dependent: list[int]) -> Float:
    """What turns Q'y into coefficients (p, r), computed with columns of unit length, so that units do not matter."""
    p = design.shape[1]
    norms = np.linalg.norm(design, axis=0)
    norms[norms == 0] = 1.0
    independent = [column for column in range(p) if column not in dependent]
    to_beta = np.zeros((p, len(independent)))
    T = np.triu(Q.T @ (design[:, independent] / norms[independent]))
    to_beta[independent] = np.linalg.inv(T) / norms[independent, None]
    if dependent:
        # Of all solutions the one of minimum norm: without any part along the combinations of columns that are 0.
        null = np.zeros((p, len(dependent)))
        null[dependent, range(len(dependent))] = 1.0
        null[independent] = -to_beta[independent] @ (Q.T @ design[:, dependent])
        N = np.linalg.qr(null)[0]
        to_beta = to_beta - N @ (N.T @ to_beta)
    return to_beta
