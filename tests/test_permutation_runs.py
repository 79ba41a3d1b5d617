"""What results of `permutation_test` do not depend on, and relabellings that are drawn."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import brute_force
import voxstack as vx
from brute_force import METHODS, Float
from permuted_cohorts import SHAPE, run
from random_cohorts import cohort_of, rechunked
from voxstack.inference import hypotheses
from voxstack.inference.running import Running
from voxstack.inference.tally import groups
from voxstack.plan import permutation

ALTERNATIVES = ("two-sided", "greater", "less")
seeds = st.integers(0, 2**32 - 1)


# ----- what the result does not depend on


def example(
    rng: np.random.Generator, n: int = 12, dtype: Any = np.float32
) -> tuple[Float, pd.DataFrame, dict[str, Any]]:
    """Maps, a design, and options of a test that draws a few of many relabellings."""
    age = rng.normal(size=n)
    maps = (rng.normal(size=(n, *SHAPE)) + age[:, None, None, None] * (rng.random(SHAPE) < 0.3)).astype(dtype)
    maps[rng.random(maps.shape) < 0.01] = np.nan
    labels = [f"sub-{i + 1:04d}" for i in range(n)]
    design = pd.DataFrame({"one": 1.0, "age": age, "iq": rng.normal(100, 15, n)}, index=labels)
    options = {"statistics": ["voxel", "cluster_extent", "cluster_mass", "tfce"], "cluster_forming_z": 1.0}
    contrasts = {"age": "age", "both": ["age", "iq"], "mean": [1, 0, 0]}
    return maps, design, options | {"contrasts": contrasts, "n_permutations": 70, "seed": int(rng.integers(2**40))}


def equal(result: xr.Dataset, expected: xr.Dataset) -> None:
    """The same p-values, and all else the same but for rounding."""
    assert result.keys() == expected.keys()
    xr.testing.assert_equal(result.coords.to_dataset(), expected.coords.to_dataset())
    for name, values in expected.data_vars.items():
        rtol = 0 if "_p_" in str(name) or name == "p_uncorrected" else 1e-12
        np.testing.assert_allclose(result[name], values, rtol=rtol, atol=rtol, err_msg=str(name))


@given(seeds, st.sampled_from(sorted(METHODS)), st.sampled_from(ALTERNATIVES))
@settings(deadline=None, max_examples=8)
def test_chunks_threads_types_and_precision_change_nothing(seed: int, method: str, alternative: str) -> None:
    rng = np.random.default_rng(seed)
    maps, design, options = example(rng)
    test = partial(run, design=design, method=method, alternative=alternative, **options)
    expected = test(cohort_of(maps))
    assert (expected["voxel_p_fwe"] < 1).any()
    assert not expected["exhaustive"].any()
    for array in (maps.astype(np.float64), rechunked(maps, rng), rechunked(maps.astype(np.float64), rng)):
        equal(test(cohort_of(array)), expected)
    for workers in (1, 2):
        with dask.config.set(num_workers=workers):
            equal(test(cohort_of(rechunked(maps, rng))), expected)
    equal(test(cohort_of(maps), precision="double"), expected)


@given(seeds, st.sampled_from(["complete", "available"]), st.integers(1, 40))
@settings(deadline=None, max_examples=8)
def test_relabellings_that_are_made_anew_for_some_voxels_change_nothing(seed: int, missing: str, tile: int) -> None:
    """As those of thousands of subjects are, which are too many to be kept."""
    maps, design, options = example(np.random.default_rng(seed))
    test = partial(run, cohort_of(maps), design=design, missing=missing, **options)
    expected = test()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation, "keeps_relabellings", lambda n, number: False)
        patch.setattr(hypotheses, "keeps_relabellings", lambda n, number: False)
        patch.setattr(permutation, "_LEAST_TILE", tile)
        patch.setattr(permutation, "_TILE_BYTES", 0)
        patch.setattr(permutation, "_TILE", 40)
        patch.setattr(permutation, "_HELD_BYTES", 8 * len(maps) * 50)  # one to a few tiles
        patch.setattr(hypotheses, "VECTOR_BYTES", 8 * len(maps) * 20)
        tiles = list(groups(*maps.reshape(len(maps), -1).shape, 70))
        equal(test(), expected)
    assert len(tiles) > 1


def test_a_client_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    maps, design, options = example(rng)
    expected = run(cohort_of(maps), design=design, **options)
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        equal(run(cohort_of(rechunked(maps, rng)), design=design, **options), expected)


@given(seeds, st.sampled_from([["x"], ["y"], ["x", "z"], ["x", "y", "z"]]))
@settings(deadline=None, max_examples=4)
def test_directions_of_axes_change_nothing(seed: int, axes: list[str]) -> None:
    rng = np.random.default_rng(seed)
    maps, design, options = example(rng)
    cohort, turned = cohort_of(maps, mask=rng.random(SHAPE) < 0.8), {axis: slice(None, None, -1) for axis in axes}
    expected = run(cohort, design=design, **options)
    equal(run(cohort.isel(turned), design=design, **options).isel(turned), expected)


def test_rows_of_the_design_and_of_blocks_are_matched_by_label() -> None:
    rng = np.random.default_rng(2)
    maps, design, options = example(rng)
    labels = pd.Series(rng.integers(0, 3, 12), index=design.index)
    cohort = cohort_of(maps)
    expected = run(cohort, design=design, blocks=vx.Blocks(labels), relabelling="both", **options)
    order = rng.permutation(12)
    result = run(cohort, design=design.iloc[order], blocks=vx.Blocks(labels[::-1]), relabelling="both", **options)
    equal(result, expected)


def test_contrasts_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(3)
    maps, design, options = example(rng)
    together = run(cohort_of(maps), design=design, **options)
    contrasts = options.pop("contrasts")
    for name, contrast in contrasts.items():
        alone = run(cohort_of(maps), design=design, contrasts={name: contrast}, **options)
        equal(alone, together.sel(contrast=[name]))


def test_results_are_labelled() -> None:
    rng = np.random.default_rng(8)
    maps, design, options = example(rng)
    mask = rng.random(SHAPE) < 0.8
    cohort = cohort_of(maps, mask=mask)
    result = run(cohort, design=design, alternative="less", joint=False, **options)
    maps_of = ["stat", "p_uncorrected"]
    for name in ("voxel", "cluster_extent", "cluster_mass", "tfce"):
        maps_of += [f"{name}_p_fwe"] if name == "voxel" else [name, f"{name}_p_fwe"]
    assert set(result.data_vars) == {*maps_of, "null_max"}
    for name in maps_of:
        assert result[name].dims == ("contrast", "x", "y", "z")
        assert result[name].dtype == np.float64
        assert np.isnan(result[name].values[:, ~mask]).all()
        assert result[name].attrs["long_name"]
        if "_p_" in name or name == "p_uncorrected":
            assert result[name].attrs["alternative"] == "less"
            np.testing.assert_array_equal(np.isnan(result[name]), np.isnan(result["stat"]))
    outside = (result["cluster_extent"] == 0).values
    assert outside.any()
    assert (result["cluster_extent_p_fwe"].values[outside] == 1).all()
    assert (result["cluster_mass_p_fwe"].values[outside] == 1).all()
    assert result["null_max"].dims == ("statistic", "contrast", "permutation")
    assert result["contrast"].values.tolist() == ["age", "both", "mean"]
    assert result["statistic"].values.tolist() == options["statistics"]
    assert result["stat_type"].values.tolist() == ["t", "F", "t"]
    assert result["dof_num"].values.tolist() == [1, 2, 1]
    assert result["dof"].values.tolist() == [9, 9, 9]
    np.testing.assert_array_equal(result["mask"], mask)
    for axis in "xyz":
        np.testing.assert_array_equal(result[axis], cohort[axis])
    provenance = result.attrs["provenance"]
    assert provenance["seed"] == options["seed"]
    assert provenance["n_permutations"] == 70


# ----- relabellings that are drawn


@pytest.mark.parametrize("n", [7, 30])  # 5040 relabellings, and more than 2 to the power of 100
def test_a_longer_run_goes_on_where_a_shorter_one_ended(n: int) -> None:
    rng = np.random.default_rng(4)
    maps, design, options = example(rng, n)
    options |= {"contrasts": "age", "alternative": "greater"}
    runs = {number: run(cohort_of(maps), design=design, **options | {"n_permutations": number}) for number in (50, 200)}
    for number, result in runs.items():
        assert result["n_relabellings"].item() == number
        assert not result["exhaustive"].item()
        assert result["p_uncorrected"].min() >= 1 / number
        assert result["p_uncorrected"].max() <= 1
        # A corrected p-value is the share of maxima that reach the statistic.
        null = result["null_max"].sel(statistic="voxel").values[0]
        stat = result["stat"].values[0]
        assert null[0] == np.nanmax(stat), "the identity comes first"
        expected = brute_force.p_corrected(stat, null)
        np.testing.assert_allclose(result["voxel_p_fwe"].values[0], expected, rtol=1e-12)
    first, longer = (runs[number]["null_max"].values for number in (50, 200))
    np.testing.assert_allclose(longer[:, :, :50], first, rtol=1e-12)
    counts = [runs[number]["p_uncorrected"].values * number for number in (50, 200)]
    assert ((counts[1] - counts[0] > -1e-9) | np.isnan(counts[0])).all()
    another = run(cohort_of(maps), design=design, **options | {"seed": 5})["null_max"].values
    assert not np.isclose(another[0, :, 1:50], first[0, :, 1:50]).any()


def test_false_positives_are_no_more_frequent_than_they_may_be() -> None:
    """Of 200 tests without any effect, no more than the binomial distribution allows once in 10,000 times."""
    rng = np.random.default_rng(6)
    n, design = 12, np.column_stack([np.ones(12), rng.normal(size=12)])
    design = np.column_stack([design, design[:, 1] + rng.normal(size=12)])  # related to what is tested
    least: list[float] = []
    for _ in range(200):
        maps = rng.exponential(size=(n, *SHAPE)) + 3 * design[:, 2, None, None, None]
        result = run(cohort_of(maps), design, {"t": [0, 1, 0]}, n_permutations=40)
        least.append(float(result["voxel_p_fwe"].min()))
    for level in (0.05, 0.25, 0.5):
        assert stats.binom.sf(np.sum(np.array(least) <= level) - 1, 200, level) > 1e-4
        assert stats.binom.cdf(np.sum(np.array(least) <= level), 200, level) > 1e-4, "and no less"


def test_p_so_far_is_that_of_the_relabellings_whose_tasks_are_all_done() -> None:
    hypothesis = SimpleNamespace(name="age")
    maxima = np.array([3.0, 1.0, 3.0 - 1e-12, 4.0, 2.0, 9.0])
    running = Running([hypothesis], [maxima], [range(4), range(4), range(4, 6)])
    assert running.text() == ""
    running.finish(range(4))
    assert running.text() == ""  # one block of voxels is still to come
    running.finish(range(4))
    assert running.text() == "p 0.75 of age"  # of 3, 1, 3 and 4
    running.finish(range(4, 6))
    assert running.text() == "p 0.67 of age"
