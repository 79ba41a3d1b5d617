"""Exchangeability blocks as users give them: labels, covariates, files of PALM."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import DesignError, InputError, listing
from voxstack.inference.explanation import Explanation, describe_blocks
from voxstack.io.places import Place, place_of
from voxstack.kernels.exchangeability import Tree, tree_of
from voxstack.kernels.relabel import Kind

Covariates = pd.DataFrame | Mapping[Any, Any]
Labels = str | pd.Series | pd.DataFrame | xr.DataArray | Sequence[Any] | NDArray[Any]


@dataclass(frozen=True, eq=False)
class Blocks:
    """Exchangeability blocks: which subjects, or groups of subjects, a permutation test may exchange.

    Parameters
    ----------
    labels
        The block of each subject: the name of a covariate; a Series or DataArray indexed by subject label; or an array
        or a list with one value per subject, in order. Or several columns, a DataFrame or an array (n, k): nested
        blocks, level by level from the outermost to the innermost, as whole numbers. A positive number says that what
        is directly below this block (the blocks of the next column, or the subjects) may be exchanged as wholes, a
        negative one that it keeps its place. Numbers may start again in each block of the column before.
    within
        Of one column: subjects are exchanged within their block. By default they are, unless whole blocks are.
    whole
        Of one column: blocks are exchanged as wholes, each with those of equal size; their subjects correspond in
        order. With ``within=True`` subjects are then also exchanged within their block.

    Raises
    ------
    DesignError
        Neither within nor whole; either of them with several columns, whose signs say what moves.

    Notes
    -----
    Blocks that are exchanged have equal size and equal blocks within. Where signs are flipped, each subject flips on
    its own within blocks, and whole blocks flip together; of nested blocks flips the outermost that is exchanged as a
    whole, and nothing in it by itself. Winkler et al. (2015), NeuroImage 123:253. The files are those of PALM's option
    ``-eb``, `within` and `whole` its options ``-within`` and ``-whole``.
    """

    labels: Labels
    _: KW_ONLY
    within: bool | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        columns = 1 if isinstance(self.labels, str) else _frame(self.labels).shape[1]
        if columns == 0:
            raise DesignError("The exchangeability blocks have no column.")
        if columns > 1 and (self.within is not None or self.whole):
            raise DesignError(
                f"The exchangeability blocks have {columns} columns, whose signs say what is exchanged. Leave out "
                "within and whole, or give one column."
            )
        if self.within is False and not self.whole:
            raise DesignError("With within=False and whole=False nothing could be exchanged. Choose one of them.")

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        within: bool | None = None,
        whole: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> "Blocks":
        """Blocks from a file as PALM reads it: whole numbers, one row per subject in order, no header.

        Parameters
        ----------
        path
            A text file, with commas or white space between the columns.
        within, whole
            As of `Blocks`, for files of one column.
        storage_options
            Credentials and settings for a URL.

        Raises
        ------
        InputError
            No such file; what is not a whole number, a row of another length (line and column are named).
        """
        levels = _read(place_of(path, storage_options))
        return cls(levels[:, 0] if levels.shape[1] == 1 else levels, within=within, whole=whole)

    def resolve(
        self,
        subjects: Sequence[str],
        covariates: Covariates | None = None,
        *,
        kept: NDArray[np.bool_] | None = None,
    ) -> Tree:
        """The tree of exchangeability of some subjects.

        Parameters
        ----------
        subjects
            Labels of all n subjects.
        covariates
            Their covariates by name, a DataFrame or ``cohort.coords``, if `labels` is a name.
        kept : (n,) bool, optional
            Those of the design, if it left out others. The rows of the tree are numbers among these.

        Raises
        ------
        DesignError
            No such covariate; another number of rows; subjects without a label; labels that are no signed whole
            numbers where there are several columns.
        """
        kept = np.ones(len(subjects), dtype=bool) if kept is None else kept
        frame = _aligned(self._frame(covariates), subjects).loc[kept]
        missing = (frame.isna() | (frame == "")).any(axis=1).to_numpy(dtype=bool)
        if missing.any():
            raise DesignError(
                f"The exchangeability block of {listing(frame.index[missing])} is missing. Give all subjects of the "
                "design a block, or leave these out."
            )
        if frame.shape[1] > 1:
            return tree_of(len(frame), _signed(frame))
        return self._one_level(frame.iloc[:, 0])

    def _frame(self, covariates: Covariates | None) -> pd.DataFrame:
        if not isinstance(self.labels, str):
            return _frame(self.labels)
        if covariates is None or self.labels not in covariates:
            there = listing(covariates, most=20) if covariates is not None else "none were given"
            raise DesignError(f"There is no covariate {self.labels!r} to take blocks from; there are: {there}.")
        return _frame(covariates[self.labels])

    def _one_level(self, labels: "pd.Series[Any]") -> Tree:
        numeric = pd.api.types.is_numeric_dtype(labels.dtype) and not pd.api.types.is_bool_dtype(labels.dtype)
        if numeric and (labels < 0).any():
            raise DesignError(
                f"The exchangeability block of {listing(labels.index[labels < 0])} is negative. Labels of one column "
                "have no sign: say with within and whole what is exchanged."
            )
        codes, names = pd.factorize(labels.to_numpy() if numeric else labels.astype(str).to_numpy(), sort=True)
        within = not self.whole if self.within is None else self.within
        n = len(labels)
        signs = np.where([self.whole, within], 1, -1)
        levels = np.column_stack([np.full(n, signs[0]), signs[1] * (codes + 1), np.arange(n) + 1])
        tree = tree_of(n, levels.astype(np.int64))
        children = tuple(replace(block, label=_plain(names[int(block.label) - 1])) for block in tree.children)
        return replace(tree, children=children)

    def explain(
        self,
        design: Any = None,
        *,
        subjects: Sequence[str] | None = None,
        covariates: Covariates | None = None,
        kind: Kind = "permute",
    ) -> Explanation:
        """What the blocks allow, in words and numbers, and what restricts them.

        Parameters
        ----------
        design : (n, p), optional
            The design whose relabellings are counted; by default one in which all rows differ.
        subjects
            Labels of the subjects; by default those of the labels' index, else numbers.
        covariates
            By name, if `labels` is one.
        kind
            "permute", "flip" (signs) or "both".

        Raises
        ------
        DesignError
            As of `resolve`.
        """
        if subjects is None:
            frame = self._frame(covariates)
            subjects = [str(label + 1 if _by_row(frame) else label) for label in frame.index]
        tree, n = self.resolve(subjects, covariates), len(subjects)
        rows: NDArray[np.float64] = np.arange(1.0, n + 1) if design is None else np.asarray(design, dtype=np.float64)
        if len(rows) != n:
            raise DesignError(f"The design has {len(rows)} rows; there are {n} subjects.")
        return describe_blocks(tree, rows.reshape(n, -1), kind, subjects)


def _frame(labels: Any) -> pd.DataFrame:
    """One column a level; with numbers of the rows as index where the labels have no index of their own."""
    if isinstance(labels, xr.DataArray):
        labels = labels.to_pandas()
    if not isinstance(labels, pd.Series | pd.DataFrame) and np.ndim(labels) not in (1, 2):
        raise DesignError("Exchangeability blocks are one value per subject, or one row of values.")
    frame = labels.to_frame() if isinstance(labels, pd.Series) else pd.DataFrame(labels)
    return frame.astype(object).infer_objects()  # whatever types of pandas there are, categories among them


def _by_row(frame: pd.DataFrame) -> bool:
    """Whether rows are subjects in order: the index is the one that pandas gives where none is set."""
    return isinstance(frame.index, pd.RangeIndex) and frame.index.start == 0


def _aligned(frame: pd.DataFrame, subjects: Sequence[str]) -> pd.DataFrame:
    """The rows of the subjects, which are the index."""
    if _by_row(frame):
        if len(frame) != len(subjects):
            raise DesignError(
                f"The exchangeability blocks have {len(frame)} rows; there are {len(subjects)} subjects. Give one row "
                "per subject, in order, or a Series indexed by subject label."
            )
        return frame.set_axis(pd.Index(subjects), axis=0)
    frame = frame.set_axis(frame.index.astype(str), axis=0)
    if frame.index.has_duplicates:
        raise DesignError(
            f"There are several exchangeability blocks for {listing(frame.index[frame.index.duplicated()])}."
        )
    absent = [subject for subject in subjects if subject not in frame.index]
    if absent:
        hint = " They are matched by subject label: set the labels as index." if len(absent) == len(subjects) else ""
        raise DesignError(f"There is no exchangeability block for {listing(absent)}.{hint}")
    return frame.loc[list(subjects)]


def _signed(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Signed numbers of nested blocks."""
    numbers = frame.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    wrong = np.argwhere(~((numbers == np.trunc(numbers)) & (numbers != 0) & (np.abs(numbers) < 2**53)))
    if len(wrong):
        row, column = wrong[0]
        raise DesignError(
            f"Column {column + 1} of the exchangeability blocks has {_plain(frame.iloc[row, column])!r} for "
            f"{frame.index[row]}. Nested blocks are whole numbers: positive where what is below may be exchanged, "
            "negative where it may not."
        )
    levels: NDArray[np.int64] = numbers.astype(np.int64)
    for column in range(levels.shape[1] - 1):  # the signs of the last one do not matter where it numbers the subjects
        _, first, block = np.unique(
            np.column_stack([levels[:, :column], np.abs(levels[:, column])]),
            axis=0,
            return_index=True,
            return_inverse=True,
        )
        other = np.flatnonzero(levels[:, column] != levels[first[block.ravel()], column])
        if len(other):
            raise DesignError(
                f"Column {column + 1} of the exchangeability blocks has both {levels[other[0], column]} and "
                f"{-levels[other[0], column]} within one block (see {frame.index[other[0]]}). A block is positive or "
                "negative as a whole; number different blocks differently."
            )
    return levels


def _plain(label: Any) -> str:
    return str(int(label)) if isinstance(label, float | np.floating) and label == int(label) else str(label)


def _read(path: Place) -> NDArray[np.int64]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The block file {path} cannot be read: {error}.") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"The block file {path} is empty.")
    rows = [
        [_whole(cell, f"{path}, line {line}, column {column}") for column, cell in enumerate(_cells(text), start=1)]
        for line, text in enumerate(lines, start=1)
    ]
    for line, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise InputError(f"{path}, line {line}: {len(row)} columns; line 1 has {len(rows[0])}.")
    return np.array(rows, dtype=np.int64)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split(",")] if "," in line else re.split(r"\s+", line.strip())


def _whole(cell: str, where: str) -> int:
    try:
        number = float(cell)
        if number == int(number) != 0 and abs(number) < 2**53:
            return int(number)
    except (ValueError, OverflowError):  # no number; NaN; infinite
        pass
    what = repr(cell) if cell else "nothing"
    raise InputError(f"{where}: {what} where a whole number other than 0 should be. A block file has no header.")
