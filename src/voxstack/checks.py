"""Checks of single arguments, before any work: numbers, and words of a list."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from voxstack.errors import InputError, listing


def check_choice(option: str, given: Any, known: Iterable[str]) -> None:
    """Refuse an option that is none of those that there are."""
    known = list(known)
    if not isinstance(given, str) or given not in known:
        raise InputError(f"{option}={given!r}: voxstack knows {listing(map(repr, known), most=9)}.")


def check_flag(option: str, given: Any) -> None:
    """Refuse what is neither True nor False; a text such as "no" would count as True."""
    if not isinstance(given, bool | np.bool_):
        raise InputError(f"{option} must be True or False, not {given!r}.")


def check_options(option: str, given: Any) -> None:
    """Refuse credentials and settings of URLs that are no mapping; they are not shown."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"{option} must be a mapping of names to values, or None, not a {type(given).__name__}.")


def check_number(what: str, given: Any, least: int) -> None:
    """Refuse what is no whole number, or too small a one."""
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or not least <= given < 2**63:
        raise InputError(f"{what} must be a whole number from {least} to 2^63 - 1, not {given!r}.")


def check_real(what: str, given: Any, least: float, most: float = np.inf, *, inside: bool = False) -> None:
    """Refuse what is no number, or not from `least` to `most`, which are themselves refused if it must lie inside."""
    real = isinstance(given, int | float | np.integer | np.floating) and not isinstance(given, bool)
    if not real or not (least < given < most if inside else least <= given <= most) or not np.isfinite(given):
        above = f"above {least:g}" if inside else f"of at least {least:g}"
        span = f"between {least:g} and {most:g}" if np.isfinite(most) else above
        raise InputError(f"{what} must be a number {span}, not {given!r}.")
