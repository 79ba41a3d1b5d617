"""Clusters: voxels beyond a threshold that touch, their extent and their mass.

Clusters are found by union-find (Tarjan 1975, Journal of the ACM 22:215) over the voxels beyond the threshold alone,
which are few in most maps. The mass of a cluster is the sum of its values, as in PALM (Winkler et al. 2014, NeuroImage
92:381), not of what they exceed the threshold by (Bullmore et al. 1999, IEEE Transactions on Medical Imaging 18:32).
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit

Float = NDArray[np.float64]
Index = NDArray[np.int32]
Sides = Literal["greater", "less", "signed", "absolute"]

_BLOCK = 64  # voxels: few blocks hold any beyond the usual thresholds


class _Beyond(NamedTuple):
    """A voxel is beyond the threshold where its value is at least `upper` or at most `lower`; NaN stands for never."""

    upper: float
    lower: float
    apart: bool  # clusters of one sign each


def _beyond(threshold: float, sides: Sides, tie: float) -> _Beyond:
    assert threshold > 0, threshold
    least = float(threshold * (1 - tie))
    upper = float("nan") if sides == "less" else least
    lower = float("nan") if sides == "greater" else -least
    return _Beyond(upper, lower, sides == "signed")


@jit
def _find(values: Float, beyond: _Beyond, voxel: Index) -> int:
    # Lists the m voxels beyond the threshold. Blocks are looked through without a branch, several times faster.
    upper, lower, _ = beyond
    m = 0
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        found = 0
        for j in range(block.size):
            found += (block[j] >= upper) | (block[j] <= lower)
        if found > 0:
            for j in range(block.size):
                voxel[m] = start + j
                m += (block[j] >= upper) | (block[j] <= lower)
    return m


@jit
def _join(values: Float, voxel: Index, apart: bool, neighbours: Index, place: Index, root: Index) -> None:
    # For each place in the list, the place of the first voxel of its cluster. `place` of every voxel is -1 before and
    # after; its last element stays so, and is what a neighbour -1 reads.
    for j in range(voxel.size):
        i = voxel[j]
        place[i], root[j] = j, j
        first = np.int32(j)
        for k in range(neighbours.shape[1]):
            other = place[neighbours[i, k]]
            if other < 0 or (apart and (values[voxel[other]] > 0) != (values[i] > 0)):
                continue
            while root[other] != other:
                root[other] = root[root[other]]
                other = root[other]
            root[max(first, other)] = min(first, other)
            first = min(first, other)
    for j in range(voxel.size):
        place[voxel[j]] = -1
        root[j] = root[root[j]]  # which comes before j, and is settled


@jit
def _largest(maps: Float, beyond: _Beyond, neighbours: Index, extents: NDArray[np.int64], masses: Float) -> None:
    b, v = maps.shape
    place, voxel, root = np.full(v + 1, -1, np.int32), np.empty(v, np.int32), np.empty(v, np.int32)
    extent, mass = np.empty(v, np.int64), np.empty(v)
    for i in range(b):
        values = maps[i]
        m = _find(values, beyond, voxel)
        _join(values, voxel[:m], beyond.apart, neighbours, place, root)
        for j in range(m):
            first = root[j]
            if first == j:
                extent[j], mass[j] = 0, 0.0
            extent[first] += 1
            mass[first] += abs(values[voxel[j]])
            extents[i] = max(extents[i], extent[first])
            masses[i] = max(masses[i], mass[first])


def largest(
    maps: Float, neighbours: Index, *, threshold: float, sides: Sides, tie: float
) -> tuple[NDArray[np.int64], Float]:
    """Largest extent and largest mass over the clusters of each map.

    Parameters
    ----------
    maps : (b, v) float64
        NaN is in no cluster.
    neighbours : (v, k) int32
        Of `voxstack.kernels.neighbours`.
    threshold
        Positive. A voxel is in a cluster where its value is at least the threshold.
    sides
        "greater": values at least the threshold; "less": at most its negative; "signed": both, in clusters of one sign
        each; "absolute": both, in clusters that may hold either sign.
    tie
        Relative tolerance: values short of the threshold by no more than this count as equal to it.

    Returns
    -------
    extent : (b,) int64
        Number of voxels; 0 without any cluster.
    mass : (b,) float64
        Sum of absolute values, in the order of voxels; 0 without any cluster. The two may be of different clusters.
    """
    assert maps.shape[1:] == neighbours.shape[:1], (maps.shape, neighbours.shape)
    extent, mass = np.zeros(len(maps), dtype=np.int64), np.zeros(len(maps))
    _largest(np.ascontiguousarray(maps), _beyond(threshold, sides, tie), neighbours, extent, mass)
    return extent, mass


def label(values: Float, neighbours: Index, *, threshold: float, sides: Sides, tie: float) -> Index:
    """Number the clusters of one map.

    Parameters
    ----------
    values : (v,) float64
        NaN is in no cluster.
    neighbours, threshold, sides, tie
        As of `largest`.

    Returns
    -------
    (v,) int32 array
        0 outside clusters, 1 in the cluster with the most voxels, and so on; of clusters of one size, the one with the
        first voxel comes first.
    """
    assert values.shape == neighbours.shape[:1], (values.shape, neighbours.shape)
    values, beyond = np.ascontiguousarray(values), _beyond(threshold, sides, tie)
    voxel = np.empty(values.size, dtype=np.int32)
    voxel = voxel[: _find(values, beyond, voxel)]
    place, root = np.full(values.size + 1, -1, dtype=np.int32), np.empty(voxel.size, dtype=np.int32)
    _join(values, voxel, beyond.apart, neighbours, place, root)
    _, cluster, extent = np.unique(root, return_inverse=True, return_counts=True)
    rank = np.empty_like(extent)
    rank[np.argsort(-extent, kind="stable")] = np.arange(1, len(extent) + 1)
    labels = np.zeros(values.size, dtype=np.int32)
    labels[voxel] = rank[cluster]
    return labels


def extent_and_mass(labels: Index, values: Float) -> tuple[NDArray[np.int64], Float]:
    """Extent and mass of the cluster that each voxel is in.

    Parameters
    ----------
    labels : (v,) int32
        Of `label`; 0 is outside clusters.
    values : (v,) float64

    Returns
    -------
    extent : (v,) int64
        Number of voxels; 0 outside clusters.
    mass : (v,) float64
        Sum of absolute values, in the order of voxels; 0 outside clusters.
    """
    assert labels.shape == values.shape, (labels.shape, values.shape)
    extent = np.bincount(labels, minlength=1).astype(np.int64)
    mass = np.bincount(labels, weights=np.abs(values), minlength=1).astype(np.float64)
    extent[0], mass[0] = 0, 0.0
    return extent[labels], mass[labels]
