"""How a covariate is kept along the subjects, as plain numbers or text, and how it is read back as it was."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import InputError, listing
from voxstack.schema import SUBJECT

MISSING_TEXT = "n/a"
"""Stands for missing text in a store, as in tables of BIDS: no covariate has it as a value, no subject as label."""


def encode(column: "pd.Series[Any]") -> xr.Variable:
    """A column of a table as a variable along the subjects that a store can hold: float64, int64, bool or text.

    Parameters
    ----------
    column
        Of any type that pandas has. The text ``n/a`` is a missing value, as in a file. What is neither a number nor a
        truth value is kept as text, as are whole numbers that float64 (where some are missing) or int64 would change:
        they are identifiers.

    Returns
    -------
    xarray.Variable
        Missing values are NaN: in numeric covariates, which are then float64, and in text, which is then an object
        array. What plain values cannot say stands in the attributes: "levels" and "ordered" of a categorical column,
        whose values are text, and "pandas_dtype" of whole numbers and truth values with some missing.

    Raises
    ------
    InputError
        Levels that differ but read the same, such as 1 and "1"; complex numbers; text that is not valid Unicode.
    """
    column = _without_missing_text(column).infer_objects()
    if pd.api.types.is_complex_dtype(column.dtype):
        raise InputError(f"The covariate {column.name!r} holds complex numbers. Keep their parts in two columns.")
    if isinstance(column.dtype, pd.CategoricalDtype):
        return _encode_categorical(column)
    missing = column.isna().to_numpy()
    attrs: dict[str, Any] = {}
    exact = 2**53 if missing.any() else 2**63
    if pd.api.types.is_integer_dtype(column.dtype) and _too_large(column.dropna(), exact):
        return xr.Variable((SUBJECT,), _texts(column))
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_integer_dtype(column.dtype):
        truth = pd.api.types.is_bool_dtype(column.dtype)
        if not missing.any():
            return xr.Variable((SUBJECT,), column.to_numpy(dtype=bool if truth else np.int64))
        attrs["pandas_dtype"] = "boolean" if truth else "Int64"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return xr.Variable((SUBJECT,), column.to_numpy(dtype=np.float64, na_value=np.nan), attrs)
    return xr.Variable((SUBJECT,), _texts(column))


def _without_missing_text(column: "pd.Series[Any]") -> "pd.Series[Any]":
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_categories([level for level in column.cat.categories if _is_missing_text(level)])
    if column.dtype == object or pd.api.types.is_string_dtype(column.dtype):
        return column.mask(column.map(_is_missing_text).astype(bool))
    return column


def _is_missing_text(value: Any) -> bool:
    return isinstance(value, str) and value == MISSING_TEXT


def _too_large(numbers: "pd.Series[Any]", exact: int) -> bool:
    return bool(len(numbers)) and not -exact <= int(numbers.min()) <= int(numbers.max()) < exact


def _encode_categorical(column: "pd.Series[Any]") -> xr.Variable:
    dtype = column.dtype
    assert isinstance(dtype, pd.CategoricalDtype)
    levels = [_plain_level(level) for level in dtype.categories]
    texts = [str(level) for level in levels]
    if len(set(texts)) < len(texts):
        twice = listing(sorted({text for text in texts if texts.count(text) > 1}))
        raise InputError(f"The covariate {column.name!r} has different levels that read the same: {twice}. Rename one.")
    attrs = {"levels": levels} | ({"ordered": True} if dtype.ordered else {})
    return xr.Variable((SUBJECT,), _texts(column), attrs)


def _plain_level(level: Any) -> bool | int | float | str:
    """A level as JSON can hold it; numbers and truth values stay what they are, all else is text."""
    plain = level.item() if isinstance(level, np.generic) else level
    return plain if isinstance(plain, bool | int | float) else str(plain)


def decode(name: str, variable: xr.Variable) -> "pd.Series[Any]":
    """A covariate as formulas take it: float64, int64, bool, text as objects, or categorical.

    A column and the same column after a journey through a store become equal.

    Parameters
    ----------
    name
        Of the covariate.
    variable
        Of `encode`, or any other along the subjects.

    Returns
    -------
    Series
        Whole numbers and truth values with some missing are of pandas' nullable types.

    Raises
    ------
    InputError
        A value that is not among the levels that the attributes list, as after concatenating cohorts whose levels
        differ.
    """
    attrs = variable.attrs
    if not {"levels", "pandas_dtype"} & set(attrs):
        variable = encode(pd.Series(variable.data, name=name))
        attrs = variable.attrs
    if "levels" in attrs:
        return pd.Series(_decode_categorical(name, variable.values, attrs["levels"], bool(attrs.get("ordered"))))
    if variable.dtype.kind in "OU":
        return pd.Series(variable.values.astype(object), dtype=object)
    plain = pd.Series(variable.values)
    try:
        return plain.astype(attrs.get("pandas_dtype", variable.dtype))
    except (TypeError, ValueError):  # other values were put in its place
        return plain


def _decode_categorical(name: str, values: NDArray[Any], levels: Sequence[Any], ordered: bool) -> pd.Categorical:
    texts = [str(level) for level in levels]
    unknown = sorted({str(value) for value in values if not pd.isna(value)} - set(texts))
    if unknown:
        raise InputError(
            f"The covariate {name!r} has the value {listing(unknown)}, which is not among its levels "
            f"{listing(texts, most=20)}. After concatenating cohorts, give it the levels of all: "
            f"cohort[{name!r}].attrs['levels'] = [...]."
        )
    return pd.Categorical(values, categories=texts, ordered=ordered).rename_categories(
        dict(zip(texts, levels, strict=True))
    )


def _texts(column: "pd.Series[Any]") -> NDArray[Any]:
    missing = column.isna()
    texts = [None if absent else str(value) for value, absent in zip(column, missing, strict=True)]
    bad = [text for text in dict.fromkeys(texts) if text is not None and not is_plain_text(text)]
    if bad:
        raise InputError(f"The covariate {column.name!r} holds {bad[0]!r}, which is not valid text. Correct it.")
    return text_array(texts)


def is_plain_text(text: str) -> bool:
    """Whether NumPy and UTF-8 keep a text as it is: without NUL, which ends it, and halves of surrogate pairs."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def text_array(values: Iterable[str | None]) -> NDArray[Any]:
    """Text as a NumPy array: fixed-width strings, or objects with NaN where some are missing (None)."""
    values = list(values)
    if any(value is None for value in values):
        return np.array([np.nan if value is None else value for value in values], dtype=object)
    return np.array(values, dtype=str)
