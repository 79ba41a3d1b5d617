"""voxstack report."""

from pathlib import Path

import click

from voxstack.cli.results import atlas_of, open_folder, with_atlas
from voxstack.reporting.page import report
from voxstack.store.open import open_cohort


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option("--cohort", "store", type=click.Path(readable=False), metavar="STORE",
              help="Adds subjects, covariates, coverage and the design.")  # fmt: skip
@click.option("--title", help="Of the page.")
@click.option("--background", type=click.Path(readable=False), metavar="IMAGE",
              help="To draw on; by default the MNI template for results in MNI space.")  # fmt: skip
@with_atlas
@click.option("--output", "path", type=click.Path(path_type=Path), metavar="FILE",
              help="By default report.html in the first DIR.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print nothing.")
def command(
    folders: tuple[str, ...],
    store: str | None,
    title: str | None,
    background: str | None,
    atlas: str | None,
    atlas_names: str | None,
    path: Path | None,
    quiet: bool,
) -> None:
    """Write one page, which needs no network, about the results in DIR."""
    written = report(
        [open_folder(folder) for folder in folders],
        Path(folders[0]) / "report.html" if path is None else path,
        cohort=None if store is None else open_cohort(store),
        title=title,
        background=background,
        atlas=atlas_of(atlas, atlas_names),
    )
    if not quiet:
        click.echo(f"{written} ({written.stat().st_size / 1e6:.1f} MB)")
