"""Threshold-free cluster enhancement: against its definition, cluster by cluster at every height, and PALM."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from voxstack.kernels.clusters import Sides
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.pvalues import f_to_z, t_to_z
from voxstack.kernels.tfce import enhance, largest

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

PALM = Path(__file__).parent / "reference" / "palm"
STEPS = {6: 1, 18: 2, 26: 3}
TIE = 1e-10

properties = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**32 - 1)
connectivities = st.sampled_from([6, 18, 26])
exponents_of_extent = st.sampled_from([0.0, 0.5, 1.0, 0.37])
exponents_of_height = st.sampled_from([0.0, 1.0, 2.0, 1.63])
all_sides: st.SearchStrategy[Sides] = st.sampled_from(["greater", "less", "signed", "absolute"])


def random_mask(rng: np.random.Generator, most: int) -> Mask:
    shape = rng.integers(1, most + 1, size=3)
    return rng.random(shape) < rng.choice([0.0, 0.3, 0.8, 1.0], p=[0.05, 0.25, 0.35, 0.35])


def random_values(rng: np.random.Generator, v: int) -> Float:
    """Noise, in some cases rounded to few levels, or with missing voxels."""
    values = rng.normal(size=v)
    if rng.random() < 0.5:
        values = np.round(3 * values) / 3
    values[rng.random(v) < rng.choice([0, 0.1])] = np.nan
    return values


def extents(values: Float, mask: Mask, connectivity: int, height: float) -> Float:
    """Extent of the cluster of voxels at least this high that each voxel is in, by scipy; 0 for lower voxels."""
    volume = np.zeros(mask.shape, dtype=bool)
    volume[mask] = values >= height
    labels, _ = ndimage.label(volume, ndimage.generate_binary_structure(3, STEPS[connectivity]))
    counts = np.bincount(labels.ravel()).astype(float)
    counts[0] = 0
    return counts[labels[mask]]


def integral(values: Float, mask: Mask, connectivity: int, E: float, H: float) -> Float:
    """Extents are constant between the values of voxels: between these the integral has a closed form."""
    total, lower = np.zeros(values.size), 0.0
    for height in np.unique(values[values > 0]):
        extent = extents(values, mask, connectivity, height)
        total += np.where(extent > 0, extent**E, 0) * (height ** (H + 1) - lower ** (H + 1)) / (H + 1)
        lower = height
    return total


def sum_over_levels(levels: NDArray[np.int_], mask: Mask, connectivity: int, E: float, H: float, dh: float) -> Float:
    """The sum over heights dh, 2 dh, ... for values that reach so many of these."""
    total = np.zeros(levels.size)
    for step in range(1, levels.max(initial=0) + 1):
        extent = extents(levels.astype(float), mask, connectivity, step)
        total += np.where(extent > 0, extent**E, 0) * (step * dh) ** H * dh
    return total


def palm_map(folder: str, name: str) -> Float:
    mask = np.asanyarray(nib.load(PALM / "inputs" / "mask.nii").dataobj) > 0
    volume: Float = np.asanyarray(nib.load(PALM / folder / f"palm_{name}.nii.gz").dataobj)[..., 0]
    return volume[mask]


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
    ("folder", "stat", "sides", "connectivity", "dh"),
    [
        ("A1_one8_extent_tfce", "tstat", "greater", 6, None),
        ("A3_one8_twotail", "tstat", "absolute", 6, None),
        ("A4_one8_tfce26_dh01", "tstat", "greater", 26, 0.1),
        ("D1_anova9_F", "fstat_c3", "greater", 6, None),
        ("G1_nest10", "tstat", "greater", 6, None),
    ],
)
def test_palm_s_maps(folder: str, stat: str, sides: Sides, connectivity: int, dh: float | None) -> None:
    mask = np.asanyarray(nib.load(PALM / "inputs" / "mask.nii").dataobj) > 0
    dof = float((PALM / folder / f"palm_vox_{stat}_dof.txt").read_text().split()[-1])
    values = palm_map(folder, f"vox_{stat}")
    z = f_to_z(values, 2, dof) if stat.startswith("fstat") else t_to_z(values, dof)
    steps = 100 if dh is None else None
    found = enhance(z, neighbours(mask, connectivity), sides=sides, E=0.5, H=2, tie=TIE, dh=dh, steps=steps)
    np.testing.assert_allclose(np.abs(found), palm_map(folder, f"tfce_{stat}"), rtol=1e-11)
