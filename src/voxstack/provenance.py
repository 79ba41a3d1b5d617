"""What makes a result repeatable: versions, formula, contrasts, seed. No time, host or absolute path."""

import platform
from functools import cache
from importlib.metadata import version
from typing import Any

from voxstack._version import __version__

_PACKAGES = ("numpy", "scipy", "numba", "xarray", "dask", "distributed", "zarr", "nibabel", "formulaic")


def record(function: str, /, **details: Any) -> dict[str, Any]:
    """Provenance of one call: the function, what it was asked for, and the versions that ran it.

    Parameters
    ----------
    function
        Name of the public function.
    **details
        Plain values (str, int, float, bool, lists and dicts of them) that repeat the call.

    Returns
    -------
    dict
        Safe to be stored as an attribute of a Zarr group.
    """
    return {"function": function, **details, "versions": dict(_versions())}


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "voxstack": __version__} | {name: version(name) for name in _PACKAGES}
