"""nilearn's table of first-level maps: a row for each subject and map."""

from pathlib import Path
from typing import Any

import pandas as pd

from voxstack.errors import InputError, listing, warn
from voxstack.io.first_level import CONTRAST, EFFECT, VARIANCE, Subjects
from voxstack.io.places import Place, joined
from voxstack.io.secrets import StorageOptions
from voxstack.io.sources import image_columns
from voxstack.io.tables import refuse_missing_labels, refuse_repeated_columns

SUBJECT, MAP = "subject_label", "map_name"
_PATHS = {EFFECT: "effects_map_path", VARIANCE: "variance_map_path"}
COLUMNS = (SUBJECT, MAP, _PATHS[EFFECT])
"""That nilearn wants."""


def is_table_of_maps(table: pd.DataFrame) -> bool:
    """Whether a table is nilearn's, by the columns that it wants; one may be the index."""
    return set(COLUMNS) <= {table.index.name, *map(str, table.columns)}


def of_table(
    given: tuple[pd.DataFrame, Place, str], contrast: Any, label: str, storage_options: StorageOptions | None
) -> Subjects:
    """One of the maps that a table of nilearn names.

    Parameters
    ----------
    given
        The table, with the columns subject_label, map_name and effects_map_path; variance_map_path too, where there
        are variances. All others are covariates. Then the folder where relative paths start, and what to call the
        table in messages.
    contrast
        The map_name; None where there is one.
    label
        Name of the subjects' index.
    storage_options
        For URLs.

    Raises
    ------
    InputError
        No such map, or several and none is named; rows without subject or map; several rows of one subject and map;
        labels in two columns.

    Warns
    -----
    VoxstackWarning
        Subjects whose other maps are there, and columns of images that are not used.
    """
    table, folder, name = given
    table = table.reset_index(drop=table.index.name not in COLUMNS or table.index.name in table.columns)
    refuse_repeated_columns(table, name)
    if table.empty:
        raise InputError(f"{name} has no rows.")
    if label != SUBJECT and label in table.columns:
        raise InputError(
            f"{name} has labels in the columns {SUBJECT} and {label}. Leave one of them out, or take those of "
            f"{SUBJECT} and keep the others as a covariate with label={SUBJECT!r} (--label)."
        )
    for column in (SUBJECT, MAP):
        refuse_missing_labels(name, column, table[column])
    chosen = _chosen(table[MAP].astype(str), contrast, name)
    rows = table[table[MAP].astype(str) == chosen]
    _look_for_others(table, rows, chosen, name)
    rows = rows.drop(columns=MAP).rename(columns={SUBJECT: label}).set_index(label)
    paths = {of: column for of, column in _PATHS.items() if column in rows.columns}
    for column in paths.values():
        rows[column] = pd.Series([_place(c, folder, storage_options) for c in rows[column]], rows.index, dtype=object)
    if VARIANCE in paths and rows[_PATHS[VARIANCE]].isna().all():
        rows = rows.drop(columns=paths.pop(VARIANCE))
    if unused := sorted(set(image_columns(rows, {})) - set(paths.values())):
        warn(f"{name} has images in {listing(unused)}, which are not used. Maps are in {listing(_PATHS.values())}.")
    return Subjects(rows, dict(paths), {CONTRAST: chosen})


def _chosen(maps: "pd.Series[str]", contrast: Any, name: str) -> str:
    there = list(dict.fromkeys(maps))
    if contrast is None and len(there) > 1:
        raise InputError(
            f"{name} has several maps: {listing(there, most=20)}. Choose one with first_level_contrast= "
            "(--first-level-contrast)."
        )
    chosen = there[0] if contrast is None else str(contrast)
    if chosen not in there:
        raise InputError(f"{name} has no map {chosen!r}; it has {listing(there, most=20)}.")
    return chosen


def _look_for_others(table: pd.DataFrame, rows: pd.DataFrame, chosen: str, name: str) -> None:
    """Each subject has one row of a map; those that have others alone are named."""
    labels = rows[SUBJECT].astype(str)
    if labels.duplicated().any():
        raise InputError(
            f"{name} has several rows with the {MAP} {chosen!r} for {listing(labels[labels.duplicated()].unique())}. "
            "Sessions get labels such as sub-01_ses-1."
        )
    others = sorted(set(table[SUBJECT].astype(str)) - set(labels))
    if others:
        warn(f"{name} has other maps of {listing(others)}, but not {chosen!r}. They are not in the cohort.")


def _place(cell: Any, folder: Place, storage_options: StorageOptions | None) -> Any:
    """Of a cell with a path; None where it is empty."""
    if not isinstance(cell, str | Path):
        return None if pd.api.types.is_scalar(cell) and pd.isna(cell) else cell
    text = str(cell).strip()
    return None if text in ("", "n/a") else joined(folder, text, storage_options)
