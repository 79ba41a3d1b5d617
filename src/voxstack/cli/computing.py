"""What verbs that compute share: where they run, what is told of them, and how they stop."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import click

from voxstack import provenance
from voxstack._version import __version__
from voxstack.cli.stopping import ARGUMENTS, GOING_ON
from voxstack.errors import writing
from voxstack.events import Event, JsonLines, collecting, emit, handling
from voxstack.io.secrets import without_secrets
from voxstack.run import executing, performance_report, scheduler
from voxstack.run.schedulers import FORMS

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Conditions:
    """What users say of how a verb runs.

    Attributes
    ----------
    where, workers, memory_limit
        See `voxstack.run.scheduler`.
    report
        File for Dask's performance report.
    log
        File for structured events.
    quiet
        No progress bars and no summary.
    """

    where: str
    workers: int | None
    memory_limit: str | None
    report: Path | None
    log: Path | None
    quiet: bool


def computing(command: Command) -> Command:
    """The options of every verb that computes, which it gets as `Conditions`."""
    names = [field.name for field in fields(Conditions)]

    @wraps(command)
    def gathered(**options: Any) -> Any:
        return command(conditions=Conditions(**{name: options.pop(name) for name in names}), **options)

    file = click.Path(path_type=Path, dir_okay=False)
    decorated: Any = gathered
    for option in reversed(
        (
            click.option("--scheduler", "where", default="threads", show_default=True, metavar=FORMS.replace(" ", ""),
                         help="Threads of this process, worker processes on this machine, a Dask scheduler that runs "
                              "already, or a cluster of a dask-gateway."),
            click.option("--workers", type=int, metavar="N",
                         help="Of local (by default one per core), or of a new cluster of a gateway (2)."),
            click.option("--memory-limit", metavar="SIZE", help="Such as 4GiB: of this process, or of each worker."),
            click.option("--performance-report", "report", type=file, metavar="FILE.html",
                         help="Write Dask's performance report; of workers only."),
            click.option("--log", type=file, metavar="FILE", help="Add what happens to FILE, as lines of JSON."),
            click.option("--quiet", is_flag=True, help="No progress bars and no summary."),
        )
    ):  # fmt: skip
        decorated = option(decorated)
    computed: Command = decorated
    return computed


def planned(command: Command) -> Command:
    """--explain of the verbs whose work can be planned."""
    help_ = "Say how the work is divided and how much memory it needs, and do nothing."
    return click.option("--explain", is_flag=True, help=help_)(command)


class Record:
    """What is told of a run beside its results.

    Parameters
    ----------
    context
        Of the command.
    conditions
        How it runs.
    events
        Of the run, as they come.
    """

    def __init__(self, context: click.Context, conditions: Conditions, events: list[Event]) -> None:
        self._context, self._conditions, self._events = context, conditions, events
        self._started, self._clock = datetime.now(UTC), perf_counter()

    def told(self) -> dict[str, Any]:
        """All that there is to say until now."""
        tasks = [{**event} for event in self._events if event["event"] == "tasks ended"]
        return {
            "command": ["voxstack", *without_secrets(self._context.meta.get(ARGUMENTS, []))],
            "versions": provenance.record(str(self._context.info_name))["versions"],
            "scheduler": {"kind": self._conditions.where.partition(":")[0], **executing()},
            "started": self._started.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(perf_counter() - self._clock, 3),
            "steps": [{key: value for key, value in event.items() if key != "event"} for event in tasks],
            "incidents": [event for event in self._events if event["event"] != "tasks ended"],
        }


@contextmanager
def running(conditions: Conditions, *, going_on: str) -> Iterator[Record]:
    """Run on the scheduler that the options name, tell what they ask for, and stop in one way.

    Parameters
    ----------
    conditions
        The options.
    going_on
        A sentence for users who stop the command: what becomes of what is done.
    """
    context = click.get_current_context()
    context.meta[GOING_ON] = going_on
    verb, clock, outcome = str(context.info_name), perf_counter(), "failed"
    with _log_file(conditions.log), handling(_Notes(logging.WARNING)):
        emit("command started", command=verb, voxstack=__version__, scheduler=conditions.where.partition(":")[0])
        try:
            with (
                scheduler(
                    conditions.where, workers=conditions.workers, memory_limit=conditions.memory_limit
                ) as dashboard,
                performance_report(conditions.report),
                collecting() as events,
            ):
                if dashboard and not conditions.quiet:
                    click.echo(f"Dask dashboard: {dashboard}", err=True)
                yield Record(context, conditions, events)
            outcome = "done"
        except KeyboardInterrupt:
            outcome = "stopped"
            raise
        finally:
            emit("command ended", command=verb, outcome=outcome, seconds=round(perf_counter() - clock, 3))


def _log_file(path: Path | None) -> Any:
    if path is None:
        return nullcontext()
    with writing(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(JsonLines())
    handler.setLevel(logging.INFO)
    return handling(handler)


class _Notes(logging.Handler):
    """Events to worry about, for people."""

    def emit(self, record: logging.LogRecord) -> None:
        told = ", ".join(f"{name} {value}" for name, value in getattr(record, "fields", {}).items())
        click.echo(f"Note: {record.getMessage()}" + (f" ({told})" if told else ""), err=True)
