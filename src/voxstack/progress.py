"""Progress of long work: what is done, the rate, and the time left; in terminals, notebooks and logs alike.

A terminal gets a bar, a notebook the same bar as HTML that is saved with it, and a pipe or a log file a line now and
then. All are on stderr or in the cell's output. Names that users gave are shown as they are, never read as markup.
"""

import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.progress import Task as RichTask
from rich.text import Text

T = TypeVar("T")

CELL_EVERY, LINE_EVERY = 0.25, 30.0
"""Seconds between two pictures in a notebook, and between two lines of a log."""

_CELL_WIDTH = 500  # characters at most: the page scrolls
_CELL = (
    '<pre style="white-space:pre;overflow-x:auto;line-height:normal;'
    "font-family:Menlo,'DejaVu Sans Mono',consolas,'Courier New',monospace\">{code}</pre>"
)


def track(
    results: Iterable[T],
    *,
    total: int,
    description: str,
    visible: bool,
    note: Callable[[], str] = str,
) -> Iterator[T]:
    """Pass results on, showing how many have come where `visible`; `note` is what there is to say after each result."""
    if not visible or total == 0:
        yield from results
        return
    progress = _bar()
    task = progress.add_task(description, total=total, note=_printable(note()))
    with _shown(progress):
        try:
            for result in results:
                progress.advance(task)
                yield result
                progress.update(task, note=_printable(note()))
        finally:
            progress.stop_task(task)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), _Told())
    return Progress(*columns, console=Console(stderr=True))


class _Told(ProgressColumn):
    """What there is to say of a task."""

    def render(self, task: RichTask) -> Text:
        """The text, never taken for markup."""
        return Text(_told(task), no_wrap=True, overflow="ellipsis")


def _told(task: RichTask) -> str:
    """Such as "120/360, 3.2/s, 75 s left, p 0.04 of age"."""
    counted = f"{task.completed:.0f}/{task.total:.0f}"
    return ", ".join(filter(None, (counted, _rate(task), _time(task), task.fields["note"])))


def _rate(task: RichTask) -> str:
    """Steps a second, or time a step where that reads better; empty until the first step is done.

    It is the mean of all the time: steps that run side by side complete in bursts, between which a rate of the last
    moments says nothing.
    """
    if not (task.completed and task.elapsed):
        return ""
    rate = task.completed / task.elapsed
    return f"{rate:.1f}/s" if rate >= 1 else f"{_duration(1 / rate)} each"


def _time(task: RichTask) -> str:
    """Time left, or time taken once the work has ended."""
    if task.finished or task.stop_time is not None:
        return f"{'in' if task.finished else 'stopped after'} {_duration(task.elapsed or 0)}"
    if not task.completed:
        return ""
    return f"{_duration((task.elapsed or 0) / task.completed * (task.remaining or 0))} left"


def _duration(seconds: float) -> str:
    """Such as "0.4 s", "12 s", "3 min" or "2 h 5 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 6000 else f"{round(minutes / 60)} h"


def _printable(text: str) -> str:
    """In one line, and without characters that would steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _line(progress: Progress) -> str:
    (task,) = progress.tasks
    return f"{task.description} {_told(task)}"


def _shown(progress: Progress) -> AbstractContextManager[object]:
    """Show progress inside, wherever this runs."""
    if _in_notebook():
        return _redrawn(progress, _cell(progress), CELL_EVERY, at_once=True)
    if progress.console.is_interactive:
        return progress
    return _redrawn(progress, lambda: _write_line(progress), LINE_EVERY, at_once=False)


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython in a terminal is a terminal."""
    kernel = sys.modules.get("ipykernel.zmqshell")
    return kernel is not None and isinstance(sys.modules["IPython"].get_ipython(), kernel.ZMQInteractiveShell)


def _write_line(progress: Progress) -> None:
    sys.stderr.write(_line(progress) + "\n")
    sys.stderr.flush()


def _cell(progress: Progress) -> Callable[[], None]:
    """What shows the bar in the output of the cell that runs, in place of the one before."""
    from IPython.display import DisplayHandle

    handle: Any = DisplayHandle()
    shown = False

    def draw() -> None:
        nonlocal shown
        bundle = {"text/plain": _line(progress), "text/html": _html(progress)}
        (handle.update if shown else handle.display)(bundle, raw=True)
        shown = True

    return draw


def _html(progress: Progress) -> str:
    """The bar with its styles inline, so that it needs nothing from the page that it is in."""
    console = Console(
        file=io.StringIO(), record=True, force_terminal=True, force_jupyter=False, color_system="truecolor",
        width=_CELL_WIDTH, legacy_windows=False,
    )  # fmt: skip
    console.print(progress.get_renderable())
    return console.export_html(inline_styles=True, code_format=_CELL)


@contextmanager
def _redrawn(progress: Progress, draw: Callable[[], None], every: float, *, at_once: bool) -> Iterator[None]:
    """Draw now and then while inside, if there is news, and at the end."""
    ended = threading.Event()

    def redraw() -> None:
        drawn = None
        while not ended.wait(every):
            news = [(task.completed, task.fields["note"]) for task in progress.tasks]
            if news != drawn:
                draw()
                drawn = news

    if at_once:
        draw()
    thread = threading.Thread(target=redraw, name="voxstack-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        draw()
