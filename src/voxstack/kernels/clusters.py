"""Clusters: voxels beyond a threshold that touch, their extent and their mass.

Clusters are found by union-find (Tarjan 1975, Journal of the ACM 22:215) over the voxels beyond the threshold alone,
which are few in most maps. The mass of a cluster is the sum of its values, as in PALM (Winkler et al. 2014, NeuroImage
92:381), not of what they exceed the threshold by (Bullmore et al. 1999, IEEE Transactions on Medical Imaging 18:32).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.jit import jit
from voxstack.kernels.suprathreshold import Sides, Suprathreshold, find

Float = NDArray[np.float64]
Index = NDArray[np.int32]


@jit
def _join(voxel: Index, value: Float, apart: bool, neighbours: Index, place: Index, root: Index) -> None:
    # For each place in the list, the first place of its cluster. `place` of every voxel is -1 before and after; its
    # last element stays so, and is what a neighbour -1 reads.
    for j in range(voxel.size):
        i = voxel[j]
        place[i], root[j] = j, j
        first = np.int32(j)
        for k in range(neighbours.shape[1]):
            other = place[neighbours[i, k]]
            if other < 0 or (apart and (value[other] > 0) != (value[j] > 0)):
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
def _largest(
    number: NDArray[np.int64],
    voxels: Index,
    values: Float,
    apart: bool,
    neighbours: Index,
    extents: NDArray[np.int64],
    masses: Float,
) -> None:
    place, most = np.full(len(neighbours) + 1, -1, np.int32), number.max() if number.size else 0
    root, extent, mass = np.empty(most, np.int32), np.empty(most, np.int64), np.empty(most)
    start = 0
    for i in range(number.size):
        m = number[i]
        voxel, value = voxels[start : start + m], values[start : start + m]
        start += m
        _join(voxel, value, apart, neighbours, place, root[:m])
        for j in range(m):
            first = root[j]
            if first == j:
                extent[j], mass[j] = 0, 0.0
            extent[first] += 1
            mass[first] += abs(value[j])
            extents[i] = max(extents[i], extent[first])
            masses[i] = max(masses[i], mass[first])


def largest(found: Suprathreshold, neighbours: Index, *, apart: bool) -> tuple[NDArray[np.int64], Float]:
    """Largest extent and largest mass over the clusters of each map.

    Parameters
    ----------
    found
        Voxels that reach the threshold, of b maps.
    neighbours : (v, k) int32
        Of `voxstack.kernels.neighbours`.
    apart
        Whether clusters are of one sign each.

    Returns
    -------
    extent : (b,) int64
        Number of voxels; 0 without any cluster.
    mass : (b,) float64
        Sum of absolute values, in the order of the list; 0 without any cluster. The two may be of different clusters.
    """
    extent, mass = np.zeros(len(found.number), dtype=np.int64), np.zeros(len(found.number))
    _largest(*found, apart, neighbours, extent, mass)
    return extent, mass


def label(values: Float, neighbours: Index, *, threshold: float, sides: Sides, tie: float) -> Index:
    """Number the clusters of one map.

    Parameters
    ----------
    values : (v,) float64
        NaN is in no cluster.
    neighbours : (v, k) int32
        Of `voxstack.kernels.neighbours`.
    threshold, sides, tie
        As of `suprathreshold.find`; clusters of "signed" are of one sign each, those of "absolute" may hold either.

    Returns
    -------
    (v,) int32 array
        0 outside clusters, 1 in the cluster with the most voxels, and so on; of clusters of one size, the one with the
        first voxel comes first.
    """
    assert values.shape == neighbours.shape[:1], (values.shape, neighbours.shape)
    _, voxel, value = find(values[None], threshold=threshold, sides=sides, tie=tie)
    place, root = np.full(values.size + 1, -1, dtype=np.int32), np.empty(voxel.size, dtype=np.int32)
    _join(voxel, value, sides == "signed", neighbours, place, root)
    _, cluster, extent = np.unique(root, return_inverse=True, return_counts=True)
    rank = np.empty_like(extent)
    rank[np.argsort(-extent, kind="stable")] = np.arange(1, len(extent) + 1)
    labels = np.zeros(values.size, dtype=np.int32)
    labels[voxel] = rank[cluster]
    return labels


def label_sides(
    values: Float, neighbours: Index, *, threshold: float, sides: Sequence[Sides], least: int, tie: float
) -> Index:
    """Number the clusters of several sides, one side after the other, each in falling size.

    Parameters
    ----------
    values, neighbours, threshold, tie
        As of `label`.
    sides
        In order; no voxel is in clusters of two.
    least
        Voxels that a cluster must have.

    Returns
    -------
    (v,) int32 array
        0 outside clusters.
    """
    labels, number = np.zeros(values.size, dtype=np.int32), 0
    for side in sides:
        found = label(values, neighbours, threshold=threshold, sides=side, tie=tie)
        found[(np.bincount(found) < least)[found]] = 0  # the smallest have the last numbers
        labels += np.where(found > 0, found + np.int32(number), np.int32(0))
        number += int(found.max(initial=0))
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
