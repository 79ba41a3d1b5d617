"""Neighbours and clusters: against their definition, scipy.ndimage and PALM."""

from itertools import combinations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from voxstack.kernels.clusters import Sides, extent_and_mass, label, largest
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.pvalues import f_to_z, t_to_z

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

PALM = Path(__file__).parent / "reference" / "palm"
STEPS = {6: 1, 18: 2, 26: 3}
TIE = 1e-10

properties = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 2**32 - 1)
connectivities = st.sampled_from([6, 18, 26])
all_sides: st.SearchStrategy[Sides] = st.sampled_from(["greater", "less", "signed", "absolute"])


def random_mask(rng: np.random.Generator, most: int) -> Mask:
    shape = rng.integers(1, most + 1, size=3)
    return rng.random(shape) < rng.choice([0.0, 0.3, 0.8, 1.0], p=[0.05, 0.25, 0.35, 0.35])


def random_maps(rng: np.random.Generator, shape: tuple[int, int]) -> Float:
    """Noise, in some cases rounded to few levels, with missing voxels, or with infinite ones."""
    maps = rng.normal(size=shape)
    if rng.random() < 0.5:
        maps = np.round(2 * maps) / 2
    maps[rng.random(shape) < rng.choice([0, 0.1])] = np.nan
    maps[rng.random(shape) < rng.choice([0, 0.02])] = rng.choice([-np.inf, np.inf])
    return maps


def by_definition(
    values: Float, mask: Mask, connectivity: int, threshold: float, sides: Sides
) -> list[NDArray[np.int_]]:
    """Every cluster, as the numbers of its voxels, by scipy."""
    sets = {
        "greater": [values >= threshold],
        "less": [-values >= threshold],
        "signed": [values >= threshold, -values >= threshold],
        "absolute": [np.abs(values) >= threshold],
    }[sides]
    found = []
    for inside in sets:
        volume = np.zeros(mask.shape, dtype=bool)
        volume[mask] = inside
        labels, count = ndimage.label(volume, ndimage.generate_binary_structure(3, STEPS[connectivity]))
        found += [np.flatnonzero(labels[mask] == i) for i in range(1, count + 1)]
    return found


def palm_map(folder: str, name: str) -> Float:
    mask = np.asanyarray(nib.load(PALM / "inputs" / "mask.nii").dataobj) > 0
    volume: Float = np.asanyarray(nib.load(PALM / folder / f"palm_{name}.nii.gz").dataobj)[..., 0]
    return volume[mask]


def palm_z(folder: str, name: str) -> Float:
    dof = float((PALM / folder / f"palm_vox_{name}_dof.txt").read_text().split()[-1])
    values = palm_map(folder, f"vox_{name}")
    return f_to_z(values, 2, dof) if name.startswith("fstat") else t_to_z(values, dof)


def palm_neighbours(connectivity: int) -> NDArray[np.int32]:
    return neighbours(np.asanyarray(nib.load(PALM / "inputs" / "mask.nii").dataobj) > 0, connectivity)


@given(seed=seeds, connectivity=connectivities)
@properties
def test_every_pair_of_neighbours_stands_once_at_the_later_voxel(seed: int, connectivity: int) -> None:
    mask = random_mask(np.random.default_rng(seed), most=4)
    table = neighbours(mask, connectivity)
    steps = np.abs(np.argwhere(mask)[:, None] - np.argwhere(mask)[None])  # (v, v, axis)
    touch = (steps.max(axis=2, initial=0) == 1) & (steps.sum(axis=2) <= STEPS[connectivity])
    expected = [(j, i) for i, j in combinations(range(len(touch)), 2) if touch[i, j]]
    found = [(j, i) for j, row in enumerate(table.tolist()) for i in row if i != -1]
    assert sorted(found) == sorted(expected)
    assert table.shape == (np.count_nonzero(mask), connectivity // 2)
    assert table.dtype == np.int32


def test_neighbours_do_not_depend_on_the_mask_s_layout_in_memory() -> None:
    mask = np.random.default_rng(0).random((5, 6, 7)) < 0.6
    assert np.array_equal(neighbours(np.asfortranarray(mask), 18), neighbours(mask, 18))


@given(seed=seeds, connectivity=connectivities, sides=all_sides)
@properties
def test_labels_are_the_clusters_of_scipy_by_falling_size(seed: int, connectivity: int, sides: Sides) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=8)
    values = random_maps(rng, (1, np.count_nonzero(mask)))[0]
    threshold = rng.choice([0.5, 1.0, 2.0])
    labels = label(values, neighbours(mask, connectivity), threshold=threshold, sides=sides, tie=TIE)
    expected = sorted(by_definition(values, mask, connectivity, threshold, sides), key=lambda c: (-len(c), c[0]))
    assert labels.max(initial=0) == len(expected)
    for number, members in enumerate(expected, start=1):
        assert np.flatnonzero(labels == number).tolist() == members.tolist()


@given(seed=seeds, connectivity=connectivities, sides=all_sides)
@properties
def test_extent_and_mass_of_each_voxel_s_cluster(seed: int, connectivity: int, sides: Sides) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=8)
    values = random_maps(rng, (1, np.count_nonzero(mask)))[0]
    labels = label(values, neighbours(mask, connectivity), threshold=1.0, sides=sides, tie=TIE)
    extent, mass = extent_and_mass(labels, values)
    expected_extent, expected_mass = np.zeros(values.size), np.zeros(values.size)
    for members in by_definition(values, mask, connectivity, 1.0, sides):
        expected_extent[members] = len(members)
        expected_mass[members] = np.abs(values[members]).sum()
    assert extent.tolist() == expected_extent.tolist()
    np.testing.assert_allclose(mass, expected_mass, rtol=1e-12)


@given(seed=seeds, connectivity=connectivities, sides=all_sides)
@properties
def test_largest_extent_and_mass_of_many_maps(seed: int, connectivity: int, sides: Sides) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=8)
    maps = random_maps(rng, (int(rng.integers(0, 6)), np.count_nonzero(mask)))
    threshold = rng.choice([0.5, 1.0, 2.0])
    extent, mass = largest(maps, neighbours(mask, connectivity), threshold=threshold, sides=sides, tie=TIE)
    clusters = [by_definition(values, mask, connectivity, threshold, sides) for values in maps]
    masses = [[np.abs(values[c]).sum() for c in found] for values, found in zip(maps, clusters, strict=True)]
    assert extent.tolist() == [max(map(len, found), default=0) for found in clusters]
    np.testing.assert_allclose(mass, [max(of_map, default=0) for of_map in masses], rtol=1e-12)


@pytest.mark.parametrize(("sides", "extent", "mass"), [("greater", 2, 7.0), ("less", 3, 6.5), ("signed", 3, 7.0)])
def test_the_largest_extent_and_the_largest_mass_may_be_of_different_clusters(
    sides: Sides, extent: int, mass: float
) -> None:
    values = np.array([[3.0, 4.0, 0.0, -2.5, -2.0, -2.0, 0.0, 5.0]])
    line = neighbours(np.ones((8, 1, 1), dtype=bool), 6)
    found = largest(values, line, threshold=2.0, sides=sides, tie=TIE)
    assert (found[0].tolist(), found[1].tolist()) == ([extent], [mass])


def test_signs_that_touch_are_one_cluster_only_on_absolute_values() -> None:
    values, line = np.array([[3.0, -3.0, 3.0]]), neighbours(np.ones((1, 3, 1), dtype=bool), 6)
    assert largest(values, line, threshold=2.0, sides="signed", tie=TIE)[0].tolist() == [1]
    assert largest(values, line, threshold=2.0, sides="absolute", tie=TIE)[0].tolist() == [3]
    assert label(values[0], line, threshold=2.0, sides="signed", tie=TIE).tolist() == [1, 2, 3]
    assert label(values[0], line, threshold=2.0, sides="absolute", tie=TIE).tolist() == [1, 1, 1]


@pytest.mark.parametrize("sides", ["greater", "less", "signed", "absolute"])
def test_rounding_error_below_the_threshold_is_a_tie(sides: Sides) -> None:
    sign = -1 if sides == "less" else 1
    values = sign * np.array([[2.3 * (1 - 1e-13), 2.3, 2.3 * (1 - 1e-7)]])
    line = neighbours(np.ones((1, 1, 3), dtype=bool), 6)
    assert largest(values, line, threshold=2.3, sides=sides, tie=TIE)[0].tolist() == [2]
    assert label(values[0], line, threshold=2.3, sides=sides, tie=TIE).tolist() == [1, 1, 0]


@given(seed=seeds, axes=st.permutations([0, 1, 2]), connectivity=connectivities)
@properties
def test_the_order_of_voxels_does_not_matter(seed: int, axes: list[int], connectivity: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=9)
    maps = rng.normal(size=(3, np.count_nonzero(mask)))
    turned_mask = np.flip(mask.transpose(axes), axis=0)
    turned = []
    for values in maps:
        volume = np.zeros(mask.shape)
        volume[mask] = values
        turned.append(np.flip(volume.transpose(axes), axis=0)[turned_mask])
    one = largest(maps, neighbours(mask, connectivity), threshold=0.3, sides="signed", tie=TIE)
    other = largest(np.array(turned), neighbours(turned_mask, connectivity), threshold=0.3, sides="signed", tie=TIE)
    assert one[0].tolist() == other[0].tolist()
    np.testing.assert_allclose(one[1], other[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("folder", "stat", "result", "sides"),
    [
        ("A1_one8_extent_tfce", "tstat", "clustere_tstat", "greater"),
        ("A2_one8_mass", "tstat", "clusterm_tstat", "greater"),
        ("A3_one8_twotail", "tstat", "clusterm_tstat", "absolute"),
        ("D1_anova9_F", "fstat_c3", "clustere_fstat_c3", "greater"),
        ("G1_nest10", "tstat", "clustere_tstat", "greater"),
    ],
)
def test_palm_s_cluster_maps(folder: str, stat: str, result: str, sides: Sides) -> None:
    z, expected = palm_z(folder, stat), palm_map(folder, result)
    labels = label(z, palm_neighbours(26), threshold=2.3, sides=sides, tie=TIE)
    extent, mass = extent_and_mass(labels, z)
    maxima = largest(z[None], palm_neighbours(26), threshold=2.3, sides=sides, tie=TIE)
    if result.startswith("clustere"):
        assert extent.tolist() == expected.tolist()
        assert maxima[0].tolist() == [expected.max()]
    else:
        np.testing.assert_allclose(mass, expected, rtol=1e-12)
        np.testing.assert_allclose(maxima[1], expected.max(), rtol=1e-12)
