"""The graphs of a study of any size, with what their tasks take: stack, fit with three contrasts, max-T and TFCE.

The graphs are those that voxstack builds, of a cohort without data; see `faked`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xarray as xr
from dask.core import literal
from rates import N_RELABELLINGS, Rates, Test, block_of, name_of, sizes, tested
from scheduling import Cost, CostOf, Group, Node, one_by_one, together

from voxstack import computation
from voxstack.inference.engine import map_tasks, voxel_tasks
from voxstack.plan import CHUNKS_PER_TASK, Means
from voxstack.plan.permutation import PermutationWork, Schedule
from voxstack.run import Task

STEPS = ("stack", "fit", "max-T", "TFCE")


@dataclass(frozen=True)
class Work:
    """A step of a study.

    Attributes
    ----------
    groups
        Of tasks.
    ahead
        Of them in flight for each worker; None for all at once.
    """

    groups: Iterator[Group]
    ahead: int | None


class Study:
    """A cohort, and what is done with it.

    Parameters
    ----------
    cohort
        Of `fake_cohort`, or any other at 2 mm with the same covariates.
    rates
        Of one core.
    number
        Of relabellings.
    """

    def __init__(self, cohort: xr.Dataset, rates: Rates, number: int = N_RELABELLINGS) -> None:
        self.cohort, self.rates, self.number = cohort, rates, number
        self.n = cohort.sizes["subject"]

    @cached_property
    def _test(self) -> Test:
        return Test(self.cohort, self.number)

    @cached_property
    def _fit(self) -> Group:
        result = tested(self.cohort).unify_chunks()
        return together(fit_tasks(result), self._cost_of_fit)

    def work(self, step: str, means: Means) -> Work:
        """One of `STEPS`, as it is divided for such workers."""
        if step == "stack":
            return Work(self._stack(), 2)
        if step == "fit":
            return Work(iter([self._fit]), None)
        return self._permute(self.schedule(means, maps=step == "TFCE"), maps=step == "TFCE")

    def permutations(self, *, maps: bool) -> PermutationWork:
        """What a test is to the memory plan."""
        blocks, hypotheses = self._test.parts(), self._test.hypotheses
        data = self.cohort["effect"].data
        itemsize = data.dtype.itemsize
        chunk = int(data.chunksize[0] * data.chunksize[1] * data.chunksize[2] * data.chunksize[3]) * itemsize
        return PermutationWork(
            blocks=tuple(len(block.numbers) for block in blocks),
            n_subjects=self.n,
            itemsize=itemsize,
            chunk=chunk,
            n_relabellings=self.number,
            n_hypotheses=len(hypotheses),
            n_statistics=int(maps),
            suprathreshold=1.0,
            available=False,
        )

    def schedule(self, means: Means, *, maps: bool) -> Schedule:
        """Parts and batches, as a test would choose them."""
        return self.permutations(maps=maps).schedule(means)

    def _stack(self) -> Iterator[Group]:
        chunks = self.cohort["effect"].chunks
        assert chunks is not None
        for number, size in enumerate(chunks[0]):
            seconds = self.rates.batch * size / max(chunks[0])
            yield Group([Node(number, Cost(seconds), ())], [number])

    def _cost_of_fit(self, key: Any, node: Any) -> Cost:
        name = name_of(key)
        cost = self.rates.fit.get((name, block_of(key))) or self.rates.fit.get((name, None)) or Cost(0)
        if name.endswith("-reduce"):
            return Cost(cost.seconds * len(node[5]) / CHUNKS_PER_TASK, cost.result)
        if name.endswith("-combine"):
            return Cost(cost.seconds * (len(node[2]) - 1), cost.result)
        return cost

    def _permute(self, schedule: Schedule, *, maps: bool) -> Work:
        test, most = self._test, self.number
        parts = test.parts(schedule.part)
        if not maps:
            windows = [range(at, min(at + schedule.window, most)) for at in range(0, most, schedule.window)]
            left = [(number, rows) for rows in windows for number in range(len(parts))]
            return Work(one_by_one(voxel_tasks(parts, test.hypotheses, left), self._cost_of_voxels), 2)
        batches = [range(at, min(at + schedule.batch, most)) for at in range(0, most, schedule.batch)]
        tasks = map_tasks(parts, test.hypotheses, test.enhancement, batches)
        return Work(one_by_one(tasks, self._cost_of_maps), 1)

    def _cost_of_voxels(self, task: Task) -> CostOf:
        _, rows = task.key  # type: ignore[misc]

        def cost(key: Any, node: Any) -> Cost:
            if name_of(key) != "permute-voxels":
                return Cost(0)
            part = _part(node)
            seconds = self.rates.voxels(**sizes(self.n, part, len(rows), self.number))
            return Cost(seconds, 8 * len(self._test.hypotheses) * (4 * part + len(rows)))

        return cost

    def _cost_of_maps(self, task: Task) -> CostOf:
        rows: range = task.key  # type: ignore[assignment]
        maps = len(rows) * len(self._test.hypotheses)

        def cost(key: Any, node: Any) -> Cost:
            name = name_of(key)
            if name == "enhance-maps":
                return Cost(self.rates.enhance * maps, 8 * maps)
            if name != "permute-maps":
                return Cost(0)
            part = _part(node)
            return Cost(self.rates.maps(**sizes(self.n, part, len(rows), self.number)), 8 * maps * part)

        return cost


def fit_tasks(result: xr.Dataset) -> list[Task]:
    """What `compute` hands to the workers."""
    lazy = xr.Dataset({name: result[name].variable for name in result.data_vars})
    return list(computation._region_tasks(lazy, list(computation._regions(result))))


def _part(node: Any) -> int:
    """Voxels of a task of a permutation test."""
    (given,) = node[1]
    assert isinstance(given, literal)
    return int(given.data.inside.unpack().sum())
