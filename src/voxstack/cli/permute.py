"""voxstack permute."""

from typing import Any, Literal

import click
import xarray as xr

from voxstack.cli.computing import Conditions, computing, planned, running
from voxstack.cli.options import check_output, contrasts, modelling, tell_dropped, tested_by, without_empty
from voxstack.cli.storage import READ
from voxstack.contrasts import parse_contrasts
from voxstack.design import make_design
from voxstack.export.files import make_folder
from voxstack.export.folder import write_folder
from voxstack.inference.exchangeability import Blocks
from voxstack.inference.hypotheses import Precision, Relabelling
from voxstack.inference.methods import METHODS
from voxstack.inference.permute import permutation_test
from voxstack.inference.results import TailRule
from voxstack.inference.statistics import STATISTICS, TFCE, VOXEL, Scale
from voxstack.io.places import place_of
from voxstack.kernels.pvalues import Alternative
from voxstack.memory import memory_plan
from voxstack.models.blueprint import Missing
from voxstack.schema import is_corrected
from voxstack.store.open import open_cohort


@click.command("permute")
@click.argument("store", type=READ)
@modelling
@click.option("--permutations", type=int, default=5000, show_default=True, metavar="N",
              help="Relabellings, the identity included; all, once, where there are no more.")  # fmt: skip
@click.option("--statistic", "statistics", type=click.Choice([VOXEL, *STATISTICS]), multiple=True,
              help="By default voxel. May be repeated.")  # fmt: skip
@click.option("--method", type=click.Choice(list(METHODS)), default="freedman-lane", show_default=True,
              help="How nuisance regressors are dealt with.")  # fmt: skip
@click.option("--relabelling", type=click.Choice(["auto", "permute", "flip", "both"]), default="auto",
              show_default=True, help="Permute subjects, flip signs, or both.")  # fmt: skip
@click.option("--blocks", "column", metavar="COLUMN", help="A covariate within whose groups subjects are exchanged.")
@click.option("--whole-blocks", metavar="COLUMN", help="A covariate whose groups are exchanged as wholes.")
@click.option("--block-file", type=READ, metavar="CSV",
              help="Exchangeability blocks as PALM reads them.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--cluster-forming-p", type=float, metavar="P", help="Of one tail, such as 0.001.")
@click.option("--cluster-forming-z", type=float, metavar="Z", help="Such as 3.1.")
@click.option("--connectivity", type=int, default=26, show_default=True, help="Neighbours in a cluster: 6, 18 or 26.")
@click.option("--tfce-connectivity", type=int, default=6, show_default=True, help="Neighbours for TFCE.")
@click.option("--two-sided-clusters", type=click.Choice(["signed", "absolute"]), default="signed", show_default=True)
@click.option("--scale", type=click.Choice(["z", "stat"]), default="z", show_default=True,
              help="Of the maps that are clustered or enhanced.")  # fmt: skip
@click.option("--joint", is_flag=True, help="Correct across contrasts, too.")
@click.option("--tail", type=click.Choice(["counts", "gpd"]), default="counts", show_default=True,
              help="Small corrected p: counted, or from a fitted generalised Pareto distribution.")  # fmt: skip
@click.option("--precision", type=click.Choice(["mixed", "double"]), default="mixed", show_default=True,
              help="The same p-values; mixed is about twice as fast.")  # fmt: skip
@click.option("--checkpoint", metavar="DIR",
              help="Keeps what is done: after a stop the same command goes on from there.")  # fmt: skip
@planned
@computing
def command(
    store: str,
    design: str,
    t_contrasts: tuple[str, ...],
    f_contrasts: tuple[str, ...],
    variable: str | None,
    missing: Missing,
    min_subjects: int | None,
    drop_missing: bool,
    mask: str | None,
    alternative: Alternative,
    log10_p: bool,
    folder: str,
    overwrite: bool,
    storage_options: dict[str, Any] | None,
    permutations: int,
    statistics: tuple[str, ...],
    method: str,
    relabelling: Relabelling,
    column: str | None,
    whole_blocks: str | None,
    block_file: str | None,
    seed: int,
    cluster_forming_p: float | None,
    cluster_forming_z: float | None,
    connectivity: int,
    tfce_connectivity: int,
    two_sided_clusters: Literal["signed", "absolute"],
    scale: Scale,
    joint: bool,
    tail: TailRule,
    precision: Precision,
    checkpoint: str | None,
    explain: bool,
    conditions: Conditions,
) -> None:
    """Test contrasts by relabelling the subjects of the cohort STORE, and write maps and results.zarr into DIR."""
    hypotheses = contrasts(t_contrasts, f_contrasts)
    place = place_of(folder, storage_options)
    check_output(place, overwrite=overwrite)
    with running(conditions, going_on=_going_on(checkpoint)) as record, without_empty(place):
        cohort = open_cohort(store, storage_options=storage_options)
        matrix = make_design(cohort, design, drop_missing=drop_missing)
        tell_dropped(matrix.attrs.get("dropped_subjects", []))
        plan = memory_plan(
            cohort,
            n_contrasts=len(hypotheses),
            missing=missing,
            statistics=statistics or (VOXEL,),
            cluster_forming_p=cluster_forming_p,
            cluster_forming_z=cluster_forming_z,
            n_permutations=permutations,
        )
        if explain:
            terms = list(map(str, matrix["term"].values)) if "term" in matrix.coords else None
            parse_contrasts(hypotheses, list(map(str, matrix["regressor"].values)), terms)  # refuses unknown ones
            click.echo(plan.explain("permute"))
            return
        if not conditions.quiet:
            click.echo(f"At most {plan.permute / 2**30:.2f} GiB of memory")
        make_folder(place)
        result = permutation_test(
            cohort,
            matrix,
            hypotheses,
            variable=variable,
            missing=missing,
            min_subjects=min_subjects,
            mask=mask,
            n_permutations=permutations,
            statistics=statistics or (VOXEL,),
            alternative=alternative,
            method=method,
            relabelling=relabelling,
            blocks=_blocks(column, whole_blocks, block_file, storage_options),
            seed=seed,
            cluster_forming_p=cluster_forming_p,
            cluster_forming_z=cluster_forming_z,
            connectivity=connectivity,
            tfce=TFCE(connectivity=tfce_connectivity),
            two_sided_clusters=two_sided_clusters,
            scale=scale,
            joint=joint,
            tail=tail,
            precision=precision,
            checkpoint=checkpoint,
            storage_options=storage_options,
            progress=not conditions.quiet,
        )
        paths = write_folder(result, place, overwrite=overwrite, log10_p=log10_p, record=record.told())
    if not conditions.quiet:
        _tell(result)
        click.echo(f"{len(paths)} maps and results.zarr in {place}")


def _tell(result: xr.Dataset) -> None:
    """What was done, and what was found of each contrast."""
    inside, tested = int(result["mask"].sum()), int(result["stat"].notnull().any("contrast").sum())
    others = f"; {inside - tested:,} of the mask cannot be" if tested < inside else ""
    click.echo(f"{tested:,} voxels tested{others}")
    for name in result["contrast"].values:
        one = result.sel(contrast=name)
        all_of_them = ", all there are" if one["exhaustive"] else ""
        how = f"{one['n_relabellings'].item():,} relabellings ({one['relabelling'].item()}{all_of_them})"
        click.echo(f"{tested_by(one)}, {how}")
        for variable in filter(is_corrected, map(str, one.data_vars)):
            least, some = float(one[variable].min()), int((one[variable] <= 0.05).sum())
            click.echo(f"  {variable}: least {least:.3g}, {some:,} voxels with p <= 0.05")


def _going_on(checkpoint: str | None) -> str:
    if checkpoint is None:
        return "What was done is lost; with --checkpoint DIR it would be kept."
    return f"What was done is in {checkpoint}: the same command goes on from there."


def _blocks(
    column: str | None, whole: str | None, file: str | None, storage_options: dict[str, Any] | None
) -> str | Blocks | None:
    given = [option for option in (column, whole, file) if option is not None]
    if len(given) > 1:
        raise click.UsageError("Give one of --blocks, --whole-blocks and --block-file; a file can hold several levels.")
    if file is not None:
        return Blocks.read(file, storage_options=storage_options)
    return column if whole is None else Blocks(whole, whole=True)
