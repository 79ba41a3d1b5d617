"""From a participants table to one image per subject and map."""

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from voxstack.errors import InputError, listing
from voxstack.io.readers import ImageSource, looks_like_image
from voxstack.io.tables import check_names

MapSpec = str | Path | SpatialImage


def resolve_maps(table: pd.DataFrame, folder: Path, maps: Mapping[str, MapSpec]) -> dict[str, list[ImageSource]]:
    """One source per subject for each map.

    Parameters
    ----------
    table
        Indexed by subject label.
    folder
        Where relative paths start.
    maps
        For each map's name a column of paths or images, a pattern over the table's columns, or one 4-D image.

    Returns
    -------
    dict
        For each map its sources, in the order of the table.

    Raises
    ------
    InputError
        No such column, cells without a path, or a 4-D image with another number of volumes than the table has rows.
    """
    if not isinstance(maps, Mapping):
        raise InputError(f"maps gives each map a name, such as maps={{'effect': {maps!r}}}.")
    if not maps:
        raise InputError('No map is named. Say what to stack, for example maps={"effect": "effect_path"}.')
    check_names("map", maps)
    return {name: _resolve(table, folder, name, spec) for name, spec in maps.items()}


def image_columns(table: pd.DataFrame, maps: Mapping[str, MapSpec]) -> list[str]:
    """Columns that hold images or paths of images, of these maps or of others, and so are no covariates."""
    named = {spec for spec in maps.values() if isinstance(spec, str)}
    return [name for name in table.columns if name in named or _holds_images(table[name])]


def _holds_images(column: "pd.Series[Any]") -> bool:
    cells = [cell for cell in column if not (isinstance(cell, float) and np.isnan(cell)) and cell is not None]
    return bool(cells) and all(
        isinstance(cell, SpatialImage | Path) or (isinstance(cell, str) and looks_like_image(cell.strip()))
        for cell in cells
    )


def _resolve(table: pd.DataFrame, folder: Path, name: str, spec: MapSpec) -> list[ImageSource]:
    if not isinstance(spec, str | Path | SpatialImage):
        raise InputError(f"Map {name!r}: {spec!r} is neither a column, nor a path or pattern, nor an image.")
    if isinstance(spec, str) and spec in table.columns:
        cells = table[spec]
        empty = table.index[cells.isna()]
        if len(empty):
            raise InputError(f"Map {name!r}: the column {spec!r} is empty for {listing(empty)}.")
        return [ImageSource(c if isinstance(c, SpatialImage) else folder / str(c).strip()) for c in cells]
    if isinstance(spec, str) and "{" in spec:
        return _from_pattern(table, folder, name, spec)
    if isinstance(spec, SpatialImage | Path) or looks_like_image(spec):
        return _from_volumes(table, spec if isinstance(spec, SpatialImage) else folder / spec, name)
    raise InputError(
        f"Map {name!r}: {spec!r} is neither a column of the table ({listing(table.columns, most=20)}), nor a pattern "
        "such as 'maps/{participant_id}.nii.gz', nor a 4-D image."
    )


def _from_pattern(table: pd.DataFrame, folder: Path, name: str, pattern: str) -> list[ImageSource]:
    known = {str(table.index.name), *table.columns}
    try:
        fields = {field for _, field, _, _ in Formatter().parse(pattern) if field is not None}
    except ValueError as error:
        raise InputError(f"Map {name!r}: the pattern {pattern!r} cannot be read: {error}.") from error
    unknown = sorted(fields - known)
    if unknown:
        raise InputError(
            f"Map {name!r}: the pattern {pattern!r} uses {listing(unknown)}, but the table's columns are "
            f"{listing(sorted(known), most=20)}."
        )
    empty = [label for label, row in table[sorted(fields & set(table.columns))].iterrows() if row.isna().any()]
    if empty:
        raise InputError(f"Map {name!r}: a column of the pattern {pattern!r} is empty for {listing(empty)}.")
    rows = [{str(name): cell for name, cell in row.items()} for row in table.reset_index().to_dict("records")]
    try:
        return [ImageSource(folder / pattern.format(**row)) for row in rows]
    except (ValueError, KeyError, AttributeError, IndexError) as error:
        raise InputError(f"Map {name!r}: the pattern {pattern!r} does not fit the table: {error}.") from error


def _from_volumes(table: pd.DataFrame, image: Path | SpatialImage, name: str) -> list[ImageSource]:
    header = ImageSource(image, volume=0).header()
    if header.n_volumes != len(table):
        what = image if isinstance(image, Path) else "the image in memory"
        raise InputError(
            f"Map {name!r}: {what} holds {header.n_volumes} volumes, but the table has {len(table)} rows; "
            "volume i belongs to row i."
        )
    if len(header.shape) == 3:
        return [ImageSource(image)]
    return [ImageSource(image, volume=volume) for volume in range(len(table))]
