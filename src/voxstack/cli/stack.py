"""voxstack stack."""

from typing import Any

import click

from voxstack.cli.computing import Conditions, computing, planned, running
from voxstack.cli.info import summary
from voxstack.cli.options import named, unique
from voxstack.cli.storage import READ, read_options, with_storage_options
from voxstack.errors import InputError
from voxstack.io.subjects import Given
from voxstack.memory import memory_plan
from voxstack.store.preparation import Options
from voxstack.store.stack import requested, stack


@click.command("stack")
@click.argument("participants", type=READ)
@click.argument("store", type=READ)
@click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=COLUMN|PATTERN|4D",
    help="A column of paths, a pattern such as maps/{participant_id}.nii.gz, or one 4-D image. May be repeated. Not "
    "for nilearn's table or a folder of derivatives.",
)
@click.option("--first-level-contrast", metavar="NAME", help="The map_name of nilearn's table, or the entity contrast.")
@click.option("--entity", "entities", multiple=True, metavar="KEY=VALUE",
              help="Of the maps in a folder of derivatives, such as task=stopsignal; several values with commas, "
              "and KEY= for maps without it. May be repeated.")  # fmt: skip
@click.option("--covariates", type=READ, metavar="TABLE",
              help="Of the subjects; by default a folder's participants.tsv.")  # fmt: skip
@click.option("--label", default="participant_id", show_default=True, help="Column of the subject labels.")
@click.option(
    "--mask",
    default="intersection",
    show_default=True,
    help="An image; 'intersection'; or the fraction of subjects that must have data, such as 0.9.",
)
@click.option("--zero-is-missing", is_flag=True, help="Take exact zeros for missing values.")
@click.option(
    "--resample",
    type=click.Choice(["linear", "nearest"]),
    help="Bring images on other lattices to that of the mask's image, or else of the first image.",
)
@click.option("--smoothing-fwhm", metavar="MM", help="Smooth by a Gaussian of this width; 'X,Y,Z' for three widths.")
@click.option(
    "--smoothing-missing",
    type=click.Choice(["normalise", "zero"]),
    default="normalise",
    show_default=True,
    help="Missing values have no weight and stay missing, or count as 0 and are filled.",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--append", is_flag=True, help="Add the subjects to the cohort that is there.")
@click.option("--overwrite", is_flag=True, help="Replace a cohort that is there, once the new one is whole.")
@click.option("--break-lock", is_flag=True, help="Go on where a dead run has left its lock in an object store.")
@click.option(
    "--shard/--no-shard",
    default=None,
    help="Few large objects in place of many small ones, or plain chunks.  [default: shards in object stores]",
)
@click.option("--allow-outside", is_flag=True, help="Let values of the table lead a PATTERN out of its folder.")
@with_storage_options
@click.option(
    "--source-options",
    metavar="FILE",
    callback=read_options,
    help="The same for the table, the images and the mask, where these need others than STORE.",
)
@planned
@computing
def command(
    participants: str,
    store: str,
    maps: tuple[str, ...],
    entities: tuple[str, ...],
    mask: str,
    smoothing_fwhm: str | None,
    storage_options: dict[str, Any] | None,
    explain: bool,
    conditions: Conditions,
    **options: Any,
) -> None:
    """Stack the maps of the subjects in the table PARTICIPANTS into the cohort STORE.

    PARTICIPANTS may be nilearn's table of first-level maps too, or a folder of BIDS derivatives.

    A call that was stopped, in whatever way, goes on when it is called again.
    """
    with running(conditions, going_on="The batches that are done are kept: the same command goes on from there."):
        options |= {"maps": named(maps, "--map") or None, "entities": _entities(entities)}
        options |= {"mask": _mask(mask), "smoothing_fwhm": _widths(smoothing_fwhm), "storage_options": storage_options}
        if explain:
            click.echo(_explained(participants, store, **options))
            return
        stack(participants, store, progress=not conditions.quiet, **options)
    if not conditions.quiet:
        summary(store, storage_options)


def _explained(participants: str, store: str, *, break_lock: bool, **options: Any) -> str:
    """The plan, which needs the headers of all images."""
    how = ("zero_is_missing", "resample", "smoothing_fwhm", "smoothing_missing", "dtype")
    checked = Options.check(*(options.pop(name) for name in how))
    what = ("maps", "label", "first_level_contrast", "entities", "covariates")
    given = Given(participants, **{name: options.pop(name) for name in what})
    request, _ = requested(given, store, options=checked, **options)
    plan = memory_plan(
        n_subjects=len(request.labels),
        shape=request.preparation.grid.shape,
        n_maps=len(request.maps),
        dtype=checked.dtype,
        filtered=request.filtered,
        shard=request.sharded,
    )
    return plan.explain("stack")


def _entities(texts: tuple[str, ...]) -> dict[str, list[str]] | None:
    """``KEY=VALUE,VALUE``, and ``KEY=`` for maps without that entity."""
    pairs = [text.partition("=") for text in texts]
    for (key, equals, _), text in zip(pairs, texts, strict=True):
        if not (equals and key.strip()):
            raise InputError(f"--entity {text!r}: write --entity KEY=VALUE.")
    found = unique(
        [(key.strip(), [value.strip() for value in values.split(",")]) for key, _, values in pairs], "--entity"
    )
    return found or None


def _mask(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _widths(text: str | None) -> float | list[float] | None:
    if text is None:
        return None
    try:
        widths = [float(width) for width in text.split(",")]
    except ValueError:
        widths = []
    if len(widths) not in (1, 3):
        raise InputError(f"--smoothing-fwhm {text!r}: write one width in mm, or three with commas between them.")
    return widths[0] if len(widths) == 1 else widths
