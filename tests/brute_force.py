"""Permutation tests by the book, in plain NumPy and SciPy: every relabelling, one least-squares fit each.

Nothing here is fast, shared with the package, or relabels designs where the literature relabels data. Relabelling a
design by L is relabelling data by the inverse of L, which is its transpose.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage, stats

Float = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

STEPS = {6: 1, 18: 2, 26: 3}  # along axes, from a voxel to its neighbours
ROUNDING = 1e-9  # relative: statistics that are nearer to each other are equal


@dataclass(frozen=True)
class Case:
    """A hypothesis and how it is tested.

    Attributes
    ----------
    design : (n, p)
    weights : (q, p)
        Of the contrast, linearly independent rows.
    stat_type
        "t" or "F".
    kind
        "permute", "flip" or "both".
    levels : (n, k)
        Exchangeability blocks: a column of ones or minus ones, nested blocks of signed numbers, numbers of subjects.
    method
        Of the literature.
    alternative
        Of t.
    """

    design: Float
    weights: Float
    stat_type: str
    kind: str
    levels: Integers
    method: str = "freedman-lane"
    alternative: str = "two-sided"

    @property
    def dof(self) -> int:
        return len(self.design) - int(np.linalg.matrix_rank(self.design))

    def score(self, statistic: Float) -> Float:
        """What is compared: large values are against the null hypothesis."""
        if self.stat_type == "F" or self.alternative == "greater":
            return statistic
        return -statistic if self.alternative == "less" else np.abs(statistic)

    def to_z(self, statistic: Float) -> Float:
        return to_z(statistic, self.dof, len(self.weights) if self.stat_type == "F" else None)


def to_z(statistic: Float, dof: float, dof_num: float | None = None) -> Float:
    """The normal deviate of the same tail as F, if it has a `dof_num`, or as t."""
    if dof_num is not None:
        return stats.norm.isf(stats.f.sf(statistic, dof_num, dof))
    return np.sign(statistic) * stats.norm.isf(stats.t.sf(np.abs(statistic), dof))


# ----- relabellings


def free(n: int) -> Integers:
    """Levels of n subjects without blocks."""
    return np.column_stack([np.ones(n, dtype=int), np.arange(n) + 1])


def one_level(labels: Any, *, within: bool, whole: bool) -> Integers:
    """Levels of one column of blocks."""
    labels = np.asarray(labels)
    n = len(labels)
    return np.column_stack([np.full(n, 1 if whole else -1), labels if within else -labels, np.arange(n) + 1])


def permutations(levels: Integers) -> Integers:
    """All permutations (b, n) that blocks allow: what is below a positive number may be exchanged as wholes."""
    n = len(levels)
    orders = _orders(levels, np.arange(n))
    sources = np.fromiter(itertools.chain.from_iterable(orders), dtype=np.int64).reshape(-1, n)
    found = np.empty_like(sources)
    found[:, sources[0]] = sources  # the first order leaves all where they are
    return found


def _orders(levels: Integers, rows: Integers) -> Iterator[tuple[int, ...]]:
    """Orders of the rows of one block, whose number is in the first column."""
    exchangeable, parts = levels[rows[0], 0] > 0, _parts(levels, rows)
    if levels.shape[1] == 2:
        members = tuple(int(part[0]) for part in parts)
        yield from itertools.permutations(members) if exchangeable else [members]
        return
    shapes = [_shape(levels[:, 1:], part) for part in parts]
    for order in itertools.permutations(range(len(parts))) if exchangeable else [tuple(range(len(parts)))]:
        if all(shapes[new] == shapes[old] for old, new in enumerate(order)):
            for chosen in itertools.product(*(list(_orders(levels[:, 1:], parts[part])) for part in order)):
                yield tuple(itertools.chain(*chosen))


def _parts(levels: Integers, rows: Integers) -> list[Integers]:
    numbers = np.abs(levels[rows, 1])
    return [rows[numbers == number] for number in np.unique(numbers)]


def _shape(levels: Integers, rows: Integers) -> Any:
    """The same for blocks that may take each other's place."""
    if levels.shape[1] == 1:
        return ()
    return levels[rows[0], 0] > 0, [_shape(levels[:, 1:], part) for part in _parts(levels, rows)]


def signs(levels: Integers) -> Integers:
    """All signs (b, n) that blocks allow: what may be exchanged as a whole flips as a whole, and nothing in it."""
    units = list(_units(levels, np.arange(len(levels))))
    found = np.ones((2 ** len(units), len(levels)), dtype=np.int64)
    for row, chosen in zip(found, itertools.product([1, -1], repeat=len(units)), strict=True):
        for unit, sign in zip(units, chosen, strict=True):
            row[unit] = sign
    return found


def _units(levels: Integers, rows: Integers) -> Iterator[Integers]:
    if levels.shape[1] == 1:
        return
    for part in _parts(levels, rows):
        if levels[rows[0], 0] > 0:
            yield part
        else:
            yield from _units(levels[:, 1:], part)


def relabellings(rows: Float, levels: Integers, kind: str) -> tuple[Integers, Integers]:
    """Permutations and signs (b, n) that give distinct designs ``signs[:, None] * rows[permutation]``; identity first.

    Parameters
    ----------
    rows : (n, p)
        What has to differ; values that differ by rounding errors are equal.
    """
    n = len(rows)
    moved = permutations(levels) if kind != "flip" else np.arange(n)[None]
    turned = signs(levels) if kind != "permute" else np.ones((1, n), dtype=np.int64)
    both = np.round(np.concatenate([rows, -rows]) / np.abs(rows).max(), 9) + 0.0
    number = np.unique(both, axis=0, return_inverse=True)[1].reshape(2, n)
    images = np.where(turned[None] > 0, number[0][moved][:, None], number[1][moved][:, None]).reshape(-1, n)
    as_numbers = images @ (2 * n) ** np.arange(n)
    _, first = np.unique(as_numbers, return_index=True)
    first.sort()
    return moved[first // len(turned)], turned[first % len(turned)]


# ----- models


def divide(design: Float, weights: Float) -> tuple[Float, Float]:
    """X and Z of Winkler et al. 2014, appendix A: X = M D C (C'DC)^-1 and Z = M D Cv (Cv'DCv)^-1."""
    C = weights.T
    M_inverse = np.linalg.pinv(design)
    D = M_inverse @ M_inverse.T  # (M'M)^-1, without squares of M
    Cu = linalg.null_space(weights)
    Cv = Cu - C @ np.linalg.inv(C.T @ D @ C) @ C.T @ D @ Cu
    X = M_inverse.T @ C @ np.linalg.inv(C.T @ D @ C)
    MDCv = M_inverse.T @ Cv
    if np.linalg.norm(MDCv) < 1e-10 * np.linalg.norm(M_inverse):  # all of the model is tested
        return X, X[:, :0]
    return X, MDCv @ np.linalg.pinv(Cv.T @ D @ Cv, rcond=1e-10)


def residuals(y: Float, regressors: Float) -> Float:
    """Of least squares; twice, since a large mean leaves rounding errors at first."""
    if regressors.shape[1] == 0:
        return y
    solve = _inverse(regressors.tobytes(), regressors.shape)
    left = y - regressors @ (solve @ y)
    return left - regressors @ (solve @ left)


@lru_cache(maxsize=16)
def _inverse(content: bytes, shape: tuple[int, int]) -> Float:
    """Moore-Penrose inverse, once for the many relabellings that need it."""
    return np.linalg.pinv(np.frombuffer(content).reshape(shape), rcond=1e-10)


def statistic(y: Float, X: Float, Z: Float, dof: int, stat_type: str) -> Float:
    """t or F (v,) of the coefficients of X in the regression of y (n, v) on X and Z.

    0 where Z explains the data, or X, so that there is nothing for X to explain; infinite where both together explain
    the data.
    """
    size, reduced, full = (
        np.linalg.norm(part, axis=0) for part in (y, residuals(y, Z), residuals(y, np.hstack([X, Z])))
    )
    alone = residuals(X, Z)  # the part of X that gives its coefficients
    known = reduced > 1e-9 * size
    spread = np.where(full > 1e-9 * size, full, 0) / np.sqrt(dof)
    with np.errstate(divide="ignore", invalid="ignore"):
        if stat_type == "F":
            return np.where(known, (reduced**2 - full**2) / X.shape[1] / spread**2, 0)
        length = np.linalg.norm(alone[:, 0])
        if length < 1e-9 * np.linalg.norm(X):
            return np.zeros(y.shape[1])
        return np.where(known, (alone[:, 0] / length) @ y / spread, 0)


Model = tuple[Float, Float, Float]  # response, X, Z

METHODS: dict[str, Callable[[Float, Float, Float, Float], Model]] = {
    # (y, X, Z, L) -> the model that is fitted, by table 2 of Winkler et al. 2014
    "freedman-lane": lambda y, X, Z, L: (L.T @ residuals(y, Z) + y - residuals(y, Z), X, Z),
    "draper-stoneman": lambda y, X, Z, L: (y, L @ X, Z),
    "dekker": lambda y, X, Z, L: (y, L @ residuals(X, Z), Z),
    "manly": lambda y, X, Z, L: (L.T @ y, X, Z),
    # Tested is whether coefficients differ from the observed ones, which is to fit the difference from the fit.
    "ter-braak": lambda y, X, Z, L: (L.T @ residuals(y, np.hstack([X, Z])), X, Z),
    "still-white": lambda y, X, Z, L: (L.T @ residuals(y, Z), X, Z[:, :0]),
}


def distinct(case: Case) -> tuple[Integers, Integers]:
    """Permutations and signs that change [X Z], or of methods that relabel X alone, X."""
    X, _ = divide(case.design, case.weights)
    of_effect = case.method in ("draper-stoneman", "still-white")
    return relabellings(X if of_effect else case.design, case.levels, case.kind)


def all_statistics(y: Float, case: Case, relabelled: tuple[Integers, Integers] | None = None) -> Float:
    """t or F (b, v) of relabellings of data (n, v), the identity first; NaN where nothing can be fitted.

    Parameters
    ----------
    relabelled
        Permutations and signs; by default all distinct ones.
    """
    n, v = y.shape
    X, Z = divide(case.design, case.weights)
    moved, turned = distinct(case) if relabelled is None else relabelled
    there = ~np.isnan(y).any(axis=0)
    left = residuals(y[:, there], case.design)
    there[there] = np.abs(left).max(axis=0, initial=0) > 1e-11 * np.abs(y[:, there]).max(axis=0, initial=0)
    found = np.full((len(moved), v), np.nan)
    found[0, there] = statistic(y[:, there], X, Z, case.dof, case.stat_type)
    for row, permutation, sign in zip(found[1:], moved[1:], turned[1:], strict=True):
        L = sign[:, None] * np.eye(n)[permutation]
        row[there] = statistic(*METHODS[case.method](y[:, there], X, Z, L), case.dof, case.stat_type)
    return found


# ----- p-values


def p_uncorrected(scores: Float) -> Float:
    """Share of relabellings (b, v) that reach the first one, voxel by voxel."""
    observed = scores[0]
    reached = scores >= observed - ROUNDING * np.maximum(1, np.abs(observed))
    return np.where(np.isnan(observed), np.nan, reached.mean(axis=0))


def p_corrected(observed: Float, maxima: Float) -> Float:
    """Share of maxima (b,) that reach each observed value."""
    reached = maxima[:, None] >= np.ravel(observed) - ROUNDING * np.maximum(1, np.abs(np.ravel(observed)))
    return np.where(np.isnan(observed), np.nan, reached.mean(axis=0).reshape(np.shape(observed)))


# ----- clusters and TFCE of maps (x, y, z), NaN outside the mask


def two_sides(enhance: Callable[[Float], Float], map_: Float, sides: str) -> Float:
    """Values, not negative, of what is enhanced on one side, on each side alone, or on both together."""
    up, down = np.nan_to_num(np.maximum(map_, 0)), np.nan_to_num(np.maximum(-map_, 0))
    if sides == "absolute":
        return enhance(up + down)
    return sum((enhance(side) for name, side in (("greater", up), ("less", down)) if sides in (name, "signed")), 0 * up)


def clusters(heights: Float, threshold: float, connectivity: int, *, mass: bool) -> Float:
    found = np.zeros(heights.shape)
    for inside in each_cluster(heights >= threshold, connectivity):
        found[inside] = heights[inside].sum() if mass else inside.sum()
    return found


def each_cluster(inside: Mask, connectivity: int) -> list[Mask]:
    labels, number = _labelled(inside, connectivity)
    return [labels == label for label in range(1, number + 1)]


def tfce(heights: Float, connectivity: int, E: float, H: float) -> Float:
    """The integral over heights, which has a step wherever a voxel leaves its cluster."""
    found, below = np.zeros(heights.shape), 0.0
    for height in np.unique(heights[heights > 0]):
        found += layer(heights >= height, connectivity, E) * (height ** (H + 1) - below ** (H + 1)) / (H + 1)
        below = height
    return found


def layer(inside: Mask, connectivity: int, E: float) -> Float:
    """What TFCE has of one height: extents of clusters to the power of E, 0 outside of them."""
    labels, _ = _labelled(inside, connectivity)
    return np.where(labels > 0, np.bincount(labels.ravel())[labels] ** E, 0)


def _labelled(inside: Mask, connectivity: int) -> tuple[Integers, int]:
    return ndimage.label(inside, ndimage.generate_binary_structure(3, STEPS[connectivity]))
