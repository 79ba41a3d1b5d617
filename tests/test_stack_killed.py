"""A call of `stack` that is killed and called again leaves what an undisturbed one does, byte for byte."""

import shutil
import signal
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from killed_processes import killed
from small_cohorts import AFFINE, content

N, SHAPE = 40, (24, 36, 20)
CHUNK_OF_8 = {"voxstack.memory-limit": "10MB", "num_workers": 2}
MAPS = {"effect": "effect", "variance": "variance"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(N):
        paths = {}
        for name in MAPS:
            volume = rng.standard_normal(SHAPE).astype("float32")
            volume[rng.random(SHAPE) < 0.01] = np.nan
            volume[0] = 0
            paths[name] = str(folder / f"{number}_{name}.nii.gz")
            nib.Nifti1Image(volume, AFFINE).to_filename(paths[name])
        rows.append({"participant_id": f"sub-{number}", "age": 20.0 + number, "site": "ab"[number % 2], **paths})
    return pd.DataFrame(rows)


def work(table: pd.DataFrame, store: Path, options: dict[str, Any]) -> None:
    with dask.config.set(CHUNK_OF_8):
        vx.stack(table, store, maps=MAPS, mask=0.5, **options)


@pytest.fixture(scope="module")
def undisturbed(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What the stores hold after each kind of call that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with dask.config.set(CHUNK_OF_8):
        stores = {}
        vx.stack(table, folder / "new", maps=MAPS, mask=0.5)
        stores["new"] = content(folder / "new")
        for goal in ("append", "overwrite"):
            vx.stack(table[:21], folder / goal, maps=MAPS, mask=0.5)
            rows = table[21:] if goal == "append" else table
            vx.stack(rows, folder / goal, maps=MAPS, mask=0.5, **{goal: True})
            stores[goal] = content(folder / goal)
    return stores


def test_memory_makes_small_batches(undisturbed: dict[str, Any]) -> None:
    """Else the kills below would mostly hit the only batch."""
    rows = {key.split("/")[2] for key in undisturbed["new"] if key.startswith("effect/c/")}
    assert len(rows) == N // 8


def prepare(goal: str, table: pd.DataFrame, store: Path) -> tuple[pd.DataFrame, dict[str, Any], xr.Dataset | None]:
    if goal == "new":
        return table, {}, None
    with dask.config.set(CHUNK_OF_8):
        old = vx.stack(table[:21], store, maps=MAPS, mask=0.5)
    return (table[21:] if goal == "append" else table), {goal: True}, old.load()


def check_readable(store: Path, old: xr.Dataset | None, new: int) -> None:
    """Readers see no cohort, the old or the new one."""
    try:
        seen = vx.open_cohort(store)
    except vx.errors.StoreError:
        assert old is None
        return
    if old is not None and seen.sizes["subject"] == old.sizes["subject"]:
        xr.testing.assert_identical(seen.load(), old)
    else:
        assert seen.sizes["subject"] == new
        assert np.isfinite(seen["effect"].values[-1]).mean() > 0.9


@pytest.mark.parametrize("goal", ["new", "append", "overwrite"])
def test_killed_at_random_moments(
    goal: str,
    table: pd.DataFrame,
    undisturbed: dict[str, dict[str, bytes]],
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(["new", "append", "overwrite"].index(goal))
    kills = 20 if goal == "new" else 5
    durations = []
    for warm in ("cold", "warm"):
        rows, options, _ = prepare(goal, table, tmp_path / warm)
        start = time.perf_counter()
        assert killed(work, rows, tmp_path / warm, options) == 0
        durations.append(time.perf_counter() - start)
    hits = 0
    for number in range(3 * kills):  # some calls are done before they are killed
        store = tmp_path / f"{number}"
        rows, options, old = prepare(goal, table, store)
        moment = partial(time.sleep, rng.uniform(0.1, 0.95) * durations[-1])
        hit = killed(work, rows, store, options, when=moment) == -signal.SIGKILL
        check_readable(store, old, N)
        if hit and content(store) != undisturbed[goal]:
            assert killed(work, rows, store, options) == 0, number
        assert content(store) == undisturbed[goal], number
        hits += hit
        if hits == kills:
            return
    pytest.fail(f"only {hits} of {3 * kills} calls were killed")


class Frozen(BaseException):
    """Nothing can be written any more, as after a SIGKILL; no cleaning up either."""


def freeze(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let so many changes of files through; the list counts them."""
    changes = [0]

    def limited(change: Callable[..., Any]) -> Callable[..., Any]:
        def changing(path: Path, *arguments: Any, **named: Any) -> Any:
            changes[0] += 1
            if changes[0] > after:
                raise Frozen
            return change(path, *arguments, **named)

        return changing

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(Path, name, limited(getattr(Path, name)))
    return changes


@pytest.mark.parametrize("goal", ["new", "append", "overwrite"])
def test_stopped_after_every_single_write(
    goal: str, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, one_at_a_time = table[:20], {"voxstack.memory-limit": "10MB", "num_workers": 1}
    rows = few[11:] if goal == "append" else few
    options = {} if goal == "new" else {goal: True}

    def go(store: Path) -> None:
        vx.stack(rows, store, maps={"effect": "effect"}, mask=0.5, **options)

    with dask.config.set(one_at_a_time):
        old = None
        if goal != "new":
            old = vx.stack(table[:11], tmp_path / "old", maps={"effect": "effect"}, mask=0.5).load()
            shutil.copytree(tmp_path / "old", tmp_path / "reference")
        with monkeypatch.context() as patch:
            changes = freeze(patch, after=10**6)
            go(tmp_path / "reference")
        expected = content(tmp_path / "reference")
        assert changes[0] > 25
        for number in {*range(0, changes[0], 4), *range(changes[0] - 12, changes[0])}:
            store = tmp_path / f"{number}"
            if old is not None:
                shutil.copytree(tmp_path / "old", store)
            with monkeypatch.context() as patch:
                freeze(patch, after=number)
                with pytest.raises(Frozen):
                    go(store)
            check_readable(store, old, 20)
            if content(store) != expected:
                go(store)
            assert content(store) == expected, number


@pytest.mark.parametrize("goal", ["new", "append", "overwrite"])
def test_a_call_that_begins_anew_is_stopped_and_the_first_one_goes_on(
    goal: str, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sweep of the other call had removed by then is not taken for done."""
    few = table[:30]
    rows = few[11:] if goal == "append" else few
    options = {} if goal == "new" else {goal: True}

    def go(store: Path, rows: pd.DataFrame = rows) -> None:
        vx.stack(rows, store, maps={"effect": "effect"}, mask=0.5, **options)

    def stopped(store: Path, after: int, rows: pd.DataFrame = rows) -> None:
        with monkeypatch.context() as patch:
            freeze(patch, after=after)
            with pytest.raises(Frozen):
                go(store, rows)

    def plan(store: Path) -> bytes | None:
        path = store / "stack.partial" / "plan.json"
        return path.read_bytes() if path.exists() else None

    with dask.config.set({"voxstack.memory-limit": "10MB", "num_workers": 1}):
        begun, reference = tmp_path / "begun", tmp_path / "reference"
        if goal != "new":
            vx.stack(table[:11], begun, maps={"effect": "effect"}, mask=0.5)
            shutil.copytree(begun, reference)
        go(reference)
        expected = content(reference)
        stopped(begun, after=60)
        assert len(list((begun / "stack.partial" / "marks").iterdir())) == 2
        number, there = 0, plan(begun)
        while there == plan(begun):
            store = tmp_path / f"{number}"
            shutil.copytree(begun, store)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "A stopped call was writing other subjects")
                stopped(store, number, rows[:-1])
            there = plan(store)
            go(store)
            assert content(store) == expected, number
            number += 1
        assert number > 12
