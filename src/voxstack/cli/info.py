"""voxstack info."""

import click
import numpy as np
import xarray as xr
from rich.console import Console
from rich.table import Table

from voxstack.errors import StoreError, listing
from voxstack.export.results import open_results
from voxstack.grid import Grid
from voxstack.schema import covariate_names, map_names
from voxstack.store.open import open_cohort


@click.command("info")
@click.argument("store", type=click.Path())
def command(store: str) -> None:
    """Say what the cohort or result STORE holds."""
    try:
        dataset = open_cohort(store)
    except StoreError as not_a_cohort:
        try:
            dataset = open_results(store)
        except StoreError:
            raise not_a_cohort from None
    summary(dataset, store)


def summary(dataset: xr.Dataset, store: str) -> None:
    """Print a table of what a cohort or result holds."""
    table = Table(title=f"{dataset.attrs['kind']} {store}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = _cohort_rows(dataset) if dataset.attrs["kind"] == "cohort" else _result_rows(dataset)
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _cohort_rows(cohort: xr.Dataset) -> dict[str, str]:
    mask, n_valid = cohort["mask"].values, cohort["n_valid"].values
    maps = map_names(cohort)
    covariates = {name: _describe(cohort[name]) for name in covariate_names(cohort)}
    return {
        "subjects": f"{cohort.sizes['subject']:,} ({listing(cohort['subject'].values, most=3)})",
        "maps": ", ".join(f"{name} ({cohort[name].dtype})" for name in maps),
        "grid": str(Grid.from_dataset(cohort)),
        "mask": f"{int(mask.sum()):,} of {mask.size:,} voxels",
        "coverage": f"{int((n_valid == cohort.sizes['subject']).sum()):,} voxels have data of every subject",
        "covariates": "\n".join(f"{name}: {told}" for name, told in covariates.items()) or "none",
        "chunks": " x ".join(str(axis[0]) for axis in cohort[maps[0]].chunks or ()) + " (subject, x, y, z)",
    }


def _describe(covariate: xr.DataArray) -> str:
    values = covariate.values
    if values.dtype.kind in "if":
        known = values[np.isfinite(values)]
        missing = f", {values.size - known.size} missing" if known.size < values.size else ""
        return (f"{known.min():g} to {known.max():g}" if known.size else "no value") + missing
    present = [str(value) for value in values if isinstance(value, str | bool | np.bool_)]
    missing = f", {values.size - len(present)} missing" if len(present) < values.size else ""
    return listing(sorted(set(present)), most=6) + missing


def _result_rows(result: xr.Dataset) -> dict[str, str]:
    rows = {"grid": str(Grid.from_dataset(result)), "mask": f"{int(result['mask'].sum()):,} voxels"}
    for dim, of in (("contrast", "contrasts"), ("regressor", "regressors")):
        if dim in result.coords:
            rows[of] = listing(result[dim].values, most=20)
    rows["maps"] = ", ".join(str(name) for name in result.data_vars)
    provenance = result.attrs["provenance"]
    rows |= {key: str(provenance[key]) for key in ("variable", "formula", "model", "missing") if key in provenance}
    return rows
