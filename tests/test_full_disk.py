"""Disks that are full or read-only: what was there is whole, and with room again a call does what it would have done.

The disk is a small tmpfs, which a process in a mount namespace of its own may mount and nobody else sees. That process
runs this file, and goes through all scenarios at once; each test asks what became of one.
"""

import json
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import voxstack as vx
from both_ways import refusal, voxstack, whole
from small_cohorts import MAPS, content, noise, save
from voxstack.errors import StoreError

SHAPE = (20, 20, 10)
NAMESPACE = ("unshare", "--user", "--mount", "--map-root-user")
TMPFS = ("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs")
NO_SPACE = "No space left on device"
READ_ONLY = "Read-only file system"


class Disk:
    """A tmpfs, and beside it inputs and what undisturbed calls make of them.

    Parameters
    ----------
    folder
        To be filled.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.aside = folder / "disk", folder / "aside"
        self.root.mkdir()
        subprocess.run([*TMPFS, str(self.root)], check=True)
        table = save(self.aside, noise(12, SHAPE)).assign(age=[float(i**2) for i in range(12)])
        table.to_csv(self.aside / "all.tsv", sep="\t", index=False)
        table[:7].to_csv(self.aside / "first.tsv", sep="\t", index=False)
        table[7:].to_csv(self.aside / "rest.tsv", sep="\t", index=False)
        self.stack("all", self.aside / "c.zarr")

    def stack(self, table: str, store: Path, **options: Any) -> xr.Dataset:
        return vx.stack(self.aside / f"{table}.tsv", store, maps=MAPS, **options)

    def fit(self, output: Path, *words: str) -> tuple[int, str, str]:
        model = ("--design", "~ age", "--contrast", "age", "--quiet")
        return voxstack("fit", self.aside / "c.zarr", *model, "--output", output, *words)

    def clear(self) -> None:
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def fill(self, leave: int) -> None:
        """Leave so many bytes free."""
        found = os.statvfs(self.root)
        (self.root / "ballast").write_bytes(bytes(max(found.f_bavail * found.f_frsize - leave, 0)))

    def make_room(self) -> None:
        (self.root / "ballast").unlink()

    def names(self) -> set[str]:
        return {path.name for path in self.root.iterdir()} - {"ballast"}


def full_while_stacking(disk: Disk, goal: str) -> None:
    store, table = disk.root / "s.zarr", {"new": "all", "append": "rest", "overwrite": "all"}[goal]
    options: dict[str, Any] = {} if goal == "new" else {goal: True}
    words = ("stack", disk.aside / f"{table}.tsv", store, "--map", "effect=path", "--quiet")

    def start() -> None:
        disk.clear()
        if goal != "new":
            disk.stack("first", store)

    start()
    disk.stack(table, store, **options)
    expected, refused = content(store), 0
    for leave in (8_000, 60_000):
        start()
        old = None if goal == "new" else vx.open_cohort(store).load()
        before = {} if old is None else content(store)
        disk.fill(leave)
        try:
            disk.stack(table, store, **options)
        except StoreError as error:
            said = str(error)
        else:
            break
        refused += 1
        assert str(store) in said
        assert NO_SPACE in said
        assert "What was done is kept. Make room" in said
        if refused == 1:
            assert voxstack(*words, *(f"--{name}" for name in options)) == (2, "", f"Error: {said}\n")
        assert disk.names() <= {"s.zarr"}
        if old is None:
            assert not (store / "zarr.json").exists()
        else:
            xr.testing.assert_identical(vx.open_cohort(store).load(), old)
            # Appending fills up the last chunk, whose old rows stay.
            kept = [key for key in before if not key.endswith("/zarr.json") and key != "effect/c/0/0/0/0"]
            assert {key: content(store).get(key) for key in kept} == {key: before[key] for key in kept}
        disk.make_room()
        disk.stack(table, store, **options)
        assert content(store) == expected, leave
    assert refused == 2


def not_a_byte_left(disk: Disk) -> None:
    disk.clear()
    disk.stack("first", disk.root / "s.zarr")
    disk.fill(0)
    table, store = disk.aside / "all.tsv", disk.root / "s.zarr"
    words = ("stack", table, store, "--map", "effect=path", "--overwrite", "--quiet")
    with whole(store):
        said = refusal(lambda: disk.stack("all", store, overwrite=True), *words)
    assert str(store) in said
    assert NO_SPACE in said
    assert disk.names() == {"s.zarr"}


def of_the_data(folder: Path) -> dict[str, bytes]:
    """What a run has written, but for what it tells of itself."""
    return {name: held for name, held in content(folder).items() if name != "provenance.json"}


def full_while_writing_results(disk: Disk, overwrite: bool) -> None:
    """Maps and results.zarr are of one run, the old one or the new one."""
    out = disk.root / "out"
    if overwrite:
        assert disk.fit(disk.aside / "expected", "--contrast", "older=2*age")[0] == 0
    assert disk.fit(disk.aside / "expected", *(["--overwrite"] if overwrite else []))[0] == 0
    expected, refused = of_the_data(disk.aside / "expected"), 0
    for leave in (0, 170_000):
        disk.clear()
        if overwrite:
            assert disk.fit(out, "--contrast", "older=2*age")[0] == 0
        before = content(out) if overwrite else {}
        disk.fill(leave)
        code, printed, error = disk.fit(out, *(["--overwrite"] if overwrite else []))
        if code == 0:
            break
        refused += 1
        assert (code, printed) == (2, "")
        assert error.startswith(f"Error: {out}")
        assert NO_SPACE in error
        assert "Make room" in error
        assert content(out) == before
        disk.make_room()
        assert disk.fit(out, *(["--overwrite"] if overwrite else []))[0] == 0
        assert of_the_data(out) == expected, leave
    assert refused == 2
    shutil.rmtree(disk.aside / "expected")


def full_while_saving_a_result(disk: Disk) -> None:
    cohort = vx.open_cohort(disk.aside / "c.zarr")
    old, new = (vx.contrast(vx.fit_glm(cohort, design), "Intercept").compute() for design in ("~ 1", "~ age"))
    disk.clear()
    vx.save_results(old, disk.root / "results.zarr")
    disk.fill(20_000)
    with whole(disk.root / "results.zarr"), pytest.raises(StoreError, match=rf"results\.zarr cannot be .*{NO_SPACE}"):
        vx.save_results(new, disk.root / "results.zarr", overwrite=True)
    with pytest.raises(StoreError, match=rf"maps cannot be written: .*{NO_SPACE}.*Make room"):
        vx.write_maps(new, disk.root / "maps")
    assert content(disk.root / "maps") == {}
    with pytest.raises(StoreError, match=rf"people cannot be written: .*{NO_SPACE}.*Make room"):
        vx.simulate_cohort(disk.root / "people", n_subjects=3, resolution=6)
    disk.make_room()
    vx.save_results(new, disk.root / "results.zarr", overwrite=True)
    xr.testing.assert_identical(vx.open_results(disk.root / "results.zarr").compute(), new)


def read_only(disk: Disk) -> None:
    """Nothing can be written, but everything read."""
    disk.clear()
    store, table = disk.root / "s.zarr", disk.aside / "all.tsv"
    disk.stack("all", store)
    assert disk.fit(disk.root / "out")[0] == 0
    result = vx.open_results(disk.root / "out" / "results.zarr").compute()
    before = content(disk.root)
    subprocess.run(["mount", "-o", "remount,ro", str(disk.root)], check=True)
    stack = ("stack", table, "--map", "effect=path", "--quiet")
    calls: list[tuple[Callable[[], object], tuple[str | Path, ...]]] = [
        (lambda: disk.stack("all", disk.root / "n.zarr"), (*stack, disk.root / "n.zarr")),
        (lambda: disk.stack("all", store, overwrite=True), (*stack, store, "--overwrite")),
        (lambda: vx.simulate_cohort(disk.root / "p", n_subjects=2), ("simulate", disk.root / "p", "--subjects", "2")),
    ]
    for call, words in calls:
        said = refusal(call, *words)
        assert str(disk.root) in said
        assert READ_ONLY in said
    for output in (disk.root / "out", disk.root / "new"):
        code, printed, error = disk.fit(output, "--overwrite")
        assert (code, printed) == (2, "")
        assert error.startswith(f"Error: {output} cannot be written: ")
        assert READ_ONLY in error
    for write in (vx.write_maps, vx.save_results):
        with pytest.raises(StoreError, match=READ_ONLY):
            write(result, disk.root / "new")
    assert content(disk.root) == before
    words = ("--design", "~ age", "--contrast", "age", "--output", disk.aside / "from read-only", "--quiet")
    assert voxstack("fit", store, *words) == (0, "", "")
    xr.testing.assert_identical(vx.open_results(disk.aside / "from read-only" / "results.zarr").compute(), result)
    subprocess.run(["mount", "-o", "remount,rw", str(disk.root)], check=True)


SCENARIOS: dict[str, Callable[[Disk], None]] = {
    "full while stacking": lambda disk: full_while_stacking(disk, "new"),
    "full while appending": lambda disk: full_while_stacking(disk, "append"),
    "full while overwriting": lambda disk: full_while_stacking(disk, "overwrite"),
    "not a byte left": not_a_byte_left,
    "full while writing results": lambda disk: full_while_writing_results(disk, overwrite=False),
    "full while replacing results": lambda disk: full_while_writing_results(disk, overwrite=True),
    "full while saving a result": full_while_saving_a_result,
    "read-only": read_only,
}


def main(folder: Path) -> None:
    """Go through the scenarios, and tell what failed of each."""
    disk, failures = Disk(folder), {}
    for name, scenario in SCENARIOS.items():
        try:
            scenario(disk)
            failures[name] = ""
        except BaseException:  # pytest's own too
            failures[name] = traceback.format_exc()
    (folder / "failures.json").write_text(json.dumps(failures))


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("full")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*NAMESPACE, *TMPFS, str(folder)], capture_output=True).returncode
    ):
        pytest.skip("this system lets nobody mount a tmpfs in a namespace of their own")
    done = subprocess.run(
        [*NAMESPACE, sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads((folder / "failures.json").read_text())
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_disk(scenario: str, failures: dict[str, str]) -> None:
    assert failures[scenario] == ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
