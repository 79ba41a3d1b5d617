"""What relabellings of one hypothesis come to in one block of voxels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.permuted import Float
from voxstack.plan.permutation import held_voxels, tile_voxels

Values = NDArray[np.floating]  # of subjects and voxels (n, v), float32 or float64; NaN is missing


class Tally(NamedTuple):
    """Of b relabellings at v voxels.

    Attributes
    ----------
    stat : (v,) float64
        t or F of the identity.
    observed : (v,) float64
        What relabellings are compared by, of the identity: r or R, or z where degrees of freedom differ between voxels.
        NaN where it cannot be tested, or where there are no residuals.
    dof : (v,) float64
        Residual degrees of freedom.
    maxima : (b,) float64
        Of the scores over the voxels; -inf where there is none.
    counts : (v,) int64
        Of relabellings whose score is at least the observed one.
    """

    stat: Float
    observed: Float
    dof: Float
    maxima: Float
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, v: int, b: int) -> Self:
        """Of nothing."""
        stat, observed, dof = np.full((3, v), np.nan)
        return cls(stat, observed, dof, np.full(max(b, 0), -np.inf), np.zeros(v, dtype=np.int64))


@dataclass(frozen=True)
class Found:
    """What was found of one hypothesis at the v voxels of the mask.

    Attributes
    ----------
    stat, observed, dof : (v,) float64
        t or F of the identity, what relabellings are compared by (r or R, or z of available cases), and residual
        degrees of freedom.
    counts : (v,) int64
        Of relabellings whose score reaches it.
    maxima : (b,) float64
        Of the scores of each relabelling.
    largest : dict
        For each statistic of whole maps, its largest value of each relabelling (b,).
    """

    stat: Float
    observed: Float
    dof: Float
    counts: NDArray[np.int64]
    maxima: Float
    largest: dict[str, Float] = field(default_factory=dict)


def tiles(n: int, v: int) -> Iterator[slice]:
    """Of v voxels those that are worked on at a time, in parts of much the same size, with values of n subjects."""
    number = -(-v // tile_voxels(n))
    for first, last in pairwise(k * v // max(number, 1) for k in range(number + 1)):
        yield slice(first, last)


def groups(n: int, v: int, number: int) -> Iterator[list[slice]]:
    """Tiles whose residuals are in memory at a time, of a test of so many relabellings."""
    every, most = list(tiles(n, v)), held_voxels(n, number) // tile_voxels(n)
    return (every[first : first + most] for first in range(0, len(every), most))
