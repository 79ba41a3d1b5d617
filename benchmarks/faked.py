"""Cohorts of any size without their data: all that a store says of itself, at 2 mm, and no chunk or borrowed ones.

Whatever is planned by labels, covariates, mask and chunks works on them as on real ones: designs, graphs, memory
plans. A chunk that is not there reads as missing values, as Zarr has it.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

import voxstack as vx
from voxstack.grid import Grid
from voxstack.io.tables import covariates
from voxstack.plan import SUBJECTS_PER_CHUNK
from voxstack.schema import SPACE
from voxstack.store import layout
from voxstack.store.location import Location
from voxstack.store.published import Chunking, Editions

SHAPE = (91, 109, 91)
AFFINE = np.array([[2.0, 0, 0, -90], [0, 2.0, 0, -126], [0, 0, 2.0, -72], [0, 0, 0, 1]])
MAP = "effect"
DESIGN, CONTRASTS = "~ age + sex + site", ("age", "sex[T.M]", "site[T.south]")

_BRAIN = 0.795  # half axes of an ellipsoid, of those of the grid: as many voxels as MNI152's brain has at 2 mm


def brain() -> NDArray[np.bool_]:
    """An ellipsoid (x, y, z) of some 230,000 voxels."""
    axes = [np.linspace(-1, 1, n) / _BRAIN for n in SHAPE]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    return np.asarray(x**2 + y**2 + z**2 <= 1)


def people(n_subjects: int) -> pd.DataFrame:
    """Covariates of so many subjects, indexed by label."""
    rng = np.random.default_rng(0)
    labels = pd.Index([f"sub-{i:06d}" for i in range(n_subjects)], name="participant_id")
    columns = {
        "age": rng.uniform(40, 80, n_subjects).round(1),
        "sex": np.where(np.arange(n_subjects) % 2, "M", "F"),
        "site": rng.choice(["north", "south"], n_subjects),
    }
    return pd.DataFrame(columns, index=labels)


def fake_cohort(folder: Path, n_subjects: int, *, sharded: bool = False, chunks_of: Path | None = None) -> xr.Dataset:
    """A published cohort whose maps were never written.

    Parameters
    ----------
    folder
        That its store will be; it takes less than a megabyte.
    n_subjects
        At 2 mm, with three covariates.
    sharded
        Whether the maps would lie in shards.
    chunks_of
        Store of a cohort at 2 mm whose rows of chunks stand, again and again, for the data, as links to its files.
    """
    n, inside = n_subjects, brain()
    table = people(n)
    known = covariates(table, maps={MAP: MAP}, leave_out=[])
    grid = Grid.from_affine(SHAPE, AFFINE)
    cohort = layout.cohort_template(grid, list(table.index), known, [MAP], "float32")
    everybody = np.where(inside, n, 0).astype(np.int32)
    cohort = cohort.assign_coords(mask=(SPACE, inside)).assign(
        n_valid=(SPACE, everybody),
        n_zero=(("counted_map", *SPACE), np.zeros((1, *SHAPE), dtype=np.int32)),
        n_nonzero=(("counted_map", *SPACE), everybody[None]),
    )
    layout.publish(
        Location.of(folder).open(read_only=False),
        cohort,
        [MAP],
        chunking=Chunking(SUBJECTS_PER_CHUNK, sharded),
        editions=Editions(history=((n, f"{n} subjects"),)),
        provenance={"maps": [MAP]},
    )
    if chunks_of is not None:
        _link(chunks_of / MAP / "c", folder / MAP / "c", -(-n // SUBJECTS_PER_CHUNK))
    return vx.open_cohort(folder)


def _link(source: Path, target: Path, n_rows: int) -> None:
    """Rows of chunks of one store as those of another one."""
    rows = sorted(path for path in source.iterdir() if path.is_dir())
    for number in range(n_rows):
        row = rows[number % len(rows)]
        for file in row.rglob("*"):
            if file.is_file():
                link = target / str(number) / file.relative_to(row)
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, link)
