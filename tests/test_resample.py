"""Resampling and smoothing: against sums written out from the definition, and against nilearn and scipy.ndimage."""

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nilearn.image import resample_to_img
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from random_images import MNI, onto, properties, random_affine, random_map, seeds
from voxstack.kernels.resample import linear, nearest, smooth


def source_positions(
    affine: NDArray[np.float64], shape: tuple[int, ...], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the voxels of the target lie in the source, in voxels: (x, y, z, 3)."""
    return nib.affines.apply_affine(np.linalg.inv(affine) @ target, np.moveaxis(np.indices(shape), 0, -1))


def mean_of_neighbours(
    values: NDArray[Any], positions: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Trilinear mean of the voxels around each position that have data, and their weight, voxel by voxel."""
    mean, weight = np.full(positions.shape[:3], np.nan), np.zeros(positions.shape[:3])
    for target in np.ndindex(weight.shape):
        position, total = positions[target], 0.0
        for voxel in itertools.product(*[(int(np.floor(p)), int(np.floor(p)) + 1) for p in position]):
            inside = all(0 <= v < n for v, n in zip(voxel, values.shape, strict=True))
            if inside and not np.isnan(values[voxel]):
                share = np.prod(1 - np.abs(position - voxel))
                weight[target] += share
                total += share * values[voxel]
        if weight[target] > 0:
            mean[target] = total / weight[target]
    return mean, weight


def assert_mean_of_neighbours(result: NDArray[Any], values: NDArray[Any], positions: NDArray[np.float64]) -> None:
    """Within what the tolerance of positions, 1e-6 voxel, can change; weights so near to a half may fall either way."""
    mean, weight = mean_of_neighbours(values, positions)
    np.testing.assert_allclose(result[weight > 0.50001], mean[weight > 0.50001], rtol=1e-6, atol=5e-5)
    assert np.isnan(result[weight < 0.49999]).all()


@properties
@given(seeds, st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.sampled_from(["f4", "f8"]))
def test_linear_is_the_weighted_mean_of_the_neighbours_that_have_data(seed: int, missing: float, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    values = random_map(rng, tuple(rng.integers(1, 6, 3)), missing, dtype)
    affine = random_affine(rng, rng.uniform(0.7, 3, 3))
    target = onto(rng, values, affine)
    result = linear(values, affine, (5, 4, 6), target)
    assert result.dtype == values.dtype
    assert_mean_of_neighbours(result, values, source_positions(affine, (5, 4, 6), target))


@properties
@given(seeds)
def test_linear_along_the_axes_is_the_same_mean(seed: int) -> None:
    """The axes of the two lattices agree up to order and direction, as they do in most cohorts."""
    rng = np.random.default_rng(seed)
    values = random_map(rng, (4, 5, 3), 0.3)
    turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    affine = nib.affines.from_matvec(np.diag([2.0, 3.0, 2.5]), [-4, -6, -3])
    target = nib.affines.from_matvec(turn * rng.uniform(0.6, 2, 3), rng.uniform(-3, 3, 3))
    result = linear(values, affine, (4, 6, 5), target)
    assert_mean_of_neighbours(result, values, source_positions(affine, (4, 6, 5), target))


@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_linear_equals_scipy_and_nilearn_where_all_eight_neighbours_have_data(angle: float) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(5, 2, (9, 12, 8)).astype("f4")
    turn = Rotation.from_euler("xyz", [angle, -angle, angle / 2]).as_matrix()
    target = nib.affines.from_matvec(turn @ np.diag([0.5, -0.45, 0.55]), [-8.2, 7.1, -6.9])
    shape = (37, 49, 31)  # more than are computed at a time
    result = linear(values, MNI, shape, target)
    positions = source_positions(MNI, shape, target)
    within = np.all((positions >= 0) & (positions <= np.array(values.shape) - 1), axis=-1)
    assert 100 < within.sum() < within.size
    by_scipy = ndimage.map_coordinates(values, np.moveaxis(positions, -1, 0), order=1, output=float)
    np.testing.assert_allclose(result[within], by_scipy[within], rtol=1e-5)
    on = nib.Nifti1Image(np.zeros(shape), target)
    by_nilearn = resample_to_img(nib.Nifti1Image(values, MNI), on, interpolation="linear").get_fdata()
    np.testing.assert_allclose(result[within], by_nilearn[within], rtol=1e-5)


@pytest.mark.parametrize("missing", [0.0, 0.05])
def test_linear_reproduces_a_linear_gradient_on_an_oblique_grid(missing: float) -> None:
    rng = np.random.default_rng(1)
    affine, target = random_affine(rng, np.array([2.0, 2.5, 3.0])), np.eye(4)
    target[:3, 3] = nib.affines.apply_affine(affine, [4, 4, 3]) - 3

    def height(lattice: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
        return nib.affines.apply_affine(lattice, np.moveaxis(np.indices(shape), 0, -1)) @ [0.3, -0.2, 0.7] + 100

    values = height(affine, (8, 9, 7))
    values[rng.random(values.shape) < missing] = np.nan
    weight = mean_of_neighbours(values, source_positions(affine, (7, 7, 7), target))[1]
    whole = np.abs(weight - 1) < 1e-9
    assert whole.sum() > 100
    result = linear(values, affine, (7, 7, 7), target)
    np.testing.assert_allclose(result[whole], height(target, (7, 7, 7))[whole], rtol=1e-12)


@properties
@given(seeds, st.sampled_from(["f4", "f8"]), st.booleans())
def test_linear_onto_voxels_of_the_same_lattice_copies_them(seed: int, dtype: str, in_single_precision: bool) -> None:
    """Flipped, with the axes in another order, moved by whole voxels; and as a NIfTI header rounds the two lattices."""
    rng = np.random.default_rng(seed)
    values = random_map(rng, (4, 5, 6), 0.3, dtype)
    values[0, 0, 0] = -0.0
    affine = random_affine(rng, np.array([3.3, 2.1, 1.7]))
    turn = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    to_source = nib.affines.from_matvec(turn, rng.integers(-2, 8, 3))
    target = affine @ to_source
    if in_single_precision:
        affine, target = affine.astype("f4").astype(float), target.astype("f4").astype(float)

    shape = (6, 7, 5)
    expected = np.full(shape, np.nan, dtype)
    for voxel in np.ndindex(shape):
        at = (to_source[:3, :3] @ voxel + to_source[:3, 3]).astype(int)
        if np.all((at >= 0) & (at < values.shape)):
            expected[voxel] = values[tuple(at)]
    result = linear(values, affine, shape, target)
    assert result.tobytes() == expected.tobytes()


@properties
@given(seeds)
def test_linear_onto_a_finer_lattice_keeps_the_values_at_the_voxels_of_the_coarse_one(seed: int) -> None:
    """Every third position is whole, but only within rounding."""
    rng = np.random.default_rng(seed)
    values = random_map(rng, (7, 6, 8), 0.2)
    coarse = random_affine(rng, np.array([3.3, 2.1, 1.7]))
    fine = coarse @ np.diag([1 / 3, 1 / 3, 1 / 3, 1])
    result = linear(values, coarse, (19, 16, 22), fine)
    assert result[::3, ::3, ::3].tobytes() == values.tobytes()


def test_linear_takes_every_second_voxel_of_a_lattice_twice_as_fine() -> None:
    values = random_map(np.random.default_rng(3), (7, 6, 8), 0.2, "f4")
    result = linear(values, MNI, (4, 3, 4), MNI @ np.diag([2.0, 2, 2, 1]))
    assert result.tobytes() == values[::2, ::2, ::2].tobytes()


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        (0.49, [1, 1, np.nan, 4]),
        (0.5, [1, 1, 4, 4]),
        (0.51, [1, np.nan, 4, np.nan]),
        (-0.49, [1, 1, np.nan, 4]),
        (-0.5, [1, 1, 1, 4]),
        (-0.51, [np.nan, 1, 1, np.nan]),
    ],
)
def test_linear_needs_half_of_the_weight(shift: float, expected: list[float]) -> None:
    """Two voxels with data, one without, one with; outside there is none. Half is enough, in spite of rounding."""
    step = 3.3  # mm, so that positions are not exact
    affine = nib.affines.from_matvec(np.eye(3) * step, [-61.7, 0, 0])
    target = affine.copy()
    target[0, 3] += shift * step
    values = np.array([1.0, 1, np.nan, 4])[:, None, None]
    np.testing.assert_array_equal(linear(values, affine, (4, 1, 1), target).ravel(), expected)


@properties
@given(seeds, st.booleans())
def test_a_missing_value_changes_linear_only_in_the_cells_that_touch_it(seed: int, oblique: bool) -> None:
    """To the last bit: so a map without missing values may be divided by its weights or not."""
    rng = np.random.default_rng(seed)
    whole = random_map(rng, (6, 5, 7), 0)
    holed = whole.copy()
    hole = tuple(rng.integers(0, whole.shape))
    holed[hole] = np.nan
    target = onto(rng, whole, MNI) if oblique else MNI @ nib.affines.from_matvec(np.diag([0.6, -0.7, 0.8]), [1, 4, 0.3])
    near = np.all(np.abs(source_positions(MNI, (7, 7, 7), target) - hole) < 1 + 1e-6, axis=-1)
    results = [linear(values, MNI, (7, 7, 7), target)[~near].tobytes() for values in (whole, holed)]
    assert results[0] == results[1]


def test_linear_is_missing_where_the_target_lies_elsewhere() -> None:
    far = MNI.copy()
    far[:3, 3] += 500
    assert np.isnan(linear(np.ones((3, 4, 5)), MNI, (3, 4, 5), far)).all()


def test_nearest_equals_nilearn() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(9, 12, 8)).astype("f4")
    target = nib.affines.from_matvec(Rotation.from_euler("xyz", [0.2, 0.1, -0.3]).as_matrix() * 1.4, [-5, -9, -4])
    result = nearest(values, MNI, (8, 9, 10), target)
    positions = source_positions(MNI, (8, 9, 10), target)
    within = np.all((positions >= 0) & (positions <= np.array(values.shape) - 1), axis=-1)
    assert 100 < within.sum() < within.size
    on = nib.Nifti1Image(np.zeros((8, 9, 10)), target)
    expected = resample_to_img(nib.Nifti1Image(values, MNI), on, interpolation="nearest").get_fdata()
    np.testing.assert_array_equal(result[within], expected[within])


@properties
@given(seeds, st.sampled_from(["f4", "f8"]))
def test_nearest_keeps_missing_values_missing(seed: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    values = random_map(rng, (4, 3, 5), 0.3, dtype)
    target = onto(rng, values, MNI)
    result = nearest(values, MNI, (5, 4, 6), target, fill=np.nan)
    assert result.dtype == values.dtype
    positions = source_positions(MNI, (5, 4, 6), target)
    voxels = np.rint(positions).astype(int)
    inside = np.all((voxels >= 0) & (voxels < values.shape), axis=-1)
    expected = np.where(inside, values[tuple(np.moveaxis(np.where(inside[..., None], voxels, 0), -1, 0))], np.nan)
    half_way = np.any(np.abs(np.abs(positions - voxels) - 0.5) < 1e-5, axis=-1)
    np.testing.assert_array_equal(result[~half_way], expected[~half_way])


@properties
@given(seeds)
def test_nearest_takes_the_higher_voxel_half_way_whatever_the_rounding(seed: int) -> None:
    """On a lattice twice as fine every second voxel lies half-way."""
    coarse = random_affine(np.random.default_rng(seed), np.array([3.3, 2.1, 1.7]))
    fine = coarse @ np.diag([0.5, 1, 1, 1])
    values = np.arange(40.0)[:, None, None]
    result = nearest(values, coarse, (79, 1, 1), fine).ravel()
    np.testing.assert_array_equal(result, (np.arange(79) + 1) // 2)


operations: list[Callable[[NDArray[Any]], NDArray[Any]]] = [
    lambda values: smooth(values, 6, (2, 2, 2)),
    lambda values: smooth(values, 6, (2, 2, 2), missing="zero"),
    lambda values: linear(values, MNI, (9, 8, 7), MNI @ nib.affines.from_matvec(np.eye(3) * 0.9, [0.2, -0.4, 0.1])),
]


@pytest.mark.parametrize("operation", operations)
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_layout_in_memory_does_not_matter_and_the_input_is_left_alone(
    operation: Callable[[NDArray[Any]], NDArray[Any]], missing: float
) -> None:
    values = random_map(np.random.default_rng(10), (10, 9, 8), missing, "f4")
    before = values.copy()
    expected = operation(values)
    assert values.tobytes() == before.tobytes()
    wide = np.zeros((20, 9, 16), "f4")
    wide[::2, ::-1, 1::2] = values
    for same in (np.asfortranarray(values), wide[::2, ::-1, 1::2], values.astype(">f4")):
        assert operation(same).astype("f4").tobytes() == expected.tobytes()


@pytest.mark.parametrize("operation", operations)
def test_no_more_than_three_maps_in_double_precision_are_held(
    operation: Callable[[NDArray[Any]], NDArray[Any]],
) -> None:
    values = random_map(np.random.default_rng(11), (91, 109, 91), 0.2)
    tracemalloc.start()
    operation(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.3 * values.nbytes
