"""What makes a result repeatable: versions, formula, contrasts, seed. No time, host or absolute path."""

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from voxstack._version import __version__

_PACKAGES = ("numpy", "scipy", "numba", "xarray", "dask", "distributed", "zarr", "nibabel", "formulaic")


def record(function: str, /, **details: Any) -> dict[str, Any]:
    """Provenance of one call: the function, what it was asked for, and the versions that ran it.

    Parameters
    ----------
    function
        Name of the public function.
    **details
        What repeats the call: str, int, float, bool, those of NumPy, None, and lists and dicts of them.

    Returns
    -------
    dict
        Safe to be stored as an attribute of a Zarr group.
    """
    return {"function": function, **plain(details), "versions": dict(_versions())}


def plain(value: Any) -> Any:
    """The same in values that JSON knows, where users gave NumPy's."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), "voxstack": __version__} | {name: version(name) for name in _PACKAGES}
