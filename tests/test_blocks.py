"""Chunks that tasks read for themselves, and columns of some voxels of all subjects."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.delayed import Delayed
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

import voxstack as vx
from small_cohorts import MAPS, noise, save
from voxstack.blocks import Columns, Stored, as_blocks, column_values, columns
from voxstack.inference.engine import fingerprint


@pytest.fixture
def stored(tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    """10 subjects in chunks of 3, and blocks of 4 voxels a side."""
    monkeypatch.setattr("voxstack.plan.VOXELS_PER_SIDE", 4)
    save(tmp_path / "m", noise(10))
    return vx.stack(tmp_path / "m" / "participants.tsv", tmp_path / "c", maps=MAPS)


def values_of(block: Columns) -> np.ndarray[Any, Any]:
    return block.values.compute() if isinstance(block.values, Delayed) else column_values(block.values)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_columns_are_the_voxels_of_the_mask_and_the_subjects_that_are_kept(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = tuple(data.draw(st.integers(1, 6)) for _ in range(4))
    maps = rng.normal(size=shape).astype(data.draw(st.sampled_from(["f4", "f8", ">f4", "i2"])))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    mask, kept = rng.random(shape[1:]) < 0.7, rng.random(shape[0]) < 0.7
    mask.flat[0] = kept[0] = True
    tasks = data.draw(st.booleans())
    array = (
        da.map_blocks(np.asarray, da.from_array(maps, chunks=chunks)) if tasks else da.from_array(maps, chunks=chunks)
    )
    most = data.draw(st.none() | st.integers(1, 40))
    expected = maps[kept].transpose(0, 3, 2, 1)[:, mask.T]
    seen = np.full(expected.shape, np.nan)
    for block in columns(array, mask, kept, most=most):
        assert most is None or 0 < len(block.numbers) <= most
        assert np.isnan(seen[:, block.numbers]).all()
        seen[:, block.numbers] = values_of(block)
    np.testing.assert_array_equal(seen, expected)


class TestStored:
    def test_tasks_read_what_they_need_themselves(self, stored: xr.Dataset) -> None:
        for cohort in (stored, stored.isel(subject=[8, 1, 5]), stored.isel(x=slice(None, None, -1)), stored * 2):
            array = as_blocks(cohort["effect"])
            mask, kept = stored["mask"].values, np.ones(len(array), dtype=bool)
            blocks = columns(array, mask, kept, most=20)
            assert all(isinstance(block.values, Stored) for block in blocks)
            got = np.hstack([values_of(block) for block in blocks])
            order = np.concatenate([block.numbers for block in blocks])
            np.testing.assert_array_equal(
                got[:, np.argsort(order)], cohort["effect"].values.transpose(0, 3, 2, 1)[:, mask.T]
            )

    def test_a_fit_has_one_task_for_some_chunks_of_subjects(self, stored: xr.Dataset) -> None:
        beta = vx.fit_glm(stored, "~ 1")["beta"]
        names = {dask.utils.key_split(key) for key in dask.base.collections_to_expr(beta).__dask_graph__()}
        assert not any("read" in name for name in names)
        np.testing.assert_allclose(
            beta.values[0],
            np.where(stored["mask"], stored["effect"].values.mean(axis=0, dtype=float), np.nan),
            rtol=1e-12,
        )

    def test_data_in_memory_and_on_a_cluster_stay_where_they_are(self, stored: xr.Dataset) -> None:
        mask, kept = stored["mask"].values, np.ones(10, dtype=bool)
        with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster, Client(cluster):
            persisted = stored["effect"].persist()
            blocks = columns(as_blocks(persisted), mask, kept)
            assert all(isinstance(block.values, Delayed) for block in blocks)
            result = vx.permutation_test(
                stored.assign(effect=persisted), "~ 1", "Intercept", n_permutations=20, checkpoint=None
            )
        expected = vx.permutation_test(stored, "~ 1", "Intercept", n_permutations=20)
        xr.testing.assert_identical(result["stat"], expected["stat"])


class TestFingerprint:
    code = """
import sys
import numpy as np
import voxstack as vx
from voxstack.blocks import as_blocks, columns
from voxstack.inference.engine import fingerprint
cohort = vx.open_cohort(sys.argv[1])
print(fingerprint(columns(as_blocks(cohort["effect"]), cohort["mask"].values, np.ones(10, dtype=bool))))
"""

    def told(self, cohort: xr.Dataset) -> str:
        kept = np.ones(cohort.sizes["subject"], dtype=bool)
        return fingerprint(columns(as_blocks(cohort["effect"]), cohort["mask"].values, kept))

    def test_of_a_store_it_lasts_and_goes_with_it(self, stored: xr.Dataset, tmp_path: Path) -> None:
        first = self.told(stored)
        shutil.copytree(tmp_path / "c", tmp_path / "elsewhere")
        shutil.rmtree(tmp_path / "c" / "effect")  # nothing is read for it
        assert first == self.told(vx.open_cohort(tmp_path / "c"))
        done = subprocess.run(
            [sys.executable, "-c", self.code, tmp_path / "elsewhere"], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == first

    def test_other_values_have_another_one(self, stored: xr.Dataset, tmp_path: Path) -> None:
        first = self.told(stored)
        save(tmp_path / "n", noise(10, seed=1))
        other = vx.stack(tmp_path / "n" / "participants.tsv", tmp_path / "c", maps=MAPS, overwrite=True)
        assert self.told(other) != first

    def test_of_what_is_computed_it_is_that_of_the_values(self, stored: xr.Dataset) -> None:
        assert self.told(stored * 2) == self.told((stored * 2).compute())
        assert self.told(stored * 2) != self.told(stored * 3)

    def test_a_file_that_a_task_names_may_hold_other_values(self, tmp_path: Path) -> None:
        file = tmp_path / "maps.npy"

        def told(maps: np.ndarray[Any, Any]) -> str:
            np.save(file, maps)
            graph = {("load", 0, 0, 0, 0): (np.load, str(file))}
            array = da.Array(graph, "load", chunks=tuple((n,) for n in maps.shape), dtype=maps.dtype)
            return fingerprint(columns(array, np.ones(maps.shape[1:], dtype=bool), np.ones(len(maps), dtype=bool)))

        assert told(noise(10)) == told(noise(10)) != told(noise(10, seed=1))
