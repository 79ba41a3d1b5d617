"""Cohorts and results in object stores: a real S3 protocol server on loopback, and any fsspec protocol."""

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import voxstack as vx
from killed_processes import killed
from remote_stores import LOCK, Remote
from small_cohorts import MAPS, content, noise, save
from voxstack.cli import cli
from voxstack.errors import StoreError


@pytest.fixture(scope="module")
def participants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = vx.simulate_cohort(tmp_path_factory.mktemp("cohort"), n_subjects=6, resolution=12)
    return folder / "participants.tsv"


def test_s3_holds_the_same_cohort_and_result_as_a_folder(
    s3: dict[str, Any], participants: Path, tmp_path: Path
) -> None:
    maps = {"effect": "effect_path"}
    local = vx.stack(participants, tmp_path / "cohort.zarr", maps=maps)
    remote = vx.stack(participants, "s3://bucket/cohort.zarr", maps=maps, storage_options=s3)
    xr.testing.assert_identical(remote.compute(), local.compute())

    result = vx.contrast(vx.fit_glm(remote, "~ age"), "age")
    vx.save_results(result, "s3://bucket/result.zarr", storage_options=s3)
    opened = vx.open_results("s3://bucket/result.zarr", storage_options=s3)
    expected = vx.contrast(vx.fit_glm(local, "~ age"), "age")
    np.testing.assert_array_equal(opened["stat"], expected["stat"])


def test_a_permutation_test_goes_on_from_a_checkpoint_in_s3(s3: dict[str, Any], participants: Path) -> None:
    cohort = vx.stack(participants, "s3://bucket/p.zarr", maps={"effect": "effect_path"}, storage_options=s3)
    options: dict[str, Any] = {
        "n_permutations": 40,
        "checkpoint": "s3://bucket/voxels-checkpoint",
        "storage_options": s3,
    }
    first = vx.permutation_test(cohort, "~ age", "age", **options)
    kept = Remote("", s3).content("s3://bucket/voxels-checkpoint")
    assert "run.json" in kept
    again = vx.permutation_test(cohort, "~ age", "age", **options)
    assert Remote("", s3).content("s3://bucket/voxels-checkpoint") == kept
    xr.testing.assert_identical(first, again)
    local = vx.permutation_test(cohort, "~ age", "age", n_permutations=40)
    xr.testing.assert_identical(first, local)


def test_s3_store_is_not_written_over_unless_asked(s3: dict[str, Any], participants: Path) -> None:
    maps = {"effect": "effect_path"}
    vx.stack(participants, "s3://bucket/twice.zarr", maps=maps, storage_options=s3)
    with pytest.raises(StoreError, match=r"s3://bucket/twice\.zarr exists already"):
        vx.stack(participants, "s3://bucket/twice.zarr", maps=maps, storage_options=s3)
    again = vx.stack(participants, "s3://bucket/twice.zarr", maps=maps, storage_options=s3, overwrite=True)
    assert again.sizes["subject"] == 6


def test_missing_s3_store_is_said(s3: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match=r"There is no cohort at s3://bucket/nothing\.zarr"):
        vx.open_cohort("s3://bucket/nothing.zarr", storage_options=s3)
    with pytest.raises(StoreError, match="there is no bucket or container elsewhere"):
        vx.open_cohort("s3://elsewhere/cohort.zarr", storage_options=s3)
    encrypted_only = {**s3, "client_options": {"allow_http": False}}
    with pytest.raises(StoreError, match="obstore speaks https only, unless storage_options allow http"):
        vx.open_cohort("s3://bucket/cohort.zarr", storage_options=encrypted_only)
    Remote("", s3).put("s3://bucket/other.zarr", "a", b"1")
    with pytest.raises(StoreError, match=r"other\.zarr is not a voxstack cohort: it has no zarr\.json"):
        vx.open_cohort("s3://bucket/other.zarr", storage_options=s3)


def test_other_readers_of_zarr_read_the_bucket(s3: dict[str, Any], tmp_path: Path) -> None:
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    url = f"s3://bucket/{tmp_path.name}"
    volumes = noise(4, (40, 33, 35))
    save(tmp_path / "m", volumes)
    vx.stack(tmp_path / "m" / "participants.tsv", url, maps=MAPS, storage_options=s3)
    store = ObjectStore(from_url(url, **s3), read_only=True)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")["effect"][:], volumes)
    np.testing.assert_array_equal(xr.open_zarr(store)["effect"].values, volumes)
    assert {key for key in Remote("", s3).content(url) if key.startswith("effect/c")} == {
        "effect/c/0/0/0/0",
        "effect/c/0/0/0/1",
    }


def test_the_command_line_takes_credentials_from_the_environment(
    s3: dict[str, Any], participants: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("access_key_id", "secret_access_key"):
        monkeypatch.setenv(f"AWS_{name}".upper(), s3[f"aws_{name}"])
    for name, value in (("ENDPOINT", s3["endpoint"]), ("REGION", "us-east-1"), ("ALLOW_HTTP", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)

    def run(*words: object) -> str:
        done = CliRunner().invoke(cli, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    store = "s3://bucket/cli.zarr"
    run("stack", participants, store, "--map", "effect=effect_path", "--quiet")
    told = run("info", store)
    assert "in shards of 64 x " in told
    assert " objects, " in told
    run("fit", store, "--design", "~ age", "--contrast", "age", "--output", tmp_path / "out", "--quiet")
    assert (tmp_path / "out" / "results.zarr").is_dir()


@pytest.mark.parametrize("protocol", ["memory", "local"])
def test_other_protocols_go_through_fsspec(protocol: str, participants: Path, tmp_path: Path) -> None:
    """That of local files too, if it is asked for by another name than file."""
    maps = {"effect": "effect_path"}
    local = vx.stack(participants, tmp_path / "cohort.zarr", maps=maps, shard=True)
    url = f"{protocol}://{tmp_path}/remote.zarr"
    options = {"auto_mkdir": True} if protocol == "local" else {}
    remote = vx.stack(participants, url, maps=maps, storage_options=options)
    np.testing.assert_array_equal(remote["effect"], local["effect"])
    if protocol == "local":
        assert content(tmp_path / "remote.zarr") == content(tmp_path / "cohort.zarr")


SLOW = 0.15  # seconds that each batch takes longer


def work(table: Path, url: str, options: dict[str, Any]) -> None:
    """In a process of its own: batches of 2 subjects, one after the other, none of them at once."""
    from voxstack import plan
    from voxstack.store import building

    write = building.write_batch

    def slowly(batch: Any) -> None:
        write(batch)
        time.sleep(SLOW)

    building.write_batch = slowly
    plan.SUBJECTS_PER_CHUNK = 2
    with dask.config.set(num_workers=1):
        vx.stack(table, url, maps=MAPS, storage_options=options)


@pytest.mark.parametrize("done", [1, 3])
def test_a_writer_that_was_killed_is_gone_on_with(
    s3: dict[str, Any], tmp_path: Path, done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL, when so many batches were done. Nothing shows in the end that anything happened."""
    monkeypatch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", 2)
    save(tmp_path / "m", noise(10, (33, 20, 40)))
    table, remote = tmp_path / "m" / "participants.tsv", Remote(f"s3://bucket/{tmp_path.name}", s3)
    url = f"{remote.root}/c"
    vx.stack(table, f"{remote.root}/undisturbed", maps=MAPS, storage_options=s3)

    def wait(happened: Callable[[], bool]) -> None:
        stop = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < stop
            time.sleep(0.02)

    marks = [f"stack.partial/marks/{batch}" for batch in range(done)]
    code = killed(work, table, url, s3, when=partial(wait, lambda: set(marks) <= remote.content(url).keys()))
    assert code == -signal.SIGKILL
    left = remote.content(url)
    assert "zarr.json" not in left
    with pytest.raises(StoreError, match=r"is being written by another call, process .* last sign of life was"):
        vx.stack(table, url, maps=MAPS, storage_options=s3)
    told = json.loads(left[LOCK])
    remote.put(url, LOCK, json.dumps({**told, "beat": told["beat"] - 121}).encode())
    with pytest.raises(StoreError, match=r"has a stale lock: process .* no sign of life for 2 minutes"):
        vx.stack(table, url, maps=MAPS, storage_options=s3)

    vx.stack(table, url, maps=MAPS, storage_options=s3, break_lock=True)
    assert remote.content(url) == remote.content(f"{remote.root}/undisturbed")
    assert "<Upload>" not in remote.unfinished_uploads()
