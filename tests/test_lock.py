"""One writer at a time: a folder is locked until its process ends, an object store by a key that is renewed."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from zarr.storage import FsspecStore

import voxstack as vx
from remote_stores import LOCK, Remote
from small_cohorts import AFFINE, MAPS, break_inside, content, noise, save
from voxstack.errors import InputError, StoreError
from voxstack.store.location import Location
from voxstack.store.lock import one_writer
from voxstack.store.writer import write_batch

HERE = rf"process {os.getpid()} on {socket.gethostname()}"


def in_memory(n: int, seed: int = 0, first: int = 0) -> pd.DataFrame:
    images = [nib.Nifti1Image(volume, AFFINE) for volume in noise(n, seed=seed)]
    return pd.DataFrame({"participant_id": [f"sub-{first + i}" for i in range(n)], "path": images})


class TestFolder:
    code = """
import sys, time
import voxstack as vx
from voxstack.store import building

def stay(batch):
    print("writing", flush=True)
    time.sleep(60)

building.write_batch = stay
vx.stack(sys.argv[1], sys.argv[2], maps={"effect": "path"})
"""

    def test_another_process_is_named_and_its_lock_ends_with_it(self, tmp_path: Path) -> None:
        save(tmp_path / "m", noise(3))
        arguments = [tmp_path / "m" / "participants.tsv", tmp_path / "c"]
        with subprocess.Popen(
            [sys.executable, "-c", self.code, *arguments], stdout=subprocess.PIPE, text=True
        ) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == "writing\n"
                for options in ({}, {"break_lock": True}, {"overwrite": True}):
                    with pytest.raises(StoreError) as refused:
                        vx.stack(in_memory(2), tmp_path / "c", maps=MAPS, **options)
                    assert "c is being written by another call" in str(refused.value)
                    assert f"process {other.pid} on {socket.gethostname()}" in str(refused.value)
                with pytest.raises(StoreError, match="stacking was stopped, or is going on"):
                    vx.open_cohort(tmp_path / "c")
                vx.stack(in_memory(2), tmp_path / "elsewhere", maps=MAPS)
            finally:
                other.kill()
        assert other.returncode == -signal.SIGKILL
        cohort = vx.stack(arguments[0], arguments[1], maps=MAPS)
        np.testing.assert_array_equal(cohort["effect"].values, noise(3))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "elsewhere", "m"]

    def test_a_file_that_nobody_holds_is_in_nobodys_way(self, tmp_path: Path) -> None:
        (tmp_path / "c.lock").write_text(json.dumps({"host": "elsewhere", "process": 1}))
        vx.stack(in_memory(2), tmp_path / "c", maps=MAPS)
        assert [path.name for path in tmp_path.iterdir()] == ["c"]

    def test_it_ends_with_an_error_too(self, tmp_path: Path) -> None:
        table = in_memory(2)
        table["path"] = [table["path"][0], nib.Nifti1Image(noise(1)[0] * np.inf, AFFINE)]
        with pytest.raises(InputError, match="infinite"):
            vx.stack(table, tmp_path / "c", maps=MAPS)
        assert not (tmp_path / "c.lock").exists()
        vx.stack(in_memory(2), tmp_path / "c", maps=MAPS)

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    @pytest.mark.parametrize("left", [False, True])
    def test_a_file_system_without_locks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, left: bool
    ) -> None:
        def flock(descriptor: int, operation: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("voxstack.store.lock.fcntl.flock", flock)
        if left:
            (tmp_path / "c.lock").touch()
        with pytest.raises(StoreError, match=r"c cannot be locked .*another file system, or .*\(flock\)"):
            vx.stack(in_memory(2), tmp_path / "c", maps=MAPS)
        assert [path.name for path in tmp_path.iterdir()] == ["c.lock"] * left

    def test_a_lock_that_somebody_removed_is_not_missed(self, tmp_path: Path) -> None:
        with one_writer(Location.of(tmp_path / "c")):
            (tmp_path / "c.lock").unlink()
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(StoreError, match=r"file/c cannot be written"):
            vx.stack(in_memory(2), tmp_path / "file" / "c", maps=MAPS)


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    if request.param == "memory":
        return Remote(f"memory://{tmp_path.name}")
    return Remote(f"s3://bucket/{tmp_path.name}", request.getfixturevalue("s3"))


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something while a call of stack has just written its first batch."""
    write: Any = write_batch

    def plan(deed: Callable[[], object]) -> None:
        def writing(batch: Any) -> Any:
            monkeypatch.setattr("voxstack.store.building.write_batch", write)
            result = write(batch)
            deed()
            return result

        monkeypatch.setattr("voxstack.store.building.write_batch", writing)

    return plan


class TestObjectStore:
    def stack(self, remote: Remote, table: pd.DataFrame | Path, name: str = "c", **options: Any) -> Any:
        return vx.stack(table, f"{remote.root}/{name}", maps=MAPS, storage_options=remote.options, **options)

    def test_a_second_writer_is_refused_and_the_lock_goes_at_the_end(
        self, remote: Remote, meanwhile: Callable[[Callable[[], object]], None]
    ) -> None:
        url, told = f"{remote.root}/c", []

        def second() -> None:
            told.append(remote.lock(url))
            with pytest.raises(StoreError, match=rf"being written by another call, {HERE}.*0 seconds ago"):
                self.stack(remote, in_memory(2))
            assert remote.lock(url) == told[0]

        meanwhile(second)
        cohort = self.stack(remote, in_memory(3))
        assert told[0]["process"] == os.getpid()
        assert told[0]["host"] == socket.gethostname()
        np.testing.assert_array_equal(cohort["effect"].values, noise(3))
        assert not {key for key in remote.content(url) if "lock" in key or "partial" in key}

    @pytest.mark.parametrize("remote", ["memory"], indirect=True)
    def test_the_lock_goes_after_an_error(self, remote: Remote) -> None:
        table = in_memory(2)
        table["path"] = [table["path"][0], nib.Nifti1Image(noise(1)[0] * np.inf, AFFINE)]
        with pytest.raises(InputError, match="infinite"):
            self.stack(remote, table)
        assert LOCK not in remote.content(f"{remote.root}/c")

    @pytest.mark.parametrize(
        ("remote", "silent", "stale"),
        [("memory", 100, False), ("memory", 121, True), ("s3", 3600, True)],
        indirect=["remote"],
    )
    def test_a_lock_that_was_left_is_explained_and_can_be_broken(
        self, remote: Remote, silent: float, stale: bool
    ) -> None:
        """Two minutes without a sign of life make it stale; it is taken on request alone."""
        told = remote.leave_lock(f"{remote.root}/c", silent=silent)
        with pytest.raises(StoreError) as refused:
            self.stack(remote, in_memory(3))
        message = str(refused.value)
        assert "process 4711 on node-17" in message
        assert "break_lock=True (--break-lock)" in message
        assert ("stale lock" in message) == stale
        assert (f"for {silent / 60:.0f} minutes" if stale else f"{silent} seconds ago") in message
        assert remote.content(f"{remote.root}/c") == {LOCK: json.dumps(told).encode()}
        cohort = self.stack(remote, in_memory(3), break_lock=True)
        np.testing.assert_array_equal(cohort["effect"].values, noise(3))
        assert LOCK not in remote.content(f"{remote.root}/c")

    @pytest.mark.parametrize("remote", ["memory"], indirect=True)
    def test_break_lock_where_there_is_none(self, remote: Remote) -> None:
        assert self.stack(remote, in_memory(3), break_lock=True).sizes["subject"] == 3

    @pytest.mark.parametrize("held", [b"", b"{", b"[]"])
    def test_a_lock_that_cannot_be_read_holds_too(self, tmp_path: Path, held: bytes) -> None:
        remote = Remote(f"memory://{tmp_path.name}")
        remote.put(f"{remote.root}/c", LOCK, held)
        with pytest.raises(StoreError, match=r"another call may be writing.*break_lock=True"):
            self.stack(remote, in_memory(3))
        assert self.stack(remote, in_memory(3), break_lock=True).sizes["subject"] == 3

    def test_who_lost_the_lock_stops_before_publishing(
        self, remote: Remote, meanwhile: Callable[[Callable[[], object]], None]
    ) -> None:
        url = f"{remote.root}/c"
        old = self.stack(remote, in_memory(3)).load()
        root, told = remote.content(url)["zarr.json"], []
        meanwhile(lambda: told.append(remote.leave_lock(url, silent=0)))
        with pytest.raises(StoreError, match=r"has taken the lock of this store.*Nothing was published"):
            self.stack(remote, in_memory(4, seed=1), overwrite=True)
        assert remote.content(url)["zarr.json"] == root
        assert remote.lock(url) == told[0]
        assert vx.open_cohort(url, storage_options=remote.options).load().identical(old)

    @pytest.mark.parametrize("remote", ["memory"], indirect=True)
    def test_of_two_writers_the_one_that_took_the_lock_publishes(
        self, remote: Remote, meanwhile: Callable[[Callable[[], object]], None]
    ) -> None:
        meanwhile(lambda: self.stack(remote, in_memory(5, seed=1), break_lock=True))
        with (
            pytest.warns(vx.errors.VoxstackWarning, match="begins anew"),
            pytest.raises(StoreError, match=r"taken the lock|not being written by this call any more"),
        ):
            self.stack(remote, in_memory(4))
        cohort = vx.open_cohort(f"{remote.root}/c", storage_options=remote.options)
        np.testing.assert_array_equal(cohort["effect"].values, noise(5, seed=1))
        self.stack(remote, in_memory(5, seed=1), "alone")
        assert remote.content(f"{remote.root}/c") == remote.content(f"{remote.root}/alone")


def test_of_several_that_come_at_once_one_gets_it(s3: dict[str, Any], tmp_path: Path) -> None:
    for number in range(15):
        location = Location.of(f"s3://bucket/{tmp_path.name}/{number}", s3)
        start, held, refused = threading.Barrier(4), [], []

        def come(location: Location = location, start: Any = start, held: Any = held, refused: Any = refused) -> None:
            start.wait()
            try:
                with one_writer(location):
                    held.append(location)
                    start.wait(20)  # nobody leaves before all have asked
            except StoreError:
                refused.append(location)
                start.wait(20)

        threads = [threading.Thread(target=come) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert (len(held), len(refused)) == (1, 3)
        assert Remote("", s3).content(location.url) == {}


class TestHeartbeat:
    """In memory, every hundredth of a second."""

    @pytest.fixture
    def remote(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
        monkeypatch.setattr("voxstack.store.lock._BEAT", 0.01)
        return Remote(f"memory://{tmp_path.name}")

    def wait(self, happened: Callable[[], bool]) -> bool:
        stop = time.monotonic() + 3
        while not happened() and time.monotonic() < stop:
            time.sleep(0.01)
        return happened()

    def test_the_lock_is_renewed(self, remote: Remote, meanwhile: Callable[[Callable[[], object]], None]) -> None:
        url, begun = f"{remote.root}/c", time.time()

        def later() -> None:
            first = remote.lock(url)
            assert begun <= first["beat"] <= time.time()
            for _ in range(2):
                beat = remote.lock(url)["beat"]
                assert self.wait(lambda beat=beat: remote.lock(url)["beat"] > beat)
            assert {**remote.lock(url), "beat": 0} == {**first, "beat": 0}

        meanwhile(later)
        vx.stack(in_memory(3), url, maps=MAPS)
        time.sleep(0.05)
        assert LOCK not in remote.content(url)

    def test_a_lock_that_was_taken_is_left_alone(
        self, remote: Remote, meanwhile: Callable[[Callable[[], object]], None]
    ) -> None:
        url, told = f"{remote.root}/c", []

        def taken() -> None:
            told.append(remote.leave_lock(url, silent=0))
            time.sleep(0.1)

        meanwhile(taken)
        with pytest.raises(StoreError, match="has taken the lock"):
            vx.stack(in_memory(3), url, maps=MAPS)
        assert remote.lock(url) == told[0]

    def test_one_renewal_that_fails_is_not_the_last(
        self,
        remote: Remote,
        meanwhile: Callable[[Callable[[], object]], None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A network that is down for a moment must not make a run look dead that has hours to go."""
        url = f"{remote.root}/c"
        put: Any = vx.store.keys.put

        def down_for_a_moment() -> None:
            failed: list[bool] = []

            def failing(store: Any, keys: Any) -> None:
                if LOCK in keys and not failed:
                    failed.append(True)
                    raise OSError("the network is down")
                put(store, keys)

            monkeypatch.setattr("voxstack.store.keys.put", failing)
            assert self.wait(lambda: bool(failed))
            beat = remote.lock(url)["beat"]
            assert self.wait(lambda: remote.lock(url)["beat"] > beat)

        meanwhile(down_for_a_moment)
        vx.stack(in_memory(3), url, maps=MAPS)


class TestStoppedInAnObjectStore:
    @pytest.mark.parametrize(
        ("remote", "goal"),
        [("memory", "append"), ("s3", "new")],
        indirect=["remote"],
    )
    def test_called_again_it_holds_the_keys_and_bytes_of_an_undisturbed_folder(
        self, remote: Remote, goal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Batches of two subjects, the last of which cannot be read at first."""
        monkeypatch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", 2)
        volumes = noise(5, (20, 40, 40))
        save(tmp_path / "m", volumes)
        table, broken = tmp_path / "m" / "participants.tsv", tmp_path / "m" / "sub-04_effect.nii.gz"
        good, options = broken.read_bytes(), {} if goal == "new" else {goal: True}
        url = f"{remote.root}/c"

        def stack(place: Any, rows: Any, **options: Any) -> Any:
            return vx.stack(rows, place, maps=MAPS, storage_options=remote.options, **options)

        for place in (url, tmp_path / "c") if options else ():
            images = [nib.Nifti1Image(volume, AFFINE) for volume in noise(3, (20, 40, 40), seed=1)]
            stack(place, pd.DataFrame({"participant_id": list("abc"), "path": images}), shard=True)
        break_inside(broken)
        with pytest.raises(InputError, match=r"sub-04_effect\.nii\.gz"):
            stack(url, table, **options)
        assert "stack.partial/plan.json" in remote.content(url)
        assert LOCK not in remote.content(url)
        broken.write_bytes(good)
        cohort = stack(url, table, **options)
        stack(tmp_path / "c", table, **options, **({} if options else {"shard": True}))
        assert remote.content(url) == content(tmp_path / "c")
        np.testing.assert_array_equal(cohort["effect"].values[-5:], volumes)

    class Stopped(BaseException):
        """As by SIGKILL."""

    def stop(self, patch: pytest.MonkeyPatch, after: int) -> list[int]:
        """Let so many keys be written or removed; the list counts them."""
        changes = [0]

        def limited(change: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
            async def changing(*arguments: Any, **named: Any) -> None:
                changes[0] += 1
                if changes[0] > after:
                    raise self.Stopped
                await change(*arguments, **named)

            return changing

        for name in ("set", "delete"):
            patch.setattr(FsspecStore, name, limited(getattr(FsspecStore, name)))
        return changes

    @pytest.mark.parametrize("goal", ["append", "overwrite"])
    def test_stopped_after_any_key(self, goal: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing can be removed any more either, so the lock stays, too."""
        monkeypatch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", 2)
        save(tmp_path / "m", noise(5))
        table, remote = tmp_path / "m" / "participants.tsv", Remote(f"memory://{tmp_path.name}")
        options = {goal: True}

        def begin(name: str) -> str:
            vx.stack(in_memory(3, first=10), f"{remote.root}/{name}", maps=MAPS)
            return f"{remote.root}/{name}"

        undisturbed = begin("undisturbed")
        with monkeypatch.context() as patch:
            changes = self.stop(patch, after=10**6)
            vx.stack(table, undisturbed, maps=MAPS, **options)
        expected = remote.content(undisturbed)
        assert changes[0] > 30
        for after in {*range(1, changes[0], 20), changes[0] - 2, changes[0] - 1}:
            url = begin(f"{after}")
            with monkeypatch.context() as patch:
                self.stop(patch, after)
                with pytest.raises(self.Stopped):
                    vx.stack(table, url, maps=MAPS, **options)
            left = remote.content(url)
            assert LOCK in left
            if {key: held for key, held in left.items() if key != LOCK} != expected:
                vx.stack(table, url, maps=MAPS, break_lock=True, **options)
                assert remote.content(url) == expected, after
