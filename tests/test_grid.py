"""Positions in millimetres: selection, equality of lattices, subsets, oblique grids, affines."""

import pickle
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import voxstack as vx
from voxstack.errors import GridMismatch, InputError
from voxstack.grid import Grid, GridIndex
from voxstack.io.image import ImageHeader

few = settings(deadline=None, max_examples=40)


def affine_of(steps: tuple[float, ...], origin: tuple[float, ...]) -> NDArray[np.float64]:
    affine = np.diag([*steps, 1.0])
    affine[:3, 3] = origin
    return affine


def labelled(shape: tuple[int, int, int], affine: NDArray[np.float64], n: int = 2) -> xr.Dataset:
    """A cohort whose values number its voxels, so that a selection can be recognised."""
    voxels = np.arange(np.prod(shape), dtype=float).reshape(shape)
    return vx.from_arrays({"effect": np.stack([voxels + 1000 * i for i in range(n)])}, affine=affine)


@pytest.fixture(params=[4.0, -4.0], ids=["increasing", "decreasing"])
def cohort(request: pytest.FixtureRequest) -> xr.Dataset:
    """x from -8 to 8 or from 8 to -8 mm, y from 10 to 16, z from 0 to 9."""
    step: float = request.param
    return labelled((5, 4, 4), affine_of((step, 2, 3), (-2 * step, 10, 0)))


def corners(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.array(list(product(*[(0, n - 1) for n in shape])))


@st.composite
def affines(
    draw: st.DrawFn, angles: st.SearchStrategy[float], *, longest: int = 60
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """A shape, and an affine without shear: anisotropic voxels, any rotation, flips and order of the axes."""
    shape = draw(st.tuples(*[st.integers(1, longest)] * 3))
    sizes = draw(st.tuples(*[st.floats(0.4, 6)] * 3))
    signs = draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    order = draw(st.permutations(range(3)))
    turned = Rotation.from_euler("xyz", [draw(angles) for _ in range(3)]).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = (turned * signs)[:, order] * sizes
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return shape, affine


rotated_or_not = st.sampled_from([0.0, np.pi / 2, -np.pi / 2, np.pi]) | st.floats(-np.pi, np.pi)


class TestSelection:
    def test_exact_position(self, cohort: xr.Dataset) -> None:
        voxel = 1 if cohort["x"][0] < 0 else 3
        assert cohort.sel(x=-4)["effect"].identical(cohort.isel(x=voxel)["effect"])
        assert cohort.sel(x=-4.0005)["effect"].identical(cohort.isel(x=voxel)["effect"])

    def test_nearest_position(self, cohort: xr.Dataset) -> None:
        assert cohort.sel(x=5.9, z=-100, method="nearest")["effect"].identical(cohort.sel(x=4, z=0)["effect"])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("method", [None, "nearest"])
    def test_what_is_no_position_is_refused(self, cohort: xr.Dataset, bad: float, method: Any) -> None:
        for wanted in (bad, [4.0, bad]):
            with pytest.raises(InputError, match=r"along x must be a number of mm, not -?(nan|inf)"):
                cohort.sel(x=wanted, method=method)

    def test_ends_of_a_slice_are_numbers_or_infinite(self, cohort: xr.Dataset) -> None:
        assert cohort.sel(x=slice(-np.inf, np.inf)).sizes == cohort.sizes
        with pytest.raises(InputError, match="ends of a slice of x must be numbers"):
            cohort.sel(x=slice(np.nan, 4))

    @pytest.mark.parametrize("at", [(np.nan, 10, 0), (0, np.inf, 0), (0, 10, None), ("x", 10, 0)])
    def test_at_mm_of_what_is_no_position_is_refused(self, cohort: xr.Dataset, at: Any) -> None:
        with pytest.raises(InputError, match="three numbers in mm, not"):
            vx.at_mm(cohort, *at)

    @pytest.mark.parametrize("ends", [(-4, 4), (4, -4), (-5.9, 5.9), (4.0005, -4.0005)])
    def test_slice_takes_both_ends_whichever_way_it_is_written(
        self, cohort: xr.Dataset, ends: tuple[float, float]
    ) -> None:
        selected = cohort.sel(x=slice(*ends))
        assert selected["effect"].identical(cohort.isel(x=slice(1, 4))["effect"])
        assert isinstance(selected.xindexes["x"], GridIndex)

    def test_open_slices(self, cohort: xr.Dataset) -> None:
        assert sorted(cohort.sel(x=slice(0, None))["x"].values) == [0, 4, 8]
        assert sorted(cohort.sel(x=slice(None, -4))["x"].values) == [-8, -4]
        assert cohort.sel(x=slice(None)).identical(cohort)
        assert cohort.sel(x=slice(1, 2)).sizes["x"] == 0

    def test_list_of_positions_keeps_its_order(self, cohort: xr.Dataset) -> None:
        selected = cohort.sel(x=[8, -8, 0])
        assert selected["x"].values.tolist() == [8, -8, 0]
        for number, position in enumerate((8, -8, 0)):
            np.testing.assert_array_equal(selected["effect"].isel(x=number), cohort["effect"].sel(x=position))

    def test_selection_within_voxels_that_are_not_in_order(self, cohort: xr.Dataset) -> None:
        shuffled = cohort.isel(x=[4, 0, 2])
        for position in (-8, 0, 8):
            assert shuffled["effect"].sel(x=position).identical(cohort["effect"].sel(x=position))

    def test_position_between_voxels_names_the_nearest(self, cohort: xr.Dataset) -> None:
        with pytest.raises(KeyError, match=r"no voxel centre at x = -3 mm; the nearest is at -4 mm"):
            cohort.sel(x=-3)
        with pytest.raises(KeyError, match=r"x = 0.5 mm; the nearest is at 0 mm"):
            cohort.sel(x=[8, 0.5])
        with pytest.raises(KeyError, match=r"y = 100 mm; the nearest is at 16 mm"):
            cohort.sel(y=100)

    def test_slice_with_a_step_is_refused(self, cohort: xr.Dataset) -> None:
        with pytest.raises(InputError, match=r"no step.*isel"):
            cohort.sel(x=slice(-4, 4, 2))

    def test_points_along_a_new_dimension(self, cohort: xr.Dataset) -> None:
        x, z = xr.DataArray([4.0, -8.0], dims="point"), xr.DataArray([9.0, 3.0], dims="point")
        picked = cohort["effect"].sel(x=x, z=z)
        for i in range(2):
            expected = cohort["effect"].sel(x=float(x[i]), z=float(z[i]))
            np.testing.assert_array_equal(picked.isel(point=i), expected)


class TestEquality:
    @pytest.mark.parametrize("shift", [1e-6, -9e-4])
    def test_lattices_within_the_tolerance_combine(self, shift: float) -> None:
        one = labelled((3, 4, 5), affine_of((2, 2, 2), (-2, -3, -4)))
        other = labelled((3, 4, 5), affine_of((2, 2, 2), (-2 + shift, -3, -4)))
        total = one["effect"] + other["effect"]
        np.testing.assert_array_equal(total.values, 2 * one["effect"].values)
        halves = [one["effect"].isel(subject=[0]), other["effect"].isel(subject=[1])]
        joined = xr.concat(halves, "subject", coords="minimal", compat="override", join="exact")
        np.testing.assert_array_equal(joined.values, one["effect"].values)

    @pytest.mark.parametrize(
        ("shape", "steps", "origin"),
        [
            pytest.param((3, 4, 5), (2, 2, 2), (-1.99, -3, -4), id="shifted"),
            pytest.param((3, 4, 5), (2, 2, 2.01), (-2, -3, -4), id="other voxel size"),
            pytest.param((3, 4, 5), (-2, 2, 2), (2, -3, -4), id="flipped"),
            pytest.param((3, 4, 4), (2, 2, 2), (-2, -3, -4), id="smaller"),
        ],
    )
    def test_lattices_that_differ_never_combine(self, shape: Any, steps: Any, origin: Any) -> None:
        one = labelled((3, 4, 5), affine_of((2, 2, 2), (-2, -3, -4)))
        other = labelled(shape, affine_of(steps, origin))
        with pytest.raises(GridMismatch, match=r"lattices differ along [xz]: \d voxels from"):
            one["effect"] + other["effect"]
        for join in ("inner", "outer", "left", "right"):
            with pytest.raises(GridMismatch):
                xr.align(one, other, join=join)
        with pytest.raises(GridMismatch):
            xr.concat([one["effect"], other["effect"]], "subject", coords="minimal", compat="override", join="outer")
        with pytest.raises(GridMismatch):
            one.reindex_like(other)
        with pytest.raises(GridMismatch):
            one.assign(other=other["effect"])

    def test_oblique_lattices_of_other_directions_never_combine(self) -> None:
        """Both are turned about the origin: their voxel-mm agree, their places in the world do not."""
        turned = [np.eye(4), np.eye(4)]
        for affine, angle in zip(turned, (10, 20), strict=True):
            affine[:3, :3] = Rotation.from_euler("z", angle, degrees=True).as_matrix() * 2.0
        one, other = (labelled((3, 4, 5), affine) for affine in turned)
        with pytest.raises(GridMismatch):
            one["effect"] - other["effect"]

    def test_oblique_lattice_does_not_combine_with_a_straight_one(self) -> None:
        turned = np.eye(4)
        turned[:3, :3] = Rotation.from_euler("z", 10, degrees=True).as_matrix()
        one, other = labelled((3, 4, 5), turned), labelled((3, 4, 5), np.eye(4))
        with pytest.raises(ValueError, match=r"index|lattice"):
            one["effect"] - other["effect"]


class TestSubsets:
    @few
    @given(data=st.data())
    def test_any_subset_or_flip_lies_where_it_lay(self, data: st.DataObject) -> None:
        shape, affine = data.draw(affines(rotated_or_not, longest=11))
        order = ImageHeader(shape, affine, 0).order
        shape, affine = tuple(shape[a] for a in order), affine[:, [*order, 3]]
        full = labelled(shape, affine, n=1)
        cuts = {}
        for dim, n in zip("xyz", shape, strict=True):
            start, stop = sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))
            step = data.draw(st.integers(1, 3))
            forwards = slice(start, stop + 1, step)
            cuts[dim] = forwards if data.draw(st.booleans()) else slice(stop, start - 1 if start else None, -step)
        subset = full.isel(cuts)
        assert {type(subset.xindexes[dim]) for dim in "xyz"} == {type(full.xindexes["x"])}
        values = subset["effect"].values[0]
        for voxel in corners(values.shape):
            number = np.unravel_index(int(values[tuple(voxel)]), shape)
            np.testing.assert_allclose(
                apply_affine(Grid.from_dataset(subset).affine, voxel), apply_affine(affine, number), atol=1e-3
            )

    def test_a_single_slice_still_has_its_place(self) -> None:
        full = labelled((5, 4, 4), affine_of((-4, 2, 3), (8, 10, 0)))
        grid = Grid.from_dataset(full.sel(x=-4, z=6))
        assert grid.shape == (1, 4, 1)
        np.testing.assert_allclose(apply_affine(grid.affine, [0, 3, 0]), [-4, 16, 6])

    def test_voxels_that_are_no_lattice_are_refused(self) -> None:
        full = labelled((5, 4, 4), affine_of((2, 2, 2), (0, 0, 0)))
        with pytest.raises(InputError, match="positions along y are not evenly spaced"):
            Grid.from_dataset(full.isel(y=[0, 1, 3]))

    def test_data_without_positions_are_refused(self) -> None:
        with pytest.raises(InputError, match="no coordinate y in mm"):
            Grid.from_dataset(labelled((2, 2, 2), np.eye(4)).drop_vars("y"))

    def test_index_survives_copies_and_pickling(self) -> None:
        full = labelled((5, 4, 4), affine_of((2, 2, 2), (0, 0, 0)))
        for copy in (full.copy(deep=True), pickle.loads(pickle.dumps(full)), full.transpose("z", ...), full + 1):
            assert type(copy.xindexes["z"]) is GridIndex
            assert copy.sel(z=slice(4, 2)).sizes["z"] == 2


class TestOblique:
    @pytest.fixture
    def affine(self) -> NDArray[np.float64]:
        affine = affine_of((2, 3, -4), (-5, 6, 7))
        affine[:3, :3] = Rotation.from_euler("xyz", [8, -12, 20], degrees=True).as_matrix() @ affine[:3, :3]
        return affine

    def test_selection_by_position_is_refused_and_names_what_to_use(self, affine: NDArray[np.float64]) -> None:
        cohort = labelled((4, 5, 6), affine)
        assert isinstance(cohort.xindexes["x"], GridIndex)
        for dim in "xyz":
            for label in (0.0, slice(0, 1), [0.0]):
                with pytest.raises(InputError, match=r"oblique.*vx\.at_mm"):
                    cohort.sel({dim: label})
        with pytest.raises(InputError, match=r"vx\.at_mm"):
            cohort.isel(x=slice(1, 3)).sel(x=0, method="nearest")

    def test_straight_grids_are_not_taken_for_oblique(self) -> None:
        straight = affine_of((2, -3, 4), (0, 0, 0))
        straight[0, 1] = 1e-5  # rounding of the affine in a header
        assert not Grid.from_affine((4, 5, 6), straight).is_oblique

    @few
    @given(drawn=affines(rotated_or_not), data=st.data())
    def test_at_mm_finds_the_voxel_that_the_affine_says(
        self, drawn: tuple[tuple[int, int, int], NDArray[np.float64]], data: st.DataObject
    ) -> None:
        shape, affine = drawn
        order = ImageHeader(shape, affine, 0).order
        grid = ImageHeader(shape, affine, 0).grid()
        # The coordinates alone matter: no array of this size is needed.
        numbers = xr.Dataset({f"number_{d}": (d, np.arange(n)) for d, n in zip("xyz", grid.shape, strict=True)})
        numbers = numbers.assign_coords(grid.coords())
        voxel = np.array([data.draw(st.integers(0, n - 1)) for n in shape])
        within = np.array([data.draw(st.floats(-0.49, 0.49)) for _ in range(3)])
        found = vx.at_mm(numbers, *apply_affine(affine, voxel + within))
        assert [found[f"number_{d}"].item() for d in "xyz"] == voxel[list(order)].tolist()
        assert not set("xyz") & set(found.dims)

    def test_at_mm_outside_the_grid_is_refused(self, affine: NDArray[np.float64]) -> None:
        cohort = labelled((4, 5, 6), affine)
        inside, outside = apply_affine(affine, [[3.4, 4.4, 5.4], [3.6, 4, 5]])
        assert vx.at_mm(cohort, *inside)["effect"][0] == 4 * 5 * 6 - 1
        with pytest.raises(InputError, match="mm lies outside the grid: 4 x 5 x 6 voxels of 2 x 3 x 4 mm"):
            vx.at_mm(cohort, *outside)


class TestAffine:
    @few
    @given(drawn=affines(rotated_or_not))
    def test_affine_comes_back_within_the_tolerance(
        self, drawn: tuple[tuple[int, int, int], NDArray[np.float64]]
    ) -> None:
        shape, affine = drawn
        header = ImageHeader(shape, affine, 0)
        grid = header.grid()
        assert grid.shape == tuple(shape[a] for a in header.order)
        voxels = corners(shape)
        np.testing.assert_allclose(
            apply_affine(grid.affine, voxels[:, header.order]), apply_affine(affine, voxels), atol=1e-3, rtol=0
        )
        assert grid.same_as(Grid.from_dataset(xr.Dataset(coords=grid.coords())))

    @few
    @given(drawn=affines(st.floats(-2e-5, 2e-5)))
    def test_a_slight_turn_is_kept_unless_it_moves_no_voxel(
        self, drawn: tuple[tuple[int, int, int], NDArray[np.float64]]
    ) -> None:
        shape, affine = drawn
        header = ImageHeader(shape, affine, 0)
        voxels = corners(shape)
        np.testing.assert_allclose(
            apply_affine(header.grid().affine, voxels[:, header.order]), apply_affine(affine, voxels), atol=1e-3, rtol=0
        )

    @few
    @given(drawn=affines(rotated_or_not), axes=st.sets(st.sampled_from([0, 1, 2])))
    def test_a_flipped_copy_is_the_same_lattice_and_says_which_axes_to_reverse(
        self, drawn: tuple[tuple[int, int, int], NDArray[np.float64]], axes: set[int]
    ) -> None:
        shape, affine = drawn
        flips = [[axis, -1 if axis in axes else 1] for axis in range(3)]
        flipped = affine @ nib.orientations.inv_ornt_aff(np.array(flips), shape)
        found = ImageHeader(shape, flipped, 0).grid().flips_to(ImageHeader(shape, affine, 0).grid())
        order = ImageHeader(shape, affine, 0).order
        assert found == tuple(world for world, axis in enumerate(order) if axis in axes)

    def test_another_lattice_has_no_flips(self) -> None:
        one = Grid.from_affine((3, 4, 5), affine_of((2, 2, 2), (0, 0, 0)))
        for affine in (affine_of((-2, 2, 2), (4.01, 0, 0)), affine_of((2, 2, 2.1), (0, 0, 0))):
            assert Grid.from_affine((3, 4, 5), affine).flips_to(one) is None
        assert Grid.from_affine((3, 4, 4), affine_of((2, 2, 2), (0, 0, 0))).flips_to(one) is None

    @pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.diag([2, 2, 0, 1.0]), np.full((4, 4), np.nan), np.eye(3)])
    def test_affine_that_places_no_voxels_is_refused(self, bad: NDArray[np.float64]) -> None:
        with pytest.raises(InputError, match="does not place the voxels in space"):
            Grid.from_affine((2, 2, 2), bad)
