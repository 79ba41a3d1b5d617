"""The package's exceptions. A message says what was found, where, and what to do about it."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class VoxstackError(Exception):
    """Base class of everything that voxstack raises on purpose."""


class InputError(VoxstackError, ValueError):
    """A file, a table or an argument is not what it has to be."""


class GridMismatch(InputError):
    """Two images or arrays do not lie on the same lattice of voxels."""


class DesignError(InputError):
    """A formula, a design matrix or a contrast does not fit the cohort."""


class StoreError(VoxstackError):
    """A cohort or result store is missing, unfinished, in the way, or of another kind."""


class VoxstackWarning(UserWarning):
    """The result is right, but perhaps not what was meant."""


def warn(message: str) -> None:
    """Warn with a `VoxstackWarning`, at the line outside voxstack that led here."""
    frame, level = sys._getframe(), 1
    ours = ("voxstack", "contextlib")
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ours:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, VoxstackWarning, stacklevel=level)


def listing(items: Iterable[object], *, most: int = 5) -> str:
    """Names for a message: the first few of them, and how many more there are."""
    names = [str(item) for item in items]
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


@contextmanager
def writing(place: object, *, kept: str = "") -> Iterator[None]:
    """Whatever is refused meanwhile, by the operating system or an object store, is a `StoreError` with advice.

    Parameters
    ----------
    place
        What is written.
    kept
        A sentence on what becomes of what is there already.
    """
    try:
        yield
    except OSError as error:
        remote = "See that it can be reached and that you may write there, and call again."
        local = "Make room, or choose a place where you may write, and call again."
        advice = " ".join(filter(None, (kept, remote if "://" in str(place) else local)))
        raise StoreError(f"{place} cannot be written: {error}. {advice}") from error
