"""What is tested by relabelling, contrast by contrast: the divided model, the method and the relabellings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from voxstack.contrasts import Contrast
from voxstack.errors import DesignError
from voxstack.inference.explanation import (
    check_relabellings,
    describe_blocks,
    warn_of_single_flips,
    warn_without_block_effects,
)
from voxstack.inference.methods import METHODS, reduced, relabelled_effect
from voxstack.kernels.basis import Basis
from voxstack.kernels.exchangeability import Tree, orbits
from voxstack.kernels.partition import Float, Partition, divide, without_rounding
from voxstack.kernels.permuted import Side
from voxstack.kernels.pvalues import Alternative
from voxstack.kernels.relabel import Kind, Relabellings
from voxstack.models.blueprint import Cases
from voxstack.plan.permutation import VECTOR_BYTES, WINDOW, keeps_relabellings

Relabelling = Literal["auto", "permute", "flip", "both"]
Precision = Literal["mixed", "double"]

Relabelled = tuple[NDArray[np.int32], NDArray[np.int8]]  # permutations and signs, (b, n) each

_MADE = 256  # relabellings at a time

# The window of relabellings that was made last: all blocks of voxels need the same ones.
_RECENT: WeakKeyDictionary[Relabellings, tuple[int, Relabelled]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Hypothesis:
    """One contrast.

    Attributes
    ----------
    name, stat_type
        Of the contrast.
    side
        Of the statistic that is tested.
    partition
        Of the model.
    dof
        Residual degrees of freedom.
    method
        Key in `METHODS`.
    relabellings, number
        All of them, and how many are run.
    precision
        "mixed": single precision screens, double decides; "double": all in double precision.
    cases
        Which subjects count at a voxel.
    """

    name: str
    stat_type: Literal["t", "F"]
    side: Side
    partition: Partition
    dof: int
    method: str
    relabellings: Relabellings
    number: int
    precision: Precision
    cases: Cases

    @property
    def rank(self) -> int:
        """Of the contrast: numerator degrees of freedom."""
        return int(self.partition.effect.shape[1])

    @property
    def kind(self) -> str:
        """How subjects are relabelled: "permute", "flip" or "both"."""
        return self.relabellings.kind

    @property
    def exhaustive(self) -> bool:
        """Whether all distinct relabellings are run."""
        return self.number == self.relabellings.count

    @property
    def residuals(self) -> Float:
        """Basis of what is taken out of the data that are relabelled."""
        return METHODS[self.method].residuals(self.partition)

    @property
    def relabels_reduced(self) -> bool:
        """Whether what is relabelled are the residuals of Z, which the observed statistic needs, too."""
        return METHODS[self.method].residuals is reduced

    @property
    def refits_nuisance(self) -> bool:
        """Whether Z is part of the relabelled models."""
        return METHODS[self.method].nuisance is not None

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Relabellings start to stop but for the identity, so many at a time that their vectors fit into memory."""
        n, r = self.partition.model.shape
        step = max(VECTOR_BYTES // (8 * n * r), 1)
        for begin in range(max(start, 1), stop, step):
            yield begin, min(begin + step, stop)

    def vectors(self, start: int, stop: int) -> Float:
        """Orthonormal vectors (b, m, n) of some of the relabelled models, those that are tested first.

        Without those whose products with the residuals are 0.
        """
        return METHODS[self.method].vectors(self.partition, *self._relabelled(start, stop))

    def model(self, start: int, stop: int) -> Float:
        """Vectors of unit length (b, m, n) that span some of the relabelled models, those that are tested last."""
        relabelled, nuisance = self._relabelled(start, stop), METHODS[self.method].nuisance
        effect = relabelled_effect(self.partition, *relabelled)
        return effect if nuisance is None else np.hstack([nuisance(self.partition, *relabelled), effect])

    def _relabelled(self, start: int, stop: int) -> tuple[NDArray[np.integer], NDArray[Any]]:
        """Permutations and signs of relabellings of one window."""
        if not keeps_relabellings(len(self.partition.model), self.number):
            return self.relabellings.batch(start, stop)
        window = start // WINDOW
        first, kept = window * WINDOW, _RECENT.get(self.relabellings)
        assert stop <= first + WINDOW, (start, stop)
        if kept is None or kept[0] != window:
            kept = window, _narrow(self.relabellings, first, min(first + WINDOW, self.number))
            _RECENT[self.relabellings] = kept
        permutations, signs = kept[1]
        return permutations[start - first : stop - first], signs[start - first : stop - first]


def _narrow(relabellings: Relabellings, start: int, stop: int) -> Relabelled:
    """Relabellings in as few bytes as they take, without wider ones of more than a few on the way."""
    parts = []
    for first in range(start, stop, _MADE):
        permutations, signs = relabellings.batch(first, min(first + _MADE, stop))
        parts.append((permutations.astype(np.int32), signs))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@dataclass(frozen=True)
class Procedure:
    """How relabelled models are made.

    Attributes
    ----------
    subjects
        Labels.
    tree
        Of exchangeability.
    relabelling
        "auto" flips signs where no permutation changes what is tested, and permutes elsewhere.
    method
        Key in `METHODS`.
    alternative
        Of t contrasts.
    n_permutations
        At most so many, the identity included.
    seed
        Of the relabellings' order.
    precision
        "mixed" or "double".
    cases
        Which subjects count at a voxel.
    """

    subjects: Sequence[str]
    tree: Tree
    relabelling: Relabelling
    method: str
    alternative: Alternative
    n_permutations: int
    seed: int
    precision: Precision
    cases: Cases


def make_hypotheses(
    contrasts: Sequence[Contrast], design: Float, basis: Basis, procedure: Procedure
) -> list[Hypothesis]:
    """The hypotheses of some contrasts.

    Parameters
    ----------
    contrasts
        That the design can estimate.
    design : (n, p)
    basis
        Of the design.
    procedure
        How it is relabelled.

    Raises
    ------
    DesignError
        A contrast for which no relabelling but the identity is left.

    Warns
    -----
    VoxstackWarning
        Subjects are permuted within blocks that have no effect in the design, or flipped one by one where what is
        tested differs between blocks alone.
    """
    hypotheses = []
    model, groups = without_rounding(design), orbits(procedure.tree)
    of_model: dict[Kind, Relabellings] = {}
    for contrast in contrasts:
        effect = without_rounding(divide(basis, contrast.independent, None).effect)
        kind = procedure.relabelling if procedure.relabelling != "auto" else _choose(effect, procedure)
        if procedure.relabelling == "auto" and kind == "flip":
            warn_of_single_flips(contrast.name, effect, procedure.tree)
        if METHODS[procedure.method].rows == "effect":
            rows, relabellings = effect, Relabellings(effect, procedure.tree, kind, procedure.seed)
        else:
            rows = model
            if kind not in of_model:
                of_model[kind] = Relabellings(model, procedure.tree, kind, procedure.seed)
            relabellings = of_model[kind]
        if relabellings.count == 1:
            check_relabellings(contrast.name, describe_blocks(procedure.tree, rows, kind, procedure.subjects))
        side: Side = "F" if contrast.stat_type == "F" else procedure.alternative
        hypothesis = Hypothesis(
            name=contrast.name,
            stat_type=contrast.stat_type,
            side=side,
            partition=divide(basis, contrast.independent, groups if kind == "permute" else None),
            dof=len(design) - basis.rank,
            method=procedure.method,
            relabellings=relabellings,
            number=relabellings.number(procedure.n_permutations),
            precision=procedure.precision,
            cases=procedure.cases,
        )
        hypotheses.append(hypothesis)
    if any(hypothesis.kind != "flip" for hypothesis in hypotheses):
        warn_without_block_effects(design, procedure.tree)
    return hypotheses


def check_joint(hypotheses: Sequence[Hypothesis], statistics: Sequence[str]) -> None:
    """Refuse to correct across contrasts that cannot be compared, relabelling by relabelling."""
    first = hypotheses[0]
    for other in hypotheses[1:]:
        if (other.kind, other.number) != (first.kind, first.number) or not _same_order(first, other):
            raise DesignError(
                f"joint=True needs contrasts that share their relabellings, but {first.name!r} has {first.number} of "
                f"the kind {first.kind!r} and {other.name!r} {other.number} of the kind {other.kind!r}, or others of "
                "that kind. Test them by one kind (relabelling=) and a method that relabels the whole model, or apart."
            )
        if other.stat_type != first.stat_type and set(statistics) - {"voxel"}:
            raise DesignError(
                f"joint=True: clusters and TFCE of t and of F cannot be compared ({first.name!r} is "
                f"{first.stat_type}, {other.name!r} is {other.stat_type}). Test them apart, or voxels alone."
            )


def _same_order(first: Hypothesis, other: Hypothesis) -> bool:
    """Whether relabellings of the same number are the same."""
    both = [one.relabellings.batch(0, min(one.number, 256)) for one in (first, other)]
    return all(np.array_equal(a, b) for a, b in zip(*both, strict=True))


def _choose(effect: Float, procedure: Procedure) -> Literal["permute", "flip"]:
    return "flip" if Relabellings(effect, procedure.tree, "permute", procedure.seed).count == 1 else "permute"
