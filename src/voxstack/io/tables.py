"""Participants tables: labels and covariates."""

import re
import warnings
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import pandas as pd
import xarray as xr

from voxstack.covariates import MISSING_TEXT, encode, is_plain_text
from voxstack.errors import InputError, listing
from voxstack.io.places import Place, place_of
from voxstack.io.secrets import StorageOptions
from voxstack.schema import RESERVED_NAMES

_MISSING = ["", "n/a", "N/A", "NA", "NaN", "nan"]
_SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", " ": "space"}
_AS_WHAT = "Save it as plain text in UTF-8: tab-separated with the ending .tsv, or comma-separated with .csv."
_KEYS = frozenset({"zarr.json", "stack.partial", "stack.lock"})  # that a store uses itself, beside its variables
_LONGEST = 200  # bytes of a name: most file systems take 255


def read_table(
    given: Any, labels: Sequence[str], storage_options: StorageOptions | None, *, what: str = "participants table"
) -> tuple[pd.DataFrame, Place, str]:
    """A table as it is, the folder that its relative paths start from, and what to call it in messages.

    Parameters
    ----------
    given
        A DataFrame, or the path or URL of a TSV or CSV file (UTF-8, with or without a byte order mark). Empty cells,
        ``n/a``, ``NA`` and ``NaN`` are missing values; spaces around cells do not count.
    labels
        Columns whose cells are text even where they look like numbers, as ``01`` does; the first are the subjects'.
    storage_options
        For a URL.
    what
        To call it.
    """
    if isinstance(given, pd.DataFrame):
        return given.copy(), Path.cwd(), f"The {what}"
    if not isinstance(given, str | Path):
        raise InputError(f"The {what} is a DataFrame or the path of a table, not a {type(given).__name__}.")
    path = place_of(given, storage_options)
    folder = path.absolute().parent if isinstance(path, Path) else path.parent
    return _read_table(path, labels, what), folder, f"The {what} {path}"


def indexed(table: pd.DataFrame, label: str, name: str) -> pd.DataFrame:
    """A table indexed by subject label (str, unique, in the order of the table).

    Parameters
    ----------
    table
        Of `read_table`.
    label
        The column, or the index, that holds the labels.
    name
        What to call the table in messages.

    Raises
    ------
    InputError
        No such column; labels missing or not unique; no row at all.
    """
    table.columns = [str(column) for column in table.columns]
    if label not in table.columns:
        if table.index.name != label:
            raise InputError(
                f"{name} has no column {label!r}. It has: {listing(table.columns, most=20)}. Name the column of the "
                "subject labels with label= (--label on the command line)."
            )
        table = table.reset_index()
        table.columns = [str(column) for column in table.columns]
    refuse_repeated_columns(table, name)
    if table.empty:
        raise InputError(f"{name} has no rows.")
    labels = table[label].astype(str)
    refuse_missing_labels(name, label, table[label])
    odd = [label for label in labels if not is_plain_text(label)]
    if odd:
        raise InputError(f"{name} has the {label} {odd[0]!r}, which is not valid text. Correct it.")
    if labels.duplicated().any():
        raise InputError(
            f"{name}: {label} must be unique, one row an image, but these stand in several rows: "
            f"{listing(labels[labels.duplicated()].unique())}. For repeated measures make labels such as sub-01_ses-1 "
            "and keep the participant in a column of its own."
        )
    return table.drop(columns=label).set_index(pd.Index(labels, name=label))


def refuse_repeated_columns(table: pd.DataFrame, name: str) -> None:
    """Refuse several columns of one name."""
    if table.columns.duplicated().any():
        raise InputError(f"{name} has several columns called {listing(table.columns[table.columns.duplicated()])}.")


def refuse_missing_labels(table: str, label: str, labels: "pd.Series[Any]") -> None:
    """Refuse missing labels, and those that a store could not tell from missing ones; `InputError` names their rows."""
    missing = np.flatnonzero(labels.isna() | labels.astype(str).isin(["", MISSING_TEXT]))
    if missing.size:
        raise InputError(
            f"{table} has no {label} in data row {listing(missing + 1)}; empty text and {MISSING_TEXT} are none. Give "
            "every row a label."
        )


def _read_table(path: Place, labels: Sequence[str], what: str) -> pd.DataFrame:
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        text = _without_spaces_at_ends(path.read_bytes().decode("utf-8-sig"), separator)
        if "\0" in text:
            raise ValueError("it holds NUL bytes")
        first = pd.read_csv(StringIO(text), sep=separator, header=None, nrows=1, dtype=str, skipinitialspace=True)
        names = [str(name) for name in first.to_numpy()[0] if not pd.isna(name)]
        twice = sorted({name for name in names if names.count(name) > 1})  # pandas would rename the second one
        if twice:
            raise InputError(f"{path} has several columns called {listing(twice)}.")
        _refuse_other_separator(path, names, separator, labels[0])
        return _parsed(text, separator, labels)
    except FileNotFoundError as error:
        raise InputError(f"There is no {what} {path}.") from error
    except IsADirectoryError as error:
        raise InputError(f"There is no {what} {path}, but a folder.") from error
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error}.") from error
    except InputError:
        raise
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' own errors are ValueErrors
        what = f"{path} is not a {_SEPARATORS[separator]}-separated table in UTF-8"
        raise InputError(f"{what}: {str(error).strip()}. {_AS_WHAT}") from error


def _without_spaces_at_ends(text: str, separator: str) -> str:
    """Else "M " were another level than "M", and "n/a " no missing value; pandas removes only those before a cell."""
    return re.sub(rf" +(?=[{separator}\r\n]|\Z)", "", text)


def _parsed(text: str, separator: str, labels: Sequence[str]) -> pd.DataFrame:
    def read(texts: Iterable[str]) -> pd.DataFrame:
        return pd.read_csv(
            StringIO(text),
            sep=separator,
            na_values=_MISSING,
            keep_default_na=False,
            dtype=dict.fromkeys(texts, str),
            skipinitialspace=True,
            index_col=False,
            low_memory=False,  # else one column may be 1.0 in some rows and "1" in others
        )

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        table = read(labels)
        # Identifiers of so many digits that float64, which pandas takes where some are missing, would change them.
        large = [str(name) for name in table.select_dtypes("float") if (table[name].abs() >= 2**53).any()]
        written = read([*labels, *large]) if large else table
    for name in large:
        if written[name].dropna().str.fullmatch(r"[+-]?\d+").all():
            table[name] = written[name]
    return table


def _refuse_other_separator(path: Place, names: list[str], separator: str, label: str) -> None:
    if len(names) != 1 or names[0] == label:
        return
    for other, word in _SEPARATORS.items():
        if other != separator and label in [name.strip(' "') for name in names[0].split(other)]:
            raise InputError(
                f"{path} is read as {_SEPARATORS[separator]}-separated because of its ending, but its columns have "
                f"{word}s between them. {_AS_WHAT}"
            )


def covariates(table: pd.DataFrame, *, maps: Iterable[str], leave_out: Iterable[str]) -> dict[str, xr.Variable]:
    """Covariates as variables along the subjects that a store can hold: float64, int64, bool or str.

    Parameters
    ----------
    table
        Indexed by subject label.
    maps
        Names of the cohort's maps, which covariates may not have.
    leave_out
        Columns that are no covariates: those that hold paths or images.

    Returns
    -------
    dict
        As of `voxstack.covariates.encode`, which formulas read back as the columns were.

    Raises
    ------
    InputError
        A name that a covariate cannot have, or levels that cannot be told apart.
    """
    kept = table.drop(columns=list(leave_out))
    check_names("covariate", kept.columns, taken=maps)
    return {name: encode(kept[name]) for name in kept.columns}


def check_names(what: str, names: Iterable[str], *, taken: Iterable[str] = ()) -> None:
    """Refuse names of maps or covariates that a cohort uses itself, or that a store cannot have as names of folders."""
    names = list(names)
    used = sorted((RESERVED_NAMES | set(taken)) & set(names))
    if used:
        raise InputError(f"A {what} cannot be called {listing(used)}: the cohort uses that name itself. Rename it.")
    refused = [name for name in names if not _is_key(name)]
    if refused:
        raise InputError(
            f"A {what} cannot be called {listing(map(repr, refused))}: a name must not be empty, '.' or '..', hold a "
            f"'/' or a control character, begin with '__', be one of {listing(sorted(_KEYS))}, or be longer than "
            f"{_LONGEST} bytes. Rename it."
        )


def _is_key(name: str) -> bool:
    """Whether a store can have a variable of this name."""
    if "/" in name or name.strip() in ("", ".", "..") or name.startswith("__") or name in _KEYS:
        return False
    control = any(category(character) == "Cc" for character in name)
    return is_plain_text(name) and not control and len(name.encode()) <= _LONGEST
