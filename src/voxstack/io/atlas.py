"""Atlases: an image of labels, and what they are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from voxstack.errors import InputError, listing, warn
from voxstack.grid import Grid
from voxstack.io.places import Place, Remote, located
from voxstack.io.readers import image_source
from voxstack.kernels.resample import nearest

_ROUNDING = 1e-4  # voxels: coordinates are kept to 1e-4 mm

Labels = pd.DataFrame | str | Path | Remote | pd.Series | Mapping[int, str] | Sequence[str]
AtlasImage = str | Path | Remote | SpatialImage
AtlasSpec = AtlasImage | tuple[AtlasImage, Labels]
"""An image of labels, or the image and a table of their names."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """Labels in space.

    Attributes
    ----------
    labels : (x, y, z) int64
        0 is no region.
    affine : (4, 4) float64
        From voxel numbers to mm.
    names
        Of the labels; a label without a name is called by its number.
    """

    labels: NDArray[np.int64]
    affine: NDArray[np.float64]
    names: Mapping[int, str]

    @classmethod
    def of(cls, spec: AtlasSpec) -> Self:
        """Read what a user gives."""
        if isinstance(spec, tuple) and len(spec) != 2:
            raise InputError("An atlas is an image of labels, or an image and a table of their names.")
        image, table = spec if isinstance(spec, tuple) else (spec, None)
        names = {} if table is None else _names(located(table, None))
        source = image_source(image, "An atlas")
        raw, grid = source.read()
        values = np.asarray(raw, dtype=np.float64)
        values = np.where(np.isnan(values), 0.0, values)
        if not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
            raise InputError(f"The atlas {source.name} has values that are not whole numbers, so they are no labels.")
        return cls(values.astype(np.int64), grid.affine, names)

    def on(self, grid: Grid) -> NDArray[np.int64]:
        """Labels (x, y, z) of the voxels of a grid, by nearest neighbour; `InputError` where none has any."""
        labels = nearest(self.labels, self.affine, grid.shape, grid.affine)
        if not labels.any():
            raise InputError(f"The labels are all 0, or do not overlap the maps, which have {grid}.")
        lost = np.setdiff1d(self.labels[self.labels != 0], labels)
        if lost.size:
            names = listing(self.names.get(int(label), label) for label in lost)
            warn(f"{lost.size} labels are nowhere on the maps' grid: {names}.")
        return np.asarray(labels, dtype=np.int64)

    def at(self, places: NDArray[np.float64]) -> list[str]:
        """Names (k,) at places (k, 3) in mm; empty where there is no region."""
        voxels = nib.affines.apply_affine(np.linalg.inv(self.affine), places.reshape(-1, 3))
        voxels = np.floor(voxels + 0.5 + _ROUNDING).astype(int)  # half-way it is the higher number, as of `nearest`
        within = np.all((voxels >= 0) & (voxels < self.labels.shape), axis=1)
        if len(voxels) and not within.any():
            raise InputError("No place lies within the atlas. Is it in the space of the maps?")
        found = np.zeros(len(voxels), dtype=np.int64)
        found[within] = self.labels[tuple(voxels[within].T)]
        return [self.names.get(int(label), str(label)) if label else "" for label in found]


def _names(table: Any) -> dict[int, str]:
    if isinstance(table, Place):
        table = _read(table)
    if isinstance(table, pd.DataFrame):
        columns: dict[str, Any] = {str(column).lower(): column for column in table.columns}
        if not {"index", "name"} <= set(columns):
            raise InputError(f"The table of labels needs the columns index and name; it has {listing(table.columns)}.")
        pairs = dict(zip(table[columns["index"]], table[columns["name"]], strict=True))
    elif isinstance(table, pd.Series | Mapping):
        pairs = dict(table.items())
    elif isinstance(table, Sequence):
        pairs = dict(enumerate(table))
    else:
        raise InputError(f"Names of labels are a table, its path, a mapping or a list, not a {type(table).__name__}.")
    wrong = [label for label in pairs if not isinstance(label, int | float | np.number) or label != np.rint(label)]
    if wrong:
        raise InputError(f"The numbers of labels must be whole, not {listing(map(repr, wrong))}.")
    return {int(label): str(name) for label, name in pairs.items()}


def _read(path: Place) -> pd.DataFrame:
    try:
        return pd.read_csv(BytesIO(path.read_bytes()), sep="\t" if ".tsv" in path.name else ",")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"There is no table of labels {path}.") from error
    except (ValueError, OSError) as error:  # those of pandas are ValueErrors
        raise InputError(f"The table of labels {path} cannot be read: {error}") from error
