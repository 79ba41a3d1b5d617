"""How every verb stops: Ctrl-C and SIGTERM end it in order, with one sentence on how to go on."""

import os
import signal
from types import FrameType
from typing import NoReturn

import click

ARGUMENTS, GOING_ON = "voxstack.arguments", "voxstack.going-on"
"""Keys of a command's `click.Context.meta`: what it was called with, and what to say when it is stopped."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end whatever runs as Ctrl-C does."""


def take_signals() -> None:
    """Have SIGTERM raise `Terminated` from now on, as SIGINT raises `KeyboardInterrupt`; both say that they came."""
    signal.signal(signal.SIGTERM, _raise)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is to be ignored, as by nohup
        signal.signal(signal.SIGINT, _raise)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    # Tasks of threads are finished first, which may take a while. Whatever else writes to stderr may be half done.
    os.write(2, b"\nStopping ...\n")
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def stop(context: click.Context, request: KeyboardInterrupt) -> NoReturn:
    """Say how to go on, and end with the exit code that shells expect: 128 and the number of the signal."""
    click.echo(f"Stopped. {context.meta.get(GOING_ON, '')}".rstrip(), err=True)
    context.exit(128 + (signal.SIGTERM if isinstance(request, Terminated) else signal.SIGINT))
