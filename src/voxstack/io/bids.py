"""Statistical maps in a folder of BIDS derivatives, found by the entities of their names.

A reader of file names of our own: entities are pairs ``key-value`` between underscores, which takes a dozen lines.
PyBIDS indexes a whole dataset, its JSON files included, into a database before it answers, and brings along SQLAlchemy.
"""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from voxstack.errors import InputError, listing, warn
from voxstack.io.first_level import CONTRAST, EFFECT, VARIANCE, Subjects

_IMAGE = re.compile(r"(?P<entities>(?:[A-Za-z]+-[^_]+_)+)statmap\.nii(?:\.gz)?")
_MEANT = re.compile(r"sub-.*statmap\.nii(\.gz)?", re.IGNORECASE)  # maps of groups lie beside those of subjects
_STAT = "stat"  # whose values nilearn and others call effect and variance
_ROWS = {"ses": "session", "run": "run"}  # of a subject there may be several of these
_LONG = {
    "subject": "sub", "session": "ses", "acquisition": "acq", "reconstruction": "rec", "direction": "dir",
    "resolution": "res", "density": "den", "description": "desc",
}  # fmt: skip
_Wanted = Mapping[str, tuple[str, ...]]
"""For each key the values that will do; an empty one stands for maps without that key."""


class _Map(NamedTuple):
    path: Path
    entities: Mapping[str, str]

    def row(self) -> tuple[str, ...]:
        """Subject, and session and run where its name has them."""
        return tuple(self.entities.get(key, "") for key in ("sub", *_ROWS))

    def told(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Values of some entities, empty where it has none."""
        return tuple(self.entities.get(key, "") for key in keys)


def of_derivatives(folder: Path, entities: Mapping[str, Any], contrast: Any, label: str) -> Subjects:
    """Effect maps, and variance maps where there are any, one row for each subject, session and run.

    Parameters
    ----------
    folder
        Of the derivatives; all folders in it are looked through, but for hidden ones and stores.
    entities
        That the maps have, by their short or long names: such as
        ``{"task": "stopsignal", "contrast": "go", "space": "MNI152NLin2009cAsym"}``. Values with or without the key;
        a list where several will do; ``""`` or None for maps without that entity.
    contrast
        The entity of that name, where it is not among these.
    label
        Name of the subjects' index.

    Raises
    ------
    InputError
        No such map; maps of a subject, or of several subjects, that entities tell apart which were not given; effects
        without variances where others have them, or the reverse.

    Warns
    -----
    VoxstackWarning
        Subjects whose other maps are there, and files whose names cannot be read.
    """
    wanted = _wanted(entities, contrast)
    there, unread = _maps(folder)
    if not there:
        what = f" that can be read, such as {unread[0]}" if unread else ""
        raise InputError(
            f"{folder} holds no statistical maps: no file{what} is called sub-..._stat-effect_statmap.nii.gz."
        )
    if unread:
        warn(
            f"These files are left out, since their names are no KEY-VALUE pairs with each key once: {listing(unread)}."
        )
    chosen = [one for one in there if all(one.entities.get(key, "") in some for key, some in wanted.items())]
    effects, variances = (
        _by_row(one for one in chosen if one.entities.get(_STAT) == stat) for stat in (EFFECT, VARIANCE)
    )
    if not effects:
        raise InputError(
            f"{folder} has no effect map with {_told(wanted)}; there are {_choices(there, _keys(there))}."
            f"{_hint(wanted, there)}"
        )
    _refuse_levels(effects)
    if variances:
        _refuse_unpaired(folder, effects, variances)
    _look_for_others(there, effects, wanted)
    _refuse_mixtures(list(effects.values()), wanted)
    table = _table({EFFECT: effects, VARIANCE: variances} if variances else {EFFECT: effects}, label)
    return Subjects(table, {stat: stat for stat in (EFFECT, VARIANCE) if stat in table}, _details(effects, wanted))


def _wanted(entities: Mapping[str, Any], contrast: Any) -> _Wanted:
    if not isinstance(entities, Mapping):
        raise InputError(f"entities are keys and values such as {{'task': 'stopsignal'}}, not {entities!r}.")
    wanted = {}
    for name, given in entities.items():
        key = _LONG.get(name, name)
        values = given if isinstance(given, Collection) and not isinstance(given, str) else [given]
        wanted[key] = tuple("" if value is None else str(value).removeprefix(f"{key}-") for value in values)
        if not wanted[key]:
            raise InputError(f"entities: {name!r} has no value. '' stands for maps without it.")
    if contrast is not None:
        if str(contrast) not in wanted.get("contrast", (str(contrast),)):
            given = entities["contrast"]
            raise InputError(
                f"first_level_contrast is {contrast!r} and the entity contrast {given!r}. Give one of them."
            )
        wanted["contrast"] = (str(contrast),)
    return wanted


def _maps(folder: Path) -> tuple[list[_Map], list[str]]:
    """Maps by their paths, and names of maps that cannot be read; links to folders are followed, each folder once."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be looked through for maps: {error.strerror}.") from error

    seen, found, unread = set(), [], []
    for place, folders, files in os.walk(folder.absolute(), onerror=refuse, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".zarr")]
        for name in filter(_MEANT.fullmatch, files):
            if entities := _entities(name):
                found.append(_Map(Path(place, name), entities))
            else:
                unread.append(name)
    return sorted(found, key=lambda one: one.path), sorted(unread)


def _entities(name: str) -> dict[str, str]:
    """Of a file's name; none where it cannot be read."""
    match = _IMAGE.fullmatch(name)
    pairs = [pair.partition("-") for pair in match["entities"].rstrip("_").split("_")] if match else []
    entities = {key: value for key, _, value in pairs}
    return entities if "sub" in entities and len(entities) == len(pairs) else {}


def _look_for_others(there: list[_Map], rows: Iterable[tuple[str, ...]], wanted: _Wanted) -> None:
    """Subjects that are asked for have to be there; others that have maps, but not this one, are named."""
    have = {row[0] for row in rows}
    if lacking := sorted(set(wanted.get("sub", ())) - have):
        raise InputError(f"There is no such effect map of {listing(f'sub-{one}' for one in lacking)}.")
    others = sorted({one.entities["sub"] for one in there} - have)
    if others and "sub" not in wanted:
        warn(
            f"There is no effect map with {_told(wanted)} of {listing(f'sub-{one}' for one in others)}, of whom there "
            "are other maps. They are not in the cohort."
        )


def _by_row(some: Iterable[_Map]) -> dict[tuple[str, ...], _Map]:
    of_rows: dict[tuple[str, ...], list[_Map]] = defaultdict(list)
    for one in some:
        of_rows[one.row()].append(one)
    spelled: dict[tuple[str, ...], tuple[str, ...]] = {}
    for row in of_rows:
        same = tuple(value.lstrip("0") or "0" if value.isdecimal() else value for value in row[1:])
        first = spelled.setdefault((row[0], *same), row)
        if first != row:
            raise InputError(f"{_label(first)} and {_label(row)} are the same. Give their files one spelling.")
    for row, several in of_rows.items():
        if len(several) > 1:
            if not (differ := _differing(several)):
                raise InputError(f"{_label(row)} has several maps of one name: {listing(one.path for one in several)}.")
            raise InputError(
                f"{_label(row)} has {len(several)} maps that differ in {listing(differ)} "
                f"({_choices(several, differ)}). {_advice(differ[0])}"
            )
    return {row: of_rows[row][0] for row in sorted(of_rows)}


def _refuse_levels(rows: Iterable[tuple[str, ...]]) -> None:
    """Maps of runs beside those of their subject, which another program has made of them."""
    for at, key in enumerate(_ROWS, start=1):
        levels: dict[tuple[str, ...], set[bool]] = defaultdict(set)
        for row in rows:
            levels[row[:at]].add(bool(row[at]))
        both = [_label(row) for row, found in levels.items() if len(found) > 1]
        if both:
            raise InputError(
                f"Of {listing(both)} there are maps with {key} and one without, which may stand for all of these. Name "
                f"the folder of one kind, or choose with entities={{{key!r}: ''}} (--entity {key}=) the one without."
            )


def _refuse_mixtures(some: list[_Map], wanted: _Wanted) -> None:
    """Such as one subject's map of a task and another one's of another task."""
    together = {key for key, values in wanted.items() if len(values) > 1}
    if differ := _differing(some, but={*_ROWS, *together}):
        first, other = some[0], next(one for one in some if one.told(differ) != some[0].told(differ))
        raise InputError(
            f"The maps of {_label(first.row())} and {_label(other.row())} differ in {listing(differ)} "
            f"({_choices(some, differ)}). {_advice(differ[0])} Several values that belong together may be given as a "
            "list (with commas)."
        )


def _refuse_unpaired(folder: Path, effects: Mapping[Any, _Map], variances: Mapping[Any, _Map]) -> None:
    for stat, lacking in ((VARIANCE, effects.keys() - variances.keys()), (EFFECT, variances.keys() - effects.keys())):
        if lacking:
            other = EFFECT if stat == VARIANCE else VARIANCE
            raise InputError(
                f"{folder} has {other} maps of {listing(map(_label, sorted(lacking)))} without {stat} maps."
            )
    for row, one in effects.items():
        if _differing([one, variances[row]], but={_STAT}):
            raise InputError(f"{_label(row)} has an effect, {one.path}, of another kind than {variances[row].path}.")


def _details(effects: Mapping[Any, _Map], wanted: _Wanted) -> dict[str, Any]:
    """What subjects that are added have to share: entities of all maps, and the values that were asked for together."""
    some = list(effects.values())
    together = {key: sorted(values) for key, values in wanted.items() if len(values) > 1}
    keys = [key for key in dict.fromkeys([*_keys(some), *together]) if key not in {"sub", _STAT, *_ROWS}]
    entities = {key: together.get(key, list(some[0].told([key]))) for key in keys}
    contrasts = entities.pop("contrast", [])
    named = {CONTRAST: contrasts[0] if len(contrasts) == 1 else contrasts} if contrasts else {}
    return {**named, "entities": entities} if entities else named


def _table(columns: Mapping[str, Mapping[tuple[str, ...], _Map]], label: str) -> pd.DataFrame:
    rows = list(columns[EFFECT])
    table = pd.DataFrame(
        {stat: [of_rows[row].path for row in rows] for stat, of_rows in columns.items()},
        index=pd.Index([_label(row) for row in rows], name=label),
    )
    several = {name: [row[at] for row in rows] for at, name in enumerate(_ROWS.values(), start=1)}
    found = {name: values for name, values in several.items() if any(values)}
    if found:
        table = table.assign(**found, participant=[f"sub-{row[0]}" for row in rows])
    return table


def _keys(some: Iterable[_Map]) -> list[str]:
    """Entities that there are, but for subjects."""
    return list(dict.fromkeys(key for one in some for key in one.entities if key != "sub"))


def _differing(some: list[_Map], but: Collection[str] = ()) -> list[str]:
    """Entities that tell maps apart."""
    return [key for key in _keys(some) if key not in but and len({one.told([key]) for one in some}) > 1]


def _label(row: tuple[str, ...]) -> str:
    return "_".join(f"{key}-{value}" for key, value in zip(("sub", *_ROWS), row, strict=False) if value)


def _told(wanted: _Wanted) -> str:
    told = {key: " or ".join(f"{key}-{value}" if value else f"no {key}" for value in of) for key, of in wanted.items()}
    return ", ".join(told.values()) or "whatever entities"


def _choices(some: Iterable[_Map], keys: Iterable[str]) -> str:
    values = {key: dict.fromkeys(one.entities.get(key, "") for one in some) for key in keys}
    told = {key: [value or f"no {key} ('')" for value in of_key] for key, of_key in values.items()}
    return "; ".join(f"{key}: {listing(of_key, most=20)}" for key, of_key in told.items())


def _hint(wanted: _Wanted, there: list[_Map]) -> str:
    """What may be wrong with what was asked for."""
    unknown = sorted(key for key, values in wanted.items() if any(values) and key not in {"sub", *_keys(there)})
    if unknown:
        return f" No map has the entity {listing(unknown)}."
    if any(re.search(r"\W", value) for value in wanted.get("contrast", ())):
        return " In names of files nilearn writes 'a - b' as aMinusB."
    return ""


def _advice(key: str) -> str:
    if key == "contrast":
        return "Choose with first_level_contrast= (--first-level-contrast)."
    return f"Choose with entities={{{key!r}: ...}} (--entity {key}=...)."
