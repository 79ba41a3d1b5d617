"""voxstack clusters."""

from typing import Any

import click
import pandas as pd

from voxstack.cli.results import atlas_of, open_source, reading, with_atlas
from voxstack.cli.storage import READ
from voxstack.errors import InputError
from voxstack.export.clusters import TABLE, write_clusters
from voxstack.inference.clusters_table import clusters_table, label_clusters
from voxstack.inference.options import MapKind
from voxstack.io.places import place_of
from voxstack.io.readers import looks_like_image
from voxstack.kernels.pvalues import Alternative


@click.command("clusters")
@reading
@click.option("--threshold", "least", type=float, metavar="T",
              help="On the scale of the variable; by default what the results say.")  # fmt: skip
@click.option("--connectivity", type=int, help="Neighbours in a cluster: 6, 18 or 26.  [default: the result's, or 26]")
@click.option("--min-distance", type=float, default=8.0, show_default=True, metavar="MM", help="Between peaks.")
@click.option("--peaks", type=int, default=4, show_default=True, metavar="N", help="Most peaks of a cluster.")
@with_atlas
@click.option("--output", "folder", type=READ, metavar="DIR",
              help="Write clusters.tsv and images of the clusters' numbers.")  # fmt: skip
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
    least: float | None,
    connectivity: int | None,
    min_distance: float,
    peaks: int,
    atlas: str | None,
    atlas_names: str | None,
    folder: str | None,
) -> None:
    """List the clusters and peaks of the results in DIR, or of a MAP of another program."""
    labelled = atlas_of(atlas, atlas_names)
    if not looks_like_image(source) and (mask, alternative) != (None, None):
        raise InputError("--mask and --alternative are for a MAP; results say which voxels were tested, and how.")
    maps = open_source(
        source, kind=kind, dof=dof, dof_num=dof_num, mask=mask, alternative=alternative, storage_options=storage_options
    )
    rule: dict[str, Any] = {
        "variable": variable,
        "threshold": least,
        "cluster_extent": cluster_extent,
        "connectivity": connectivity,
    }
    table = clusters_table(
        maps, **rule, min_distance=min_distance, peaks=peaks, atlas=labelled, storage_options=storage_options
    )
    place = None if folder is None else place_of(folder, storage_options)
    if place is not None:
        write_clusters(table, label_clusters(maps, **rule), place)
    if not quiet:
        click.echo("There is no cluster." if table.empty else _shown(table))
        if place is not None:
            click.echo(f"{TABLE} and images of the clusters in {place}")


def _shown(table: pd.DataFrame) -> str:
    """The table for people."""
    text = table.assign(n_voxels=table["n_voxels"].astype(object).where(table["n_voxels"].notna(), ""))
    return str(text.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4g}"))
