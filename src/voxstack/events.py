"""What happens while tasks run, as structured records of the logger "voxstack".

A record's message is the event's name; its attribute `fields` holds plain values. They go wherever users send Python's
logging, as lines of JSON by `JsonLines`, and into the provenance file of a run by `collecting`.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

_logger = logging.getLogger("voxstack")
_logger.addHandler(logging.NullHandler())  # as of every library: what users did not ask for is not printed

Event = dict[str, Any]


def emit(event: str, level: int = logging.INFO, /, **fields: Any) -> None:
    """Log an event, such as "tasks completed", with what there is to say of it."""
    _logger.log(level, event, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps({**told, **getattr(record, "fields", {})}, default=str)


@contextmanager
def collecting() -> Iterator[list[Event]]:
    """Gather the events of everything inside, from level INFO on."""
    found: list[Event] = []

    class _Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append({"event": record.getMessage(), **getattr(record, "fields", {})})

    with handling(_Collector(logging.INFO)):
        yield found


@contextmanager
def handling(handler: logging.Handler) -> Iterator[None]:
    """Send the events of everything inside to a handler, too."""
    before = _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(min(handler.level or logging.DEBUG, _logger.getEffectiveLevel()))
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(before)
        handler.close()
