"""voxstack stack."""

from typing import Literal

import click

from voxstack.cli.info import summary
from voxstack.cli.options import computing, named, on_scheduler
from voxstack.store.stack import stack


@click.command("stack")
@click.argument("participants", type=click.Path())
@click.argument("store", type=click.Path())
@click.option(
    "--map",
    "maps",
    multiple=True,
    required=True,
    metavar="NAME=COLUMN|PATTERN|4D",
    help="A column of paths, a pattern such as maps/{participant_id}.nii.gz, or one 4-D image. May be repeated.",
)
@click.option("--label", default="participant_id", show_default=True, help="Column of the subject labels.")
@click.option(
    "--mask",
    default="intersection",
    show_default=True,
    help="An image; 'intersection'; or the fraction of subjects that must have data, such as 0.9.",
)
@click.option("--zero-is-missing", is_flag=True, help="Take exact zeros for missing values.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace a cohort that is there.")
@computing
def command(
    participants: str,
    store: str,
    maps: tuple[str, ...],
    label: str,
    mask: str,
    zero_is_missing: bool,
    dtype: Literal["float32", "float64"],
    overwrite: bool,
    where: str,
    memory_limit: str | None,
    quiet: bool,
) -> None:
    """Stack the maps of the subjects in the table PARTICIPANTS into the cohort STORE."""
    with on_scheduler(where, memory_limit, quiet):
        cohort = stack(
            participants,
            store,
            maps=named(maps, "--map"),
            label=label,
            mask=_mask(mask),
            zero_is_missing=zero_is_missing,
            dtype=dtype,
            overwrite=overwrite,
            progress=not quiet,
        )
    if not quiet:
        summary(cohort, store)


def _mask(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
