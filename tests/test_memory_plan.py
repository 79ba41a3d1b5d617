"""The memory plan of permutation tests: what fits is run, what does not is refused, and the command line says it."""

from pathlib import Path

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import voxstack as vx
from random_cohorts import cohort_of
from voxstack.cli import cli
from voxstack.errors import InputError
from voxstack.plan import WINDOW, PermutationWork

GIB = 2**30


@given(
    n=st.integers(5, 5000),
    voxels=st.integers(1000, 300_000),
    whole=st.booleans(),
    memory=st.integers(1, 64),
    threads=st.integers(1, 16),
)
@settings(deadline=None, max_examples=60)
def test_a_batch_fits_and_twice_as_many_relabellings_would_not(
    n: int, voxels: int, whole: bool, memory: int, threads: int
) -> None:
    work = PermutationWork(voxels, min(voxels, 32**3), n, 4, 2, 1, 1.0 if whole else 0.01)
    batch = work.relabellings_per_batch(10**6, memory=memory * GIB, threads=threads)
    if batch < (256 if whole else WINDOW):
        assert work.needs(2 * batch, threads) > memory * GIB
    if work.needs(batch, threads) <= memory * GIB:
        work.check(batch, memory=memory * GIB, threads=threads)
    else:
        assert batch == 1
        with pytest.raises(InputError, match=f"{n} subjects and {voxels:,} voxels needs .* GiB"):
            work.check(batch, memory=memory * GIB, threads=threads)


def test_whole_maps_need_more_than_voxels_and_lists_little_more() -> None:
    with dask.config.set(num_workers=2):
        plans = [
            vx.memory_plan(n_subjects=200, shape=(91, 109, 91), mask_voxels=230_000, statistics=statistics).permute
            for statistics in (["voxel"], ["cluster_mass"], ["tfce"])
        ]
    voxel, lists, whole = plans
    # A map in double precision, of each relabelling of a batch, in parts and as a whole, on each of two threads.
    assert whole - voxel > 2 * 2 * 64 * 230_000 * 8
    assert voxel < lists < voxel + 0.5 * (whole - voxel)


def test_the_mask_counts() -> None:
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[2:4] = True
    maps = np.random.default_rng(0).normal(size=(6, *mask.shape))
    all_voxels, some = (vx.memory_plan(cohort_of(maps, mask=inside)) for inside in (None, mask))
    assert some.permute < all_voxels.permute
    assert "permute" in str(some)


def test_the_command_line_says_it(tmp_path: Path) -> None:
    folder = vx.simulate_cohort(tmp_path / "cohort", n_subjects=6, resolution=8)
    vx.stack(folder / "participants.tsv", tmp_path / "c.zarr", maps={"effect": "effect_path"})
    command = ["permute", str(tmp_path / "c.zarr"), "--design", "~ age", "--contrast", "age", "--permutations", "8"]
    command += ["--missing", "available", "--min-subjects", "4", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert "At most" in result.output
    assert "GiB of memory" in result.output
    assert vx.open_results(tmp_path / "out" / "results.zarr")["dof"].dims == ("x", "y", "z")
