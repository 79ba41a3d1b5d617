"""The graphs of a study of any size, with what their tasks take: stack, fit with three contrasts, max-T and TFCE.

The graphs are those that voxstack builds, of a cohort without data; see `faked`.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xarray as xr
from dask.core import literal
from rates import N_RELABELLINGS, Rates, Test, block_of, name_of, sizes, tested
from scheduling import Cost, CostOf, Group, Network, Node, Outcome, one_by_one, simulate, together

from voxstack import computation
from voxstack.inference.engine import map_tasks, voxel_tasks
from voxstack.plan import CHUNKS_PER_TASK, SUBJECTS_PER_CHUNK, Resources
from voxstack.plan.permutation import PermutationWork, Schedule
from voxstack.run import Task

STEPS = ("stack", "fit", "max-T", "TFCE")


@dataclass(frozen=True)
class Phase:
    """One call of `run` in a step of a study.

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

    def simulate(self, step: str, resources: Resources, network: Network) -> Outcome:
        """One of `STEPS` on workers of one thread each."""
        total = Outcome(0, 0, 0, 0, 0, 0)
        for phase in self._phases(step, resources):
            total += simulate(phase.groups, resources.tasks, network, ahead=phase.ahead)
        return total

    def _phases(self, step: str, resources: Resources) -> Iterator[Phase]:
        if step == "stack":
            yield Phase(self._stack(), 2)
        elif step == "fit":
            yield Phase(iter([self._fit]), None)
        else:
            schedule = self.schedule(resources, maps=step == "TFCE")
            yield Phase(self._voxels(schedule), 2)  # whatever else is tested
            if step == "TFCE":
                yield Phase(self._maps(schedule), 1)

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

    def schedule(self, resources: Resources, *, maps: bool) -> Schedule:
        """Parts and batches, as a test would choose them."""
        return self.permutations(maps=maps).schedule(resources)

    @cached_property
    def _chunk(self) -> float:
        """Bytes of a stored chunk."""
        return self.rates.subject * SUBJECTS_PER_CHUNK / len(self._test.parts())

    @property
    def _column(self) -> float:
        """Bytes of all chunks of subjects of a block."""
        return self._chunk * -(-self.n // SUBJECTS_PER_CHUNK)

    def _stack(self) -> Iterator[Group]:
        chunks = self.cohort["effect"].chunks
        assert chunks is not None
        for number, size in enumerate(chunks[0]):
            cost = Cost(self.rates.batch * size / SUBJECTS_PER_CHUNK, 0, size * (self.rates.image + self.rates.subject))
            yield Group([Node(number, cost, ())], [number])

    def _cost_of_fit(self, key: Any, node: Any) -> Cost:
        name = name_of(key)
        cost = self.rates.fit.get((name, block_of(key))) or self.rates.fit.get((name, None)) or Cost(0)
        if name.endswith("-reduce"):
            chunks = len(node[5])
            return Cost(cost.seconds * chunks / CHUNKS_PER_TASK, cost.result, chunks * self._chunk)
        if name.endswith("-combine"):
            return Cost(cost.seconds * (len(node[2]) - 1), cost.result)
        return cost

    def _voxels(self, schedule: Schedule) -> Iterator[Group]:
        test, most, parts = self._test, self.number, self._test.parts(schedule.part)
        windows = [range(at, min(at + schedule.window, most)) for at in range(0, most, schedule.window)]
        left = [(number, rows) for rows in windows for number in range(len(parts))]
        return one_by_one(voxel_tasks(parts, test.hypotheses, left), self._cost_of_voxels)

    def _maps(self, schedule: Schedule) -> Iterator[Group]:
        test, most = self._test, self.number
        batches = [range(at, min(at + schedule.batch, most)) for at in range(0, most, schedule.batch)]
        tasks = map_tasks(test.parts(schedule.part), test.hypotheses, test.enhancement, batches)
        return one_by_one(tasks, self._cost_of_maps)

    def _cost_of_voxels(self, task: Task) -> CostOf:
        _, rows = task.key  # type: ignore[misc]

        def cost(key: Any, node: Any) -> Cost:
            if name_of(key) != "permute-voxels":
                return self._cost_of_shared(key)
            part = _part(node)
            seconds = self.rates.voxels(**sizes(self.n, part, len(rows), self.number))
            return Cost(seconds, 8 * len(self._test.hypotheses) * (4 * part + len(rows)), self._column)

        return cost

    def _cost_of_shared(self, key: Any) -> Cost:
        """Of what all tasks of a test need, which travels to each worker once."""
        return Cost(0, self._bytes_of_hypotheses if name_of(key) == "permute-hypotheses" else 0)

    @cached_property
    def _bytes_of_hypotheses(self) -> int:
        return len(pickle.dumps(self._test.hypotheses))

    def _cost_of_maps(self, task: Task) -> CostOf:
        rows: range = task.key  # type: ignore[assignment]
        maps = len(rows) * len(self._test.hypotheses)

        def cost(key: Any, node: Any) -> Cost:
            name = name_of(key)
            if name == "enhance-maps":
                return Cost(self.rates.enhance * maps, 8 * maps)
            if name != "permute-maps":
                return self._cost_of_shared(key)
            part = _part(node)
            return Cost(self.rates.maps(**sizes(self.n, part, len(rows), self.number)), 8 * maps * part, self._column)

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
