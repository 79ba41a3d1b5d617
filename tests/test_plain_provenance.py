"""Options as NumPy has them end in results that can be written, and in checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import voxstack as vx
from permuted_cohorts import random_maps, run
from random_cohorts import cohort_of

OPTIONS: dict[str, Any] = {
    "statistics": ["cluster_extent", "tfce"],
    "cluster_forming_z": np.float32(1.5),
    "connectivity": np.int64(18),
    "tfce": vx.TFCE(E=np.float32(0.5), H=np.float64(2), connectivity=np.int16(6)),
    "joint": np.bool_(True),
    "n_permutations": np.int64(20),
    "seed": np.uint8(3),
}


@pytest.fixture
def cohort() -> xr.Dataset:
    return cohort_of(random_maps(np.random.default_rng(0), 8))


def test_a_permutation_test_is_saved_written_and_gone_on_with(cohort: xr.Dataset, tmp_path: Path) -> None:
    design = np.column_stack([np.ones(8), np.arange(8.0)])
    result = run(cohort, design, {"slope": [0, 1]}, checkpoint=tmp_path / "run", **OPTIONS)
    vx.save_results(result, tmp_path / "r.zarr")
    vx.write_maps(result, tmp_path / "maps")
    record = vx.open_results(tmp_path / "r.zarr").attrs["provenance"]
    assert record == result.attrs["provenance"]
    assert (record["connectivity"], record["joint"], record["seed"]) == (18, True, 3)
    assert record["tfce"] == {"E": 0.5, "H": 2.0, "connectivity": 6, "dh": None}
    again = run(cohort, design, {"slope": [0, 1]}, checkpoint=tmp_path / "run", **OPTIONS)
    xr.testing.assert_identical(again, result)
