"""From a formula or a table to a design matrix, one labelled row a subject."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from voxstack import formulas
from voxstack.errors import DesignError, listing
from voxstack.kernels.collinearity import condition_number, variance_inflation
from voxstack.schema import SUBJECT

Matrix = pd.DataFrame | xr.DataArray | NDArray[Any]


def make_design(
    cohort_or_table: xr.Dataset | pd.DataFrame,
    formula_or_matrix: str | Matrix,
    *,
    names: Sequence[str] | None = None,
    drop_missing: bool = False,
) -> xr.DataArray:
    """Design matrix of a cohort.

    Parameters
    ----------
    cohort_or_table
        A cohort, whose covariates the formula uses, or a DataFrame indexed by subject label.
    formula_or_matrix
        A Wilkinson formula such as ``"~ age + C(site) * sex"`` (of formulaic; the intercept is implied, ``0 +`` leaves
        it out); or a DataFrame or DataArray with one row per subject, matched by label; or an array (n, p) whose rows
        are the subjects in order. What a formula computes of all subjects, such as the mean in ``center(age)`` or the
        knots in ``bs(age, df=4)``, it computes of the subjects of the design alone. Levels without a subject do not
        count.
    names
        Names of an array's columns; x1, x2 and so on if not given.
    drop_missing
        Leave out the subjects that lack a covariate which the formula uses, or a value of the matrix, and list them in
        the attribute "dropped_subjects". By default they are an error. Infinite values always are.

    Returns
    -------
    xarray.DataArray
        "design" (subject, regressor), float64, in the order of the cohort's subjects. Along `regressor`:
        `variance_inflation`, 1 / (1 - R^2) of each column's regression on the others, NaN for a constant and infinite
        for a combination of others; and for a formula `term`, the term that the column belongs to. In the attributes:
        "condition_number", the ratio of the extreme singular values of the matrix with columns of unit length;
        "formula", if there was one, with "formula_digest" of the matrix that it gave, without which the formula of a
        matrix is not believed; "dropped_subjects", if there may be any.

    Raises
    ------
    DesignError
        A formula that cannot be read, a column that is not there, missing or infinite values (the subjects are named),
        subjects without a row.

    Warns
    -----
    VoxstackWarning
        A level has lost all of its subjects by `drop_missing`; all subjects have the same level of a factor.

    Notes
    -----
    Diagnostics: Belsley, Kuh and Welsch (1980), Regression Diagnostics, chapter 3.
    """
    labels = _labels(cohort_or_table)
    if isinstance(formula_or_matrix, str):
        columns = formulas.evaluate(formula_or_matrix, cohort_or_table, labels, drop_missing=drop_missing)
        rows = _Rows(columns.frame, columns.kept, columns.terms)
        attrs: dict[str, Any] = {"formula": formula_or_matrix}
    else:
        rows = _matched(formula_or_matrix, labels, names, drop_missing=drop_missing)
        attrs = _known(formula_or_matrix)
    regressors = [str(column) for column in rows.frame.columns]
    if not regressors:
        raise DesignError("The design has no columns.")
    if len(set(regressors)) < len(regressors):
        raise DesignError(f"Regressors must have different names; these are {listing(regressors, most=20)}.")
    values = _numbers(rows.frame, regressors)
    _refuse_unknown(values, regressors, labels[rows.kept])
    if drop_missing or "dropped_subjects" in attrs:
        attrs["dropped_subjects"] = labels[~rows.kept].tolist()
    attrs["condition_number"] = condition_number(values)
    coords: dict[str, Any] = {
        SUBJECT: labels[rows.kept].to_numpy(dtype=str),
        "regressor": np.array(regressors, dtype=str),
        "variance_inflation": ("regressor", variance_inflation(values)),
    }
    if rows.terms is not None:
        coords["term"] = ("regressor", np.array(rows.terms, dtype=str))
    design = xr.DataArray(values, coords, dims=(SUBJECT, "regressor"), name="design", attrs=attrs)
    return design.assign_attrs(formula_digest=_digest(design)) if "formula" in attrs else design


def _known(matrix: Matrix) -> dict[str, Any]:
    """What a design says of itself: its formula only as long as the matrix is what the formula gave."""
    attrs = getattr(matrix, "attrs", {})
    known = {key: attrs[key] for key in ("dropped_subjects",) if key in attrs}
    if isinstance(matrix, xr.DataArray) and "formula" in attrs and attrs.get("formula_digest") == _digest(matrix):
        known["formula"] = attrs["formula"]
    return known


def _digest(design: xr.DataArray) -> str:
    """Of values, subjects and regressors, in whatever order they are."""
    frame = design.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    frame = frame.sort_index().sort_index(axis=1)
    told = json.dumps([frame.index.astype(str).tolist(), frame.columns.astype(str).tolist()]).encode()
    return hashlib.blake2b(told + frame.to_numpy(dtype="<f8").tobytes(), digest_size=16).hexdigest()


class _Rows(NamedTuple):
    """Rows (n, p) of those of the m subjects that are kept (m,), and the term of each column, if it is known."""

    frame: pd.DataFrame
    kept: NDArray[np.bool_]
    terms: list[str] | None


def _labels(cohort_or_table: xr.Dataset | pd.DataFrame) -> pd.Index:
    if isinstance(cohort_or_table, pd.DataFrame):
        return cohort_or_table.index.astype(str)
    labels: pd.Index = pd.Index(cohort_or_table[SUBJECT].values).astype(str)
    return labels


def _matched(matrix: Matrix, labels: pd.Index, names: Sequence[str] | None, *, drop_missing: bool) -> _Rows:
    """The rows of a given matrix, matched by label."""
    terms = None
    if isinstance(matrix, xr.DataArray) and matrix.dims != (SUBJECT, "regressor"):
        raise DesignError(f"A design has the dimensions (subject, regressor), not {matrix.dims}.")
    if isinstance(matrix, xr.DataArray) and "term" in matrix.coords:
        terms = [str(term) for term in matrix["term"].values]
    dropped = getattr(matrix, "attrs", {}).get("dropped_subjects", [])
    frame = _aligned(_as_frame(matrix, labels, names), labels, dropped)
    kept = np.asarray(labels.isin(frame.index))
    if drop_missing:
        whole = frame.notna().all(axis=1).to_numpy(dtype=bool)
        kept[kept] = whole
        frame = frame[whole]
    if not kept.any():
        raise DesignError("No subject is left: each of them has a missing value in the design, or no row.")
    return _Rows(frame, kept, terms)


def _as_frame(matrix: Matrix, labels: pd.Index, names: Sequence[str] | None) -> pd.DataFrame:
    if isinstance(matrix, xr.DataArray):
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


def _aligned(frame: pd.DataFrame, labels: pd.Index, dropped: Collection[str]) -> pd.DataFrame:
    """The rows of the subjects, in their order; only those that were dropped on purpose may have none."""
    frame = frame.set_axis(frame.index.astype(str), axis=0)
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()]
        raise DesignError(f"The design has several rows for {listing(twice)}.")
    absent = labels.difference(frame.index, sort=False)
    unexplained = absent.difference(pd.Index(dropped, dtype=object), sort=False)
    if len(unexplained):
        hint = " Its rows are matched by subject label: set the labels as its index."
        raise DesignError(
            f"The design has no row for {listing(unexplained)}.{hint if len(unexplained) == len(labels) else ''}"
        )
    return frame.loc[labels[labels.isin(frame.index)]]


def _numbers(frame: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    texts = [name for name, kind in zip(columns, frame.dtypes, strict=True) if not pd.api.types.is_numeric_dtype(kind)]
    if texts:
        raise DesignError(f"The column {listing(texts)} of the design is not numeric. Use a formula for factors.")
    return frame.to_numpy(dtype=np.float64, na_value=np.nan)


def _refuse_unknown(values: NDArray[np.float64], regressors: list[str], labels: pd.Index) -> None:
    unknown = ~np.isfinite(values)
    if unknown.any():
        where = [regressors[column] for column in np.flatnonzero(unknown.any(axis=0))]
        who = listing(labels[np.flatnonzero(unknown.any(axis=1))])
        raise DesignError(f"The design has missing or infinite values in {listing(where)} for {who}.")
