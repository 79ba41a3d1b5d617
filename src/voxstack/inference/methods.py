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

from voxstack.kernels.partition import Float, Partition, relabelled

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
        of X first; without those whose products with the residuals are 0.
    nuisance
        (partition, permutations, signs) -> (b, s, n): Z of each relabelled model, vectors of unit length; None where it
        is not fitted again.
    rows
        "model": relabellings are distinct if they change the rows of [X Z]; "effect": those of X.
    """

    name: str
    residuals: Callable[[Partition], Float]
    vectors: Callable[[Partition, NDArray[np.integer], NDArray[Any]], Float]
    nuisance: Callable[[Partition, NDArray[np.integer], NDArray[Any]], Float] | None
    rows: Literal["model", "effect"] = "model"


def _whole_model(partition: Partition, permutations: NDArray[np.integer], signs: NDArray[Any]) -> Float:
    """X and Z relabelled together; of Z what no permutation changes has products of 0 with the residuals."""
    return relabelled(np.hstack([partition.effect, partition.moving]), permutations, signs)


def relabelled_effect(partition: Partition, permutations: NDArray[np.integer], signs: NDArray[Any]) -> Float:
    """X relabelled, without Z."""
    return relabelled(partition.effect, permutations, signs)


def _effect_beside_nuisance(partition: Partition, permutations: NDArray[np.integer], signs: NDArray[Any]) -> Float:
    """X relabelled, without what Z as it is explains of it."""
    Z = partition.nuisance
    vectors = relabelled(partition.effect, permutations, signs)
    for _ in range(2):
        vectors -= (vectors @ Z) @ Z.T
    if vectors.shape[1] == 1:
        length = np.linalg.norm(vectors, axis=2, keepdims=True)
        return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > _NOTHING))
    _, sizes, axes = np.linalg.svd(vectors, full_matrices=False)
    kept: Float = axes * (sizes > _NOTHING)[:, :, None]  # a relabelled X that Z explains tests nothing
    return kept


def _relabelled_nuisance(partition: Partition, permutations: NDArray[np.integer], signs: NDArray[Any]) -> Float:
    """Z relabelled with X."""
    return relabelled(partition.nuisance, permutations, signs)


def _same_nuisance(partition: Partition, permutations: NDArray[np.integer], signs: NDArray[Any]) -> Float:
    """Z as it is."""
    Z = partition.nuisance.T
    return np.ascontiguousarray(np.broadcast_to(Z, (len(permutations), *Z.shape)))


def reduced(partition: Partition) -> Float:
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
        Method("freedman-lane", reduced, _whole_model, _relabelled_nuisance),
        Method("draper-stoneman", reduced, _effect_beside_nuisance, _same_nuisance, rows="effect"),
        Method("dekker", reduced, _effect_beside_nuisance, _same_nuisance),
        Method("manly", _still, _whole_model, _relabelled_nuisance),
        Method("ter-braak", _full, _whole_model, _relabelled_nuisance),
        Method("still-white", reduced, relabelled_effect, None, rows="effect"),
    )
}
