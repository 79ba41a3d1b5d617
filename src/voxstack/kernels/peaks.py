"""Local maxima of a cluster, some distance apart."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Float = NDArray[np.float64]

_TOUCHING = np.ones((3, 3, 3), dtype=bool)  # voxels that share a face, an edge or a corner


def local_maxima(values: Float, inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Voxels of a cluster with no higher neighbour in it among 26: (k, 3) voxel numbers, the highest first.

    Voxels of one value that touch are one maximum, if none of them touches a higher one; of these it is the voxel
    nearest to their centre. Of equal heights, or distances, the one with the lowest numbers comes first.

    Parameters
    ----------
    values : (x, y, z) float64
    inside : (x, y, z) bool
        The cluster.
    """
    assert values.shape == inside.shape, (values.shape, inside.shape)
    heights = np.where(inside, values, -np.inf)
    maxima = inside & (heights == ndimage.maximum_filter(heights, size=3, mode="constant", cval=-np.inf))
    while True:  # what touches an equal voxel that is no maximum is none either
        rest = np.where(inside & ~maxima, heights, -np.inf)
        beaten = maxima & (heights == ndimage.maximum_filter(rest, size=3, mode="constant", cval=-np.inf))
        if not beaten.any():
            break
        maxima &= ~beaten
    flat, number = ndimage.label(maxima, _TOUCHING)
    at = np.argwhere(maxima)
    group = flat[maxima]
    sums = np.stack([np.bincount(group, weights=axis, minlength=number + 1) for axis in at.T.astype(float)], axis=1)
    centre = sums / np.maximum(np.bincount(group, minlength=number + 1), 1)[:, None]
    away = np.linalg.norm(at - centre[group], axis=1).round(9)
    nearest_first = np.lexsort((away, group))
    _, first = np.unique(group[nearest_first], return_index=True)
    chosen = at[np.sort(nearest_first[first])]
    return chosen[np.argsort(-heights[tuple(chosen.T)], kind="stable")]


def apart(places: Float, least: float, most: int | None) -> NDArray[np.int64]:
    """Which of some places to keep, so that all are further from each other than a distance: the first one, the next
    one that is far enough, and so on, at most a number of them.

    Parameters
    ----------
    places : (k, 3) float64
        In mm, in order of preference.
    least
        Distance in mm.
    most
        Number to keep; None keeps all.
    """
    kept: list[int] = []
    for i, place in enumerate(places):
        if most is not None and len(kept) == most:
            break
        if not kept or np.linalg.norm(places[kept] - place, axis=1).min() > least:
            kept.append(i)
    return np.array(kept, dtype=np.int64)
