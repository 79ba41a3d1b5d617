"""A model divided into what a contrast tests and what it does not: the partition of Guttman and Beckmann."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.basis import Basis
from voxstack.kernels.jit import jit

Float = NDArray[np.float64]

_SAME = 1e-10  # values that are closer than this, in units of the largest one, are equal but for rounding


class Partition(NamedTuple):
    """Orthonormal bases of the two parts of a model, which are orthogonal to each other.

    Attributes
    ----------
    effect : (n, q) float64
        Of the effective regressors X, whose q coefficients a contrast of rank q tests. For q = 1 its product with the
        data has the sign of the contrast.
    still, moving : (n, s) and (n, r - q - s) float64
        Of the rest of the model, Z: the part that no permutation changes, and all else.
    """

    effect: Float
    still: Float
    moving: Float

    @property
    def nuisance(self) -> Float:
        """Basis of Z, (n, r - q)."""
        return np.hstack([self.still, self.moving])

    @property
    def model(self) -> Float:
        """Basis of X and Z, (n, r)."""
        return np.hstack(self)


def divide(basis: Basis, weights: Float, orbits: NDArray[np.int64] | None) -> Partition:
    """Partition of a model by a contrast, such that the effect part is orthogonal to the nuisance part.

    The model is reparametrised so that the contrast is on coefficients of its own: X = M D C (C'DC)^-1 with
    D = (M'M)^-1 spans the same as the vectors found here (Smith et al. 2007, NeuroImage 34:127; Guttman 1982, Linear
    Models; Winkler et al. 2014, NeuroImage 92:381, appendix A).

    Parameters
    ----------
    basis
        Of the design.
    weights : (q, p) float64
        Linearly independent rows that the design can estimate.
    orbits : (n,) int64 or None
        The same number for subjects that may take each other's places; None where not only places change.
    """
    assert weights.shape[1:] == basis.to_beta.shape[:1], weights.shape
    in_basis = weights @ basis.to_beta  # (q, r): what the contrast takes from Q'y
    q = len(in_basis)
    in_basis = in_basis / np.linalg.norm(in_basis, axis=1, keepdims=True)
    axes, triangle = np.linalg.qr(in_basis.T, mode="complete")
    # The sign of a decomposition is arbitrary, that of a t contrast is not.
    axes[:, :q] *= np.where(np.diag(triangle) < 0, -1.0, 1.0)
    nuisance = basis.rows @ axes[:, q:]
    still = 0
    if orbits is not None and nuisance.size:
        # What is constant within each orbit: nothing is left of it when the orbits' means are taken out.
        groups = np.unique(orbits, return_inverse=True)[1]
        sums = np.stack([np.bincount(groups, weights=column) for column in nuisance.T], axis=1)
        rest = nuisance - (sums / np.bincount(groups)[:, None])[groups]
        _, sizes, directions = np.linalg.svd(rest, full_matrices=False)
        nuisance = nuisance @ directions[::-1].T
        still = nuisance.shape[1] - int(np.sum(sizes > _SAME))
    return Partition(basis.rows @ axes[:, :q], nuisance[:, :still], nuisance[:, still:])


@jit
def _relabelled(basis: Float, permutations: NDArray[np.integer], signs: NDArray[np.integer], found: Float) -> None:
    b, k, n = found.shape
    for i in range(b):
        for a in range(k):
            for j in range(n):
                found[i, a, j] = basis[a, permutations[i, j]] * signs[i, j]


def relabelled(basis: Float, permutations: NDArray[np.integer], signs: NDArray[np.integer]) -> Float:
    """Relabelled bases.

    Parameters
    ----------
    basis : (n, k) float64
    permutations, signs : (b, n)
        Of the rows.

    Returns
    -------
    (b, k, n) float64
    """
    found = np.empty((len(permutations), basis.shape[1], len(basis)))
    _relabelled(np.ascontiguousarray(basis.T), permutations, signs, found)
    return found


def without_rounding(rows: Float) -> Float:
    """The same rows with values that are equal but for rounding made equal, and those near 0 made 0.

    Parameters
    ----------
    rows : (n, p) float64
    """
    columns = []
    for column in rows.T:
        size = np.abs(column)
        order = np.argsort(size)
        near = np.diff(size[order], prepend=0.0) <= _SAME * size.max(initial=0.0)
        # Each run of values close to the one before takes the value of its first; the first run may be 0.
        first = np.maximum.accumulate(np.where(near, 0, np.arange(len(size))))
        equal = np.empty_like(size)
        equal[order] = np.where((first == 0) & near[0], 0.0, size[order][first])
        columns.append(np.where(equal == 0, 0.0, np.copysign(equal, column)))
    return np.column_stack(columns) if columns else rows.copy()
