"""From a formula or a table to a design matrix, one labelled row a subject."""

import ast
import re
from collections.abc import Sequence
from typing import Any

import formulaic
import numpy as np
import pandas as pd
import xarray as xr
from formulaic.errors import FormulaicError
from numpy.typing import NDArray

from voxstack.errors import DesignError, listing
from voxstack.schema import SUBJECT, covariate_names

Matrix = pd.DataFrame | xr.DataArray | NDArray[Any]


def make_design(
    cohort_or_table: xr.Dataset | pd.DataFrame,
    formula_or_matrix: str | Matrix,
    *,
    names: Sequence[str] | None = None,
) -> xr.DataArray:
    """Design matrix of a cohort.

    Parameters
    ----------
    cohort_or_table
        A cohort, whose covariates the formula uses, or a DataFrame indexed by subject label.
    formula_or_matrix
        A Wilkinson formula such as ``"~ age + C(site) * sex"`` (of formulaic; the intercept is implied, ``0 +`` leaves
        it out); or a DataFrame or DataArray with one row per subject, matched by label; or an array (n, p) whose rows
        are the subjects in order.
    names
        Names of an array's columns; x1, x2 and so on if not given.

    Returns
    -------
    xarray.DataArray
        "design" (subject, regressor), float64, in the order of the cohort's subjects. ``attrs["formula"]`` is the
        formula, if there was one.

    Raises
    ------
    DesignError
        A formula that cannot be read, a column that is not there, missing or infinite values (the subjects are named),
        subjects without a row.
    """
    table = _covariate_table(cohort_or_table)
    labels = table.index.astype(str)
    if isinstance(formula_or_matrix, str):
        frame = _from_formula(table, formula_or_matrix)
        attrs = {"formula": formula_or_matrix}
    else:
        frame = _aligned(_as_frame(formula_or_matrix, labels, names), labels)
        attrs = {key: value for key, value in getattr(formula_or_matrix, "attrs", {}).items() if key == "formula"}
    if frame.shape[1] == 0:
        raise DesignError("The design has no columns.")
    columns = [str(column) for column in frame.columns]
    if len(set(columns)) < len(columns):
        raise DesignError(f"Regressors must have different names; these are {listing(columns, most=20)}.")
    values = _numbers(frame, columns)
    unknown = ~np.isfinite(values)
    if unknown.any():
        where = [columns[c] for c in np.flatnonzero(unknown.any(axis=0))]
        who = listing(labels[np.flatnonzero(unknown.any(axis=1))])
        raise DesignError(f"The design has missing or infinite values in {listing(where)} for {who}.")
    coords = {SUBJECT: labels.to_numpy(dtype=str), "regressor": np.array(columns, dtype=str)}
    return xr.DataArray(values, coords, dims=(SUBJECT, "regressor"), name="design", attrs=attrs)


def _covariate_table(cohort_or_table: xr.Dataset | pd.DataFrame) -> pd.DataFrame:
    if isinstance(cohort_or_table, pd.DataFrame):
        return cohort_or_table
    labels = pd.Index(cohort_or_table[SUBJECT].values, name=SUBJECT)
    columns = {name: _column(cohort_or_table[name]) for name in covariate_names(cohort_or_table)}
    return pd.DataFrame(columns, index=labels)


def _column(covariate: xr.DataArray) -> Any:
    levels = covariate.attrs.get("levels")
    return covariate.values if levels is None else pd.Categorical(covariate.values, categories=levels)


def _from_formula(table: pd.DataFrame, text: str) -> pd.DataFrame:
    if not text.strip(" ~"):
        raise DesignError("The formula is empty; an intercept alone is '~ 1'.")
    try:
        formula = formulaic.Formula(text)
    except (FormulaicError, SyntaxError) as error:
        raise DesignError(f"The formula {text!r} cannot be read: {_first_line(error)}") from error
    if not isinstance(formula, formulaic.SimpleFormula):
        raise DesignError(f"The formula {text!r} must have no left-hand side and one part: write '~ age + sex'.")
    unknown = sorted({str(variable) for variable in formula.required_variables} - set(table.columns))
    if unknown:
        raise DesignError(
            f"The formula {text!r} uses {listing(unknown)}, but the cohort has no such covariate. "
            f"It has: {listing(table.columns, most=20)}."
        )
    used = table[_covariates_used(formula, text, table)]
    incomplete = used.isna()
    if incomplete.to_numpy().any():
        where = used.columns[incomplete.any()]
        who = used.index[incomplete.any(axis=1)]
        raise DesignError(
            f"The covariate {listing(where)} is missing for {len(who)} subjects: {listing(who)}. Leave them out, "
            "for example with cohort.sel(subject=...), or fill the values in."
        )
    try:
        # Only the covariates can be named in a formula, not the variables of whoever calls.
        matrix = formulaic.model_matrix(formula, table, context={}, na_action="ignore")
    except (FormulaicError, ValueError, TypeError) as error:
        raise DesignError(f"The formula {text!r} cannot be evaluated: {_first_line(error)}") from error
    return pd.DataFrame(matrix).set_axis(table.index, axis=0)


def _covariates_used(formula: formulaic.SimpleFormula, text: str, table: pd.DataFrame) -> list[str]:
    """Covariates that a formula names; formulaic's own list leaves out those inside poly, center and splines."""
    named = set()
    for factor in (str(factor.expr) for term in formula for factor in term.factors):
        named.add(factor)
        if factor.isidentifier() or factor in table.columns:
            continue
        tree = ast.parse(re.sub(r"`[^`]*`", "_", factor), mode="eval")
        named |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return [name for name in table.columns if name in named or f"`{name}`" in text]


def _first_line(error: Exception) -> str:
    """formulaic draws the place of an error below its message, in terminal colours."""
    return str(error).partition("\n")[0]


def _as_frame(matrix: Matrix, labels: pd.Index, names: Sequence[str] | None) -> pd.DataFrame:
    if isinstance(matrix, xr.DataArray):
        if matrix.dims != (SUBJECT, "regressor"):
            raise DesignError(f"A design has the dimensions (subject, regressor), not {matrix.dims}.")
        frame = matrix.to_pandas()
        assert isinstance(frame, pd.DataFrame)
        return frame
    if isinstance(matrix, pd.DataFrame):
        return matrix
    values = np.asarray(matrix)
    if values.ndim != 2 or len(values) != len(labels):
        raise DesignError(f"The matrix has the shape {values.shape}; the cohort has {len(labels)} subjects.")
    columns = list(names) if names is not None else [f"x{i + 1}" for i in range(values.shape[1])]
    if len(columns) != values.shape[1]:
        raise DesignError(f"The matrix has {values.shape[1]} columns, but {len(columns)} names were given.")
    return pd.DataFrame(values, index=labels, columns=columns)


def _aligned(frame: pd.DataFrame, labels: pd.Index) -> pd.DataFrame:
    frame = frame.set_axis(frame.index.astype(str), axis=0)
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()]
        raise DesignError(f"The design has several rows for {listing(twice)}.")
    absent = labels.difference(frame.index)
    if len(absent):
        hint = " Its rows are matched by subject label: set the labels as its index."
        raise DesignError(f"The design has no row for {listing(absent)}.{hint if len(absent) == len(labels) else ''}")
    return frame.loc[labels]


def _numbers(frame: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    texts = [name for name, kind in zip(columns, frame.dtypes, strict=True) if not pd.api.types.is_numeric_dtype(kind)]
    if texts:
        raise DesignError(f"The column {listing(texts)} of the design is not numeric. Use a formula for factors.")
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)
