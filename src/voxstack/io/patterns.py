"""Patterns of paths over a table's columns, which stay below the folder that they name."""

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from string import Formatter
from typing import Any, Self

from voxstack.errors import InputError
from voxstack.io.places import is_url

_FORMAT = re.compile(r"0?\d{0,2}(?:\.\d{1,2})?[dfs]?")  # such as 03d: nothing that runs code or takes memory


@dataclass(frozen=True)
class Pattern:
    """Such as ``maps/{site}/sub-{number:03d}.nii.gz``.

    Attributes
    ----------
    text
        As the user wrote it.
    folder
        What comes before the last slash before the first field: ``maps``. Empty where there is none.
    pieces
        Of the rest: literal texts, and the column and format that follow each; no column after the last one.
    """

    text: str
    folder: str
    pieces: tuple[tuple[str, str | None, str], ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern; `InputError` says what is wrong with it."""
        try:
            parsed = [(literal, name, form or "", kind) for literal, name, form, kind in Formatter().parse(text)]
        except ValueError as error:
            raise InputError(f"the pattern {text!r} cannot be read: {error}.") from error
        for _, name, form, kind in parsed:
            if kind or not _FORMAT.fullmatch(form):
                told = f"{name}{f'!{kind}' if kind else ''}{f':{form}' if form else ''}"
                raise InputError(
                    f"the pattern {text!r} has the field {{{told}}}. A field is the name of a column, at most with a "
                    "width, such as {run:02d}."
                )
        folder, slash, first = parsed[0][0].rpartition("/")
        pieces = [(first, parsed[0][1], parsed[0][2]), *(piece[:3] for piece in parsed[1:])]
        return cls(text, folder + slash, tuple(pieces))

    @property
    def columns(self) -> set[str]:
        """Names of the columns that it uses."""
        return {name for _, name, _ in self.pieces if name is not None}

    def fill(self, row: Mapping[str, Any]) -> str:
        """The path of one row; ValueError where a value has not the format."""
        return self.folder + "".join(literal + value for literal, _, value in self._values(row))

    def fill_below(self, row: Mapping[str, Any]) -> str:
        """The same, below the pattern's folder; `InputError` says which value leads elsewhere.

        Names alone are looked at: a link that lies in the folder is the user's own.
        """
        values = self._values(row)
        rest = "".join(literal + value for literal, _, value in values)
        below = posixpath.normpath(PurePath(rest).as_posix())
        absolute = {str(name): value for _, name, value in values if _is_absolute(value)}
        if absolute or _is_absolute(rest) or below.split("/")[0] == ".." or self.folder.endswith("://"):
            used = absolute or {name: value for _, name, value in values if name is not None}
            raise InputError(" and ".join(f"{name} is {value!r}" for name, value in used.items()))
        return self.folder + below

    def _values(self, row: Mapping[str, Any]) -> list[tuple[str, str | None, str]]:
        return [(literal, name, "" if name is None else format(row[name], form)) for literal, name, form in self.pieces]


def _is_absolute(text: str) -> bool:
    return bool(PurePath(text).anchor) or text.startswith("/") or is_url(text)
