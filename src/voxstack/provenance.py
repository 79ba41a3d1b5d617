"""What makes a result repeatable: versions, formula, contrasts, seed. No time, host or absolute path."""

import platform
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from voxstack._version import __version__

_SECRETS = (
    (re.compile(r"(?<=://)[^/@\s]+@"), "***@"),  # user and password in a URL
    (re.compile(r"(?<=[?&])([^=&#\s]+)=[^&#\s]+"), r"\1=***"),  # signatures in a URL's query
    (re.compile(r"(?i)^([\w.-]*(?:key|secret|token|password|credential|signature|sas)[\w.-]*)=.+", re.S), r"\1=***"),
)

_PACKAGES = ("numpy", "scipy", "numba", "xarray", "dask", "zarr", "nibabel", "formulaic")


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


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """A command line as it may be written down: what may be a secret becomes ``***``.

    These are users, passwords and queries in URLs, and the value of ``NAME=VALUE`` where the name speaks of a key, a
    token, a password or the like.
    """
    kept = []
    for argument in arguments:
        for pattern, instead in _SECRETS:
            argument = pattern.sub(instead, argument)
        kept.append(argument)
    return kept
