"""From a Wilkinson formula and covariates to the columns of a design."""

import ast
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import formulaic
import numpy as np
import pandas as pd
import xarray as xr
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.transforms import TRANSFORMS, poly
from formulaic.utils.code import sanitize_variable_names
from numpy.typing import ArrayLike, NDArray

from voxstack.covariates import decode, encode
from voxstack.errors import DesignError, listing, warn
from voxstack.schema import covariate_names

_ARITHMETIC = (
    ast.Expression, ast.Name, ast.Constant, ast.Call, ast.keyword, ast.Attribute, ast.Load, ast.List, ast.Tuple,
    ast.Dict, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
_OF_COLUMNS = frozenset({"clip", "mean", "median", "round", "std", "where"})


class Columns(NamedTuple):
    """What a formula makes of the covariates.

    Attributes
    ----------
    frame : DataFrame (n, p)
        One row per subject that has the covariates, one column per regressor.
    terms : list of str
        The term of the formula that each column belongs to; that of the intercept is "Intercept".
    kept : (m,) bool
        Which of the m subjects of the table these are.
    """

    frame: pd.DataFrame
    terms: list[str]
    kept: NDArray[np.bool_]


def evaluate(text: str, source: xr.Dataset | pd.DataFrame, labels: pd.Index, *, drop_missing: bool) -> Columns:
    """Columns of a formula.

    Parameters
    ----------
    text
        Such as ``"~ age + C(site) * sex"``.
    source
        A cohort, or a table of covariates.
    labels : (m,)
        Of its subjects.
    drop_missing
        Leave out subjects without one of the covariates that the formula uses, before anything is computed of the
        others; else such subjects are an error.

    Returns
    -------
    Columns

    Raises
    ------
    DesignError
        A formula that cannot be read or evaluated; a covariate that is not there, missing or infinite (the subjects
        are named).
    """
    names = [str(name) for name in source.columns] if isinstance(source, pd.DataFrame) else covariate_names(source)
    formula = _parse(text, names)
    table = _covariates(source, _used(formula, text, names))
    kept = _complete(table, labels, drop_missing=drop_missing)
    present = table[kept].reset_index(drop=True)
    _refuse_infinite(present, labels[kept])
    for name in present.columns:
        if isinstance(present[name].dtype, pd.CategoricalDtype):
            # A level that nobody has would be a column of zeros, or a reference without anyone.
            present[name] = present[name].cat.remove_unused_categories()
    _warn_of_lost_levels(table, present)
    matrix = _materialize(formula, text, present)
    return Columns(pd.DataFrame(matrix).set_axis(labels[kept], axis=0), _terms(matrix, text), kept)


def _parse(text: str, names: Sequence[str]) -> formulaic.SimpleFormula:
    if not text.strip(" ~"):
        raise DesignError("The formula is empty; an intercept alone is '~ 1'.")
    try:
        formula = formulaic.Formula(text)
    except (FormulaicError, SyntaxError) as error:
        raise DesignError(f"The formula {text!r} cannot be read: {_first_line(error)}") from error
    if not isinstance(formula, formulaic.SimpleFormula):
        raise DesignError(f"The formula {text!r} must have no left-hand side and one part: write '~ age + sex'.")
    for factor in (factor for term in formula for factor in term.factors):
        if factor.eval_method == factor.EvalMethod.PYTHON:
            _refuse_code(factor.expr, text, names)
    _refuse_unknown({str(variable) for variable in formula.required_variables} - set(names), text, names)
    return formula


def _refuse_unknown(unknown: Iterable[str], text: str, names: Sequence[str]) -> None:
    if unknown := sorted(unknown):
        raise DesignError(
            f"The formula {text!r} uses {listing(unknown)}, but the cohort has no such covariate. "
            f"It has: {listing(names, most=20)}."
        )


def _refuse_code(expression: str, text: str, names: Sequence[str]) -> None:
    """formulaic evaluates Python, and a formula may come from a store of another person: only arithmetic runs."""
    aliases: dict[str, str] = {}
    try:
        tree = ast.parse(sanitize_variable_names(expression, {}, aliases), mode="eval")
    except SyntaxError as error:
        raise DesignError(f"The formula {text!r} cannot be read: {_first_line(error)}") from error
    nodes = list(ast.walk(tree))
    for node in nodes:
        if not isinstance(node, _ARITHMETIC) or (isinstance(node, ast.Attribute) and not _is_function(node)):
            raise DesignError(
                f"The formula {text!r} has {ast.unparse(node)!r}, which formulas may not do. They may have covariates, "
                "operators, transforms such as bs(age, df=4), and np.log and its like. Make a column of anything else."
            )
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    _refuse_unknown(used - set(names) - aliases.keys() - TRANSFORMS.keys(), text, names)


def _is_function(node: ast.Attribute) -> bool:
    """Whether it is NumPy's function of each value or of a column, or a coding of factors."""
    of = node.value.id if isinstance(node.value, ast.Name) else ""
    if of == "np":
        return node.attr in _OF_COLUMNS or isinstance(getattr(np, node.attr, None), np.ufunc)
    return of == "contr" and not node.attr.startswith("_")


def _used(formula: formulaic.SimpleFormula, text: str, names: Sequence[str]) -> list[str]:
    """Covariates that a formula names; formulaic's own list leaves out those inside poly, center and splines."""
    named = {str(variable) for variable in formula.required_variables}
    for factor in (str(factor.expr) for term in formula for factor in term.factors):
        named.add(factor)
        if factor.isidentifier() or factor in names:
            continue
        tree = ast.parse(re.sub(r"`[^`]*`", "_", factor), mode="eval")
        named |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return [name for name in names if name in named or f"`{name}`" in text]


def _covariates(source: xr.Dataset | pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The covariates of these names, the same from a table as from a cohort that was made of it."""
    if isinstance(source, pd.DataFrame):
        columns = source.set_axis([str(name) for name in source.columns], axis=1)
        variables = {name: encode(columns[name]) for name in names}
        n = len(source)
    else:
        variables = {name: source[name].variable for name in names}
        n = source.sizes["subject"]
    return pd.DataFrame({name: decode(name, v) for name, v in variables.items()}, index=pd.RangeIndex(n))


def _complete(table: pd.DataFrame, labels: pd.Index, *, drop_missing: bool) -> NDArray[np.bool_]:
    """Which subjects have all covariates; others are an error unless they may be dropped."""
    missing = table.isna()
    absent = np.asarray(missing.any(axis=1), dtype=bool)
    if not absent.any():
        return ~absent
    where, who = listing(table.columns[missing.any()]), labels[absent]
    if not drop_missing:
        them = "1 subject" if len(who) == 1 else f"{len(who)} subjects"
        raise DesignError(
            f"The covariate {where} is missing for {them}: {listing(who)}. Fill the values in, or leave such subjects "
            "out with drop_missing=True (--drop-missing on the command line)."
        )
    if absent.all():
        raise DesignError(f"No subject is left: the covariate {where} is missing for each of them.")
    return ~absent


def _refuse_infinite(table: pd.DataFrame, labels: pd.Index) -> None:
    numbers = table.select_dtypes("number").to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.isinf(numbers)
    if infinite.any():
        where = table.select_dtypes("number").columns[infinite.any(axis=0)]
        who = listing(labels[infinite.any(axis=1)])
        raise DesignError(f"The covariate {listing(where)} is infinite for {who}. Correct it, or mark it as missing.")


def _warn_of_lost_levels(before: pd.DataFrame, after: pd.DataFrame) -> None:
    for name in before.columns:
        if before[name].dtype == object or isinstance(before[name].dtype, pd.CategoricalDtype):
            had, has = before[name].dropna().unique(), set(after[name])
            lost = [level for level in had if level not in has]
            if lost:
                warn(
                    f"Of the level {listing(lost)} of {name!r} no subject is left once those with missing covariates "
                    "are dropped. The design has no regressor for it."
                )


def _materialize(formula: formulaic.SimpleFormula, text: str, table: pd.DataFrame) -> formulaic.ModelMatrix:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # what is not finite is refused by name
            warnings.simplefilter("error", DataMismatchWarning)
            # Only the covariates can be named in a formula, not the variables of whoever calls.
            return formulaic.model_matrix(formula, table, context={"poly": _poly}, na_action="ignore")
    except DataMismatchWarning as error:
        # formulaic would count these subjects to the reference.
        found = re.search(r"\{(.*)\}", str(error))
        raise DesignError(
            f"The formula {text!r} lists levels, but subjects have others: {found[1] if found else error}. List all "
            "levels, or leave these subjects out."
        ) from error
    except (FormulaicError, ValueError, TypeError) as error:
        raise DesignError(f"The formula {text!r} cannot be evaluated: {_first_line(error)}") from error


def _poly(x: ArrayLike, degree: int = 1, raw: bool = False) -> Any:
    """formulaic's poly, but for too few values, of which it makes columns of rounding error."""
    values = np.unique(np.asarray(x, dtype=np.float64))
    different = 1 + np.count_nonzero(np.diff(values) > 1e-9 * np.ptp(values))
    if different <= degree:
        raise ValueError(f"a polynomial of degree {degree} needs more than {degree} different values, not {different}")
    return poly(x, degree=degree, raw=raw)


def _terms(matrix: formulaic.ModelMatrix, text: str) -> list[str]:
    """The term of each column."""
    names = list(matrix.model_spec.column_names)
    if len(names) > matrix.shape[1]:
        twice = listing(sorted({name for name in names if names.count(name) > 1}))
        raise DesignError(f"The formula {text!r} has several regressors called {twice}. Rename the covariate.")
    terms = [""] * len(names)
    for term, columns in matrix.model_spec.term_indices.items():
        if not columns:
            warn(f"The term {term} of the formula has no regressor, as where all subjects have the same level.")
        for column in columns:
            terms[column] = "Intercept" if str(term) == "1" else str(term)
    return terms


def _first_line(error: Exception) -> str:
    """formulaic draws the place of an error below its message, in terminal colours."""
    return str(error).partition("\n")[0]
