"""voxstack info."""

import json
from typing import Any

import click
import numpy as np
from rich.table import Table

from voxstack.cli.console import console
from voxstack.cli.results import store_in
from voxstack.cli.storage import READ, with_storage_options
from voxstack.errors import listing
from voxstack.memory import memory_plan
from voxstack.store.describe import describe


@click.command("info")
@click.argument("store", type=READ)
@with_storage_options
@click.option("--json", "as_json", is_flag=True, help="As JSON, with everything that the table only sums up.")
def command(store: str, storage_options: dict[str, Any] | None, as_json: bool) -> None:
    """Say what the cohort or result STORE, or the folder of a run, holds."""
    store = store_in(store, storage_options)
    if as_json:
        click.echo(json.dumps(describe(store, storage_options=storage_options), indent=2, ensure_ascii=False))
    else:
        summary(store, storage_options)


def summary(store: str, storage_options: dict[str, Any] | None) -> None:
    """Print a table of what a cohort or result holds."""
    told = describe(store, storage_options=storage_options) | {"unit": "objects" if "://" in store else "files"}
    table = Table(title=f"{told['kind']} {store}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = _cohort_rows(told) if told["kind"] == "cohort" else _result_rows(told)
    for name, value in rows.items():
        table.add_row(name, value)
    console().print(table)


def _cohort_rows(told: dict[str, Any]) -> dict[str, str]:
    n, coverage = len(told["subjects"]), told["coverage"]
    chunks, shape = told["chunks"], tuple(told["grid"]["shape"])
    covariates = [f"{name}: {_covariate(one)}" for name, one in told["covariates"].items()]
    dtype, inside = next(iter(told["maps"].values())), told["mask_voxels"]
    n_maps, shard = len(told["maps"]), told["shards"] is not None
    plan = memory_plan(n_subjects=n, shape=shape, n_maps=n_maps, dtype=dtype, mask_voxels=inside, shard=shard)
    shards = f", in shards of {' x '.join(map(str, told['shards']))}" if shard else ""
    some = coverage["at_least"]
    counts = f"{some['100']:,} of all subjects, {some['90']:,} of 90%, {some['50']:,} of half, {some['1']:,} of any"
    covered = [f"voxels with data: {counts}"]
    if len(coverage["maps"]) > 1:
        covered += [f"{name}: {one['complete']:,} voxels of every subject" for name, one in coverage["maps"].items()]
    before = " before smoothing" if "smoothing_fwhm" in told["provenance"] else ""
    zero = {name: one["zero_in_some"] for name, one in coverage["maps"].items() if one["zero_in_some"]}
    covered += [f"{name}: {count:,} voxels are exactly 0 in some subjects{before}" for name, count in zero.items()]
    return {
        "subjects": f"{n:,} ({listing(told['subjects'], most=3)})",
        "maps": ", ".join(f"{name} ({dtype})" for name, dtype in told["maps"].items()),
        "grid": _grid(told["grid"]),
        "mask": f"{told['mask_voxels']:,} of {int(np.prod(shape)):,} voxels",
        "coverage": "\n".join(covered),
        "covariates": "\n".join(covariates) or "none",
        "chunks": f"{' x '.join(map(str, chunks))} (subject, x, y, z){shards}",
        "size": f"{_size(told['bytes'])} in {told['files']:,} {told['unit']}, {told['compression']:g}:1",
        "memory": str(plan),
    }


def _grid(grid: dict[str, Any]) -> str:
    sizes = " x ".join(f"{size:g}" for size in grid["voxel_size_mm"])
    corner = ", ".join(f"{row[3]:g}" for row in grid["affine"][:3])
    oblique = ", oblique" if grid["oblique"] else ""
    return f"{' x '.join(map(str, grid['shape']))} voxels of {sizes} mm, first voxel at ({corner}) mm{oblique}"


def _covariate(told: dict[str, Any]) -> str:
    missing = f", {told['missing']} missing" if told["missing"] else ""
    if told["type"] == "number":
        return (f"{told['min']:g} to {told['max']:g}" if "min" in told else "no value") + missing
    return listing((f"{level} ({n})" for level, n in told["levels"].items()), most=6) + missing


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _result_rows(told: dict[str, Any]) -> dict[str, str]:
    rows = {"grid": _grid(told["grid"]), "mask": f"{told['mask_voxels']:,} voxels"}
    rows |= {name: listing(told[name], most=20) for name in ("contrasts", "regressors") if name in told}
    rows |= {
        "maps": ", ".join(told["variables"]),
        "size": f"{_size(told['bytes'])} in {told['files']:,} {told['unit']}",
    }
    provenance = told["provenance"]
    shown = ("variable", "formula", "model", "missing", "dropped_subjects")
    return rows | {key.replace("_", " "): str(provenance[key]) for key in shown if key in provenance}
