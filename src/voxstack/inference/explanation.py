"""What exchangeability blocks allow, in words and numbers, and what restricts it."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.errors import DesignError, listing, warn
from voxstack.kernels.basis import decompose
from voxstack.kernels.exchangeability import Tree
from voxstack.kernels.relabel import Kind, Relabellings

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """Exchangeability blocks in words and numbers; `str` of it is the whole text.

    Attributes
    ----------
    summary
        What there is, and what moves.
    restrictions
        What is in the way of relabelling, one sentence each.
    n_subjects
    block_sizes
        Number of subjects of each block, level by level from the outermost one; empty without blocks.
    n_relabellings
        Distinct ones of the design, the identity included: exact, of any size.
    """

    summary: str
    restrictions: tuple[str, ...]
    n_subjects: int
    block_sizes: tuple[tuple[int, ...], ...]
    n_relabellings: int

    def __str__(self) -> str:
        return "\n".join([self.summary, *(f"- {one}" for one in self.restrictions), _possible(self.n_relabellings)])


class _Block(NamedTuple):
    """A node of the tree, where it stands, and whether what is directly below it would flip if it is exchangeable."""

    node: Tree
    name: str
    level: int
    parent: Tree | None
    flips: bool


def describe_blocks(tree: Tree, rows: Float, kind: Kind, subjects: Sequence[str] | None = None) -> Explanation:
    """What a tree allows for a design.

    Parameters
    ----------
    tree
        Of n subjects.
    rows : (n, p)
        Of the design, without rounding error.
    kind
        "permute", "flip" or "both".
    subjects
        Their labels; by default their numbers, from 1 on.
    """
    n = len(tree.rows)
    subjects = [str(i + 1) for i in range(n)] if subjects is None else subjects
    blocks = list(_walk(_Block(tree, "", 0, None, True)))
    depth = max(block.level for block in blocks)
    levels = [[block for block in blocks if block.level == level] for level in range(depth + 1)]
    lines = [_sentences(levels, level, kind) for level in range(depth + 1)]
    return Explanation(
        "\n".join([f"{_many(n, 'subject')}{'' if depth else ', without blocks'}.", *lines]),
        tuple(_restrictions(blocks, rows, kind, subjects)),
        n,
        tuple(tuple(len(block.node.rows) for block in level) for level in levels[1:]),
        Relabellings(rows, tree, kind, 0).count,
    )


def check_relabellings(contrast: str, explanation: Explanation) -> None:
    """Refuse a contrast for which no relabelling but the identity is left.

    Raises
    ------
    DesignError
    """
    if explanation.n_relabellings == 1:
        raise DesignError(
            f"The contrast {contrast!r} has no relabelling but the identity, so that nothing can be tested. Give "
            f"larger blocks, or relabel in another way.\n{explanation}"
        )


def warn_without_block_effects(design: Float, tree: Tree) -> None:
    """Warn where subjects are exchanged within blocks that keep their places and have no effect of their own.

    Parameters
    ----------
    design : (n, p)
        The whole design. Its column space should hold the indicator of each such block.
    tree
        Of exchangeability.

    Warns
    -----
    VoxstackWarning
        With names of blocks that lack one.
    """
    apart = list(_apart(_Block(tree, "", 0, None, True)))
    if len(apart) < 2:
        return
    Q = decompose(np.asarray(design, dtype=float)).rows
    without = []
    for block in apart:
        size = len(block.node.rows)
        inside = Q[block.node.rows].sum(axis=0)
        if block.node.exchangeable and size > 1 and size - inside @ inside > 1e-8 * size:
            without.append(block)
    if without:
        warn(
            f"Subjects are exchanged within blocks, but the design has no effect of {_named(without)}: differences "
            "between blocks stay in the residuals, and the test is less sensitive. Add the blocks to the design as a "
            "factor, such as C(family)."
        )


def warn_of_single_flips(contrast: str, effect: Float, tree: Tree) -> None:
    """Warn where what differs between blocks alone is tested by flips of single images within them.

    Parameters
    ----------
    contrast
        Its name.
    effect : (n, q)
        What it tests, the same for all images of a block that subjects are exchanged within.
    tree
        Of exchangeability.

    Warns
    -----
    VoxstackWarning
        Such flips suppose images of one block that are independent of each other, as those of one person are not.
    """
    within = [block.node for block in _apart(_Block(tree, "", 0, None, True)) if block.node.exchangeable]
    alone = any(len(node.rows) > 1 and not node.children for node in within)
    if len(within) > 1 and alone and (effect != effect[0]).any():
        warn(
            f"{contrast!r} differs between blocks alone, so nothing can be exchanged within them: signs of single "
            "images are flipped, as if images of one block were independent. If they are not, as those of one person, "
            "exchange whole blocks: Blocks(..., whole=True), or --whole-blocks. If they are, say relabelling='flip'."
        )


def _walk(block: _Block) -> Iterator[_Block]:
    yield block
    for child in _below(block):
        yield from _walk(child)


def _below(block: _Block) -> list[_Block]:
    node, prefix = block.node, f"{block.name}/" if block.level else ""
    flips = block.flips and not node.exchangeable
    return [_Block(child, prefix + child.label, block.level + 1, node, flips) for child in node.children]


def _apart(block: _Block) -> Iterator[_Block]:
    """Blocks between which nothing is exchanged: the outermost exchangeable ones, and what stays beside them."""
    if block.node.exchangeable or not block.node.children:
        yield block
        return
    for child in _below(block):
        yield from _apart(child)


def _sentences(levels: list[list[_Block]], level: int, kind: Kind) -> str:
    """What is directly below the blocks of a level: how much of it there is, and what becomes of it."""
    parents, nested = levels[level], len(levels) > 2
    within = "" if level == 0 else f" within their block{f' of level {level}' if nested else ''}"
    if level + 1 == len(levels):
        text, what, wholes = "", "Subjects", ""
        below = [[()] * len(parent.node.rows) for parent in parents]
    else:
        sizes = _sizes(len(child.node.rows) for child in levels[level + 1])
        text, what, wholes = f"{f'Level {level + 1}: ' if nested else ''}{sizes}. ", "They", " as wholes"
        below = [[child.structure for child in parent.node.children] for parent in parents]
    total = sum(map(len, below))
    exchangeable = [Counter(units) for parent, units in zip(parents, below, strict=True) if parent.node.exchangeable]
    exchanged = sum(number for counts in exchangeable for number in counts.values() if number > 1)
    flipping = sum(
        len(units) for parent, units in zip(parents, below, strict=True) if parent.node.exchangeable and parent.flips
    )
    parts = []
    if kind != "flip":
        parts.append(_part(what, exchanged, total, f"are exchanged{wholes}{within}", "keep their places"))
    if kind != "permute":
        parts.append(_part(what, flipping, total, f"flip{wholes or ' one by one'}", "do not flip by themselves"))
    return text + " ".join(parts)


def _part(what: str, some: int, of: int, do: str, otherwise: str) -> str:
    if some in (0, of):
        return f"{what} {do if some else otherwise}."
    return f"{some} of {of}{'' if what == 'They' else ' ' + what.lower()} {do}, the others {otherwise}."


def _restrictions(blocks: list[_Block], rows: Float, kind: Kind, subjects: Sequence[str]) -> Iterator[str]:
    if kind != "flip":
        yield from _unlike(blocks)
        single = [block for block in blocks if _holds_one_subject(block)]
        if single:
            who = listing(f"{block.name} ({subjects[int(block.node.rows[0])]})" for block in single)
            yield f"Nothing can be exchanged within a block of a single subject: {who}."
        same = [block for block in blocks if _is_constant(block.node, rows)]
        if same:
            where = f" of {_named(same)}" if same[0].level else ""
            yield f"All subjects{where} are alike in the design, so that exchanging them changes nothing."
    if kind != "permute":
        zero = np.flatnonzero((rows == 0).all(axis=1)).tolist()
        if zero:
            yield f"Flips change nothing where the design is 0: {listing(subjects[i] for i in zero)}."


def _is_constant(node: Tree, rows: Float) -> bool:
    innermost = node.exchangeable and not node.children and len(node.rows) > 1
    return innermost and bool((rows[node.rows] == rows[node.rows[0]]).all())


def _holds_one_subject(block: _Block) -> bool:
    node, parent = block.node, block.parent
    fixed = parent is not None and not parent.exchangeable
    return node.exchangeable and fixed and not node.children and len(node.rows) == 1


def _unlike(blocks: list[_Block]) -> Iterator[str]:
    """Blocks that would be exchanged as wholes but differ."""
    unequal: list[_Block] = []
    differing: list[_Block] = []
    alone: list[_Block] = []
    for block in blocks:
        alike = [list(group) for _, group in groupby(_below(block), lambda child: child.node.structure)]
        if block.node.exchangeable and len(alike) > 1:
            one_size = len({len(group[0].node.rows) for group in alike}) == 1
            (differing if one_size else unequal).append(block)
            alone += [group[0] for group in alike if len(group) == 1]
    for those, what in ((unequal, "unequal size"), (differing, "equal size but different blocks within")):
        if those:
            sizes = _sizes(len(child.rows) for block in those for child in block.node.children)
            where = f" in {_named(those)}" if those[0].level else ""
            yield f"Blocks of {what} are not exchanged with each other{where}; these are {sizes}."
    if len(alone) == 1:
        yield f"As a whole, {_named(alone)} keeps its place: there is no other like it."
    elif alone:
        yield f"As wholes, {_named(alone)} keep their places: each of them is the only one of its kind."


def _named(blocks: list[_Block]) -> str:
    return f"block{'s' if len(blocks) > 1 else ''} {listing(block.name for block in blocks)}"


def _sizes(sizes: Iterable[int]) -> str:
    """Such as "5 blocks of 2 subjects and 1 block of 3 subjects"."""
    parts = [f"{_many(number, 'block')} of {_many(size, 'subject')}" for size, number in sorted(Counter(sizes).items())]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _possible(count: int) -> str:
    if count == 1:
        return "No relabelling of this design is left but the identity."
    number = f"{count:,}" if count < 10**15 else f"About 10^{math.log10(count):.0f}"
    least = f": no p-value is below 1/{count} = {1 / count:.3g}" if count < 1000 else ""
    return f"{number} distinct relabellings of this design, the identity included{least}."
