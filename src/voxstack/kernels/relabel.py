"""Relabellings of a design: how many distinct ones there are, and the k-th of them.

A relabelling is a permutation of the subjects and a sign for each; the relabelled design is
``signs[:, None] * design[permutation]``. Two relabellings are the same if they give the same design.

Each block of a tree of exchangeability brings its siblings into some order, with some signs, whatever happens within
them. So the number of distinct designs is a product over the sets of siblings (of multinomial coefficients and powers
of 2), and the digits of a number in this mixed radix are a relabelling.
"""

import math
from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxstack.kernels.exchangeability import Siblings, Tree, siblings
from voxstack.kernels.jit import jit
from voxstack.kernels.philox import STREAM, Words, begin, below, scramble, word

Float = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = Literal["permute", "flip", "both"]

KINDS: tuple[Kind, ...] = ("permute", "flip", "both")
LISTED = 2**53  # with fewer distinct relabellings than this each comes once, else they are drawn

_DRAW, _SHUFFLE = 0, 1  # purposes of random bits
_TURNS = 16


@dataclass(frozen=True, eq=False)
class Relabellings:
    """The distinct relabellings of a design, in an order that a seed gives. The first one is the identity.

    With fewer than 2**53 of them, each comes once: relabelling k is number s(k), s a keyed permutation of the numbers
    that leaves 0 in its place. Otherwise they are drawn from the group independently, each element equally likely, and
    may repeat. Either way relabelling k is a matter of the seed and k alone.

    Parameters
    ----------
    rows : (n, p) float64
        Of the design. Rows are equal if all their numbers are: rounding error must have been taken out.
    tree
        Of exchangeability.
    kind
        "permute", "flip" (signs) or "both".
    seed
        In 0, ..., 2**64 - 1.

    Attributes
    ----------
    count
        Number of distinct relabellings, exact, of any size.
    """

    rows: InitVar[Float]
    tree: InitVar[Tree]
    kind: Kind
    seed: int
    count: int = field(init=False)
    _plan: "_Plan" = field(init=False, repr=False)

    def __post_init__(self, rows: Float, tree: Tree) -> None:
        assert rows.shape[0] == len(tree.rows), (rows.shape, len(tree.rows))
        assert np.isfinite(rows).all()
        assert self.kind in KINDS, self.kind
        assert 0 <= self.seed < 2**64, self.seed
        count, plan = _make_plan(rows, tree, self.kind)
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "_plan", plan)

    def number(self, n_permutations: int) -> int:
        """How many relabellings a run of at most `n_permutations` has, the identity included."""
        return min(self.count, n_permutations)

    def batch(self, start: int, stop: int) -> tuple[Integers, NDArray[np.int8]]:
        """Permutations (b, n) and signs (b, n) of relabellings start, ..., stop - 1."""
        listed = self.count < LISTED
        assert 0 <= start <= stop, (start, stop)
        assert not listed or stop <= self.count, (stop, self.count)
        permutations = np.empty((stop - start, len(self._plan.rows)), dtype=np.int64)
        signs = np.empty(permutations.shape, dtype=np.int8)
        seed = np.uint64(self.seed)
        if listed:
            _unrank(start, self.count, seed, self._plan, permutations, signs)
        else:
            _draw(start, seed, self.kind != "flip", self._plan, permutations, signs)
        return permutations, signs


class _Plan(NamedTuple):
    """The g sets of siblings with u units in all, as compiled code takes them.

    Units of a set are of one type if the same contents can come out of them. What numbers them is empty where
    relabellings are drawn. A set's units begin at `first_unit`, its types at `first_type`.
    """

    rows: Integers  # (n,) of the tree
    begin: Integers  # (g,)
    size: Integers  # (g,)
    flips: NDArray[np.bool_]  # (g,)
    first_unit: Integers  # (g + 1,)
    arrangements: Integers  # (g,) distinct orders of the types
    identity: Integers  # (g,) number of the order that they are in
    first_type: Integers  # (g + 1,)
    of_type: Integers  # (t,) number of units
    by_type: Integers  # (u,) units of each set, counted from 1, type by type
    twofold: NDArray[np.bool_]  # (u,) whether a flip gives contents that nothing else gives


def _make_plan(rows: Float, tree: Tree, kind: Kind) -> tuple[int, _Plan]:
    """The number of distinct relabellings, and how to make them."""
    sets = [
        one._replace(flips=one.flips and kind != "permute")
        for one in siblings(tree)
        if (one.units > 1 and kind != "flip") or (one.flips and kind != "permute")
    ]
    types, twofold = _types(rows[tree.rows], sets, permutes=kind != "flip")
    counts = [np.bincount(which) for which in types]
    arrangements = [_multinomial(numbers) for numbers in counts]
    count = math.prod(arrangements) * 2 ** sum(int(which.sum()) for which in twofold)
    listed = count < LISTED
    numbered = list(zip(types, counts, strict=True)) if listed else []
    return count, _Plan(
        tree.rows.astype(np.int64),
        _joined(one.begin for one in sets),
        _joined(one.size for one in sets),
        _joined(one.flips for one in sets).astype(np.bool_),
        np.cumsum([0, *(one.units for one in sets)]),
        _joined(arrangements if listed else []),
        _joined(_rank(*pair) for pair in numbered),
        np.cumsum([0, *(len(numbers) for _, numbers in numbered)]),
        _joined(numbers for _, numbers in numbered),
        _joined(1 + np.argsort(which, kind="stable") for which, _ in numbered),
        _joined(twofold if listed else []).astype(np.bool_),
    )


def _joined(parts: Iterable[Any]) -> Integers:
    return np.concatenate([np.empty(0, np.int64), *(np.atleast_1d(part) for part in parts)]).astype(np.int64)


def _types(rows: Float, sets: list[Siblings], *, permutes: bool) -> tuple[list[Integers], list[NDArray[np.bool_]]]:
    """Of each set: the type of each unit, the same for all where they keep their places, and whether it is twofold.

    From the innermost sets outwards, each gets a key that tells apart the orbits of contents under what may be done
    within, and the key of its negative.
    """
    keys = _Keys(rows)
    types, twofold = [], []
    for one in sets:
        own, negative = keys.units(one)
        twofold.append(one.flips & (own != negative))
        if one.flips:
            own = negative = np.minimum(own, negative)
        types.append(np.unique(own, return_inverse=True)[1] if permutes else np.zeros(one.units, dtype=np.int64))
        keys.close(one, *((np.sort(own), np.sort(negative)) if permutes else (own, negative)))
    return types, twofold


class _Keys:
    """Keys of what lies side by side in the order of the tree: at first the rows, then the sets that were closed."""

    def __init__(self, rows: Float) -> None:
        self._numbers: dict[tuple[str, bytes], int] = {}
        # 0 plus and minus, so that -0 is 0.
        self._own = np.array([self._number("row", row.tobytes()) for row in 0.0 + rows], dtype=np.int64)
        self._negative = np.array([self._number("row", row.tobytes()) for row in 0.0 - rows], dtype=np.int64)
        self._length = np.ones(len(rows), dtype=np.int64)

    def _number(self, what: str, content: bytes) -> int:
        return self._numbers.setdefault((what, content), len(self._numbers))

    def units(self, one: Siblings) -> tuple[Integers, Integers]:
        """Of the units of a set, and of their negatives."""
        if one.size == 1:
            units = slice(one.begin, one.begin + one.units)
            return self._own[units], self._negative[units]
        within = [0]
        while (following := within[-1] + int(self._length[one.begin + within[-1]])) < one.size:
            within.append(following)
        places = one.begin + one.size * np.arange(one.units)[:, None] + within  # units of one set are built alike
        own, negative = (
            np.array([self._number("unit", unit.tobytes()) for unit in keys[places]], dtype=np.int64)
            for keys in (self._own, self._negative)
        )
        return own, negative

    def close(self, one: Siblings, own: Integers, negative: Integers) -> None:
        """Let a set be one thing from here on, known by these keys of its units."""
        self._own[one.begin] = self._number("set", own.tobytes())
        self._negative[one.begin] = self._number("set", negative.tobytes())
        self._length[one.begin] = one.size * one.units


def _multinomial(counts: Integers) -> int:
    """Number of sequences of things of which so many each are alike."""
    return math.factorial(int(counts.sum())) // math.prod(math.factorial(count) for count in counts.tolist())


def _rank(types: Integers, counts: Integers) -> int:
    """Number of a sequence among those of the same things, in lexicographic order."""
    left, rank, number = counts.tolist(), 0, _multinomial(counts)
    for done, type_ in enumerate(types.tolist()):
        parts = [number * some // (len(types) - done) for some in left[: type_ + 1]]
        rank += sum(parts[:-1])
        number = parts[-1]
        left[type_] -= 1
    return rank


@jit
def _unrank(
    start: int, count: int, seed: np.uint64, plan: _Plan, permutations: Integers, signs: NDArray[np.int8]
) -> None:
    n = plan.rows.size
    moved, spare, source, left, following = np.empty((5, n), np.int64)
    for b in range(permutations.shape[0]):
        rank = _shuffled(start + b, count, seed)
        moved[:] = np.arange(1, n + 1)
        for g in range(plan.begin.size):
            rank = _nth_arrangement(rank, plan, g, source, left, following)
            for i in range(plan.first_unit[g + 1] - plan.first_unit[g]):
                if plan.twofold[plan.first_unit[g] + source[i] - 1]:
                    source[i] *= 1 - 2 * (rank % 2)
                    rank //= 2
            _move(plan, g, source, moved, spare)
        _write(plan.rows, moved, permutations[b], signs[b])


@jit
def _nth_arrangement(rank: int, plan: _Plan, g: int, source: Integers, left: Integers, following: Integers) -> int:
    # Which unit, counted from 1, comes to each place of set g; returns the rest of the rank.
    first, units = plan.first_unit[g], plan.first_unit[g + 1] - plan.first_unit[g]
    number: int = plan.arrangements[g]
    if number == 1:
        for i in range(units):
            source[i] = i + 1
        return rank
    digit = (rank % number + plan.identity[g]) % number
    rest = rank // number
    types = plan.first_type[g + 1] - plan.first_type[g]
    at = first
    for t in range(types):
        left[t] = plan.of_type[plan.first_type[g] + t]
        following[t] = at
        at += left[t]
    for i in range(units):
        # Those that go on with type t are number left[t] / (units - i), a whole number, but the product may overflow.
        whole, part = number // (units - i), number % (units - i)
        for t in range(types):
            number = whole * left[t] + part * left[t] // (units - i)
            if digit < number:
                break
            digit -= number
        source[i] = plan.by_type[following[t]]
        following[t] += 1
        left[t] -= 1
    return rest


@jit
def _draw(
    start: int, seed: np.uint64, permutes: bool, plan: _Plan, permutations: Integers, signs: NDArray[np.int8]
) -> None:
    n = plan.rows.size
    moved, spare, source = np.empty((3, n), np.int64)
    stream = np.empty(STREAM, np.uint64)
    for b in range(permutations.shape[0]):
        moved[:] = np.arange(1, n + 1)
        if start + b > 0:
            begin(stream, seed, _DRAW, start + b)
            for g in range(plan.begin.size):
                units = plan.first_unit[g + 1] - plan.first_unit[g]
                _draw_arrangement(stream, permutes, plan.flips[g], source[:units])
                _move(plan, g, source, moved, spare)
        _write(plan.rows, moved, permutations[b], signs[b])


@jit
def _draw_arrangement(stream: Words, permutes: bool, flips: bool, source: Integers) -> None:
    units = source.size
    for i in range(units):
        source[i] = i + 1
    if permutes:  # Fisher and Yates, from the last place on
        for i in range(units - 1, 0, -1):
            j = below(stream, i + 1)
            source[i], source[j] = source[j], source[i]
    if flips:
        bits = np.uint64(0)
        for i in range(units):
            bits = word(stream) if i % 32 == 0 else bits >> np.uint64(1)
            if bits & np.uint64(1):
                source[i] = -source[i]


@jit
def _move(plan: _Plan, g: int, source: Integers, moved: Integers, spare: Integers) -> None:
    # Bring the units of set g, with their signs, to their places. Rows are counted from 1, negative where they flip.
    begin, size = plan.begin[g], plan.size[g]
    units = plan.first_unit[g + 1] - plan.first_unit[g]
    for i in range(units):
        at = begin + (abs(source[i]) - 1) * size
        for j in range(size):
            spare[i * size + j] = moved[at + j] if source[i] > 0 else -moved[at + j]
    for i in range(units * size):
        moved[begin + i] = spare[i]


@jit
def _write(rows: Integers, moved: Integers, permutation: Integers, signs: NDArray[np.int8]) -> None:
    for i in range(rows.size):
        permutation[rows[i]] = rows[abs(moved[i]) - 1]
        signs[rows[i]] = 1 if moved[i] > 0 else -1


@jit
def _shuffled(k: int, count: int, seed: np.uint64) -> int:
    # A permutation of 0, ..., count - 1 that leaves 0: a Feistel network on pairs of numbers below `side`, repeated
    # until it comes back to the range (Black and Rogaway 2002, Ciphers with arbitrary finite domains, CT-RSA).
    if k == 0:
        return 0
    side = int(np.ceil(np.sqrt(count - 1)))
    while side * side < count - 1:
        side += 1
    key = np.array([seed & np.uint64(0xFFFFFFFF), seed >> np.uint64(32)])
    counter, block = np.zeros(4, np.uint64), np.empty(4, np.uint64)
    counter[1], counter[3] = _SHUFFLE, 1
    scramble(counter, key, block)
    # Where side is odd, a turn is an odd permutation or an even one by its side alone. So the key says how many: of a
    # handful of numbers, too, all orders are then equally likely.
    turns = _TURNS + np.int64(block[0] & np.uint64(1))
    counter[3] = 0
    number = k - 1
    while True:
        left, right = number // side, number % side
        for turn in range(turns):
            counter[0], counter[2] = turn, right
            scramble(counter, key, block)
            mixed = int(np.int64(((block[0] << np.uint64(32)) | block[1]) % np.uint64(side)))
            left, right = right, (left + mixed) % side
        number = left * side + right
        if number < count - 1:
            return number + 1
