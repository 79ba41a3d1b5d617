"""The command line: a skin over the public functions."""

import importlib
import os
import sys
import warnings
from io import TextIOWrapper
from typing import Any, TextIO

import click

from voxstack._version import __version__
from voxstack.cli.blas import choose_kernels
from voxstack.cli.stopping import ARGUMENTS, stop, take_signals
from voxstack.errors import VoxstackError, VoxstackWarning

_VERBS = {
    "demo": "The main job, end to end, on a simulated MNI cohort.",
    "simulate": "Write a simulated cohort of NIfTI files with a known truth.",
    "stack": "Stack NIfTI maps and a participants table into one cohort.",
    "info": "Say what a cohort or a result holds.",
    "fit": "Fit a linear model to every voxel and test contrasts.",
    "permute": "Test contrasts by relabelling subjects, corrected for all voxels.",
    "threshold": "Keep what is significant of a result.",
    "clusters": "List the clusters and peaks of a result.",
    "report": "Write one page about results.",
}


class _Verbs(click.Group):
    """Imports a verb's module when it is called, so that --help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = importlib.import_module(f"voxstack.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_VERBS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as request:
            stop(ctx, request)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no command {args[0]!r}; there are {', '.join(_VERBS)}.", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="voxstack")
def cli() -> None:
    """Group-level neuroimaging for cohorts larger than memory."""


def main() -> None:
    """Entry point: a user's mistake ends with exit code 2 and one paragraph on stderr, SIGTERM as Ctrl-C does."""
    take_signals()
    choose_kernels(os.environ)
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, TextIOWrapper):  # names may have letters that the terminal, or a pipe, has not
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli.main(prog_name="voxstack")
    except (VoxstackError, OSError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
    line: str | None = None,
) -> None:  # fmt: skip
    if issubclass(category, VoxstackWarning):
        click.echo(f"Warning: {message}", err=True)
