"""All relabellings of all voxels: one schedule for maxima of voxels, one for statistics of whole maps."""

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from voxstack.blocks import Columns, Stored, column_values, stored_fingerprint
from voxstack.inference.checkpoint import Arrays, Checkpoint, digest, pack, unpack
from voxstack.inference.hypotheses import Hypothesis
from voxstack.inference.running import Running
from voxstack.inference.statistics import Enhancement
from voxstack.inference.tally import Found
from voxstack.inference.work import largest_of_maps, map_block, tally_block
from voxstack.progress import track
from voxstack.run import Task, call, run, shared


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
    for key, tallies in track(
        run(voxel_tasks(blocks, hypotheses, left), label="permute voxels"),
        total=len(left),
        description="voxels",
        visible=progress,
        note=running.text,
    ):
        number, rows = cast("tuple[int, range]", key)
        parts = [tally._asdict() for tally in tallies]
        checkpoint.save(f"voxels/{number}", rows, pack(parts))
        _add(found, blocks[number], rows, parts)
        running.finish(rows)
    return found


def voxel_tasks(
    blocks: Sequence[Columns], hypotheses: Sequence[Hypothesis], left: Iterable[tuple[int, range]]
) -> Iterator[Task]:
    """Tasks of some blocks, by number, and relabellings."""
    tested = shared("permute-hypotheses", hypotheses)
    for i, rows in left:
        yield Task((i, rows), call("permute-voxels", tally_block, blocks[i].values, tested, rows.start, rows.stop))


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
    tasks = map_tasks(blocks, hypotheses, enhancement, left)
    running = Running(hypotheses, [one.largest[enhancement.names[-1]] for one in found], left)
    # A batch has a task for each part of a block: one for each thread keeps all busy, and few maps in memory.
    for key, parts in track(
        run(tasks, label="permute maps", ahead=1),
        total=len(left),
        description="maps",
        visible=progress,
        note=running.text,
    ):
        rows = cast("range", key)
        checkpoint.save("maps", rows, pack(parts))
        _put(found, rows, parts)
        running.finish(rows)


def _put(found: Sequence[Found], rows: range, parts: Sequence[Arrays]) -> None:
    for whole, part in zip(found, parts, strict=True):
        for name, values in part.items():
            whole.largest[name][rows.start : rows.start + len(values)] = values


def map_tasks(
    blocks: Sequence[Columns], hypotheses: Sequence[Hypothesis], enhancement: Enhancement, batches: Iterable[range]
) -> Iterator[Task]:
    """Tasks of batches of relabellings: one for each block, and one that puts their maps together."""
    tested, how = shared("permute-hypotheses", hypotheses), shared("permute-statistics", enhancement)
    numbers = shared("permute-places", tuple(block.numbers for block in blocks))
    for rows in batches:
        pieces = [call("permute-maps", map_block, block.values, tested, how, rows.start, rows.stop) for block in blocks]
        yield Task(rows, call("enhance-maps", largest_of_maps, pieces, numbers, tested, how))


def fingerprint(blocks: Sequence[Columns]) -> str:
    """Of all values of the blocks: of the store that they come from where that tells it, else they are read."""
    told = stored_fingerprint(blocks)
    if told is not None:
        return told
    tasks = (Task(number, call("fingerprint-block", _digest, block.values)) for number, block in enumerate(blocks))
    found = {int(str(key)): part for key, part in run(tasks, label="fingerprint")}
    return digest(np.array([found[number] for number in range(len(blocks))]), *(block.numbers for block in blocks))


def _digest(values: Stored | NDArray[np.floating]) -> str:
    return digest(column_values(values))
