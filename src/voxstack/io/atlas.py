"""Atlases: an image of labels, and what they are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from voxstack.errors import InputError, listing
from voxstack.grid import Grid
from voxstack.io.readers import ImageSource, read_maps
from voxstack.kernels.resample import nearest

Labels = pd.DataFrame | str | Path | Sequence[str]
AtlasSpec = str | Path | SpatialImage | tuple[str | Path | SpatialImage, Labels]
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
        image, table = spec if isinstance(spec, tuple) else (spec, None)
        source = ImageSource(Path(image) if isinstance(image, str) else image)
        header = source.header()
        if header.n_volumes > 1:
            raise InputError(f"The atlas {source.name} has {header.n_volumes} volumes. Give one image of labels.")
        ((_, raw),) = read_maps([source], [header.order])
        values = np.nan_to_num(np.asarray(raw, dtype=np.float64))
        if not np.array_equal(values, np.rint(values)):
            raise InputError(f"The atlas {source.name} has values that are not whole numbers, so they are no labels.")
        return cls(values.astype(np.int64), header.grid().affine, {} if table is None else _names(table))

    def on(self, grid: Grid) -> NDArray[np.int64]:
        """Labels (x, y, z) of the voxels of a grid, by nearest neighbour; `InputError` where none has any."""
        labels = nearest(self.labels, self.affine, grid.shape, grid.affine)
        if not labels.any():
            raise InputError(f"The labels are all 0, or do not overlap the maps, which have {grid}.")
        return np.asarray(labels, dtype=np.int64)

    def at(self, places: NDArray[np.float64]) -> list[str]:
        """Names (k,) at places (k, 3) in mm; empty where there is no region."""
        voxels = np.rint(nib.affines.apply_affine(np.linalg.inv(self.affine), places.reshape(-1, 3))).astype(int)
        within = np.all((voxels >= 0) & (voxels < self.labels.shape), axis=1)
        found = np.zeros(len(voxels), dtype=np.int64)
        found[within] = self.labels[tuple(voxels[within].T)]
        return [self.names.get(int(label), str(label)) if label else "" for label in found]


def _names(table: Labels) -> dict[int, str]:
    if isinstance(table, str | Path):
        path = Path(table)
        if not path.is_file():
            raise InputError(f"There is no table of labels {path}.")
        table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")
    if not isinstance(table, pd.DataFrame):
        return {number: str(name) for number, name in enumerate(table)}
    columns: dict[str, Any] = {str(column).lower(): column for column in table.columns}
    if not {"index", "name"} <= set(columns):
        raise InputError(f"The table of labels needs the columns index and name; it has {listing(table.columns)}.")
    return {int(i): str(name) for i, name in zip(table[columns["index"]], table[columns["name"]], strict=True)}
