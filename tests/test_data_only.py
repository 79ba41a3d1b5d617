"""Stores, checkpoints, tables and results are data: nothing in them is run, whoever made them.

Each crafted file holds, or names, code that would leave a mark; what is refused has not run it.
"""

import copy
import hashlib
import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import voxstack as vx
from small_cohorts import AFFINE, MAPS, noise, save
from voxstack.errors import DesignError, InputError, StoreError, VoxstackError


class Code:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """The file that code would make; it must not be there in the end."""
    place = tmp_path / "mark"
    pickle.loads(pickle.dumps(Code(place)))
    assert place.exists()  # so that the test can fail
    place.unlink()
    yield place
    assert not place.exists()


def pickled(mark: Path) -> bytes:
    return pickle.dumps(np.array([Code(mark)], dtype=object))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    save(folder, noise(6))
    table = pd.read_csv(folder / "participants.tsv", sep="\t").assign(age=np.arange(6.0), site=list("aabbcc"))
    table.to_csv(folder / "participants.tsv", sep="\t", index=False)
    vx.stack(folder / "participants.tsv", folder / "c.zarr", maps=MAPS)
    return folder / "c.zarr"


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
CRAFTED: dict[str, dict[str, Any]] = {
    "pickle": {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
    "pickle after bytes": {"codecs": [BYTES, {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]},
    "pickle as a filter": {"codecs": [{"name": "pickle", "configuration": {}}, BYTES]},
    "objects": {"data_type": "object", "fill_value": None},
    "objects of NumPy": {"data_type": {"name": "numpy.object", "configuration": {}}, "fill_value": None},
    "objects by letter": {"data_type": "|O", "fill_value": None, "codecs": [BYTES]},
}


@pytest.mark.parametrize("crafted", list(CRAFTED))
@pytest.mark.parametrize("variable", ["effect", "age", "subject", "mask"])
def test_a_store_that_names_pickles_is_refused(
    cohort: Path, tmp_path: Path, mark: Path, variable: str, crafted: str
) -> None:
    store = tmp_path / "crafted.zarr"
    shutil.copytree(cohort, store)
    root = json.loads((store / "zarr.json").read_text())
    node = root["consolidated_metadata"]["metadata"][variable]
    node.update(copy.deepcopy(CRAFTED[crafted]))
    (store / "zarr.json").write_text(json.dumps(root))
    (store / variable / "zarr.json").write_text(json.dumps(node))
    chunks = [path for path in (store / variable).rglob("*") if path.is_file() and path.name != "zarr.json"]
    assert chunks
    for chunk in chunks:
        chunk.write_bytes(pickled(mark))
    with pytest.raises(StoreError, match=r"crafted\.zarr is not a voxstack cohort"):
        vx.open_cohort(store).compute()


def test_a_checkpoint_that_holds_pickles_is_refused(tmp_path: Path, mark: Path) -> None:
    cohort = vx.from_arrays({"effect": noise(6)}, affine=AFFINE)
    call: dict[str, Any] = {"n_permutations": 20, "checkpoint": tmp_path / "checkpoint"}
    vx.permutation_test(cohort, "~ 1", "Intercept", **call)
    results = [path for path in (tmp_path / "checkpoint").rglob("*-*") if path.is_file()]
    assert results
    for path in results:
        with np.load(BytesIO(path.read_bytes()[16:])) as arrays:
            names = list(arrays)
        content = BytesIO()
        np.savez(content, **{name: np.array([Code(mark)], dtype=object) for name in names})
        crafted = content.getvalue()
        path.write_bytes(hashlib.blake2b(crafted, digest_size=16).digest() + crafted)
    with pytest.raises(InputError, match=r"is not one of voxstack: .* holds no plain arrays"):
        vx.permutation_test(cohort, "~ 1", "Intercept", **call)


def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "run.json").write_bytes(pickled(mark))
    cohort = vx.from_arrays({"effect": noise(6)}, affine=AFFINE)
    with pytest.raises(InputError, match="is no checkpoint"):
        vx.permutation_test(cohort, "~ 1", "Intercept", n_permutations=20, checkpoint=tmp_path / "checkpoint")


@pytest.mark.parametrize("end", [".tsv", ".csv"])
def test_a_table_that_is_a_pickle_is_refused(tmp_path: Path, mark: Path, end: str) -> None:
    (tmp_path / f"participants{end}").write_bytes(pickled(mark))
    with pytest.raises(InputError, match=r"not a .*-separated table"):
        vx.stack(tmp_path / f"participants{end}", tmp_path / "c.zarr", maps=MAPS)


CODE: list[Callable[[Path], str]] = [
    lambda mark: f"age.to_pickle('{mark}')",
    lambda mark: f"np.save('{mark}', age)",
    lambda mark: f"{{age.to_csv('{mark}')}}",
    lambda mark: f"center(open('{mark}', 'w'))",
    lambda mark: f"center(__import__('pathlib').Path('{mark}').touch() or age)",
    lambda mark: f"""center(eval('__import__("pathlib").Path("{mark}").touch() or age'))""",
    lambda mark: f"bs(age, df=np.memmap('{mark}', mode='w+', shape=1)[0])",
    lambda mark: f"I(np.lib.format.open_memmap('{mark}', 'w+', shape=1))",
]


@pytest.mark.parametrize("code", CODE)
def test_code_in_the_cells_of_a_table_is_text(mark: Path, code: Callable[[Path], str]) -> None:
    """Levels of a factor, and names of columns."""
    table = pd.DataFrame({"text": [" 0", code(mark)] * 3, code(mark): 1.0}, index=pd.Index(list("abcdef"), name="id"))
    assert vx.make_design(table, "~ text")["regressor"].values.tolist() == ["Intercept", f"text[T.{code(mark)}]"]


@pytest.mark.parametrize("code", CODE)
def test_code_in_a_formula_is_refused(cohort: Path, mark: Path, code: Callable[[Path], str]) -> None:
    with pytest.raises(DesignError):
        vx.make_design(vx.open_cohort(cohort), f"~ age + {code(mark)}")


@pytest.mark.parametrize("code", [CODE[0], CODE[5]])
def test_the_page_about_a_crafted_result_does_not_run_its_formula(
    cohort: Path, tmp_path: Path, mark: Path, code: Callable[[Path], str]
) -> None:
    pytest.importorskip("nilearn")
    opened = vx.open_cohort(cohort)
    result = vx.contrast(vx.fit_glm(opened, "~ age"), "age").compute()
    vx.save_results(result, tmp_path / "r.zarr")
    root = (tmp_path / "r.zarr" / "zarr.json").read_text()
    crafted = json.dumps(f"~ age + {code(mark)}")
    assert '"~ age"' in root
    (tmp_path / "r.zarr" / "zarr.json").write_text(root.replace('"~ age"', crafted))
    found = vx.open_results(tmp_path / "r.zarr")
    with pytest.raises(VoxstackError):
        vx.report(found, tmp_path / "page.html", cohort=opened)


@pytest.mark.parametrize(
    "formula",
    [
        "~ np.log(age + 1) + np.sqrt(age)",
        "~ np.where(age > 2, 1, 0) + I(age ** 2)",
        "~ bs(age, df=4)",
        "~ poly(age, 2) + C(site, contr.treatment(base='b'))",
        "~ center(age) * C(site, contr.sum, levels=['a', 'b', 'c'])",
        "~ {age / 10 - -1}",
        "~ log(age + 1) + scale(age)",
    ],
)
def test_arithmetic_goes_on_being_evaluated(cohort: Path, formula: str) -> None:
    assert vx.make_design(vx.open_cohort(cohort), formula).sizes["subject"] == 6


def test_files_are_as_private_as_the_process_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also under the names that they have while they are written."""
    seen, replace = [], Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append(stat.S_IMODE(self.stat().st_mode))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    before = os.umask(0o077)
    try:
        save(tmp_path / "in", noise(6))
        cohort = vx.stack(tmp_path / "in" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
        checkpoint = tmp_path / "checkpoint"
        tested = vx.permutation_test(cohort, "~ 1", "Intercept", n_permutations=20, checkpoint=checkpoint)
        vx.write_maps(tested, tmp_path / "maps")
        vx.save_results(tested, tmp_path / "r.zarr")
    finally:
        os.umask(before)
    assert len(seen) > 10
    assert set(seen) == {0o600}
    readable = [path for path in tmp_path.rglob("*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert not readable


def test_nothing_of_voxstack_lies_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    save(tmp_path / "in", noise(6))
    cohort = vx.stack(tmp_path / "in" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
    tested = vx.permutation_test(cohort, "~ 1", "Intercept", n_permutations=20, statistics=["tfce"])
    vx.write_maps(tested, tmp_path / "maps")
    assert not list((tmp_path / "tmp").iterdir())


def test_what_spills_from_worker_processes_is_private(tmp_path: Path) -> None:
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"temporary-directory": str(tmp_path)}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        folders = client.run(lambda dask_worker: dask_worker.local_directory).values()
        assert [stat.S_IMODE(Path(folder).stat().st_mode) for folder in folders] == [0o700]
