"""How a relabelling meets a model with nuisance regressors: one blueprint per method of the literature.

Winkler et al. 2014, NeuroImage 92:381, table 2, compares them. With the model divided into X, what is tested, and Z, of
which X is orthogonal, and P a relabelling; here P is applied to the design, which is the same as its inverse applied to
the data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.partition import Float, Partition

_NOTHING = 1e-10  # of a unit vector: rounding error


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes
    ----------
    name
        Its key in `METHODS`.
    residuals
        Partition -> basis (n, k) that is taken out of the data before all else.
    vectors
        (partition, permutations (b, n), signs (b, n)) -> (b, m, n): orthonormal vectors of each relabelled model, those
        of X first.
    rows
        "model": relabellings are distinct if they change the rows of [X Z]; "effect": those of X.
    apart
        Whether the observed statistic is not one of the residuals relabelled by the identity: then it is that of the
        model itself.
    """

    name: str
    residuals: Callable[[Partition], Float]
    vectors: Callable[[Partition, NDArray[np.int64], NDArray[Any]], Float]
    rows: Literal["model", "effect"] = "model"
    apart: bool = False


def _relabelled(basis: Float, permutations: NDArray[np.int64], signs: NDArray[Any]) -> Float:
    """(b, k, n) of (n, k)."""
    return np.ascontiguousarray(np.swapaxes(basis[permutations] * signs[:, :, None], 1, 2))


def _whole_model(partition: Partition, permutations: NDArray[np.int64], signs: NDArray[Any]) -> Float:
    """X and Z relabelled together; of Z what no permutation changes has products of 0 with the residuals."""
    return _relabelled(np.hstack([partition.effect, partition.moving]), permutations, signs)


def _effect(partition: Partition, permutations: NDArray[np.int64], signs: NDArray[Any]) -> Float:
    """X relabelled, without Z."""
    return _relabelled(partition.effect, permutations, signs)


def _effect_beside_nuisance(partition: Partition, permutations: NDArray[np.int64], signs: NDArray[Any]) -> Float:
    """X relabelled, without what Z as it is explains of it."""
    Z = partition.nuisance
    vectors = _relabelled(partition.effect, permutations, signs)
    for _ in range(2):
        vectors -= (vectors @ Z) @ Z.T
    if vectors.shape[1] == 1:
        length = np.linalg.norm(vectors, axis=2, keepdims=True)
        return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > _NOTHING))
    _, sizes, axes = np.linalg.svd(vectors, full_matrices=False)
    kept: Float = axes * (sizes > _NOTHING)[:, :, None]  # a relabelled X that Z explains tests nothing
    return kept


def _reduced(partition: Partition) -> Float:
    """Residuals of the model without X."""
    return partition.nuisance


def _full(partition: Partition) -> Float:
    """Residuals of the whole model."""
    return partition.model


def _still(partition: Partition) -> Float:
    """The data themselves, but for what every relabelled Z explains: it would only cost digits."""
    return partition.still


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("freedman-lane", _reduced, _whole_model),
        Method("draper-stoneman", _reduced, _effect_beside_nuisance, rows="effect"),
        Method("dekker", _reduced, _effect_beside_nuisance),
        Method("manly", _still, _whole_model),
        Method("ter-braak", _full, _whole_model, apart=True),
        Method("still-white", _reduced, _effect, rows="effect"),
    )
}
