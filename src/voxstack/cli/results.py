"""What verbs that read a result share: a folder of a run, a store, or a map of another program."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click
import xarray as xr

from voxstack.cli.storage import READ, with_storage_options
from voxstack.errors import InputError
from voxstack.export.folder import RESULTS
from voxstack.export.results import open_results
from voxstack.inference.options import MapKind
from voxstack.inference.read_map import read_map
from voxstack.io.atlas import AtlasSpec
from voxstack.io.places import Remote, place_of
from voxstack.io.readers import looks_like_image
from voxstack.kernels.pvalues import ALTERNATIVES, Alternative
from voxstack.store.published import ROOT

Command = TypeVar("Command", bound=Callable[..., Any])


def reading(command: Command) -> Command:
    """SOURCE and the options that say what a map of another program is."""
    for decorate in reversed(
        (
            click.argument("source", metavar="DIR|MAP", type=READ),
            click.option("--kind", type=click.Choice(get_args(MapKind)),
                         help="What MAP holds; by default what its name says, or z."),
            click.option("--dof", type=float, metavar="N", help="Residual degrees of freedom of MAP, of t and F."),
            click.option("--dof-num", type=int, metavar="N", help="Numerator degrees of freedom of MAP, of F."),
            click.option("--mask", type=READ, help="An image of the voxels that were tested."),
            click.option("--alternative", type=click.Choice(ALTERNATIVES),
                         help="By default that of the result, or of MAP's sidecar."),
            click.option("--variable", help="Such as z_score, stat or tfce."),
            click.option("--cluster-extent", type=int, default=0, show_default=True, metavar="K",
                         help="Voxels that a cluster must have."),
            with_storage_options,
            click.option("--quiet", is_flag=True, help="Print nothing."),
        )
    ):  # fmt: skip
        command = decorate(command)
    return command


def open_source(
    source: str,
    *,
    kind: MapKind | None,
    dof: float | None,
    dof_num: int | None,
    mask: str | None,
    alternative: Alternative | None,
    storage_options: dict[str, Any] | None,
) -> xr.Dataset:
    """The result of a run's folder or of a store, or a map."""
    if looks_like_image(source):
        return read_map(
            source,
            kind=kind,
            dof=dof,
            dof_num=dof_num,
            mask=mask,
            alternative=alternative,
            name=place_of(source).name.split(".")[0],
            storage_options=storage_options,
        )
    if (kind, dof, dof_num) != (None, None, None):
        raise InputError("--kind, --dof and --dof-num are for a MAP; results say what they are.")
    return open_folder(source, storage_options)


def open_folder(folder: str, storage_options: dict[str, Any] | None) -> xr.Dataset:
    """The result of a run's folder, or of a store."""
    return open_results(store_in(folder, storage_options), storage_options=storage_options)


def store_in(folder: str, storage_options: dict[str, Any] | None) -> str:
    """The store of a run's folder, or the path as it is."""
    results = place_of(folder, storage_options) / RESULTS
    if isinstance(results, Remote):
        return results.url if (results / ROOT).exists() else folder
    return str(results) if results.exists() else folder


def with_atlas(command: Command) -> Command:
    """--atlas and --atlas-names."""
    names = click.option("--atlas-names", type=READ, metavar="TABLE", help="Its columns index and name.")
    return click.option("--atlas", type=READ, metavar="IMAGE", help="Labels of regions.")(names(command))


def atlas_of(image: str | None, names: str | None) -> AtlasSpec | None:
    """What --atlas and --atlas-names say."""
    if image is None and names is not None:
        raise InputError("--atlas-names names the labels of --atlas IMAGE, which was not given.")
    return image if image is None or names is None else (image, names)
