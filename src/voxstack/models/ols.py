"""Ordinary least squares: every subject counts alike."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels import least_squares as ls
from voxstack.models.blueprint import Estimate, Float, Missing, Model, Pass


class _Setup(NamedTuple):
    basis: ls.Basis
    available: bool


def _prepare(design: Float, missing: Missing) -> _Setup:
    return _Setup(ls.decompose(design), missing == "available")


def _partial(blocks: Sequence[NDArray[Any]], rows: slice, setup: _Setup, previous: None) -> ls.Reduced:
    basis = setup.basis
    return ls.reduce(blocks[0], basis.rows[rows], basis.constant, available=setup.available)


def _finish(reduced: ls.Reduced, setup: _Setup) -> dict[str, Float]:
    fit = ls.solve(reduced, setup.basis, available=setup.available)
    maps = {"beta": fit.beta, "residual_variance": fit.residual_variance, "dof": fit.dof}
    return maps if fit.covariance is None else maps | {"beta_covariance": fit.covariance}


def _shared(setup: _Setup) -> dict[str, Float]:
    return {} if setup.available else {"beta_covariance": setup.basis.covariance}


def _contrast(fit: Mapping[str, Float], weights: Float, stat_type: Literal["t", "F"]) -> Estimate:
    effects = weights @ fit["beta"]  # (q, v)
    covariance = fit["beta_covariance"]
    if covariance.ndim == 2:
        covariance = covariance[:, :, None]
    unscaled = np.einsum("ap,pqv,bq->abv", weights, covariance, weights, optimize=True)  # (q, q, v or 1)
    # Without residual variance there is nothing to hold an effect against.
    residual_variance = np.where(fit["residual_variance"] > 0, fit["residual_variance"], np.nan)
    if stat_type == "t":
        variance = fit["residual_variance"] * unscaled[0, 0]
        stat = effects[0] / np.sqrt(residual_variance * unscaled[0, 0])
        return Estimate(effects[0], variance, stat, fit["dof"])
    known = np.isfinite(unscaled).all(axis=(0, 1))
    inverse, rank = np.full(unscaled.shape, np.nan), np.full(known.shape, np.nan)
    inverse[..., known], rank[known] = _pseudo_inverse(unscaled[..., known])
    explained = np.einsum(
        "av,abv,bv->v", effects, np.broadcast_to(inverse, (*inverse.shape[:2], effects.shape[1])), effects
    )
    none = np.full(effects.shape[1], np.nan)
    return Estimate(none, none, explained / rank / residual_variance, fit["dof"])


def _pseudo_inverse(matrices: Float) -> tuple[Float, Float]:
    """Inverses (q, q, m) and ranks (m,) of covariances, in the units of their diagonals: rows may repeat each other."""
    scale = np.sqrt(np.einsum("aam->am", matrices))
    scaled = (matrices / scale[:, None] / scale[None]).transpose(2, 0, 1)
    tolerance = 1e-10
    inverse = np.linalg.pinv(scaled, rcond=tolerance, hermitian=True)
    rank = np.linalg.matrix_rank(scaled, rtol=tolerance, hermitian=True)
    return inverse.transpose(1, 2, 0) / scale[:, None] / scale[None], rank.astype(float)


OLS = Model(
    name="ols",
    needs=("map",),
    prepare=_prepare,
    passes=(Pass(_partial, ls.combine, _finish),),
    maps={
        "complete": ("beta", "residual_variance", "dof"),
        "available": ("beta", "residual_variance", "dof", "beta_covariance"),
    },
    shared=_shared,
    contrast=_contrast,
)
