"""Neighbours and clusters: against their definition, scipy.ndimage and PALM."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import brute_force
import palm
from brute_force import STEPS, Float, Integers, Mask
from random_volumes import TIE, all_sides, connectivities, in_volume, random_mask, random_values, seeds
from voxstack.kernels.clusters import extent_and_mass, label, largest
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.suprathreshold import Sides, find, joined

properties = settings(deadline=None, max_examples=40)


def random_maps(rng: np.random.Generator, shape: int | tuple[int, int]) -> Float:
    """Some of them with infinite voxels."""
    maps = random_values(rng, shape)
    maps[rng.random(shape) < rng.choice([0, 0.02])] = rng.choice([-np.inf, np.inf])
    return maps


def largest_of(maps: Float, table: NDArray[np.int32], threshold: float, sides: Sides) -> tuple[Integers, Float]:
    return largest(find(maps, threshold=threshold, sides=sides, tie=TIE), table, apart=sides == "signed")


def by_definition(values: Float, mask: Mask, connectivity: int, threshold: float, sides: Sides) -> list[Integers]:
    """Every cluster, as the numbers of its voxels, by scipy."""
    sets = {
        "greater": [values >= threshold],
        "less": [-values >= threshold],
        "signed": [values >= threshold, -values >= threshold],
        "absolute": [np.abs(values) >= threshold],
    }[sides]
    clusters = [brute_force.each_cluster(in_volume(inside, mask), connectivity) for inside in sets]
    return [np.flatnonzero(cluster[mask]) for of_set in clusters for cluster in of_set]


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
    values = random_maps(rng, np.count_nonzero(mask))
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
    values = random_maps(rng, np.count_nonzero(mask))
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
    extent, mass = largest_of(maps, neighbours(mask, connectivity), threshold, sides)
    clusters = [by_definition(values, mask, connectivity, threshold, sides) for values in maps]
    masses = [[np.abs(values[c]).sum() for c in found] for values, found in zip(maps, clusters, strict=True)]
    assert extent.tolist() == [max(map(len, found), default=0) for found in clusters]
    np.testing.assert_allclose(mass, [max(of_map, default=0) for of_map in masses], rtol=1e-12)


@given(seed=seeds, connectivity=connectivities, sides=all_sides)
@properties
def test_blocks_of_voxels_may_be_searched_one_by_one(seed: int, connectivity: int, sides: Sides) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=8)
    maps, table = random_maps(rng, (3, np.count_nonzero(mask))), neighbours(mask, connectivity)
    block = rng.integers(0, 3, maps.shape[1])
    voxels = [np.flatnonzero(block == one) for one in range(3)]
    parts = [find(maps[:, some], threshold=1.0, sides=sides, tie=TIE) for some in voxels]
    found = largest(joined(parts, voxels), table, apart=sides == "signed")
    expected = largest_of(maps, table, 1.0, sides)
    assert found[0].tolist() == expected[0].tolist()
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)


@pytest.mark.parametrize(("sides", "extent", "mass"), [("greater", 2, 7.0), ("less", 3, 6.5), ("signed", 3, 7.0)])
def test_the_largest_extent_and_the_largest_mass_may_be_of_different_clusters(
    sides: Sides, extent: int, mass: float
) -> None:
    values = np.array([[3.0, 4.0, 0.0, -2.5, -2.0, -2.0, 0.0, 5.0]])
    line = neighbours(np.ones((8, 1, 1), dtype=bool), 6)
    found = largest_of(values, line, 2.0, sides)
    assert (found[0].tolist(), found[1].tolist()) == ([extent], [mass])


def test_signs_that_touch_are_one_cluster_only_on_absolute_values() -> None:
    values, line = np.array([[3.0, -3.0, 3.0]]), neighbours(np.ones((1, 3, 1), dtype=bool), 6)
    assert largest_of(values, line, 2.0, "signed")[0].tolist() == [1]
    assert largest_of(values, line, 2.0, "absolute")[0].tolist() == [3]
    assert label(values[0], line, threshold=2.0, sides="signed", tie=TIE).tolist() == [1, 2, 3]
    assert label(values[0], line, threshold=2.0, sides="absolute", tie=TIE).tolist() == [1, 1, 1]


@pytest.mark.parametrize("sides", ["greater", "less", "signed", "absolute"])
def test_rounding_error_below_the_threshold_is_a_tie(sides: Sides) -> None:
    sign = -1 if sides == "less" else 1
    values = sign * np.array([[2.3 * (1 - 1e-13), 2.3, 2.3 * (1 - 1e-7)]])
    line = neighbours(np.ones((1, 1, 3), dtype=bool), 6)
    assert largest_of(values, line, 2.3, sides)[0].tolist() == [2]
    assert label(values[0], line, threshold=2.3, sides=sides, tie=TIE).tolist() == [1, 1, 0]


@given(seed=seeds, axes=st.permutations([0, 1, 2]), connectivity=connectivities)
@properties
def test_the_order_of_voxels_does_not_matter(seed: int, axes: list[int], connectivity: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=9)
    maps = rng.normal(size=(3, np.count_nonzero(mask)))
    turned_mask = np.flip(mask.transpose(axes), axis=0)
    turned = [np.flip(in_volume(values, mask).transpose(axes), axis=0)[turned_mask] for values in maps]
    one = largest_of(maps, neighbours(mask, connectivity), 0.3, "signed")
    other = largest_of(np.array(turned), neighbours(turned_mask, connectivity), 0.3, "signed")
    assert one[0].tolist() == other[0].tolist()
    np.testing.assert_allclose(one[1], other[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("folder", "kind", "contrast", "sides"),
    [
        ("A1_one8_extent_tfce", "clustere", "tstat", "greater"),
        ("A2_one8_mass", "clusterm", "tstat", "greater"),
        ("A3_one8_twotail", "clusterm", "tstat", "absolute"),
        ("D1_anova9_F", "clustere", "fstat_c3", "greater"),
        ("G1_nest10", "clustere", "tstat", "greater"),
    ],
)
def test_palm_s_cluster_maps(folder: str, kind: str, contrast: str, sides: Sides) -> None:
    z, expected, table = palm.z_of(folder, contrast), palm.map_of(folder, kind, contrast), neighbours(palm.mask(), 26)
    labels = label(z, table, threshold=2.3, sides=sides, tie=TIE)
    extent, mass = extent_and_mass(labels, z)
    maxima = largest_of(z[None], table, 2.3, sides)
    if kind == "clustere":
        assert extent.tolist() == expected.tolist()
        assert maxima[0].tolist() == [expected.max()]
    else:
        np.testing.assert_allclose(mass, expected, rtol=1e-12)
        np.testing.assert_allclose(maxima[1], expected.max(), rtol=1e-12)
