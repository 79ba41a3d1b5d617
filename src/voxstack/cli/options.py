"""Options that several verbs share, and how their texts are read."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import click
import xarray as xr

from voxstack.cli.storage import READ, with_storage_options
from voxstack.errors import InputError
from voxstack.export.folder import RESULTS
from voxstack.export.results import check_target
from voxstack.io.places import Place, is_url
from voxstack.io.secrets import refuse_credentials
from voxstack.kernels.pvalues import ALTERNATIVES
from voxstack.store.location import Location

Command = TypeVar("Command", bound=Callable[..., Any])


def modelling(command: Command) -> Command:
    """What `fit` and `permute` share: design, contrasts, map, mask and where the results go."""
    for option in reversed(
        (
            click.option("--design", required=True, metavar="FORMULA", help="Such as '~ age + C(site) * sex'."),
            click.option(
                "--contrast",
                "t_contrasts",
                multiple=True,
                metavar="[NAME=]EXPRESSION",
                help="A regressor or an expression such as 'young_old=a - b' (t), or a term of the formula (F of all "
                "its columns). May be repeated.",
            ),
            click.option(
                "--f-contrast",
                "f_contrasts",
                multiple=True,
                metavar="NAME=EXPRESSION, ...",
                help="Such as 'group=a - b, b - c'. May be repeated.",
            ),
            click.option("--variable", help="Map to model, where the cohort has several."),
            click.option(
                "--missing",
                type=click.Choice(["complete", "available"]),
                default="complete",
                show_default=True,
                help="Voxels that every subject has, or for each voxel the subjects that have it.",
            ),
            click.option(
                "--min-subjects",
                type=int,
                metavar="N",
                help="With --missing available: leave out voxels with data of fewer subjects.",
            ),
            click.option("--drop-missing", is_flag=True, help="Leave out subjects without a covariate of the design."),
            click.option("--mask", type=READ, help="An image that narrows the cohort's mask."),
            click.option("--alternative", type=click.Choice(ALTERNATIVES), default="two-sided", show_default=True),
            click.option("--log10-p", is_flag=True, help="Write -log10 p in place of p."),
            click.option("--output", "folder", type=READ, required=True, metavar="DIR"),
            click.option("--overwrite", is_flag=True, help="Replace the results of an earlier run in DIR."),
            with_storage_options,
        )
    ):
        command = option(command)
    return command


def check_output(folder: Place, *, overwrite: bool) -> None:
    """Refuse a folder for results that holds other ones, or lies in a store; before any work."""
    check_target(Location.of(folder / RESULTS), overwrite=overwrite)


def tell_dropped(dropped: Sequence[str]) -> None:
    """Name the subjects that were left out."""
    if dropped:
        number = f"{len(dropped)} subject{'s' * (len(dropped) > 1)}"
        click.echo(f"Left out {number} for a missing covariate: {', '.join(dropped)}", err=True)


def tested_by(one: xr.Dataset) -> str:
    """A contrast and how it is tested: the name of a term means F, also where it has one column only."""
    kind, columns = str(one["stat_type"].item()), int(one["dof_num"].item())
    if kind == "F":
        kind = f"F of {columns} columns" if columns > 1 else "F of 1 column (the column's own name gives t with a sign)"
    return f"{one['contrast'].item()}: {kind}"


@contextmanager
def without_empty(folder: Place) -> Iterator[None]:
    """Leave no new folder behind that nothing was written into."""
    new = isinstance(folder, Path) and not folder.exists()
    try:
        yield
    except BaseException:
        if new and isinstance(folder, Path):
            with suppress(OSError):
                folder.rmdir()
        raise


def named(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """``NAME=VALUE`` of --map or --entity."""
    pairs = [text.partition("=") for text in texts]
    for (name, equals, value), text in zip(pairs, texts, strict=True):
        if is_url(name):  # a name was forgotten, and some message quotes what is taken for one
            refuse_credentials(text)
        if not (equals and name.strip() and value.strip()):
            raise InputError(f"{option} {text!r}: write {option} NAME=VALUE.")
    return unique([(name.strip(), value.strip()) for name, _, value in pairs], option)


def contrasts(t_contrasts: tuple[str, ...], f_contrasts: tuple[str, ...]) -> dict[str, str | list[str]]:
    """``EXPRESSION`` or ``NAME=EXPRESSION`` of --contrast, ``NAME=EXPRESSION, EXPRESSION`` of --f-contrast."""
    if not t_contrasts and not f_contrasts:
        raise InputError("No contrast was given. Use --contrast age, or --f-contrast 'group=a - b, b - c'.")
    pairs: list[tuple[str, str | list[str]]] = [_split(text) for text in t_contrasts]
    for text in f_contrasts:
        name, expressions = _split(text)
        rows = [row.strip() for row in _outer_commas(expressions)]
        pairs.append((name, rows))
    return unique(pairs, "--contrast")


def _split(text: str) -> tuple[str, str]:
    # A name is plain text; 'C(site, levels=[1, 2])[T.2]' has an equals sign but names no contrast.
    match = re.match(r"\s*([\w .+-]*\w)\s*=(?!=)\s*(.+)", text, flags=re.DOTALL)
    return (match[1], match[2].strip()) if match else (text.strip(), text.strip())


def _outer_commas(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


Value = TypeVar("Value")


def unique(pairs: list[tuple[str, Value]], option: str) -> dict[str, Value]:
    """Names with their values; an error where an option names one twice."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{option} {twice[0]!r} was given twice.")
    return dict(pairs)
