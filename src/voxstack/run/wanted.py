"""What is asked for of a scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """What is asked for of a scheduler.

    Attributes
    ----------
    spec
        The text that names it.
    workers
        Their number; None for the default.
    memory_limit
        Of each worker; None for the default.
    """

    spec: str
    workers: int | None
    memory_limit: str | None
