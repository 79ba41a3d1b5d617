"""The plan of a permutation test: voxels and relabellings that a task takes, and what that needs."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

from voxstack.errors import InputError
from voxstack.plan import Resources

WINDOW = 8192
"""Relabellings of one task that takes maxima of voxels, at most: those of the default number in one."""

MAPS_TOGETHER = 16
"""Whole maps that are put together from their blocks at a time."""

VECTOR_BYTES = 2**25
"""Of relabelled designs that a task holds at a time."""

LEAST_SHARE = 0.01
"""Of a map's voxels that lists of suprathreshold voxels have room for at least."""

_RELABELLED_BYTES = 2**27  # of relabellings that a process keeps
_TILE_BYTES, _TILE = 2**25, 2048  # of residuals in double precision; voxels, whose products stay in cache
_LEAST_TILE = 128  # voxels, whose products take as long as to put their residuals and the relabelled models into order
_HELD_BYTES = 2**28  # of residuals that relabellings which are made anew go through
_LEAST_PART = 64  # voxels of a task
_TASK = 2e6  # ns that a task takes, whatever it does


def tile_voxels(n: int) -> int:
    """Voxels of n subjects that are worked on in double precision at a time."""
    return min(max(_power_of_2(_TILE_BYTES // (8 * n)), _LEAST_TILE), _TILE)


def held_voxels(n: int, number: int) -> int:
    """Voxels whose residuals of n subjects are in memory at a time: those of a tile, or of many if relabellings that
    are made for them are not kept.
    """
    tile = tile_voxels(n)
    return tile if keeps_relabellings(n, number) else max(_HELD_BYTES // (8 * n) // tile, 1) * tile


def relabelled_bytes(n: int, number: int) -> int:
    """Bytes of a window of relabellings of n subjects: permutations and signs."""
    return 5 * n * min(number, WINDOW)


def keeps_relabellings(n: int, number: int) -> bool:
    """Whether relabellings are kept once they are made, since all blocks of voxels need the same ones."""
    return relabelled_bytes(n, number) <= _RELABELLED_BYTES


def _power_of_2(most: int) -> int:
    return 1 << max(most, 16).bit_length() - 1


def _rounds(number: int, tasks: int) -> int:
    return -(-number // tasks)


def _time_of_tasks(total: float, largest: float, at_once: int) -> float:
    """About how long tasks of different sizes take: at the end some have nothing to do, for half a task on average."""
    idle = largest / 2 * (1 - 1 / at_once)
    return max(total / at_once, largest - idle) + idle


@dataclass(frozen=True)
class Schedule:
    """How a test is divided into tasks.

    Attributes
    ----------
    part
        Voxels of a task, at most; all subjects of these are in its memory.
    batch
        Relabellings of a task that needs whole maps.
    window
        Relabellings of a task of voxels.
    """

    part: int
    batch: int
    window: int = WINDOW


@dataclass(frozen=True)
class PermutationWork:
    """What a permutation test has in memory, and to do.

    Attributes
    ----------
    blocks
        Voxels of each block that are in the mask.
    n_subjects, itemsize
        Of the maps: subjects, and bytes a voxel.
    chunk
        Bytes of a chunk of the data, decoded.
    n_relabellings
        That are run.
    n_hypotheses, n_statistics
        That are tested in one pass; statistics beside that of voxels.
    suprathreshold
        Share of a map's voxels that these statistics need: 1 if they need whole maps.
    available
        Whether voxels lack subjects: those that do are taken apart from the others.
    """

    blocks: tuple[int, ...]
    n_subjects: int
    itemsize: int
    chunk: int
    n_relabellings: int
    n_hypotheses: int
    n_statistics: int
    suprathreshold: float
    available: bool

    @cached_property
    def voxels(self) -> int:
        """In the mask."""
        return sum(self.blocks)

    @property
    def _whole(self) -> bool:
        return self.suprathreshold == 1

    @property
    def results(self) -> int:
        """Bytes of the result maps, which the process that asks for them holds."""
        return 8 * self.voxels * self.n_hypotheses * (9 + 4 * self.n_statistics)

    @property
    def shared(self) -> int:
        """Bytes of relabellings that the tasks of a process share."""
        kept = keeps_relabellings(self.n_subjects, self.n_relabellings)
        return 2 * self.n_hypotheses * relabelled_bytes(self.n_subjects, self.n_relabellings) if kept else 0

    def task(self, schedule: Schedule, *, remote: bool) -> int:
        """Bytes that a task needs."""
        n, batch = self.n_subjects, min(schedule.batch, self.n_relabellings)
        copies = 3 if self.available else 1
        part = min(schedule.part, max(self.blocks))
        tile = min(tile_voxels(n), part)
        reading = copies * n * part * self.itemsize + 3 * self.chunk
        held = min(held_voxels(n, self.n_relabellings), part)
        # Few relabellings have few vectors, also of contrasts of some columns.
        computing = 8 * n * (held + 3 * tile) + 4 * min(VECTOR_BYTES, 4 * 8 * n * self.n_relabellings)
        if not self.n_statistics:
            return reading + computing
        # Lists are joined to those of the whole map, and sorted on the way.
        each = 8 * self.n_hypotheses if self._whole else 16 * self.suprathreshold * (self.n_hypotheses + 4)
        together = 8 * MAPS_TOGETHER if self._whole else 0
        # On a cluster there are the pieces of one batch that are made, and those of another one that are gathered.
        maps = int((batch * each * (2 if remote else 1) + together) * self.voxels)
        return reading + computing + maps + (68 + 8 * 13) * self.voxels

    def peak(self, schedule: Schedule, resources: Resources) -> int:
        """Bytes of a process in which tasks run."""
        return resources.peak(self.task(schedule, remote=resources.remote), shared=self.shared, results=self.results)

    def schedule(self, resources: Resources) -> Schedule:
        """Parts and batches that fit and with which a test takes the least time.

        A task reads the data once. So the fewer and larger they are the better, but for threads that have nothing to do
        at the end; and small tasks show how the test goes on, and lose little when they are stopped. These are the
        smallest batches that take at most 15% longer than the best ones.

        Parameters
        ----------
        resources
            That tasks may use.

        Raises
        ------
        InputError
            Nothing fits.
        """
        most = max(self.blocks)
        parts = {max(-(-most // k), min(_LEAST_PART, most)) for k in (*range(1, 9), *(1 << e for e in range(4, 16)))}
        batches = [1 << e for e in range(WINDOW.bit_length())] if self.n_statistics else [1]
        windows = [WINDOW >> e for e in range(4)]
        every = [Schedule(*sizes) for sizes in product(sorted(parts), batches, windows)]
        fit = [schedule for schedule in every if self.peak(schedule, resources) <= resources.memory]
        if not fit:
            raise self._too_little(every[0], resources)
        times = {schedule: self._time(schedule, resources) for schedule in fit}
        good = [schedule for schedule in fit if times[schedule] <= 1.15 * min(times.values())]
        return min(good, key=lambda schedule: (schedule.batch, times[schedule]))

    def check(self, schedule: Schedule, resources: Resources) -> None:
        """Raise `InputError` where a schedule, which a checkpoint says, does not fit."""
        if self.peak(schedule, resources) > resources.memory:
            raise self._too_little(schedule, resources)

    def _too_little(self, schedule: Schedule, resources: Resources) -> InputError:
        return InputError(
            f"A permutation test of {self.n_subjects} subjects and {self.voxels:,} voxels needs "
            f"{self.peak(schedule, resources) / 2**30:.2f} GiB of memory, with {schedule.part:,} voxels and maps of "
            f"{schedule.batch} relabellings a task, {resources}. Raise the limit, use fewer threads, or test fewer "
            "contrasts at a time."
        )

    def _time(self, schedule: Schedule, resources: Resources) -> float:
        """How long a test takes, in ns for each voxel of the mask, by rates of one core (measured)."""
        n, number, parts, tasks = self.n_subjects, self.n_relabellings, self.parts(schedule), resources.tasks
        # To take a voxel of a subject out of its nuisance, for each hypothesis, and to decode it, for each part of a
        # block anew; and to go about each part.
        read = (
            n * (12.0 * self.n_hypotheses + 8.0 * -(-max(self.blocks) // schedule.part)) + _TASK * parts / self.voxels
        )
        # To relabel it, for each hypothesis; many subjects are relabelled anew for the next voxels.
        held = tile_voxels(n) if self.available else held_voxels(n, number)
        making = 0.0 if keeps_relabellings(n, number) else 45.0 / min(held, schedule.part)
        multiply, enhance = (0.08, 60.0) if self._whole else (0.03, 3.0)
        window, windows = min(schedule.window, number), -(-number // schedule.window)
        relabel = window * n * (0.03 + making) * self.n_hypotheses
        largest = (read + relabel) * min(schedule.part, max(self.blocks)) / self.voxels
        time = _time_of_tasks(windows * (read + relabel), largest, tasks)
        if not self.n_statistics:
            return time
        batches, batch = -(-number // schedule.batch), min(schedule.batch, number)
        relabel, enhancing = batch * n * (multiply + making) * self.n_hypotheses, batch * enhance * self.n_hypotheses
        if resources.remote:  # any worker takes any part
            return (
                time + _rounds(parts * batches, tasks) * (read + relabel) / parts + _rounds(batches, tasks) * enhancing
            )
        return time + _rounds(batches, tasks) * (read + relabel + enhancing)

    def parts(self, schedule: Schedule) -> int:
        """Parts of blocks."""
        return sum(-(-size // schedule.part) for size in self.blocks)

    def tasks(self, schedule: Schedule) -> int:
        """Tasks of the test: those of voxels, and for each batch of maps one a part and one of the whole."""
        of_voxels = self.parts(schedule) * -(-self.n_relabellings // schedule.window)
        batches = -(-self.n_relabellings // schedule.batch) if self.n_statistics else 0
        return of_voxels + batches * (self.parts(schedule) + 1)

    def rounds(self, schedule: Schedule) -> int:
        """How often the data are read: once for each part of a block, window and batch."""
        rounds = -(-self.n_relabellings // schedule.window)
        rounds += -(-self.n_relabellings // schedule.batch) if self.n_statistics else 0
        return rounds * -(-max(self.blocks) // schedule.part)
