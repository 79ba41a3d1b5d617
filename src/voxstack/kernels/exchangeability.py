"""Exchangeability blocks: which subjects, or blocks of them, may take each other's places or flip their signs.

They are a tree, the multi-level blocks of Winkler et al. (2015, NeuroImage 123:253): the children of an exchangeable
node may be exchanged as wholes, those of a fixed node keep their places.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tree:
    """A node of the tree of exchangeability, with all that is below it.

    Attributes
    ----------
    exchangeable
        Whether its children may be exchanged as wholes, those of one structure with each other. Else they keep their
        places.
    rows : (m,) int64
        The subjects below it. Blocks of one structure that are exchanged correspond in this order.
    children
        Blocks below it, those of one structure side by side; none where its children are the subjects themselves.
    structure
        The same for blocks that may be exchanged with each other: those of equal size and equal blocks within.
    label
        Its name, for messages.
    """

    exchangeable: bool
    rows: Integers
    children: tuple["Tree", ...]
    structure: Any
    label: str


def tree_of(n: int, levels: Integers | None = None) -> Tree:
    """The tree of n subjects.

    Parameters
    ----------
    n
        Number of subjects.
    levels : (n, k) int, optional
        Block of each subject, level by level from the outermost to the innermost. A positive number says that what is
        directly below the block may be exchanged as wholes, a negative one that it keeps its place. The same number in
        two blocks of the level before are two blocks. Blocks of an outermost level of several blocks keep their
        places. Where every row is another one, the last of several levels only numbers the subjects: those of blocks
        that are exchanged correspond in its order, else in the order of the rows. Without levels all subjects may be
        exchanged.
    """
    if levels is None:
        return _node(np.arange(n), True, (), "")
    assert levels.shape[0] == n, levels.shape
    assert levels.shape[1] > 0, levels.shape
    assert (levels != 0).all()
    by_level = [key for column in levels.T[::-1] for key in (column, np.abs(column))]
    order = np.lexsort(by_level)
    if levels.shape[1] > 1 and len(np.unique(levels, axis=0)) == n:
        levels = levels[:, :-1]
    nodes = _nodes(levels, order)
    return nodes[0] if len(nodes) == 1 else _node(order, False, nodes, "")


def _nodes(levels: Integers, rows: Integers) -> tuple[Tree, ...]:
    """The blocks of the first of some levels, of sorted rows."""
    if levels.shape[1] == 0:
        return ()
    of = levels[rows, 0]
    parts = np.split(rows, np.flatnonzero(np.diff(of)) + 1)
    numbers = [int(levels[part[0], 0]) for part in parts]
    below = levels[:, 1:]
    return tuple(
        _node(part, number > 0, _nodes(below, part), str(abs(number)))
        for part, number in zip(parts, numbers, strict=True)
    )


def _node(rows: Integers, exchangeable: bool, children: tuple[Tree, ...], label: str) -> Tree:
    children = tuple(sorted(children, key=lambda child: child.structure))
    if children:
        rows = np.concatenate([child.rows for child in children])
    parts = [child.structure for child in children] or [()] * len(rows)
    structure = (exchangeable, *parts) if len(parts) > 1 else parts[0]  # a block around a single one changes nothing
    return Tree(exchangeable, rows, children, structure, label)


class Siblings(NamedTuple):
    """Blocks of one structure, side by side in the order of the tree's rows, that are exchanged with each other.

    Attributes
    ----------
    begin
        Where they begin in the tree's rows.
    size, units
        Subjects in each, and how many they are.
    flips
        Whether each of them also flips its sign by itself.
    """

    begin: int
    size: int
    units: int
    flips: bool


def siblings(tree: Tree, begin: int = 0, *, flips: bool = True) -> Iterator[Siblings]:
    """All that generates the group of a tree, the innermost first.

    Parameters
    ----------
    tree
    begin
        Where its rows begin.
    flips
        Whether it lies in no block that flips as a whole. In such a block nothing flips by itself: its errors depend
        on each other, and flips of a part would change how. PALM has the same rule.
    """
    sizes = [len(child.rows) for child in tree.children]
    begins = (begin + np.cumsum([0, *sizes])).tolist()
    for child, at in zip(tree.children, begins[:-1], strict=True):
        yield from siblings(child, at, flips=flips and not tree.exchangeable)
    if not tree.exchangeable:
        return
    if not tree.children:
        yield Siblings(begin, 1, len(tree.rows), flips)
    for _, alike in groupby(range(len(sizes)), lambda position: tree.children[position].structure):
        first, *others = alike
        yield Siblings(begins[first], sizes[first], 1 + len(others), flips)


def orbits(tree: Tree) -> Integers:
    """A number (n,) for each subject: the same for those that permutations can put in each other's place."""
    number = np.arange(len(tree.rows))
    for begin, size, units, _ in siblings(tree):
        number[begin : begin + units * size] = np.tile(number[begin : begin + size], units)
    result = np.empty_like(number)
    result[tree.rows] = number
    return result
