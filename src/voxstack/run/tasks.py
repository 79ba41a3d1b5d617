"""Work as tasks that may run twice."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """Work that may run twice: it is pure, or writes only what is its own.

    Attributes
    ----------
    key
        What its result is yielded with.
    work
        A Dask collection (a Delayed, a Dataset).
    """

    key: Hashable
    work: Any
