"""What the tasks of a study take on one core, measured by running them: stack, fit, permute.

Tasks are run as they are, one at a time, and timed under the names that they have in the graphs. What a task takes for
a chunk of subjects of a block of voxels does not depend on how many subjects there are. What relabelling takes does:
its tasks are run for some numbers of subjects, voxels and relabellings, and what they took is described as a sum of
what goes with each of these, and with their products.
"""

import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import xarray as xr
from dask.callbacks import Callback
from dask.sizeof import sizeof
from dask.utils import key_split
from faked import AFFINE, CONTRASTS, DESIGN, MAP, brain, fake_cohort, people
from relabelling import smooth_noise
from scheduling import Cost
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

import voxstack as vx
from voxstack.blocks import Columns, as_blocks, columns
from voxstack.contrasts import parse_contrasts
from voxstack.design import make_design
from voxstack.inference.hypotheses import Procedure, make_hypotheses
from voxstack.inference.statistics import TFCE, Enhancement
from voxstack.inference.work import largest_of_maps, map_block, tally_block
from voxstack.kernels.basis import decompose
from voxstack.kernels.exchangeability import tree_of
from voxstack.models.inputs import choose_cases
from voxstack.plan import CHUNKS_PER_TASK, SUBJECTS_PER_CHUNK
from voxstack.plan.permutation import held_voxels, keeps_relabellings

N_RELABELLINGS = 5000
_ROWS = 2  # batches of the small store

Block = tuple[int, int, int]
"""Numbers of a block of voxels along x, y and z."""


class Timings(Callback):  # type: ignore[misc]
    """Seconds, and bytes of the result, of each task that runs in this process."""

    def __init__(self) -> None:
        super().__init__(pretask=self._begin, posttask=self._end)
        self._began: dict[Any, float] = {}
        self._found: dict[tuple[str, Block | None], list[Cost]] = defaultdict(list)

    def _begin(self, key: Any, *_: Any) -> None:
        self._began[key] = perf_counter()

    def _end(self, key: Any, value: Any, *_: Any) -> None:
        seconds = perf_counter() - self._began.pop(key)
        self._found[name_of(key), block_of(key)].append(Cost(seconds, sizeof(value)))

    def medians(self) -> dict[tuple[str, Block | None], Cost]:
        """By the name of tasks, and the block of voxels that they are about."""
        return {
            what: Cost(median(one.seconds for one in costs), median(one.result for one in costs))
            for what, costs in self._found.items()
        }


def block_of(key: Any) -> Block | None:
    """Of a task, where it is about one."""
    return key[-3:] if isinstance(key, tuple) else None


def name_of(key: Any) -> str:
    """Of a task, without what makes its key unique."""
    return str(key_split(key))


@contextmanager
def one_core() -> Iterator[None]:
    """Tasks run one after the other, each on one thread, as on a worker of one thread."""
    with threadpool_limits(1), dask.config.set(num_workers=1):
        yield


@dataclass(frozen=True)
class Law:
    """Seconds of a task as a sum of what goes with products of its sizes.

    Attributes
    ----------
    terms
        Names of sizes that are multiplied, for each term.
    rates
        Seconds of one unit of each.
    error
        The largest relative error at what was measured.
    """

    terms: tuple[tuple[str, ...], ...]
    rates: tuple[float, ...]
    error: float

    @classmethod
    def fit(cls, terms: tuple[tuple[str, ...], ...], measured: Sequence[tuple[Mapping[str, float], float]]) -> "Law":
        """Of sizes and seconds; relative errors are kept small, and no rate is negative."""
        rows = np.array([[math.prod(sizes[name] for name in term) for term in terms] for sizes, _ in measured], float)
        seconds = np.array([taken for _, taken in measured])
        scale = rows.max(axis=0)
        rates = nnls(rows / scale / seconds[:, None], np.ones(len(seconds)))[0] / scale
        error = float(np.max(np.abs(rows @ rates / seconds - 1)))
        return cls(terms, tuple(map(float, rates)), error)

    def __call__(self, **sizes: float) -> float:
        return sum(r * math.prod(sizes[name] for name in term) for term, r in zip(self.terms, self.rates, strict=True))


@dataclass(frozen=True)
class Rates:
    """What was measured.

    Attributes
    ----------
    batch
        Seconds of a task of `stack`: 64 subjects, read from files and written.
    fit
        Of the tasks of a fit with three contrasts, by name and block of voxels; those that reduce are of
        `CHUNKS_PER_TASK` chunks of subjects, those that combine of two states.
    voxels, maps
        Seconds of tasks of a permutation test of three contrasts.
    enhance
        Seconds of one whole map by TFCE.
    image, subject
        Bytes of a subject's image, and of its part of the store.
    """

    batch: float
    fit: Mapping[tuple[str, Block | None], Cost]
    voxels: Law
    maps: Law
    enhance: float
    image: float
    subject: float


QUICK_CASES = tuple((n, part, number) for n in (512, 8192) for part in (256, 512) for number in (4, 8))
"""Tasks that take no time, and tell nothing."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes
    ----------
    repeats
        Of each measurement; medians count.
    cases
        Tasks of permutation tests: subjects, voxels and relabellings.
    """

    repeats: int = 3
    cases: tuple[tuple[int, int, int], ...] = (
        *((1024, 2048, 256), (1024, 2048, 2048), (1024, 512, 2048)),
        *((8192, 2048, 16), (8192, 2048, 128), (8192, 512, 128)),
        *((20480, 1024, 16), (20480, 1024, 96), (20480, 256, 96)),
    )


def measure(folder: Path, effort: Effort) -> tuple[pd.DataFrame, Rates]:
    """Make a small store, and run what there is to run on it; also the table that it was made of."""
    table, batch = _stacked(folder, effort.repeats)
    small = folder / "small.zarr"
    image = sum(Path(path).stat().st_size for path in table[MAP]) / len(table)
    stored = sum(file.stat().st_size for file in small.rglob("*") if file.is_file()) / _ROWS / SUBJECTS_PER_CHUNK
    tests = {n: Test(fake_cohort(folder / f"{n}.zarr", n, chunks_of=small)) for n in {n for n, _, _ in effort.cases}}
    with one_core():
        voxels, maps = (_law(function, tests, effort) for function in (_tally, _maps))
        enhance = _enhance(Test(vx.open_cohort(small)), effort.repeats)
    return table, Rates(batch, _fit(folder, effort.repeats), voxels, maps, enhance, image, stored)


def _stacked(folder: Path, repeats: int) -> tuple[pd.DataFrame, float]:
    """A store of a few batches, of the same images again and again; and seconds of a batch."""
    images = []
    for number, values in enumerate(smooth_noise(brain(), SUBJECTS_PER_CHUNK)):
        images.append(str(folder / f"{number}.nii.gz"))
        nib.Nifti1Image(np.where(brain(), values, np.nan).astype(np.float32), AFFINE).to_filename(images[-1])
    table = people(_ROWS * SUBJECTS_PER_CHUNK).assign(**{MAP: images * _ROWS})
    with one_core(), Timings() as timings:
        for _ in range(repeats):
            shutil.rmtree(folder / "small.zarr", ignore_errors=True)
            vx.stack(table, folder / "small.zarr", maps={MAP: MAP})
    return table, timings.medians()["stack-batch", None].seconds


def _fit(folder: Path, repeats: int) -> dict[tuple[str, Block | None], Cost]:
    n = 2 * CHUNKS_PER_TASK * SUBJECTS_PER_CHUNK  # so that tasks are as large as they get, and states are combined
    cohort = fake_cohort(folder / "fit.zarr", n, chunks_of=folder / "small.zarr")
    vx.compute(tested(cohort))  # compiles
    with one_core(), Timings() as timings:
        for _ in range(repeats):
            vx.compute(tested(cohort))
    return timings.medians()


def tested(cohort: xr.Dataset) -> xr.Dataset:
    """Three contrasts of a cohort, not computed yet."""
    return vx.contrast(vx.fit_glm(cohort, DESIGN), list(CONTRASTS))


class Test:
    """A permutation test of three contrasts: what its tasks are made of."""

    def __init__(self, cohort: xr.Dataset, number: int = N_RELABELLINGS) -> None:
        matrix = make_design(cohort, DESIGN)
        basis, n = decompose(matrix.values), len(matrix)
        names = [str(regressor) for regressor in matrix["regressor"].values]
        procedure = Procedure(
            list(map(str, cohort["subject"].values)), tree_of(n), "permute", "freedman-lane", "two-sided", number, 0,
            "mixed", choose_cases("complete", None, n),
        )  # fmt: skip
        self.cohort, self.inside = cohort, cohort["mask"].values
        tested = parse_contrasts(list(CONTRASTS), names, None)
        self.hypotheses = make_hypotheses(tested, matrix.values, basis, procedure)
        self.enhancement = Enhancement(["tfce"], self.inside, None, 26, TFCE(), "signed", "z")

    def parts(self, most: int | None = None) -> list[Columns]:
        """Voxels of blocks, at most so many in each."""
        kept = np.ones(self.cohort.sizes["subject"], dtype=bool)
        return columns(as_blocks(self.cohort[MAP]), self.inside, kept, most=most)


def sizes(n: int, part: int, relabellings: int, number: int = N_RELABELLINGS) -> dict[str, float]:
    """What the time of a task of a permutation test goes with, of `number` relabellings in all."""
    return {
        "chunks": -(-n // SUBJECTS_PER_CHUNK),
        "subjects": n,
        "voxels": part,
        # Few enough relabellings are made once for all tasks.
        "groups": 0 if keeps_relabellings(n, number) else -(-part // held_voxels(n, number)),
        "relabellings": relabellings,
    }


_TERMS = (  # chunks are decoded, residuals made, models relabelled, multiplied by the data, and scores compared
    ("chunks",),
    ("subjects", "voxels"),
    ("subjects", "relabellings", "groups"),
    ("subjects", "relabellings", "voxels"),
    ("relabellings", "voxels"),
)


def _law(function: Callable[[Test, Columns, int], object], tests: Mapping[int, Test], effort: Effort) -> Law:
    found = []
    for n, most, number in effort.cases:
        block = max(tests[n].parts(most), key=lambda one: len(one.numbers))
        function(tests[n], block, 2)  # compiles
        seconds = []
        for _ in range(effort.repeats):
            start = perf_counter()
            function(tests[n], block, number)
            seconds.append(perf_counter() - start)
        found.append((sizes(n, len(block.numbers), number), median(seconds)))
    return Law.fit(_TERMS, found)


def _tally(test: Test, block: Columns, number: int) -> object:
    return tally_block(block.values, test.hypotheses, 1, 1 + number)


def _maps(test: Test, block: Columns, number: int) -> object:
    return map_block(block.values, test.hypotheses, test.enhancement, 1, 1 + number)


def _enhance(test: Test, repeats: int) -> float:
    blocks, number = test.parts(), 4
    pieces = [map_block(block.values, test.hypotheses, test.enhancement, 1, 1 + number) for block in blocks]
    seconds = []
    for _ in range(repeats + 1):  # the first one compiles
        start = perf_counter()
        largest_of_maps(pieces, [block.numbers for block in blocks], test.hypotheses, test.enhancement)
        seconds.append(perf_counter() - start)
    return median(seconds[1:]) / number / len(test.hypotheses)
