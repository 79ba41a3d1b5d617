"""Progress of long work: what is done, the rate, and the time left; in terminals and notebooks alike."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

T = TypeVar("T")


class _RateColumn(ProgressColumn):
    """Steps a second, or seconds a step where that reads better."""

    def render(self, task: RichTask) -> Text:
        """Text of the rate; empty until the first step is done."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")


def track(
    results: Iterable[T],
    *,
    total: int,
    description: str,
    visible: bool,
    note: Callable[[], str] = str,
) -> Iterator[T]:
    """Pass results on, drawing a bar on stderr where `visible`; `note` is what there is to say after each result."""
    if not visible:
        yield from results
        return
    with _bar() as progress:
        task = progress.add_task(description, total=total, note=note())
        for result in results:
            progress.advance(task)
            yield result
            progress.update(task, note=note())


@contextmanager
def _bar() -> Iterator[Progress]:
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield progress
