"""All relabellings of all voxels: one schedule for maxima of voxels, one for statistics of whole maps."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
from dask.delayed import Delayed, delayed
from numpy.typing import NDArray

from voxstack.blocks import Columns, Stored, column_values, stored_fingerprint
from voxstack.inference.checkpoint import Arrays, Checkpoint, digest, pack, unpack
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.running import Running
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found
from voxstack.inference.work import largest_of_maps, map_block, tally_block
from voxstack.progress import track
from voxstack.run import Task, run


def count_voxels(
    blocks: Sequence[Columns], hypotheses: Sequence[Hypothesis], checkpoint: Checkpoint, *, progress: bool
) -> list[Found]:
    """Observed ratios, counts and maxima of all voxels: a task holds a window of relabellings of one block.

    Parameters
    ----------
    blocks
        That the mask is divided into.
    hypotheses
        All of them are tested while a block is in memory.
    checkpoint
        Holds what was done before, and gets what is done now.
    """
    v = sum(len(block.numbers) for block in blocks)
    found = [_nothing(v, h.number) for h in hypotheses]
    most = max(h.number for h in hypotheses)
    left = []
    for number, block in enumerate(blocks):
        done, missing = checkpoint.divide(f"voxels/{number}", most, checkpoint.schedule["window"])
        for rows in done:
            _add(found, block, rows, unpack(checkpoint.load(f"voxels/{number}", rows), len(hypotheses)))
        left += [(number, rows) for rows in missing]
    left.sort(key=lambda one: one[1].start)  # all blocks of some relabellings, then of the next ones
    running = Running(hypotheses, [one.maxima for one in found], [rows for _, rows in left])
    shared, work = delayed(hypotheses, traverse=False), delayed(tally_block, pure=False)
    tasks = (Task((i, rows), work(_opaque(blocks[i]), shared, rows.start, rows.stop)) for i, rows in left)
    bar = track(
        run(tasks, label="permute voxels"), total=len(left), description="voxels", visible=progress, note=running.text
    )
    for key, tallies in bar:
        number, rows = cast("tuple[int, range]", key)
        parts = [tally._asdict() for tally in tallies]
        checkpoint.save(f"voxels/{number}", rows, pack(parts))
        _add(found, blocks[number], rows, parts)
        running.finish(rows)
    return found


def _nothing(v: int, number: int) -> Found:
    stat, observed, dof = np.full((3, v), np.nan)
    return Found(stat, observed, dof, np.zeros(v, dtype=np.int64), np.full(number, -np.inf))


def _add(found: Sequence[Found], block: Columns, rows: range, parts: Sequence[Arrays]) -> None:
    """Take the tallies of one task into the whole."""
    for whole, part in zip(found, parts, strict=True):
        if rows.start == 0:
            for name in ("stat", "observed", "dof"):
                getattr(whole, name)[block.numbers] = part[name]
        whole.counts[block.numbers] += part["counts"]
        maxima = whole.maxima[rows.start : rows.start + len(part["maxima"])]
        np.maximum(maxima, part["maxima"], out=maxima)


def enhance_maps(
    blocks: Sequence[Columns],
    hypotheses: Sequence[Hypothesis],
    found: Sequence[Found],
    enhancement: Enhancement,
    checkpoint: Checkpoint,
    *,
    progress: bool,
) -> None:
    """Largest values of statistics of whole maps: a task holds a batch of relabellings of all blocks.

    Parameters
    ----------
    blocks, hypotheses, checkpoint
        As of `count_voxels`.
    found
        Gets the largest values.
    enhancement
        Statistics, and how maps are enhanced.
    """
    for hypothesis, one in zip(hypotheses, found, strict=True):
        one.largest.update({name: np.zeros(hypothesis.number) for name in enhancement.names})
    most = max(h.number for h in hypotheses)
    done, left = checkpoint.divide("maps", most, checkpoint.schedule["batch"])
    for rows in done:
        _put(found, rows, unpack(checkpoint.load("maps", rows), len(hypotheses)))
    tasks = _batches(blocks, hypotheses, enhancement, left)
    running = Running(hypotheses, [one.largest[enhancement.names[-1]] for one in found], left)
    # A batch has a task for each part of a block: one for each thread keeps all busy, and few maps in memory.
    results = run(tasks, label="permute maps", ahead=1)
    for key, parts in track(results, total=len(left), description="maps", visible=progress, note=running.text):
        rows = cast("range", key)
        checkpoint.save("maps", rows, pack(parts))
        _put(found, rows, parts)
        running.finish(rows)


def _put(found: Sequence[Found], rows: range, parts: Sequence[Arrays]) -> None:
    for whole, part in zip(found, parts, strict=True):
        for name, values in part.items():
            whole.largest[name][rows.start : rows.start + len(values)] = values


def _batches(
    blocks: Sequence[Columns], hypotheses: Sequence[Hypothesis], enhancement: Enhancement, batches: Sequence[range]
) -> Iterator[Task]:
    tested, how = delayed(hypotheses, traverse=False), delayed(enhancement, traverse=False)
    numbers: Any = delayed([block.numbers for block in blocks], traverse=False)
    values = [_opaque(block) for block in blocks]
    maps, largest = delayed(map_block, pure=False), delayed(largest_of_maps, pure=False)
    for rows in batches:
        pieces = [maps(block, tested, how, rows.start, rows.stop) for block in values]
        yield Task(rows, largest(pieces, numbers, tested, how))


def _opaque(block: Columns) -> Delayed:
    """What a task gets of a block."""
    return block.values if isinstance(block.values, Delayed) else delayed(block.values, traverse=False, pure=False)


def fingerprint(blocks: Sequence[Columns]) -> str:
    """Of all values of the blocks: of the store that they come from where that tells it, else they are read."""
    told = stored_fingerprint(blocks)
    if told is not None:
        return told
    work = delayed(_digest, pure=False)
    tasks = (Task(number, work(_opaque(block))) for number, block in enumerate(blocks))
    found = {int(str(key)): part for key, part in run(tasks, label="fingerprint")}
    return digest(np.array([found[number] for number in range(len(blocks))]), *(block.numbers for block in blocks))


def _digest(values: Stored | NDArray[np.floating]) -> str:
    return digest(column_values(values))
