"""The memory plan of permutation tests: what fits is run, what does not is refused, and the command line says it."""

from dataclasses import replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import voxstack as vx
from permuted_cohorts import run
from random_cohorts import cohort_of
from voxstack.cli import cli
from voxstack.errors import InputError
from voxstack.events import collecting
from voxstack.inference.statistics import STATISTICS
from voxstack.plan import PROCESS, Resources
from voxstack.plan.permutation import PermutationWork, Schedule

GIB = 2**30


def work_of(n: int, voxels: int, *, whole: bool, number: int = 10**6, hypotheses: int = 1) -> PermutationWork:
    blocks = tuple(min(32**3, voxels - first) for first in range(0, voxels, 32**3))
    share = 1.0 if whole else 0.01
    return PermutationWork(blocks, n, 4, 64 * 32**3 * 4, number, hypotheses, 1, share, available=False)


@given(
    n=st.integers(5, 100_000),
    voxels=st.integers(1000, 300_000),
    whole=st.booleans(),
    memory=st.floats(0.5, 64),
    at_once=st.integers(1, 16),
    remote=st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_a_schedule_fits_or_is_refused(
    n: int, voxels: int, whole: bool, memory: float, at_once: int, remote: bool
) -> None:
    work, resources = (
        work_of(n, voxels, whole=whole, hypotheses=2),
        Resources(int(memory * GIB), at_once, at_once, remote),
    )
    if work.peak(Schedule(64, 1), resources) > resources.memory:
        with pytest.raises(InputError, match=f"{n} subjects and {voxels:,} voxels needs .* GiB"):
            work.schedule(resources)
        return
    schedule = work.schedule(resources)
    work.check(schedule, resources)
    assert PROCESS + at_once * n * schedule.part * 4 < work.peak(schedule, resources) <= resources.memory


def test_thousands_of_subjects_fit_into_small_workers() -> None:
    resources = Resources(int(0.7 * 1.5 * GIB), 1, 2, remote=True)
    for n in (5000, 40_000):
        schedule = work_of(n, 200_000, whole=True, number=1000).schedule(resources)
        assert schedule.part >= 32**3 // 64, n
    assert work_of(500, 200_000, whole=True, number=1000).schedule(resources).part >= 32**3 // 2


@given(
    n=st.integers(5, 5000),
    number=st.integers(2, 20_000),
    whole=st.booleans(),
    memory=st.integers(4, 64),
    tasks=st.integers(1, 32),
)
@settings(deadline=None, max_examples=60)
def test_no_other_batch_is_much_faster(n: int, number: int, whole: bool, memory: int, tasks: int) -> None:
    resources = Resources(memory * GIB, 1, tasks, remote=False)
    work = work_of(n, 200_000, whole=whole, number=number)
    schedule = work.schedule(resources)
    # Measured on one core: a voxel of a subject is read in 20 ns; a map takes 0.08 ns a subject, and 60 ns to be
    # enhanced, in double precision; screened in single precision 0.03 ns, and 3 ns.
    parts = -(-max(work.blocks) // schedule.part)
    reading, each = 20.0 * n * parts, (0.08 * n + 60) if whole else (0.03 * n + 3)

    def takes(size: int) -> float:
        busy = [0.0] * tasks
        for start in range(0, number, size):
            heappush(busy, heappop(busy) + reading + each * min(size, number - start))
        return max(busy)

    fit = [2**k for k in range(13) if work.peak(replace(schedule, batch=2**k), resources) <= resources.memory] or [1]
    assert takes(schedule.batch) <= 1.5 * min(map(takes, fit))


def test_small_batches_where_reading_costs_little_and_large_ones_where_it_costs_much() -> None:
    resources = Resources(64 * GIB, 2, 2, remote=False)
    few, many = (work_of(n, 200_000, whole=True, number=10_000).schedule(resources).batch for n in (20, 2000))
    assert few <= 64 < 256 <= many


def test_whole_maps_need_more_than_voxels_and_lists_little_more() -> None:
    with dask.config.set(num_workers=2):
        plans = [
            vx.memory_plan(n_subjects=200, shape=(91, 109, 91), mask_voxels=230_000, statistics=statistics).permute
            for statistics in (["voxel"], ["cluster_mass"], ["tfce"])
        ]
    voxel, lists, whole = plans
    # A map in double precision, of each relabelling of a batch, on each of two threads.
    assert whole - voxel > 2 * 64 * 230_000 * 8
    assert voxel < lists < voxel + 0.5 * (whole - voxel)


def test_the_plan_keeps_the_limit() -> None:
    with dask.config.set({"num_workers": 2, "voxstack.memory-limit": "4GiB"}):
        plan = vx.memory_plan(n_subjects=2000, shape=(91, 109, 91), mask_voxels=194_000, statistics=["tfce"])
    assert plan.permute <= plan.limit == 4 * GIB


def test_the_mask_counts() -> None:
    mask = np.zeros((9, 8, 7), dtype=bool)
    mask[2:4] = True
    maps = np.random.default_rng(0).normal(size=(6, *mask.shape))
    all_voxels, some = (vx.memory_plan(cohort_of(maps, mask=inside)) for inside in (None, mask))
    assert some.permute < all_voxels.permute
    assert "permute" in str(some)


def test_one_statistic_is_one() -> None:
    given: Any = {"n_subjects": 200, "shape": (91, 109, 91), "mask_voxels": 230_000}
    with dask.config.set({"num_workers": 2, "voxstack.memory-limit": "16GiB"}):
        for name in STATISTICS:
            assert (
                vx.memory_plan(**given, statistics=name).permute == vx.memory_plan(**given, statistics=[name]).permute
            )


def test_the_plan_of_clusters_is_that_of_the_test_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lower the cluster-forming threshold, the more voxels lie beyond it."""
    schedule, works = PermutationWork.schedule, []
    monkeypatch.setattr(PermutationWork, "schedule", lambda work, given: works.append(work) or schedule(work, given))
    cohort = cohort_of(np.random.default_rng(0).normal(size=(8, 6, 5, 4)))
    for options in ({"cluster_forming_p": 0.05}, {"cluster_forming_z": 3.5}):
        given: Any = {"statistics": ["cluster_mass"], "n_permutations": 20, **options}
        planned = vx.memory_plan(cohort, n_contrasts=1, **given)
        works.clear()
        run(cohort, np.ones((8, 1)), {"mean": [1]}, **given)
        assert works[0].suprathreshold == planned.permuting.suprathreshold
    assert vx.memory_plan(cohort, **given | {"cluster_forming_z": 1.0}).permuting.suprathreshold > 0.5 - 1e-9


def test_a_verb_that_there_is_not() -> None:
    plan = vx.memory_plan(n_subjects=20, shape=(9, 9, 9))
    plan.check("permute")
    with pytest.raises(InputError, match="verb='stack'"):
        plan.check("stack")


def test_concatenated_cohorts_are_planned_for_what_both_have() -> None:
    mask = np.ones((9, 8, 7), dtype=bool)
    mask[2:] = False
    maps = np.random.default_rng(0).normal(size=(6, *mask.shape))
    one, other = cohort_of(maps), cohort_of(maps, mask=mask)
    both = xr.concat([one, other], "subject", data_vars="all", coords="different", compat="equals", join="outer")
    assert sum(vx.memory_plan(both).permuting.blocks) == mask.sum()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"statistics": ["voxel", "vox"]}, "There is no statistic 'vox'; voxstack has voxel, cluster_extent"),
        ({"statistics": "nope"}, "no statistic 'nope'"),
        ({"cluster_forming_z": 3}, "A cluster-forming threshold goes with cluster_extent or cluster_mass"),
        ({"statistics": "cluster_mass", "cluster_forming_z": 3, "cluster_forming_p": 0.1}, "one cluster-forming thr"),
        ({"missing": "x"}, "missing='x': voxstack knows 'complete', 'available'"),
        ({"mask_voxels": 0}, "mask_voxels must be a whole number from 1"),
        ({"n_contrasts": 0}, "n_contrasts must be a whole number from 1"),
        ({"n_maps": "two"}, "n_maps must be a whole number from 1"),
        ({"dtype": "int7"}, "dtype='int7' is no type"),
        ({"n_subjects": 2.5}, "n_subjects must be a whole number"),
        ({"shape": (3, 3)}, r"shape=\(x, y, z\)"),
        ({"shape": (3, 0, 3)}, r"shape=\(x, y, z\)"),
        ({"shape": (3, 3.5, 3)}, r"shape=\(x, y, z\)"),
    ],
)
def test_mistakes_are_named(options: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        vx.memory_plan(**{"n_subjects": 3, "shape": (3, 3, 3), **options})


def test_a_cohort_without_a_voxel_is_refused() -> None:
    cohort = cohort_of(np.ones((6, 3, 3, 3)), mask=np.zeros((3, 3, 3), dtype=bool))
    with pytest.raises(InputError, match="no voxel"):
        vx.memory_plan(cohort)


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


class TestExplain:
    """What --explain says is what is then done, and nothing is done for it."""

    design = ("--design", "~ age", "--contrast", "age", "--output")

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = vx.simulate_cohort(tmp_path / "cohort", n_subjects=6, resolution=6)
        vx.stack(folder / "participants.tsv", tmp_path / "c.zarr", maps={"effect": "effect_path"})
        return tmp_path

    def told(self, *words: object) -> dict[str, str]:
        done = CliRunner().invoke(cli, [*map(str, words), "--explain"])
        assert done.exit_code == 0, done.output
        rows = [line.split("  ", 1) for line in done.output.splitlines()]
        return {name: value.strip() for name, value in rows}

    def test_stack(self, folder: Path) -> None:
        words = ("stack", folder / "cohort" / "participants.tsv", folder / "new.zarr", "--map", "effect=effect_path")
        told = self.told(*words, "--memory-limit", "1GiB")
        assert told["may be used"].startswith("1.00 GiB")
        assert told["batches"] == "of 64 subjects, one task each"
        assert "GiB" in told["at most needed"]
        assert not (folder / "new.zarr").exists()

    def test_fit(self, folder: Path) -> None:
        told = self.told("fit", folder / "c.zarr", *self.design, folder / "out")
        assert told["tasks"] == "at most 2 that read, 8 chunks each"
        assert not (folder / "out").exists()

    @pytest.mark.parametrize("statistics", [("voxel",), ("voxel", "tfce")])
    def test_permute(self, folder: Path, statistics: tuple[str, ...]) -> None:
        chosen = [word for name in statistics for word in ("--statistic", name)]
        words = ("permute", folder / "c.zarr", *self.design, folder / "out", "--permutations", 100, *chosen)
        told = self.told(*words)
        assert not (folder / "out").exists()
        with collecting() as events:
            vx.permutation_test(
                vx.open_cohort(folder / "c.zarr"), "~ age", "age", n_permutations=100, statistics=statistics
            )
        done = {event["step"]: event["tasks"] for event in events}
        parts = int(told["parts"].split()[0])
        assert done["permute voxels"] == parts
        assert int(told["tasks"]) == parts + done.get("permute maps", 0) * (parts + 1)

    @pytest.mark.parametrize("verb", ["fit", "permute"])
    def test_unknown_contrasts_are_refused_all_the_same(self, folder: Path, verb: str) -> None:
        words = [verb, folder / "c.zarr", "--design", "~ age", "--contrast", "nope", "--output", folder / "out"]
        with pytest.raises(InputError, match="nope"):
            CliRunner().invoke(cli, [*map(str, words), "--explain"], catch_exceptions=False)

    def test_a_fit_that_does_not_fit_is_refused(self, folder: Path) -> None:
        words = ["fit", str(folder / "c.zarr"), *self.design, str(folder / "out"), "--memory-limit", "300MiB"]
        with pytest.raises(InputError, match=r"A fit with 2 regressors and 1 contrasts needs 0\.\d+ GiB of memory"):
            CliRunner().invoke(cli, words, catch_exceptions=False)
        assert not (folder / "out").exists()
