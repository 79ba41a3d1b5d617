"""A result that is replaced: readers see the old one or the new one, whatever stops the call that replaces it."""

import threading
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from zarr.storage import FsspecStore

import voxstack as vx
from remote_stores import LOCK, Remote
from small_cohorts import AFFINE, MAPS, content, in_memory, noise
from voxstack.errors import StoreError
from voxstack.store import keys
from voxstack.store.encoding import encode


@cache
def result(seed: int, columns: int = 1) -> xr.Dataset:
    """Part of a fit: maps along regressors and without, what has no place in space, and a single number."""
    rng = np.random.default_rng(seed)
    cohort = vx.from_arrays({"effect": noise(8, (6, 7, 8), seed=seed)}, affine=AFFINE)
    names = [f"c{number}" for number in range(columns)]
    design = xr.DataArray(rng.standard_normal((8, columns)), coords={"subject": cohort["subject"], "regressor": names})
    return vx.fit_glm(cohort, design).compute()[["beta", "residual_variance", "design", "condition_number"]]


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, Any]]:
    if request.param == "folder":
        return str(tmp_path / "r"), {}
    if request.param == "memory":
        return f"memory://{tmp_path.name}/r", {}
    return f"s3://bucket/{tmp_path.name}/r", {"storage_options": request.getfixturevalue("s3")}


def held(place: tuple[str, dict[str, Any]]) -> dict[str, bytes]:
    url, options = place
    return Remote("", options.get("storage_options", {})).content(url) if "://" in url else content(Path(url))


def test_it_is_the_new_one_and_nothing_else_is_left(place: tuple[str, dict[str, Any]]) -> None:
    url, options = place
    seen: set[str] = set()
    for number, columns in enumerate((1, 3, 2)):
        saved = result(number, columns)
        vx.save_results(saved, url, overwrite=number > 0, **options)
        xr.testing.assert_identical(vx.open_results(url, **options).compute(), saved)
        names = {key.partition("/")[0] for key in held(place)}
        assert names == {"zarr.json", *map(str, saved.variables)}
        chunks = {key for key in held(place) if not key.endswith("zarr.json")}
        assert not chunks & seen  # else a reader of the old one might find something of the new one
        seen = chunks


def test_one_that_was_opened_before_says_so(place: tuple[str, dict[str, Any]]) -> None:
    """Whatever is read of it: what was not read when it was opened is never that of the new one, nor missing."""
    url, options = place
    vx.save_results(result(0), url, **options)
    opened = vx.open_results(url, **options)
    vx.save_results(result(1), url, overwrite=True, **options)
    maps = [name for name, variable in opened.data_vars.items() if {"x", "y", "z"} <= set(variable.dims)]
    assert {"beta", "residual_variance"} <= set(maps)
    for name in maps:
        with pytest.raises(StoreError, match=r"r was replaced after it was opened\. Open it again"):
            opened[name].compute()
    for name in set(opened.data_vars) - set(maps):
        np.testing.assert_array_equal(opened[name].values, result(0)[name].values)


def test_what_is_read_meanwhile_is_of_one_of_them(s3: dict[str, Any], tmp_path: Path) -> None:
    """Cohorts and results whose values are all alike, so that a mixture shows."""
    cohorts, results = (f"s3://bucket/{tmp_path.name}/{name}" for name in ("c", "r"))
    calls: list[Callable[[], xr.DataArray]] = [
        lambda: vx.open_cohort(cohorts, storage_options=s3)["effect"],
        lambda: vx.open_results(results, storage_options=s3)["beta"],
    ]
    over, seen, wrong = threading.Event(), [[], []], []

    def constant(value: int) -> xr.Dataset:
        made = result(0)
        return made.assign(beta=made["beta"] * 0 + value, residual_variance=made["residual_variance"] * 0 + value)

    def write(value: int) -> None:
        image = nib.Nifti1Image(np.full((40, 6, 6), value, "float32"), AFFINE)
        table = pd.DataFrame({"participant_id": ["a", "b"], "path": [image, image]})
        replace = {"overwrite": value > 1, "storage_options": s3}
        vx.stack(table, cohorts, maps={"effect": "path"}, **replace)
        vx.save_results(constant(value), results, **replace)

    def read(number: int) -> None:
        while not over.is_set():
            try:
                values = np.unique(calls[number]().values)
            except StoreError as error:
                if "was replaced after it was opened" not in str(error):
                    wrong.append(error)
            else:
                seen[number].append(values.tolist())

    write(1)
    readers = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
    for reader in readers:
        reader.start()
    for value in (2, 3):
        write(value)
    over.set()
    for reader in readers:
        reader.join(60)
    assert wrong == []
    for values in seen:
        assert all(len(found) == 1 for found in values)
        numbers = [found[0] for found in values]
        assert numbers == sorted(numbers)  # never an old one again
        assert len(set(numbers)) > 1


class Stopped(BaseException):
    """As by SIGKILL."""


def stopping(patch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Let so many keys be written or removed; the list counts them."""
    changes = [0]

    def limited(change: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def changing(*arguments: Any, **named: Any) -> None:
            changes[0] += 1
            if changes[0] > after:
                raise Stopped
            await change(*arguments, **named)

        return changing

    for name in ("set", "delete"):
        patch.setattr(FsspecStore, name, limited(getattr(FsspecStore, name)))
    return changes


@pytest.mark.parametrize("overwrite", [False, True])
def test_stopped_after_any_key(overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be written or removed any more, so the lock stays too; the next call has to ask for it."""
    remote, old, new = Remote(f"memory://{tmp_path.name}"), result(0), result(1, columns=2)

    def begin(name: str) -> str:
        if overwrite:
            vx.save_results(old, f"{remote.root}/{name}")
        return f"{remote.root}/{name}"

    undisturbed = begin("undisturbed")
    with monkeypatch.context() as patch:
        changes = stopping(patch, after=10**6)
        vx.save_results(new, undisturbed, overwrite=overwrite)
    expected = remote.content(undisturbed)
    assert changes[0] > 20
    seen: list[str] = []
    for after in sorted({*range(0, changes[0], 5), *range(changes[0] - 4, changes[0])}):
        url = begin(f"{after}")
        with monkeypatch.context() as patch:
            stopping(patch, after)
            with pytest.raises(Stopped):
                vx.save_results(new, url, overwrite=overwrite)
        left = remote.content(url)
        assert LOCK in left
        there = "zarr.json" in left
        if there:
            found = vx.open_results(url).compute()
            seen.append("new" if found.sizes["regressor"] == 2 else "old")
            xr.testing.assert_identical(found, new if seen[-1] == "new" else old)
        else:
            with pytest.raises(StoreError, match=r"it has no zarr\.json"):
                vx.open_results(url)
            seen.append("none")
        with pytest.raises(StoreError, match="break_lock"):
            vx.save_results(new, url, overwrite=there)
        vx.save_results(new, url, overwrite=there, break_lock=True)
        xr.testing.assert_identical(vx.open_results(url).compute(), new)
        if seen[-1] != "new":  # which would have been replaced, and have the other keys
            assert remote.content(url) == expected
    assert set(seen) == {"new", "old" if overwrite else "none"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_error_leaves_what_was_there_byte_for_byte(
    place: tuple[str, dict[str, Any]], overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, options = place
    if overwrite:
        vx.save_results(result(0), url, **options)
    before, put, left = (held(place) if overwrite else {}), keys.put, [0]

    def failing(store: Any, told: Any) -> None:
        for key, value in told.items():
            left[0] -= key != LOCK
            if left[0] == 0:
                raise OSError("the line is cut")
            put(store, {key: value})

    for number in (1, 2, 9, 20):
        left[0] = number
        with monkeypatch.context() as patch:
            patch.setattr("voxstack.store.keys.put", failing)
            with pytest.raises(StoreError, match=r"r cannot be written: the line is cut\."):
                vx.save_results(result(1, columns=2), url, overwrite=overwrite, **options)
        assert held(place) == before
    if "://" not in url:
        assert Path(url).exists() == overwrite
    vx.save_results(result(1, columns=2), url, overwrite=overwrite, **options)
    xr.testing.assert_identical(vx.open_results(url, **options).compute(), result(1, columns=2))


def test_a_second_writer_is_refused(place: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, options = place
    refused: list[str] = []

    def meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr("voxstack.export.results.encode", encode)
        with pytest.raises(StoreError, match="is being written by another call, process") as error:
            vx.save_results(result(1), url, **options)
        refused.append(str(error.value))
        return encode(*arguments)

    monkeypatch.setattr("voxstack.export.results.encode", meanwhile)
    vx.save_results(result(0), url, **options)
    assert len(refused) == 1
    xr.testing.assert_identical(vx.open_results(url, **options).compute(), result(0))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("moment", ["at its third key", "at its last chunk"])
def test_a_run_that_has_lost_its_lock_touches_nothing_any_more(
    moment: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, put, written = f"memory://{tmp_path.name}/r", keys.put, [0]
    remote = Remote(url)
    last = len(encode(result(1), {})) if moment == "at its last chunk" else 3
    if overwrite:
        vx.save_results(result(0), url)
    there: dict[str, bytes] = {}

    def taken(store: Any, held: Any) -> None:
        put(store, held)
        written[0] += len(held.keys() - {LOCK})
        if written[0] >= last and not there:
            remote.leave_lock(url, silent=1)
            for key in ("beta/c/7/7/7/7", "beta/c.7.7.7.7"):
                remote.put(url, key, b"of the run that has taken it")
            there.update(remote.content(url))

    monkeypatch.setattr("voxstack.store.keys.put", taken)
    with pytest.raises(StoreError, match="Another run has taken the lock"):
        vx.save_results(result(1), url, overwrite=overwrite)
    assert remote.content(url) == there


def test_a_store_within_a_store_is_refused(place: tuple[str, dict[str, Any]]) -> None:
    """What is appended to the outer one, or replaces it, would sweep parts of the inner one."""
    url, options = place
    vx.stack(in_memory(noise(2)), url, maps=MAPS, **options)
    before = held(place)
    for inner in (f"{url}/glm.zarr", f"{url}/effect/c/more/"):
        with pytest.raises(StoreError, match=r"would lie in the store .*r, which removes what is not its own\. Choose"):
            vx.save_results(result(0), inner, **options)
        with pytest.raises(StoreError, match=r"would lie in the store .*r, which removes what is not its own\. Choose"):
            vx.stack(in_memory(noise(2)), inner, maps=MAPS, **options)
    assert held(place) == before
    vx.save_results(result(0), f"{url}.results/", **options)
    vx.save_results(result(1), f"{url}.results/", overwrite=True, **options)  # it is no store within itself
    vx.stack(in_memory(noise(3)), f"{url}/", maps=MAPS, overwrite=True, **options)


def test_what_lies_around_in_a_bucket_is_left_alone(s3: dict[str, Any], tmp_path: Path) -> None:
    """The place is above another store, by mistake; nothing that looks like an old chunk is swept."""
    above, options = f"s3://bucket/{tmp_path.name}", {"storage_options": s3}
    vx.save_results(result(0), f"{above}/r", **options)
    before = Remote("", s3).content(above)
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=tmp_path.name):
            vx.save_results(result(1), above, overwrite=overwrite, **options)
        with pytest.raises(StoreError, match=f"{tmp_path.name} is a folder with other files in it"):
            vx.stack(in_memory(noise(2)), above, maps=MAPS, overwrite=overwrite, **options)
    assert Remote("", s3).content(above) == before
