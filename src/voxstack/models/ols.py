"""Ordinary least squares: every subject counts alike."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels import least_squares as ls
from voxstack.kernels.basis import Basis, decompose
from voxstack.models.blueprint import Cases, Estimate, Float, Model, Pass


class _Setup(NamedTuple):
    basis: Basis
    available: bool
    min_subjects: int


def _prepare(design: Float, cases: Cases) -> _Setup:
    return _Setup(decompose(design), cases.missing == "available", cases.min_subjects)


def _partial(blocks: Sequence[NDArray[Any]], rows: slice, setup: _Setup, previous: None) -> ls.Reduced:
    basis = setup.basis
    return ls.reduce(blocks[0], basis.rows[rows], basis.constant, available=setup.available)


def _finish(reduced: ls.Reduced, setup: _Setup) -> dict[str, Float]:
    fit = ls.solve(reduced, setup.basis, available=setup.available, min_subjects=setup.min_subjects)
    maps = {"beta": fit.beta, "residual_variance": fit.residual_variance, "dof": fit.dof}
    return maps if fit.covariance is None else maps | {"beta_covariance": fit.covariance}


def _shared(setup: _Setup) -> dict[str, Float]:
    return {} if setup.available else {"beta_covariance": setup.basis.covariance}


def _contrast(fit: Mapping[str, Float], weights: Float, stat_type: Literal["t", "F"]) -> Estimate:
    effects = weights @ fit["beta"]  # (q, v)
    # Without residual variance there is nothing to hold an effect against.
    residual_variance = np.where(fit["residual_variance"] > 0, fit["residual_variance"], np.nan)
    if stat_type == "F":
        none = np.full(effects.shape[1], np.nan)
        return Estimate(none, none, _explained(fit, weights, effects) / len(weights) / residual_variance, fit["dof"])
    if fit["beta_covariance"].ndim == 2:
        unscaled = np.sum((weights[0] @ fit["to_beta"]) ** 2)
    else:
        unscaled = np.einsum("p,pqv,q->v", weights[0], fit["beta_covariance"], weights[0])
    stat = effects[0] / np.sqrt(residual_variance * unscaled)
    return Estimate(effects[0], fit["residual_variance"] * unscaled, stat, fit["dof"])


def _explained(fit: Mapping[str, Float], weights: Float, effects: Float) -> Float:
    """Sum of squares (v,) that q independent effects explain: e' (C (X'X)^-1 C')^-1 e."""
    if fit["beta_covariance"].ndim == 2:
        # (X'X)^-1 is to_beta to_beta': with the QR decomposition of C to_beta its condition is not squared.
        _, R = np.linalg.qr((weights @ fit["to_beta"]).T)
        standard = np.linalg.solve(R.T, effects)
        return np.asarray(np.einsum("qv,qv->v", standard, standard))
    covariance = np.einsum("ap,pqv,bq->vab", weights, fit["beta_covariance"], weights, optimize=True)
    explained = np.full(effects.shape[1], np.nan)
    known = np.isfinite(covariance).all(axis=(1, 2)) & np.isfinite(effects).all(axis=0)
    scale = np.sqrt(np.einsum("vaa->va", covariance[known]))  # to units in which the effects have variance 1
    scaled, standard = covariance[known] / scale[:, :, None] / scale[:, None], effects[:, known].T / scale
    explained[known] = np.einsum("va,va->v", standard, np.linalg.solve(scaled, standard[..., None])[..., 0])
    return explained


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
