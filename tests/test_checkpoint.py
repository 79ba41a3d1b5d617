"""A permutation test that is stopped, in whatever way, goes on where it was, to the same bits."""

import errno
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from killed_processes import killed
from small_cohorts import AFFINE, content
from voxstack.errors import InputError, StoreError
from voxstack.inference.checkpoint import Checkpoint
from voxstack.plan.permutation import Schedule
from voxstack.store import keys
from voxstack.store.location import Location

N, SHAPE = 12, (7, 6, 5)
OPTIONS: dict[str, Any] = {"statistics": ["voxel", "tfce", "cluster_extent"], "cluster_forming_p": 0.05}


def cohort(seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"age": np.random.default_rng(1).normal(size=N)}, index=[f"sub-{i}" for i in range(N)])
    values = rng.normal(size=(N, *SHAPE))
    return vx.from_arrays({"effect": values}, affine=AFFINE, participants=table).chunk({"subject": 5, "x": 4, "y": 3})


def run(checkpoint: Path | None, n: int = 300, seed: int = 0, **options: Any) -> xr.Dataset:
    given = {**OPTIONS, **options}
    design = given.pop("design", "~ age")
    return vx.permutation_test(
        cohort(seed), design, ["age", "Intercept"], n_permutations=n, checkpoint=checkpoint, **given
    )


def make_tasks_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of at most 25 voxels, windows of 64 relabellings, and batches of 16."""
    small = Schedule(part=25, batch=16, window=64)
    monkeypatch.setattr("voxstack.plan.permutation.PermutationWork.schedule", lambda *_: small)


small_tasks = pytest.fixture(autouse=True)(make_tasks_small)


def same(first: xr.Dataset, second: xr.Dataset) -> None:
    for name in first.variables:
        np.testing.assert_array_equal(first[name], second[name], err_msg=str(name))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 7, 30, 38])
def test_what_was_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    whole = run(None)
    save, count = Checkpoint.save, iter(range(1000))

    def stop(self: Checkpoint, *arguments: Any) -> None:
        if next(count) == after:
            raise Stopped
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", stop)
        with pytest.raises(Stopped):
            run(tmp_path / "checkpoint")
    assert len(content(tmp_path / "checkpoint")) == 1 + after
    done = content(tmp_path / "checkpoint")
    same(whole, run(tmp_path / "checkpoint"))
    now = content(tmp_path / "checkpoint")
    assert {name: now[name] for name in done} == done
    with monkeypatch.context() as patch:  # all is there: nothing is computed
        patch.setattr(Checkpoint, "save", lambda *_: pytest.fail("computed again"))
        same(whole, run(tmp_path / "checkpoint"))


def work(checkpoint: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:  # of this process
        make_tasks_small(patch)
        run(checkpoint, 2000)


def wait_for(files: int, checkpoint: Path) -> None:
    deadline = time.monotonic() + 300
    while sum(1 for _ in checkpoint.rglob("*-*")) < files:
        assert time.monotonic() < deadline, f"there are not {files} files"
        time.sleep(0.003)


def test_killed_processes_leave_what_can_be_gone_on_with(tmp_path: Path) -> None:
    whole, checkpoint = run(None, 2000), tmp_path / "checkpoint"
    for files in (1, 30, 100):
        assert killed(work, checkpoint, when=partial(wait_for, files, checkpoint)) == -signal.SIGKILL
    left = content(checkpoint)
    same(whole, run(checkpoint, 2000))
    now = content(checkpoint)
    assert not [name for name in now if name.endswith(".partial")]
    assert len(left) < len(now), "the last process was killed before it was done"


@pytest.mark.parametrize(("first", "more"), [(64, 300), (100, 300), (37, 65), (300, 100)])
def test_a_longer_run_goes_further(tmp_path: Path, first: int, more: int) -> None:
    run(tmp_path / "checkpoint", first)
    longer = run(tmp_path / "checkpoint", more)
    whole = run(None, more)
    for name in whole.data_vars:
        np.testing.assert_allclose(longer[name], whole[name], rtol=1e-12, atol=1e-12, err_msg=str(name))
    for name in [name for name in whole.data_vars if "_p" in str(name)]:
        np.testing.assert_array_equal(longer[name], whole[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "the data, or their chunks, changed"),
        ({"design": "~ age + I(age**2)"}, "formula was '~ age' and is .*the design changed"),
        ({"alternative": "less"}, "alternative was 'two-sided' and is 'less'"),
        ({"cluster_forming_p": 0.01}, "cluster_forming_z was 1.64.* and is 2.32"),
        ({"method": "manly"}, "method was 'freedman-lane' and is 'manly'"),
        ({"tfce": vx.TFCE(H=1)}, "tfce was .* and is"),
        ({"relabelling": "flip"}, "relabelling was 'auto' and is 'flip'.*the order of relabellings changed"),
        ({"precision": "double"}, "precision was 'mixed' and is 'double'"),
    ],
)
def test_another_run_is_refused_with_what_changed(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run(tmp_path / "checkpoint", 20)
    before = content(tmp_path / "checkpoint")
    change = dict(change)
    design = {"design": change.pop("design")} if "design" in change else {}
    with pytest.raises(InputError, match=f"of another run: .*{said}"):
        run(tmp_path / "checkpoint", 20, change.pop("seed", 0), **change, **design)
    assert content(tmp_path / "checkpoint") == before


def test_other_order_of_relabellings_is_another_run(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"n_permutations": 20, "checkpoint": tmp_path / "checkpoint"}
    vx.permutation_test(cohort(), "~ age", "age", **arguments)
    with pytest.raises(InputError, match="seed was 0 and is 5"):
        vx.permutation_test(cohort(), "~ age", "age", seed=5, **arguments)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files, and no checkpoint"):
        run(tmp_path, 20)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="no checkpoint of a permutation test"):
        run(tmp_path, 20)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_in_a_store_it_would_be_removed_when_that_is_written_to(tmp_path: Path) -> None:
    vx.save_results(run(None, 10), tmp_path / "store")
    before = content(tmp_path / "store")
    with pytest.raises(InputError, match=r"would lie in the store .*store, which removes what is not its own"):
        run(tmp_path / "store" / "some" / "folder", 10)
    assert content(tmp_path / "store") == before


@pytest.mark.parametrize("left", [b"", b"what is this", 0.5], ids=["nothing", "other content", "half"])
def test_a_damaged_file_is_named(tmp_path: Path, left: bytes | float) -> None:
    run(tmp_path / "checkpoint", 20)
    part = tmp_path / "checkpoint" / "maps" / "0-16"
    whole = part.read_bytes()
    part.write_bytes(left if isinstance(left, bytes) else whole[: int(left * len(whole))])
    with pytest.raises(InputError, match=r"damaged: maps/0-16 is .*Remove that file, and call again\."):
        run(tmp_path / "checkpoint", 20)
    part.unlink()
    same(run(None, 20), run(tmp_path / "checkpoint", 20))


def test_a_file_that_was_cut_off_is_damaged_wherever_it_ends(tmp_path: Path) -> None:
    kept = Checkpoint.begin(Location.of(tmp_path), {}, {})
    arrays = {"maxima": np.arange(20.0), "counts": np.arange(12)}
    kept.save("maps", range(16), arrays)
    part = tmp_path / "maps" / "0-16"
    whole = part.read_bytes()
    for length in range(len(whole)):
        part.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged: maps/0-16 is "):
            kept.load("maps", range(16))
    part.write_bytes(whole)
    found = kept.load("maps", range(16))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_full_disk_leaves_the_checkpoint_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, count = keys.put, iter(range(1000))

    def full(*arguments: Any) -> None:
        if next(count) >= 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(keys, "put", full)
        with pytest.raises(StoreError, match=r"No space left.*What was done is kept\. Make room"):
            run(tmp_path / "checkpoint")
    assert len(content(tmp_path / "checkpoint")) == 9
    same(run(None), run(tmp_path / "checkpoint"))


def test_checkpoints_in_buckets(s3: dict[str, Any]) -> None:
    place: Any = "s3://bucket/checkpoint"
    run(place, 40, storage_options=s3)
    same(run(None, 100), run(place, 100, storage_options=s3))
