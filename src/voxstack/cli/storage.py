"""Where things are: --storage-options, and folders that may be URLs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from voxstack.errors import InputError

Command = TypeVar("Command", bound=Callable[..., Any])

READ = click.Path(readable=False)
"""A path or a URL, whose function says what is wrong with it."""


def read_options(context: click.Context, parameter: click.Parameter, file: str | None) -> dict[str, Any] | None:
    """Options from a JSON file; what is wrong with it is said without any of its values."""
    if file is None:
        return None
    name = parameter.opts[0]
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"The file {file} of {name} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The file {file} of {name} is not text in UTF-8.") from error
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:  # whose text in full would be part of a traceback
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError(f"The file {file} of {name} is not JSON ({where}).") from None
    if not isinstance(options, dict):
        raise InputError(f'The file {file} of {name} must hold one JSON object, such as {{"region": "eu-west-1"}}.')
    return options


def with_storage_options(command: Command) -> Command:
    """--storage-options, for every verb that takes a path."""
    return click.option(
        "--storage-options",
        metavar="FILE",
        callback=read_options,
        help="JSON file of credentials and settings for URLs such as s3://bucket/cohort.zarr; by default the "
        "environment's.",
    )(command)
