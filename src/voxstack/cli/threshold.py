"""voxstack threshold."""

from typing import Any, get_args

import click

from voxstack.cli.options import check_output
from voxstack.cli.results import open_source, reading
from voxstack.cli.storage import READ
from voxstack.export.folder import write_folder
from voxstack.inference.options import Correction, MapKind
from voxstack.inference.threshold import threshold
from voxstack.io.places import place_of
from voxstack.kernels.pvalues import Alternative


@click.command("threshold")
@reading
@click.option("--correction", type=click.Choice(get_args(Correction)), default="fdr", show_default=True,
              help="fwe: of a permutation test.")  # fmt: skip
@click.option("--alpha", type=float, default=0.05, show_default=True, metavar="P")
@click.option("--connectivity", type=int, default=26, show_default=True, help="Neighbours in a cluster: 6, 18 or 26.")
@click.option("--output", "folder", type=READ, required=True, metavar="DIR")
@click.option("--overwrite", is_flag=True, help="Replace the results of an earlier run in DIR.")
def command(
    source: str,
    kind: MapKind | None,
    dof: float | None,
    dof_num: int | None,
    mask: str | None,
    alternative: Alternative | None,
    variable: str | None,
    cluster_extent: int,
    storage_options: dict[str, Any] | None,
    quiet: bool,
    correction: Correction,
    alpha: float,
    connectivity: int,
    folder: str,
    overwrite: bool,
) -> None:
    """Keep what is significant of the results in DIR, or of a MAP of another program."""
    place = place_of(folder, storage_options)
    check_output(place, overwrite=overwrite)
    maps = open_source(
        source, kind=kind, dof=dof, dof_num=dof_num, mask=mask, alternative=alternative, storage_options=storage_options
    )
    found = threshold(
        maps,
        alpha=alpha,
        correction=correction,
        variable=variable,
        mask=mask,
        cluster_extent=cluster_extent,
        connectivity=connectivity,
        alternative=alternative,
        storage_options=storage_options,
    )
    paths = write_folder(found, place, overwrite=overwrite)
    if not quiet:
        for line in found.attrs["summary"]:
            click.echo(line)
        click.echo(f"{len(paths)} maps and results.zarr in {place}")
