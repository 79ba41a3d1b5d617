"""From a participants table to one image per subject and map."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from voxstack.errors import InputError, listing
from voxstack.io.patterns import Pattern
from voxstack.io.places import Place, Remote, is_url, joined
from voxstack.io.readers import ImageSource, looks_like_image
from voxstack.io.secrets import StorageOptions, refuse_credentials
from voxstack.io.tables import check_names

MapSpec = str | Path | Remote | SpatialImage
_SHOWN = 5  # rows of a pattern that are named in a message


def resolve_maps(
    table: pd.DataFrame,
    folder: Place,
    maps: Mapping[str, MapSpec],
    *,
    storage_options: StorageOptions | None = None,
    allow_outside: bool = False,
) -> dict[str, list[ImageSource]]:
    """One source per subject for each map.

    Parameters
    ----------
    table
        Indexed by subject label.
    folder
        Where relative paths start.
    maps
        For each map's name a column of paths or images, a pattern over the table's columns, or one 4-D image.
    storage_options
        Credentials and settings for URLs.
    allow_outside
        Let values of the table lead a pattern out of the folder that it names.

    Returns
    -------
    dict
        For each map its sources, in the order of the table.

    Raises
    ------
    InputError
        No such column, cells without a path, a pattern that leaves its folder, or a 4-D image with another number of
        volumes than the table has rows.
    """
    if not isinstance(maps, Mapping):
        refuse_credentials(maps)
        raise InputError(f"maps gives each map a name, such as maps={{'effect': {maps!r}}}.")
    if not maps:
        raise InputError('No map is named. Say what to stack, for example maps={"effect": "effect_path"}.')
    check_names("map", maps)
    rows = _Rows(table, folder, storage_options, allow_outside)
    found = {name: _of_rows(rows, name, spec) for name, spec in maps.items()}
    # Nothing is opened before all patterns are known to stay where they belong.
    return {name: _from_volumes(rows, maps[name], name) if of is None else of for name, of in found.items()}


def image_columns(table: pd.DataFrame, maps: Mapping[str, MapSpec]) -> list[str]:
    """Columns that hold images or paths of images, of these maps or of others, and so are no covariates.

    URLs with a signature, which no covariate may keep, are paths of images too.
    """
    named = {spec for spec in maps.values() if isinstance(spec, str)}
    return [name for name in table.columns if name in named or _holds_images(table[name])]


def _holds_images(column: "pd.Series[Any]") -> bool:
    cells = [cell for cell in column if not (isinstance(cell, float) and np.isnan(cell)) and cell is not None]
    return bool(cells) and all(
        isinstance(cell, SpatialImage | Path | Remote) or (isinstance(cell, str) and _names_image(cell.strip()))
        for cell in cells
    )


def _names_image(text: str) -> bool:
    return looks_like_image(re.split("[?#]", text)[0] if is_url(text) else text)


class _Rows(NamedTuple):
    """The table, and how its paths are understood."""

    table: pd.DataFrame
    folder: Place
    storage_options: StorageOptions | None
    allow_outside: bool

    def source(self, name: str) -> ImageSource:
        """The image that a path or URL names."""
        return ImageSource(joined(self.folder, name, self.storage_options))


def _of_rows(rows: _Rows, name: str, spec: MapSpec) -> list[ImageSource] | None:
    """The images of a column or pattern; None for one image of all rows."""
    table = rows.table
    refuse_credentials(spec)
    if not isinstance(spec, str | Path | Remote | SpatialImage):
        raise InputError(f"Map {name!r}: {spec!r} is neither a column, nor a path or pattern, nor an image.")
    if isinstance(spec, str) and spec in table.columns:
        cells = table[spec]
        empty = table.index[cells.isna()]
        if len(empty):
            raise InputError(f"Map {name!r}: the column {spec!r} is empty for {listing(empty)}.")
        return [ImageSource(c) if isinstance(c, SpatialImage) else rows.source(str(c).strip()) for c in cells]
    if isinstance(spec, str) and "{" in spec:
        return _from_pattern(rows, name, spec)
    if not isinstance(spec, str) or looks_like_image(spec):
        return None
    raise InputError(
        f"Map {name!r}: {spec!r} is neither a column of the table ({listing(table.columns, most=20)}), nor a pattern "
        "such as 'maps/{participant_id}.nii.gz', nor a 4-D image."
    )


def _from_pattern(rows: _Rows, name: str, text: str) -> list[ImageSource]:
    table = rows.table
    known = {str(table.index.name), *table.columns}
    try:
        pattern = Pattern.parse(text)
    except InputError as error:
        raise InputError(f"Map {name!r}: {error}") from error
    unknown = sorted(pattern.columns - known)
    if unknown:
        raise InputError(
            f"Map {name!r}: the pattern {text!r} uses {listing(unknown)}, but the table's columns are "
            f"{listing(sorted(known), most=20)}."
        )
    empty = [label for label, row in table[sorted(pattern.columns & set(table.columns))].iterrows() if row.isna().any()]
    if empty:
        raise InputError(f"Map {name!r}: a column of the pattern {text!r} is empty for {listing(empty)}.")
    paths, outside = [], []
    for label, row in zip(table.index, table.reset_index().to_dict("records"), strict=True):
        values = {str(column): cell for column, cell in row.items()}
        try:
            path = pattern.fill(values)
        except ValueError as error:
            raise InputError(f"Map {name!r}: the pattern {text!r} does not fit {label}: {error}.") from error
        refuse_credentials(path)
        try:
            paths.append(path if rows.allow_outside else pattern.fill_below(values))
        except InputError as error:
            outside.append(f"{label}, whose {error}")
    if outside:
        folder = pattern.folder or "of the table"
        raise InputError(
            f"Map {name!r}: the pattern {text!r} would leave the folder {folder} for "
            f"{'; for '.join(outside[:_SHOWN])}{f'; and for {len(outside) - _SHOWN} more' * (len(outside) > _SHOWN)}. "
            "Correct the table or, if the images are meant to lie there, allow it with allow_outside=True "
            "(--allow-outside)."
        )
    return [rows.source(path) for path in paths]


def _from_volumes(rows: _Rows, spec: MapSpec, name: str) -> list[ImageSource]:
    image: Place | SpatialImage
    if isinstance(spec, str):
        image = joined(rows.folder, spec, rows.storage_options)
    else:
        image = rows.folder / spec if isinstance(spec, Path) and isinstance(rows.folder, Path) else spec
    header, n = ImageSource(image, volume=0).header(), len(rows.table)
    if header.n_volumes != n:
        what = "the image in memory" if isinstance(image, SpatialImage) else image
        raise InputError(
            f"Map {name!r}: {what} holds {header.n_volumes} volumes, but the table has {n} rows; "
            "volume i belongs to row i."
        )
    if len(header.shape) == 3:
        return [ImageSource(image)]
    return [ImageSource(image, volume=volume) for volume in range(n)]
