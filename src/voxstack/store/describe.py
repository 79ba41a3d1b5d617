"""What a store holds, as plain values: for people, and as JSON for programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from voxstack.covariates import decode
from voxstack.grid import Grid
from voxstack.schema import SUBJECT, covariate_names, map_names
from voxstack.store import keys
from voxstack.store.append import stored_coverage
from voxstack.store.location import Location
from voxstack.store.open import read
from voxstack.store.published import Published
from voxstack.store.shards import of_chunks


def describe(store: str | Path, *, storage_options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Say what a cohort or a result holds, without reading its maps.

    Parameters
    ----------
    store
        Folder or URL.
    storage_options
        Credentials and settings of an object store.

    Returns
    -------
    dict
        Values that JSON can hold. Of all stores: "kind", "grid" (shape, voxel_size_mm, affine, oblique), "mask_voxels",
        "files" (or objects), "bytes", "provenance". Of cohorts also "subjects", "maps", "covariates", "chunks" and
        "shards" (their shapes; None where there are none), "bytes_of_values" and "compression" (bytes of the values
        over those on disk), and "coverage": "complete", voxels where every subject has data in every map; "at_least",
        such voxels by the per cent of the subjects that have data; "maps", for each map the voxels that all subjects
        have, and those where some are exactly 0. Of results also "variables", "contrasts" and "regressors".

    Raises
    ------
    StoreError
        Nothing there, or no store of voxstack.
    """
    location = Location.of(store, storage_options)
    dataset = read(location, ("cohort", "contrast", "fit", "permutation", "discoveries"))
    files, size = keys.size(location.open(read_only=True))
    grid = Grid.from_dataset(dataset)
    described = {
        "kind": dataset.attrs["kind"],
        "grid": {
            "shape": list(grid.shape),
            "voxel_size_mm": [abs(step) for step in grid.voxel_size],
            "affine": grid.affine.tolist(),
            "oblique": bool(grid.is_oblique),
        },
        "mask_voxels": int(dataset["mask"].sum()),
        "files": files,
        "bytes": size,
    }
    if dataset.attrs["kind"] == "cohort":
        described |= _cohort(dataset, location, size)
    else:
        described |= {dim + "s": _texts(dataset[dim]) for dim in ("contrast", "regressor") if dim in dataset.coords}
        described["variables"] = [str(name) for name in dataset.data_vars]
    return described | {"provenance": dataset.attrs["provenance"]}


def _cohort(cohort: xr.Dataset, location: Location, size: int) -> dict[str, Any]:
    maps = map_names(cohort)
    values = sum(cohort[name].nbytes for name in maps)
    published = Published.read(location.open(read_only=True))
    assert published is not None
    # What others append meanwhile is in the counts, so the number of subjects comes from where they do.
    coverage, n = stored_coverage(location, published), published.n_subjects
    order = list(published.attributes["provenance"]["maps"])
    made = published.attributes["provenance"]
    if "mask_digest" in made and "smoothing_fwhm" in made:  # counts before smoothing are of voxels outside the mask too
        outside = coverage.n_valid == 0
        coverage.n_zero[:, outside] = coverage.n_nonzero[:, outside] = 0
    filled = made.get("smoothing_missing") == "zero"  # zeros and missing values are not told apart
    metadata = published.arrays[order[0]]
    return {
        "subjects": _texts(cohort[SUBJECT]),
        "maps": {name: str(cohort[name].dtype) for name in maps},
        "covariates": {name: _covariate(name, cohort[name]) for name in covariate_names(cohort)},
        "chunks": _chunk_shape(of_chunks(metadata)),
        "shards": _chunk_shape(metadata) if published.chunking.sharded else None,
        "bytes_of_values": values,
        "compression": round(values / size, 2),
        "coverage": {
            "complete": int((coverage.n_valid == n).sum()),
            "at_least": {str(p): int((coverage.n_valid >= max(p / 100 * n, 1) - 1e-9).sum()) for p in (1, 50, 90, 100)},
            "maps": {
                name: {
                    "complete": int((zero + nonzero == n).sum()),
                    "zero_in_some": 0 if filled else int(((zero > 0) & (zero < n)).sum()),
                }
                for name, zero, nonzero in zip(order, coverage.n_zero, coverage.n_nonzero, strict=True)
            },
        },
    }


def _chunk_shape(metadata: Mapping[str, Any]) -> list[int]:
    return list(metadata["chunk_grid"]["configuration"]["chunk_shape"])


def _covariate(name: str, covariate: xr.DataArray) -> dict[str, Any]:
    """Kind, number of missing values, and the range or the levels."""
    column = decode(name, covariate.variable)
    known = column.dropna()
    told: dict[str, Any] = {"missing": int(column.isna().sum())}
    values = np.asarray(known.to_numpy())
    if known.dtype.kind in "iuf":
        numbers = values.astype(float)
        span = {"min": float(numbers.min()), "max": float(numbers.max())} if numbers.size else {}
        return {"type": "number", **told, **span}
    kind = "category" if "levels" in covariate.attrs else "boolean" if known.dtype.kind == "b" else "text"
    return {"type": kind, **told, "levels": {str(level): int(n) for level, n in known.value_counts(sort=False).items()}}


def _texts(coordinate: xr.DataArray) -> list[str]:
    return [str(value) for value in np.atleast_1d(coordinate.values)]
