"""Threshold-free cluster enhancement: against its definition, cluster by cluster at every height, and PALM."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

import brute_force
import palm
from brute_force import Float, Integers, Mask
from random_volumes import TIE, all_sides, connectivities, in_volume, random_mask, random_values, seeds
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.suprathreshold import Sides
from voxstack.kernels.tfce import enhance, largest

properties = settings(deadline=None, max_examples=30)
exponents_of_extent = st.sampled_from([0.0, 0.5, 1.0, 0.37])
exponents_of_height = st.sampled_from([0.0, 1.0, 2.0, 1.63])


def integral(values: Float, mask: Mask, connectivity: int, E: float, H: float) -> Float:
    return brute_force.tfce(in_volume(values, mask), connectivity, E, H)[mask]


def sum_over_levels(levels: Integers, mask: Mask, connectivity: int, E: float, H: float, dh: float) -> Float:
    """The sum over heights dh, 2 dh, ... for values that reach so many of these."""
    total, volume = np.zeros(mask.shape), in_volume(levels, mask)
    for step in range(1, levels.max(initial=0) + 1):
        total += brute_force.layer(volume >= step, connectivity, E) * (step * dh) ** H * dh
    return total[mask]


@given(seed=seeds, connectivity=connectivities, E=exponents_of_extent, H=exponents_of_height)
@properties
def test_the_integral_by_its_definition(seed: int, connectivity: int, E: float, H: float) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=6)
    values = random_values(rng, np.count_nonzero(mask))
    found = enhance(values, neighbours(mask, connectivity), sides="greater", E=E, H=H, tie=TIE)
    np.testing.assert_allclose(found, integral(values, mask, connectivity, E, H), rtol=1e-11)


@pytest.mark.parametrize("connectivity", [6, 26])
def test_the_integral_over_a_smooth_map_of_many_voxels(connectivity: int) -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((24, 25, 26)) < 0.9
    values = ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.2)[mask]
    values = np.round(150 * values / values.max()) / 30 + rng.choice([0, 1e-9], size=values.size)
    found = enhance(values, neighbours(mask, connectivity), sides="greater", E=0.5, H=2, tie=TIE)
    np.testing.assert_allclose(found, integral(values, mask, connectivity, 0.5, 2), rtol=1e-11)


def test_a_hill_in_closed_form() -> None:
    """A line of heights 1, 2, 3, 2, 1: extents 5, 3 and 1."""
    hill = np.array([1.0, 2.0, 3.0, 2.0, 1.0])
    line = neighbours(np.ones((5, 1, 1), dtype=bool), 6)
    foot = np.sqrt(5) * 1 / 3
    slope = foot + np.sqrt(3) * (8 - 1) / 3
    top = slope + (27 - 8) / 3
    found = enhance(hill, line, sides="greater", E=0.5, H=2, tie=TIE)
    np.testing.assert_allclose(found, [foot, slope, top, slope, foot], rtol=1e-15)


@given(seed=seeds, connectivity=connectivities)
@properties
def test_heights_of_any_size(seed: int, connectivity: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=5)
    values = 10 ** rng.uniform(-300, 300, size=np.count_nonzero(mask))
    found = enhance(values, neighbours(mask, connectivity), sides="greater", E=0.5, H=0, tie=TIE)
    np.testing.assert_allclose(found, integral(values, mask, connectivity, 0.5, 0), rtol=1e-11)


@given(seed=seeds, connectivity=connectivities, E=exponents_of_extent, H=exponents_of_height)
@properties
def test_steps_of_a_given_size(seed: int, connectivity: int, E: float, H: float) -> None:
    """Values lie on steps but for rounding error, or clearly between them."""
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=6)
    levels = rng.integers(-3, 30, size=np.count_nonzero(mask))
    dh = rng.choice([0.1, 0.07, 1.0])
    between = rng.choice([0.0, 0.4], size=levels.size)
    values = (levels + between) * dh * rng.choice([1, 1 - 1e-13], size=levels.size)
    found = enhance(values, neighbours(mask, connectivity), sides="greater", E=E, H=H, tie=TIE, dh=dh)
    np.testing.assert_allclose(found, sum_over_levels(levels, mask, connectivity, E, H, dh), rtol=1e-12)


@given(seed=seeds, connectivity=connectivities, steps=st.sampled_from([1, 7, 100]))
@properties
def test_steps_of_a_part_of_the_maximum(seed: int, connectivity: int, steps: int) -> None:
    """The maximum itself reaches the last step, whatever the rounding error of its part."""
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=6)
    values = rng.normal(size=np.count_nonzero(mask))
    found = enhance(values, neighbours(mask, connectivity), sides="greater", E=0.5, H=2, tie=TIE, steps=steps)
    peak = values.max(initial=0)
    levels = np.array([steps if value == peak else int(value / peak * steps) if value > 0 else 0 for value in values])
    np.testing.assert_allclose(
        found, sum_over_levels(levels.astype(int), mask, connectivity, 0.5, 2, peak / steps), rtol=1e-12
    )


@given(
    seed=seeds, connectivity=connectivities, axes=st.permutations([0, 1, 2]), flips=st.sets(st.sampled_from([0, 1, 2]))
)
@properties
def test_the_order_of_voxels_does_not_matter_to_the_last_bit(
    seed: int, connectivity: int, axes: list[int], flips: set[int]
) -> None:
    """Nor does, then, the order in which equal values are taken."""
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=9)
    volume = np.where(mask, np.round(rng.normal(size=mask.shape) * 2) / rng.choice([2, 3]), 0)

    def turn(array: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.flip(array.transpose(axes), axis=sorted(flips))

    here = enhance(volume[mask], neighbours(mask, connectivity), sides="signed", E=0.5, H=2, tie=TIE)
    turned_mask = turn(mask).astype(bool)
    there = enhance(
        turn(volume)[turned_mask], neighbours(turned_mask, connectivity), sides="signed", E=0.5, H=2, tie=TIE
    )
    back = np.zeros(mask.shape)
    turn(back)[turned_mask] = there  # a view
    assert back[mask].tolist() == here.tolist()


@given(seed=seeds, connectivity=connectivities, steps=st.sampled_from([None, 13]), sides=all_sides)
@properties
def test_sides_are_enhanced_alone_or_together_with_their_signs(
    seed: int, connectivity: int, steps: int | None, sides: Sides
) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=6)
    values, table = random_values(rng, np.count_nonzero(mask)), neighbours(mask, connectivity)

    def above(heights: Float) -> Float:
        return enhance(heights, table, sides="greater", E=0.5, H=2, tie=TIE, steps=steps)

    expected = {
        "greater": above(values),
        "less": -above(-values),
        "signed": above(values) - above(-values),
        "absolute": np.sign(np.nan_to_num(values)) * above(np.abs(values)),
    }[sides]
    found = enhance(values, table, sides=sides, E=0.5, H=2, tie=TIE, steps=steps)
    assert found.tolist() == expected.tolist()


@given(seed=seeds, connectivity=connectivities, dh=st.sampled_from([None, 0.1]), sides=all_sides)
@properties
def test_missing_voxels_are_as_if_outside_the_mask(
    seed: int, connectivity: int, dh: float | None, sides: Sides
) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=6)
    values = random_values(rng, np.count_nonzero(mask))
    present = np.isfinite(values)
    smaller = mask.copy()
    smaller[mask] = present
    found = enhance(values, neighbours(mask, connectivity), sides=sides, E=0.5, H=2, tie=TIE, dh=dh)
    expected = enhance(values[present], neighbours(smaller, connectivity), sides=sides, E=0.5, H=2, tie=TIE, dh=dh)
    assert found[present].tolist() == expected.tolist()
    assert not found[~present].any()


@given(seed=seeds, connectivity=connectivities)
@properties
def test_infinite_voxels_stay_infinite_and_are_just_higher_to_others(seed: int, connectivity: int) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=6)
    values, table = random_values(rng, np.count_nonzero(mask)), neighbours(mask, connectivity)
    infinite = rng.random(values.size) < 0.2
    found = enhance(np.where(infinite, np.inf, values), table, sides="signed", E=0.5, H=2, tie=TIE)
    finite = enhance(np.where(infinite, 100.0, values), table, sides="signed", E=0.5, H=2, tie=TIE)
    assert np.all(found[infinite] == np.inf)
    assert found[~infinite].tolist() == finite[~infinite].tolist()


@given(seed=seeds, connectivity=connectivities, sides=all_sides, dh=st.sampled_from([None, 0.3]))
@properties
def test_many_maps_are_enhanced_each_alone(seed: int, connectivity: int, sides: Sides, dh: float | None) -> None:
    rng = np.random.default_rng(seed)
    mask = random_mask(rng, most=5)
    v, table = np.count_nonzero(mask), neighbours(mask, connectivity)
    b = rng.integers(5)
    maps = np.array([random_values(rng, v) for _ in range(b)]).reshape(b, v)
    found = enhance(maps, table, sides=sides, E=0.5, H=2, tie=TIE, dh=dh)
    each = [enhance(values, table, sides=sides, E=0.5, H=2, tie=TIE, dh=dh) for values in maps]
    assert found.shape == maps.shape
    assert found.tolist() == [values.tolist() for values in each]
    maxima = largest(maps, table, sides=sides, E=0.5, H=2, tie=TIE, dh=dh)
    assert maxima.tolist() == [np.abs(values).max(initial=0) for values in each]


@pytest.mark.parametrize(
    ("folder", "contrast", "sides", "connectivity", "dh"),
    [
        ("A1_one8_extent_tfce", "tstat", "greater", 6, None),
        ("A3_one8_twotail", "tstat", "absolute", 6, None),
        ("A4_one8_tfce26_dh01", "tstat", "greater", 26, 0.1),
        ("D1_anova9_F", "fstat_c3", "greater", 6, None),
        ("G1_nest10", "tstat", "greater", 6, None),
    ],
)
def test_palm_s_maps(folder: str, contrast: str, sides: Sides, connectivity: int, dh: float | None) -> None:
    z, table = palm.z_of(folder, contrast), neighbours(palm.mask(), connectivity)
    found = enhance(z, table, sides=sides, E=0.5, H=2, tie=TIE, dh=dh, steps=100 if dh is None else None)
    np.testing.assert_allclose(np.abs(found), palm.map_of(folder, "tfce", contrast), rtol=1e-11)
