"""Cohorts and results in object stores: a real S3 protocol server on loopback, and any fsspec protocol."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import voxstack as vx


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
    assert "a-secret-key" not in str(opened.attrs) + str(remote.attrs)


def test_s3_store_is_not_written_over_unless_asked(s3: dict[str, Any], participants: Path) -> None:
    maps = {"effect": "effect_path"}
    vx.stack(participants, "s3://bucket/twice.zarr", maps=maps, storage_options=s3)
    with pytest.raises(vx.errors.StoreError, match=r"s3://bucket/twice\.zarr exists already"):
        vx.stack(participants, "s3://bucket/twice.zarr", maps=maps, storage_options=s3)
    again = vx.stack(participants, "s3://bucket/twice.zarr", maps=maps, storage_options=s3, overwrite=True)
    assert again.sizes["subject"] == 6


def test_missing_s3_store_is_said(s3: dict[str, Any]) -> None:
    with pytest.raises(vx.errors.StoreError, match=r"nothing\.zarr is not a voxstack cohort"):
        vx.open_cohort("s3://bucket/nothing.zarr", storage_options=s3)


def test_other_protocols_go_through_fsspec(participants: Path, tmp_path: Path) -> None:
    maps = {"effect": "effect_path"}
    local = vx.stack(participants, tmp_path / "cohort.zarr", maps=maps)
    remote = vx.stack(participants, "memory://folder/cohort.zarr", maps=maps)
    np.testing.assert_array_equal(remote["effect"], local["effect"])
