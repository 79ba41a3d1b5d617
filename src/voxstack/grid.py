"""The lattice of voxels: where each voxel lies in millimetres, and whether two lattices are the same.

x, y and z are coordinates in mm. On a grid whose axes are those of the scanner or template they are world coordinates;
on an *oblique* grid they are millimetres along the grid's own axes, and the direction cosines of `spatial_ref` turn
them into the world. In both cases ``world = cosines @ (x, y, z)``, so subsets and flips stay right by themselves.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import nibabel as nib
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import IndexSelResult
from xarray.indexes import PandasIndex

from voxstack.errors import GridMismatch, InputError
from voxstack.schema import SPACE

TOLERANCE_MM = 1e-3
"""Lattices whose voxels lie closer than this are the same."""

_SNAP_DECIMALS = 4  # coordinates are stored to 1e-4 mm, so that equal lattices have equal coordinates


class GridIndex(PandasIndex):
    """Index of one spatial axis in mm, with tolerant equality.

    xarray's own index turns a shift of a millionth of a millimetre into an empty result. Here lattices within
    `TOLERANCE_MM` are equal, and anything else raises `GridMismatch` instead of being intersected.

    ``.sel(x=-4)`` takes a voxel whose centre lies at -4 mm (``method="nearest"`` the nearest one), ``.sel(x=slice(a,
    b))`` all from a to b, both ends included, whichever way the axis runs.
    """

    __slots__ = ("cosines",)

    cosines: tuple[float, ...] | None
    """Direction cosines, row by row, of a grid whose axes are not those of the world; else None."""

    @classmethod
    def along(cls, positions: NDArray[np.float64], dim: str, cosines: NDArray[np.float64] | None) -> Self:
        """Index of one axis of a grid, oblique if it has direction cosines (3, 3)."""
        index = cls(positions, dim)
        index.cosines = None if cosines is None else tuple(cosines.ravel().tolist())
        return index

    def __init__(self, array: Any, dim: Hashable, coord_dtype: Any = None, *, fastpath: bool = False) -> None:
        super().__init__(array, dim, coord_dtype, fastpath=fastpath)
        self.cosines = None

    def _replace(self, index: Any, dim: Any = None, coord_dtype: Any = None) -> Self:
        replaced = type(self)(index, dim or self.dim, coord_dtype or self.coord_dtype, fastpath=True)
        replaced.cosines = self.cosines
        return replaced

    def equals(self, other: Any, *, exclude: frozenset[Hashable] | None = None) -> bool:
        """Whether both hold the same positions within the tolerance, along axes of the same direction."""
        if not isinstance(other, GridIndex) or self.dim != other.dim or len(self.index) != len(other.index):
            return False
        mine, theirs = (np.eye(3).ravel() if index.cosines is None else index.cosines for index in (self, other))
        if not np.allclose(mine, theirs, rtol=0, atol=1e-6):
            return False
        mine, theirs = np.asarray(self.index, float), np.asarray(other.index, float)
        return bool(np.all(np.abs(mine - theirs) <= TOLERANCE_MM))

    def join(self, other: Any, how: str = "inner") -> Self:
        """Raise: unequal lattices have no join."""
        raise self._mismatch(other)

    def reindex_like(self, other: Any, method: Any = None, tolerance: Any = None) -> dict[Hashable, Any]:
        """Raise: unequal lattices cannot be reindexed, only resampled."""
        raise self._mismatch(other)

    def sel(self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None) -> IndexSelResult:
        """Select by position in mm; on an oblique grid raise, since world positions do not separate along its axes."""
        if self.cosines is not None:
            raise InputError(
                "This grid is oblique: x, y and z run along its own axes, not the world's. "
                "Use vx.at_mm(dataset, x, y, z) for a position in world mm, or .isel for a voxel by number."
            )
        name, label = next(iter(labels.items()))
        if isinstance(label, slice):
            return IndexSelResult({self.dim: self._within(label)})
        wanted = np.asarray(getattr(label, "data", label))
        if wanted.dtype.kind not in "iuf" or method not in (None, "nearest") or not len(self.index):
            return super().sel(labels, method=method, tolerance=tolerance)
        if not np.isfinite(wanted).all():
            odd = wanted[~np.isfinite(wanted)][0]
            raise InputError(f"A position along {name} must be a number of mm, not {odd:g}.")
        positions = np.asarray(self.index, float)
        nearest = np.abs(positions[:, None] - wanted.ravel()).argmin(axis=0).reshape(wanted.shape)
        within = TOLERANCE_MM if method is None and tolerance is None else tolerance
        far = np.zeros(wanted.shape, dtype=bool) if within is None else np.abs(positions[nearest] - wanted) > within
        if far.any():
            asked, there = (", ".join(f"{p:g}" for p in at[far]) for at in (wanted, positions[nearest]))
            raise KeyError(
                f"no voxel centre at {name} = {asked} mm; the nearest is at {there} mm. "
                "Take it with .sel(..., method='nearest')."
            )
        found = label.copy(data=nearest) if isinstance(label, xr.Variable | xr.DataArray) else nearest
        return IndexSelResult({self.dim: found if wanted.ndim else int(nearest)})

    def _within(self, span: slice) -> slice | NDArray[np.int64]:
        if span.step is not None:
            raise InputError(f"A slice of {self.dim} in mm has no step; take every k-th voxel with .isel.")
        if span.start is None and span.stop is None:
            return slice(None)
        ends = (-np.inf if span.start is None else span.start, np.inf if span.stop is None else span.stop)
        if np.isnan(ends).any():
            raise InputError(f"The ends of a slice of {self.dim} must be numbers of mm, not nan.")
        positions = np.asarray(self.index, float)
        inside = (positions >= min(ends) - TOLERANCE_MM) & (positions <= max(ends) + TOLERANCE_MM)
        return np.flatnonzero(inside)

    def _mismatch(self, other: Any) -> GridMismatch:
        def say(index: Any) -> str:
            values = np.asarray(index.index, float)
            return f"{values.size} voxels from {values[0]:g} to {values[-1]:g} mm" if values.size else "no voxel"

        if getattr(other, "cosines", None) != self.cosines:
            return GridMismatch("The lattices differ in direction: at least one is oblique. Resample one to the other.")
        return GridMismatch(
            f"The lattices differ along {self.dim}: {say(self)} against {say(other)}. Select the same region of both, "
            "or resample one to the other."
        )

    def __repr__(self) -> str:
        return f"GridIndex({self.index!r})"

    def _repr_inline_(self, max_width: int) -> str:
        return "GridIndex (mm)"


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels.

    Attributes
    ----------
    axes
        Positions along x, y, z in mm: float64, one array each.
    cosines : (3, 3) float64
        Direction cosines, one column an axis; the identity unless the grid is oblique.
    code : int
        NIfTI code of the space (0 unknown, 1 scanner, 2 aligned, 3 Talairach, 4 MNI).
    """

    axes: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    cosines: NDArray[np.float64]
    code: int = 0
    steps: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of use only where an axis has a single voxel

    @classmethod
    def from_affine(cls, shape: tuple[int, int, int], affine: NDArray[np.float64], code: int = 0) -> Self:
        """Lattice of an image whose array axes are already those of the world as nearly as they can be.

        Parameters
        ----------
        shape
            Number of voxels along x, y, z.
        affine : (4, 4) float64
            From voxel numbers to mm.
        """
        affine = np.asarray(affine, float)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise InputError(f"The affine does not place the voxels in space: {affine.tolist()}.")
        matrix = affine[:3, :3]
        steps = np.linalg.norm(matrix, axis=0) * np.where(np.diag(matrix) < 0, -1, 1)
        cosines = matrix / steps
        extent = np.abs(steps) * np.asarray(shape)
        if np.max(np.abs(cosines - np.eye(3)) @ extent) <= TOLERANCE_MM / 2:  # no voxel is moved by more
            steps, cosines, origin = np.diag(matrix), np.eye(3), affine[:3, 3]
        else:
            origin = np.linalg.solve(cosines, affine[:3, 3])
        axes = [_snap(o + s * np.arange(n)) for o, s, n in zip(origin, steps, shape, strict=True)]
        return cls((axes[0], axes[1], axes[2]), cosines, code, (float(steps[0]), float(steps[1]), float(steps[2])))

    @classmethod
    def from_dataset(cls, data: xr.Dataset | xr.DataArray) -> Self:
        """Lattice of a labelled array; an axis that was reduced to one position may be a scalar coordinate."""
        missing = [d for d in SPACE if d not in data.coords]
        if missing:
            raise InputError(
                f"The data have no coordinate {missing[0]} in mm; they have {list(map(str, data.coords))}."
            )
        axes = [np.atleast_1d(np.asarray(data.coords[d].values, float)) for d in SPACE]
        ref = data.coords["spatial_ref"].attrs if "spatial_ref" in data.coords else {}
        cosines = np.asarray(ref.get("direction_cosines", np.eye(3).ravel().tolist()), float).reshape(3, 3)
        sizes = ref.get("voxel_size_mm", [1.0, 1.0, 1.0])
        grid = cls((axes[0], axes[1], axes[2]), cosines, int(ref.get("space_code", 0)), tuple(sizes))
        for dim, axis in zip(SPACE, axes, strict=True):
            steps = np.diff(axis)
            if steps.size and np.ptp(steps) > 4 * TOLERANCE_MM:
                raise InputError(f"The positions along {dim} are not evenly spaced, so they are not a lattice.")
        return grid

    def label(self, data: xr.DataArray) -> xr.DataArray:
        """A labelled array whose x, y and z are compared with this lattice's, though they are plain or not there.

        Without coordinates it has to be of this shape, and without directions it has those of this lattice.
        """
        if all(isinstance(data.xindexes.get(dim), GridIndex) for dim in SPACE):
            return data
        if not any(dim in data.coords for dim in SPACE):
            shape = tuple(data.sizes[dim] for dim in SPACE)
            if shape != self.shape:
                raise InputError(f"The array has the shape {shape}, the maps' grid {self.shape}.")
            return data.assign_coords(self.coords())
        grid = Grid.from_dataset(data)
        if "spatial_ref" not in data.coords:
            grid = replace(grid, cosines=self.cosines)
        return data.assign_coords(grid.coords())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y, z."""
        return self.axes[0].size, self.axes[1].size, self.axes[2].size

    @property
    def is_oblique(self) -> bool:
        """Whether the grid's axes differ from the world's."""
        return not np.array_equal(self.cosines, np.eye(3))

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        """Steps along x, y, z in mm; negative where an axis runs the other way."""
        steps = [
            round(float((axis[-1] - axis[0]) / (axis.size - 1)), 6) if axis.size > 1 else float(step)
            for axis, step in zip(self.axes, self.steps, strict=True)
        ]
        return steps[0], steps[1], steps[2]

    @property
    def affine(self) -> NDArray[np.float64]:
        """From voxel numbers to world mm: (4, 4)."""
        affine = np.eye(4)
        affine[:3, :3] = self.cosines * np.asarray(self.voxel_size)
        affine[:3, 3] = self.cosines @ [axis[0] for axis in self.axes]
        return affine

    def coords(self) -> xr.Coordinates:
        """Coordinates x, y, z with their `GridIndex`, and `spatial_ref`."""
        cosines = self.cosines if self.is_oblique else None
        indexes = {dim: GridIndex.along(axis, dim, cosines) for dim, axis in zip(SPACE, self.axes, strict=True)}
        variables: dict[Any, Any] = {}
        for index in indexes.values():
            variables |= index.create_variables()
        attrs = {
            "direction_cosines": self.cosines.ravel().tolist(),
            "space_code": self.code,
            "voxel_size_mm": list(self.voxel_size),
        }
        variables["spatial_ref"] = xr.Variable((), np.int64(0), attrs)
        return xr.Coordinates(variables, indexes=indexes)

    def same_as(self, other: "Grid") -> bool:
        """Whether every voxel of both lies at the same place, within `TOLERANCE_MM`."""
        if self.shape != other.shape:
            return False
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        mine, theirs = (nib.affines.apply_affine(g.affine, corners.T) for g in (self, other))
        return bool(np.abs(mine - theirs).max() <= TOLERANCE_MM)

    def flips_to(self, other: "Grid") -> tuple[int, ...] | None:
        """Axes to reverse so that this lattice becomes `other`: () where it is the same, None where it never is."""
        axes = tuple(a for a in range(3) if self.voxel_size[a] * other.voxel_size[a] < 0)
        return axes if self.flipped(axes).same_as(other) else None

    def flipped(self, axes: tuple[int, ...]) -> "Grid":
        """The same lattice with some axes running the other way."""
        turned = [axis[::-1] if a in axes else axis for a, axis in enumerate(self.axes)]
        steps = [-step if a in axes else step for a, step in enumerate(self.steps)]
        return Grid((turned[0], turned[1], turned[2]), self.cosines, self.code, (steps[0], steps[1], steps[2]))

    def __str__(self) -> str:
        sizes = " x ".join(f"{abs(s):g}" for s in self.voxel_size)
        corner = ", ".join(f"{v:g}" for v in self.affine[:3, 3])
        kind = ", oblique" if self.is_oblique else ""
        return f"{' x '.join(map(str, self.shape))} voxels of {sizes} mm, first voxel at ({corner}) mm{kind}"


def with_grid_indexes(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with `GridIndex` on x, y and z, for example after reading it from a store."""
    coords = Grid.from_dataset(dataset).coords()
    attrs = {dim: dataset.coords[dim].attrs for dim in SPACE}
    dataset = dataset.drop_vars([*SPACE, "spatial_ref"], errors="ignore").assign_coords(coords)
    for dim in SPACE:
        dataset.coords[dim].attrs = attrs[dim]
    return dataset


def at_mm(data: xr.Dataset, x: float, y: float, z: float) -> xr.Dataset:
    """The voxel nearest to a position in world mm, on any grid, oblique ones too.

    Parameters
    ----------
    data
        A cohort, fit or result (a DataArray works alike).
    x, y, z
        Position in world mm (RAS: right, anterior and superior are positive).

    Returns
    -------
    xarray.Dataset
        `data` at that voxel, without the dimensions x, y and z.

    Raises
    ------
    InputError
        The position lies more than half a voxel outside the grid, or is no number.
    """
    grid = Grid.from_dataset(data)
    try:
        finite = bool(np.isfinite(np.asarray([x, y, z], float)).all())
    except (TypeError, ValueError):
        finite = False
    if not finite:
        raise InputError(f"A position is three numbers in mm, not ({x}, {y}, {z}).")
    voxel = nib.affines.apply_affine(np.linalg.inv(grid.affine), [x, y, z])
    nearest = np.rint(voxel).astype(int)
    if np.any(np.abs(voxel - (np.asarray(grid.shape) - 1) / 2) > np.asarray(grid.shape) / 2 + 1e-6):
        raise InputError(f"({x:g}, {y:g}, {z:g}) mm lies outside the grid: {grid}.")
    nearest = np.clip(nearest, 0, np.asarray(grid.shape) - 1)
    return data.isel({dim: int(i) for dim, i in zip(SPACE, nearest, strict=True) if dim in data.dims})


def canonical_axes(affine: NDArray[np.float64]) -> tuple[int, int, int]:
    """For each of x, y, z the array axis that runs most nearly along it."""
    affine = np.asarray(affine, float)
    usable = affine.shape == (4, 4) and bool(np.isfinite(affine).all())
    orientation = nib.orientations.io_orientation(affine)[:, 0] if usable else np.full(3, np.nan)
    if np.isnan(orientation).any():
        raise InputError(f"The affine does not place the voxels in space: {np.asarray(affine).tolist()}.")
    order: Mapping[int, int] = {int(world): axis for axis, world in enumerate(orientation)}
    return order[0], order[1], order[2]


def _snap(values: NDArray[np.float64]) -> NDArray[np.float64]:
    # + 0.0 turns -0.0 into 0.0
    return np.round(values, _SNAP_DECIMALS) + 0.0
