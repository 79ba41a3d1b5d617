"""What is asked of workers before they get work: the same versions, and the same files."""

import operator
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import dask
import numpy as np
import pytest
from dask.delayed import delayed
from distributed import Client

import voxstack as vx
from background import dask_cluster
from small_cohorts import MAPS, content, noise, save
from voxstack.errors import InputError, StoreError, VoxstackError, VoxstackWarning
from voxstack.run import Task, run, scheduler


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """A worker that does not start fails a test soon."""
    with dask.config.set({"voxstack.start-timeout": "30s"}):
        yield


def tasks(n: int) -> Iterator[Task]:
    return (Task(i, delayed(operator.pow, pure=False)(i, 2)) for i in range(n))


HIDDEN = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "voxstack":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


ANSWERS = """
from distributed import versions
def version(package, true=versions.version):
    if package in TOLD and TOLD[package] is None:
        raise ModuleNotFoundError(package)
    return TOLD.get(package) or true(package)
versions.version = version
versions._version_cached.cache_clear()
"""
BLIND = """
import os
def stat(path, *arguments, true=os.stat, **named):
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(FOLDER):
        raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
    return true(path, *arguments, **named)
os.stat = stat
"""


def preloaded(folder: Path, code: str) -> tuple[str, str]:
    """The option of a worker that runs code first."""
    path = folder / "preloaded.py"
    path.write_text(code)
    return "--preload", str(path)


class TestVersions:
    """Workers that answer Dask's question for their versions otherwise."""

    def test_workers_without_voxstack(self, tmp_path: Path) -> None:
        table = save(tmp_path / "maps", noise(3))
        table["path"] = [str(tmp_path / "maps" / path) for path in table["path"]]
        without = preloaded(tmp_path, f"TOLD = {{'voxstack': None}}\n{ANSWERS}\n{HIDDEN}")
        with dask_cluster(tmp_path, worker=without) as address, Client(address):
            with pytest.raises(VoxstackError, match=r"voxstack is not installed on 1 worker, here .*environment"):
                list(run(tasks(3)))
            with pytest.raises(VoxstackError, match="voxstack is not installed on 1 worker"):
                vx.stack(table, tmp_path / "cohort.zarr", maps=MAPS)
        assert not (tmp_path / "cohort.zarr").exists()

    @pytest.mark.parametrize(("package", "step"), [("numpy", 1), ("distributed", -1)])
    def test_another_minor_version_is_an_error(self, package: str, step: int, tmp_path: Path) -> None:
        major, minor, *_ = version(package).split(".")
        other = f"{major}.{int(minor) + step}.0"
        worker = preloaded(tmp_path, f"TOLD = {{{package!r}: {other!r}}}\n{ANSWERS}")
        told = pytest.raises(VoxstackError, match=rf"{package} is {other} on 1 worker, here {major}\.{minor}")
        with dask_cluster(tmp_path, worker=worker) as address, told, scheduler(address):
            pass

    def test_another_patch_is_a_warning_said_once(self, tmp_path: Path) -> None:
        other = f"{np.__version__.rpartition('.')[0]}.999"
        worker = preloaded(tmp_path, f"TOLD = {{'numpy': {other!r}}}\n{ANSWERS}")
        told = pytest.warns(VoxstackWarning, match=rf"numpy is {other} on 1 worker.*last digits")
        with dask_cluster(tmp_path, worker=worker) as address, told as warnings, scheduler(address):
            for _ in range(2):
                assert len(list(run(tasks(3)))) == 3
        assert len(warnings) == 1


class TestVisibility:
    def test_workers_that_see_other_files_are_refused_before_anything_is_written(self, tmp_path: Path) -> None:
        mine = tmp_path / "mine"
        table = save(mine, noise(4))
        table["path"] = [str(mine / path) for path in table["path"]]
        before = content(mine)
        blind = preloaded(tmp_path, f"FOLDER = {str(mine)!r}\n{BLIND}")
        told = pytest.raises(InputError, match=r"cannot read .*sub-00_effect.*does not see what is written to")
        with dask_cluster(tmp_path / "elsewhere", worker=blind) as address, scheduler(address), told:
            vx.stack(table, mine / "cohort.zarr", maps=MAPS)
        assert content(mine) == before
        assert not (mine / "cohort.zarr").exists()

    def test_those_that_do_not_see_a_cohort_say_so(self, tmp_path: Path) -> None:
        mine = tmp_path / "mine"
        table = save(mine, noise(4)).assign(age=[20.0, 31, 45, 58])
        table["path"] = [str(mine / path) for path in table["path"]]
        fit = vx.fit_glm(vx.stack(table, mine / "cohort.zarr", maps=MAPS), "~ age")
        blind = preloaded(tmp_path, f"FOLDER = {str(mine)!r}\n{BLIND}")
        told = pytest.raises(StoreError, match="does not see it: workers must see the folder")
        with dask_cluster(tmp_path / "elsewhere", worker=blind) as address, scheduler(address), told:
            vx.compute(fit)

    def test_those_that_see_them_stack_what_threads_do(self, tmp_path: Path) -> None:
        table = save(tmp_path / "maps", noise(4))
        table["path"] = [str(tmp_path / "maps" / path) for path in table["path"]]
        vx.stack(table, tmp_path / "here.zarr", maps=MAPS)
        with dask_cluster(tmp_path / "elsewhere") as address, scheduler(address):
            vx.stack(table, tmp_path / "there.zarr", maps=MAPS)
        assert content(tmp_path / "there.zarr") == content(tmp_path / "here.zarr")
