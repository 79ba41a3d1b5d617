"""How every verb stops: Ctrl-C and SIGTERM end it in order, with one sentence on how to go on."""

import signal
from types import FrameType
from typing import NoReturn

import click

ARGUMENTS, GOING_ON = "voxstack.arguments", "voxstack.going-on"
"""Keys of a command's `click.Context.meta`: what it was called with, and what to say when it is stopped."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end whatever runs as Ctrl-C does."""


def take_terminations() -> None:
    """Have SIGTERM raise `Terminated` from now on, as SIGINT raises `KeyboardInterrupt`."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def stop(context: click.Context, request: KeyboardInterrupt) -> NoReturn:
    """Say how to go on, and end with the exit code that shells expect: 128 and the number of the signal."""
    click.echo(f"Stopped. {context.meta.get(GOING_ON, '')}".rstrip(), err=True)
    context.exit(128 + (signal.SIGTERM if isinstance(request, Terminated) else signal.SIGINT))
