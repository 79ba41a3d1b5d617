"""voxstack report."""

from typing import Any

import click

from voxstack.cli.results import atlas_of, open_folder, with_atlas
from voxstack.cli.storage import READ, with_storage_options
from voxstack.io.places import Remote, place_of
from voxstack.reporting.page import report
from voxstack.store.open import open_cohort


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=READ)
@click.option("--cohort", "store", type=READ, metavar="STORE",
              help="Adds subjects, covariates, coverage and the design.")  # fmt: skip
@click.option("--title", help="Of the page.")
@click.option("--background", type=READ, metavar="IMAGE",
              help="To draw on; by default the MNI template for results in MNI space.")  # fmt: skip
@with_atlas
@click.option("--output", "path", type=READ, metavar="FILE",
              help="By default report.html in the first DIR.")  # fmt: skip
@with_storage_options
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    folders: tuple[str, ...],
    store: str | None,
    title: str | None,
    background: str | None,
    atlas: str | None,
    atlas_names: str | None,
    path: str | None,
    storage_options: dict[str, Any] | None,
    quiet: bool,
) -> None:
    """Write one page, which needs no network, about the results in DIR."""
    place = place_of(folders[0] if path is None else path, storage_options)
    place = place / "report.html" if path is None else place
    report(
        [open_folder(folder, storage_options) for folder in folders],
        place,
        cohort=None if store is None else open_cohort(store, storage_options=storage_options),
        title=title,
        background=background,
        atlas=atlas_of(atlas, atlas_names),
        storage_options=storage_options,
    )
    if not quiet:
        size = place.status().size if isinstance(place, Remote) else place.stat().st_size
        click.echo(f"{place} ({size / 1e6:.1f} MB)")
