"""What is significant in a result: thresholded as it is, or by the usual rules, with its clusters."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from voxstack.inference.clusters_table import clusters_table
from voxstack.inference.found_clusters import heights_of
from voxstack.inference.options import Correction
from voxstack.inference.threshold import threshold

ALPHA = 0.05
USUAL: Mapping[str, Correction] = {"permutation": "fwe", "contrast": "fdr"}
"""Correction of results that are not thresholded, by kind."""

MOST_ROWS = 200  # of a table in the page; the file for download has all

_HEADINGS = {
    "stat": "Voxels",
    "z_score": "Voxels",
    "p_value": "Voxels",
    "p_uncorrected": "Voxels",
    "cluster_extent": "Cluster extent",
    "cluster_mass": "Cluster mass",
    "tfce": "Threshold-free cluster enhancement",
}


@dataclass(frozen=True)
class Cell:
    """Of a table: what it is sorted by, and what is shown."""

    value: str
    text: str


@dataclass(frozen=True)
class Row:
    """Of a table of clusters."""

    cells: list[Cell]
    mm: str


@dataclass
class Finding:
    """What one threshold found of one contrast.

    Attributes
    ----------
    heading, line
        What was thresholded, and what is significant.
    thresholded
        The result at this contrast.
    caption, columns, rows
        The table of clusters.
    file, tsv
        The table as a file.
    pictures
        For the page.
    """

    heading: str
    line: str
    thresholded: xr.Dataset
    caption: str
    columns: list[str]
    rows: list[Row]
    file: str
    tsv: str
    pictures: list[Any] = field(default_factory=list)


def findings_of(result: xr.Dataset, atlas: Any = None) -> dict[str, list[Finding]]:
    """By contrast. Results that are not thresholded are, at 5%: by relabelling, or by the false discovery rate."""
    found: dict[str, list[Finding]] = {str(name): [] for name in result["contrast"].values}
    for thresholded in _thresholded(result):
        if not heights_of(thresholded):  # of p alone
            table = pd.DataFrame({"contrast": []})
            table.attrs = {"variable": "p_value"}
        else:
            table = clusters_table(thresholded, atlas=atlas)
        for number, name in enumerate(found):
            rows = table[table["contrast"] == name].drop(columns="contrast").dropna(axis=1, how="all")
            found[name].append(_finding(thresholded, name, number, rows, table.attrs["variable"]))
    return found


def _thresholded(result: xr.Dataset) -> Iterator[xr.Dataset]:
    if "significant" in result:
        yield result
        return
    for statistic in map(str, result["statistic"].values) if "statistic" in result.coords else [None]:
        variable = "stat" if statistic == "voxel" else statistic
        yield threshold(result, alpha=ALPHA, correction=USUAL[result.attrs["kind"]], variable=variable)


def _finding(thresholded: xr.Dataset, name: str, number: int, table: pd.DataFrame, variable: str) -> Finding:
    one = thresholded.sel(contrast=name)
    which = thresholded.attrs["provenance"]["threshold"]["variable"]
    shown = [Row([_cell(value) for value in row], _place(row, table)) for row in table.head(MOST_ROWS).to_numpy(object)]
    lost = f"; the first {MOST_ROWS} of {len(table)} rows" if len(table) > MOST_ROWS else ""
    heading = _HEADINGS.get(which, which)
    label = "".join(letter for letter in name if letter.isalnum())
    return Finding(
        heading=heading,
        line=_line(thresholded, one, name),
        thresholded=one,
        caption=f"Clusters and peaks, value: {one[variable].attrs.get('long_name', variable)}{lost}",
        columns=[column.replace("_", " ") for column in table.columns],
        rows=shown,
        file=f"contrast-{number + 1}-{label}_{which}_clusters.tsv",
        tsv=base64.b64encode(table.to_csv(sep="\t", index=False, na_rep="n/a").encode()).decode(),
    )


def _line(thresholded: xr.Dataset, one: xr.Dataset, name: str) -> str:
    options = thresholded.attrs["provenance"]["threshold"]
    told: str = thresholded.attrs["summary"][options["contrasts"].index(name)].removeprefix(f"{name}: ")
    told = f"{told[:1].upper()}{told[1:]}."
    least = float(one["threshold"])
    if not np.isfinite(least):
        return told
    beyond = "beyond" if options["correction"] == "fwe" else "from"
    name = options["variable"].replace("_", " ")
    if (
        options["alternative"] == "two-sided"
        and one["stat_type"].item() == "t"
        and "p" not in options["variable"].split("_")
    ):
        name = f"|{name}|"
    return f"{told} Significant is what lies {beyond} {name} = {least:.4g}."


def _place(row: Any, table: pd.DataFrame) -> str:
    return " ".join(f"{row[table.columns.get_loc(axis)]:g}" for axis in "xyz")


def _cell(value: Any) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return Cell("", "")
    if isinstance(value, float | np.floating):
        value = float(value)
        return Cell(repr(value), f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")
    return Cell(str(value), str(value))
