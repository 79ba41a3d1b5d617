"""nilearn's table of first-level maps: a row for each subject and map."""

from pathlib import Path
from typing import Any

import pandas as pd

from voxstack.errors import InputError, listing
from voxstack.io.first_level import CONTRAST, EFFECT, VARIANCE, Subjects
from voxstack.io.places import Place, joined
from voxstack.io.secrets import StorageOptions
from voxstack.io.tables import refuse_missing_labels, refuse_repeated_columns

SUBJECT, MAP = "subject_label", "map_name"
_PATHS = {EFFECT: "effects_map_path", VARIANCE: "variance_map_path"}


def is_table_of_maps(table: pd.DataFrame) -> bool:
    """Whether a table is nilearn's, by the columns that it wants; subjects may be the index."""
    return {SUBJECT, MAP, _PATHS[EFFECT]} <= {table.index.name, *map(str, table.columns)}


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
        No such map, or several and none is named; rows without subject or map; labels in two columns.
    """
    table, folder, name = given
    table = table.reset_index() if table.index.name == SUBJECT else table
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
    rows = rows.drop(columns=MAP).rename(columns={SUBJECT: label}).set_index(label)
    if (variance := _PATHS[VARIANCE]) in rows.columns and rows[variance].isna().all():
        rows = rows.drop(columns=variance)
    paths = {of: column for of, column in _PATHS.items() if column in rows.columns}
    for column in paths.values():
        rows[column] = [_place(cell, folder, storage_options) for cell in rows[column]]
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


def _place(cell: Any, folder: Place, storage_options: StorageOptions | None) -> Any:
    if isinstance(cell, str | Path) and str(cell).strip():
        return joined(folder, str(cell).strip(), storage_options)
    return cell
