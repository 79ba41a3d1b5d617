"""Real runs on one and on two workers of this machine, beside what the simulation says of them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import pandas as pd
from distributed import Client, LocalCluster
from faked import CONTRASTS, DESIGN, MAP, fake_cohort, people
from rates import Rates, tested
from scheduling import Network
from studies import STEPS, Study

import voxstack as vx
from voxstack.run import resources


@dataclass(frozen=True)
class Check:
    """A step of a small study.

    Attributes
    ----------
    step, workers
        What was run, on so many.
    measured, predicted
        Seconds.
    """

    step: str
    workers: int
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        """1 is perfect."""
        return self.predicted / self.measured


@dataclass(frozen=True)
class Size:
    """Of the small study.

    Attributes
    ----------
    subjects
        Of the fit and the tests; their chunks are those of fewer, again and again.
    voxels, maps
        Relabellings of max-T and of TFCE.
    repeats
        Of each run; medians count.
    """

    subjects: int = 1024
    voxels: int = 300
    maps: int = 48
    repeats: int = 2


def validate(folder: Path, table: pd.DataFrame, rates: Rates, network: Network, size: Size) -> list[Check]:
    """Run each step, and simulate it with the rates of the same machine."""
    cohort = fake_cohort(folder / "small-study.zarr", size.subjects, chunks_of=folder / "small.zarr")

    files = list(pd.unique(table[MAP])) * 8
    images = people(len(files)).assign(**{MAP: files})

    def stack() -> None:
        shutil.rmtree(folder / "again.zarr", ignore_errors=True)
        vx.stack(images, folder / "again.zarr", maps={MAP: MAP})

    def permute(statistic: str, number: int) -> None:
        vx.permutation_test(
            cohort, DESIGN, list(CONTRASTS), n_permutations=number, relabelling="permute", statistics=[statistic]
        )

    runs: dict[str, Callable[[], object]] = {
        "stack": stack,
        "fit": lambda: vx.compute(tested(cohort)),
        "max-T": lambda: permute("voxel", size.voxels),
        "TFCE": lambda: permute("tfce", size.maps),
    }
    checks = []
    for workers in (1, 2):
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, memory_limit="4GiB", dashboard_address=None
            ) as cluster,
            Client(cluster),
        ):
            given = resources()
            vx.compute(tested(cohort))  # workers import and load what is compiled
            permute("tfce", 4)
            for step in STEPS:
                seconds = [_seconds(runs[step]) for _ in range(size.repeats)]
                number = size.maps if step == "TFCE" else size.voxels
                studied = vx.open_cohort(folder / "again.zarr") if step == "stack" else cohort
                predicted = Study(studied, rates, number).simulate(step, given, network).wall
                checks.append(Check(step, workers, median(seconds), predicted))
    return checks


def _seconds(run: Callable[[], object]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start
