"""Statistical maps in a folder of BIDS derivatives, found by the entities of their names.

A reader of file names of our own: entities are pairs ``key-value`` between underscores, which takes a dozen lines.
PyBIDS indexes a whole dataset, its JSON files included, into a database before it answers, and brings along SQLAlchemy.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from voxstack.errors import InputError, listing
from voxstack.io.first_level import EFFECT, VARIANCE, Subjects

_STATS = (EFFECT, VARIANCE)  # as nilearn and others write them: stat-effect, stat-variance
_IMAGE = re.compile(r"(?P<entities>(?:[A-Za-z]+-[A-Za-z0-9+]+_)+)statmap\.nii(?:\.gz)?")
_ROWS = {"ses": "session", "run": "run"}  # of a subject there may be several of these
_LONG = {"subject": "sub", "session": "ses"}


class _Map(NamedTuple):
    path: Path
    entities: Mapping[str, str]

    def row(self) -> tuple[str, ...]:
        """Subject, and session and run where its name has them."""
        return tuple(self.entities.get(key, "") for key in ("sub", *_ROWS))


def of_derivatives(folder: Path, entities: Mapping[str, str], label: str) -> Subjects:
    """Effect maps, and variance maps where there are any, one row for each subject, session and run.

    Parameters
    ----------
    folder
        Of the derivatives; all folders in it are looked through.
    entities
        That the maps have, by their short names or as ``subject`` and ``session``: such as
        ``{"task": "stopsignal", "contrast": "go", "space": "MNI152NLin2009cAsym"}``. Values with or without the key.
    label
        Name of the subjects' index.

    Raises
    ------
    InputError
        No such map; or several maps of a subject that entities tell apart which were not given; or variances of some
        subjects alone.
    """
    wanted = {
        _LONG.get(key, key): str(value).removeprefix(f"{_LONG.get(key, key)}-") for key, value in entities.items()
    }
    there = sorted(_maps(folder), key=lambda one: one.path)
    if not there:
        raise InputError(f"{folder} holds no statistical maps: no file is called sub-..._stat-effect_statmap.nii.gz.")
    chosen = [one for one in there if all(one.entities.get(key) == value for key, value in wanted.items())]
    found = {stat: [one for one in chosen if one.entities.get("stat") == stat] for stat in _STATS}
    if not found[EFFECT]:
        raise InputError(f"{folder} has no effect map with {_told(wanted)}; there are {_choices(there)}.")
    columns = {stat: _by_row(some, wanted) for stat, some in found.items() if some}
    rows = sorted(columns[EFFECT])
    lacking = [_label(row) for row in rows if VARIANCE in columns and row not in columns[VARIANCE]]
    if lacking:
        raise InputError(f"{folder} has variance maps, but none of {listing(lacking)}.")
    table = pd.DataFrame(
        {stat: [of_rows[row] for row in rows] for stat, of_rows in columns.items()},
        index=pd.Index([_label(row) for row in rows], name=label),
    )
    several = {name: [row[at] for row in rows] for at, name in enumerate(_ROWS.values(), start=1)}
    for name, values in several.items():
        if any(values):
            table[name] = values
    if set(table.columns) & set(_ROWS.values()):
        table["participant"] = [f"sub-{row[0]}" for row in rows]
    return Subjects(table, {stat: stat for stat in columns})


def _maps(folder: Path) -> list[_Map]:
    found = []
    for path in folder.rglob("*_statmap.nii*"):
        match = _IMAGE.fullmatch(path.name)
        if match is not None:
            pairs = [pair.partition("-") for pair in match["entities"].rstrip("_").split("_")]
            found.append(_Map(path.absolute(), {key: value for key, _, value in pairs}))
    return [one for one in found if "sub" in one.entities]


def _by_row(some: list[_Map], wanted: Mapping[str, str]) -> dict[tuple[str, ...], Path]:
    of_rows: dict[tuple[str, ...], list[_Map]] = defaultdict(list)
    for one in some:
        of_rows[one.row()].append(one)
    for row, several in of_rows.items():
        if len(several) > 1:
            keys = dict.fromkeys(key for one in several for key in one.entities if key not in wanted)
            differ = [key for key in keys if len({one.entities.get(key) for one in several}) > 1]
            if not differ:
                raise InputError(f"{_label(row)} has several maps of one name: {listing(one.path for one in several)}.")
            raise InputError(
                f"{_label(row)} has {len(several)} maps that differ in {listing(differ)} "
                f"({_choices(several, differ)}). Choose with entities={{{differ[0]!r}: ...}} "
                f"(--entity {differ[0]}=...)."
            )
    return {row: several[0].path for row, several in of_rows.items()}


def _label(row: tuple[str, ...]) -> str:
    return "_".join(f"{key}-{value}" for key, value in zip(("sub", *_ROWS), row, strict=True) if value)


def _told(entities: Mapping[str, str]) -> str:
    return ", ".join(f"{key}-{value}" for key, value in entities.items()) or "whatever entities"


def _choices(maps: list[_Map], keys: list[str] | None = None) -> str:
    """Values of entities that there are, but for subjects."""
    values: dict[str, dict[str, None]] = defaultdict(dict)
    for one in maps:
        for key, value in one.entities.items():
            if key != "sub" and (keys is None or key in keys):
                values[key][value] = None
    return "; ".join(f"{key}: {listing(some)}" for key, some in values.items())
