"""voxstack fit."""

from typing import Any

import click
import numpy as np
import xarray as xr

from voxstack.cli.computing import Conditions, computing, planned, running
from voxstack.cli.options import check_output, contrasts, modelling, tell_dropped, tested_by, without_empty
from voxstack.cli.storage import READ
from voxstack.computation import compute
from voxstack.export.files import make_folder
from voxstack.export.folder import write_folder
from voxstack.export.maps import map_file_names
from voxstack.io.places import place_of
from voxstack.kernels.pvalues import Alternative
from voxstack.memory import memory_plan
from voxstack.models.blueprint import Missing
from voxstack.models.contrast import contrast
from voxstack.models.effect_sizes import EFFECT_SIZES
from voxstack.models.fit import fit_glm
from voxstack.store.open import open_cohort


@click.command("fit")
@click.argument("store", type=READ)
@modelling
@click.option("--effect-size", "effect_sizes", type=click.Choice(list(EFFECT_SIZES)), multiple=True,
              help="Write maps of this effect size, too. May be repeated.")  # fmt: skip
@click.option("--confidence", type=float, metavar="LEVEL", help="Such as 0.95: write bounds of the effect, too.")
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
    effect_sizes: tuple[str, ...],
    confidence: float | None,
    log10_p: bool,
    folder: str,
    overwrite: bool,
    storage_options: dict[str, Any] | None,
    explain: bool,
    conditions: Conditions,
) -> None:
    """Fit a linear model to every voxel of the cohort STORE, and write maps and results.zarr into DIR."""
    hypotheses = contrasts(t_contrasts, f_contrasts)
    place = place_of(folder, storage_options)
    check_output(place, overwrite=overwrite)
    going_on = "Nothing was written: the same command begins anew."
    with running(conditions, going_on=going_on) as record, without_empty(place):
        cohort = open_cohort(store, storage_options=storage_options)
        fit = fit_glm(
            cohort, design, variable=variable, missing=missing, min_subjects=min_subjects, drop_missing=drop_missing,
            mask=mask, storage_options=storage_options,
        )  # fmt: skip
        lazy = contrast(fit, hypotheses, alternative=alternative, effect_sizes=effect_sizes, confidence=confidence)
        # What cannot be written is found before the work starts.
        map_file_names(lazy, log10_p=log10_p)
        tell_dropped(fit.attrs.get("dropped_subjects", []))
        plan = memory_plan(
            cohort,
            n_regressors=fit.sizes["regressor"],
            n_contrasts=lazy.sizes["contrast"],
            maps_per_contrast=len(lazy.data_vars),
            missing=missing,
        )
        if explain:
            click.echo(plan.explain("fit"))
            return
        plan.check("fit")
        if not conditions.quiet:
            _tell_design(fit)
            for name in lazy["contrast"].values:
                click.echo(tested_by(lazy.sel(contrast=name)))
            click.echo(f"At most {plan.fit / 2**30:.2f} GiB of memory")
        make_folder(place)
        result = compute(lazy, progress=not conditions.quiet)
        paths = write_folder(result, place, overwrite=overwrite, log10_p=log10_p, record=record.told())
    if not conditions.quiet:
        click.echo(f"{len(paths)} maps and results.zarr in {place}")


def _tell_design(fit: xr.Dataset) -> None:
    """The size of the design, and how close its columns are to being combinations of each other."""
    names = [str(name) for name in fit["regressor"].values]
    width = max(map(len, (*names, "regressor")))
    click.echo(f"{fit.attrs['n_subjects']} subjects, condition number {fit['condition_number'].item():.4g}")
    click.echo(f"{'regressor':{width}}  variance inflation")
    for name, inflation in zip(names, fit["variance_inflation"].values, strict=True):
        click.echo(f"{name:{width}}  {'-' if np.isnan(inflation) else format(inflation, '.4g'):>18}")
