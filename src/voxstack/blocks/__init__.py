"""Labelled arrays as blocks of voxels: the only place that builds Dask graphs of them.

Kernels want (n, v) matrices of plain NumPy; datasets are (subject, x, y, z) in chunks. Here the chunks are laid out as
tasks, each of some chunks of subjects and one block of voxels, and their results as lazy maps that share those tasks:
computing several maps together reads each chunk once. Chunks that come from a store are read within the task that
needs them, one at a time.
"""

from voxstack.blocks.chunks import as_blocks, needed_by, slices
from voxstack.blocks.columns import Columns, Stored, column_values, columns, stored_fingerprint
from voxstack.blocks.reduction import Reduction, reduce_subjects
from voxstack.blocks.voxels import map_voxels

__all__ = [
    "Columns",
    "Reduction",
    "Stored",
    "as_blocks",
    "column_values",
    "columns",
    "map_voxels",
    "needed_by",
    "reduce_subjects",
    "slices",
    "stored_fingerprint",
]
