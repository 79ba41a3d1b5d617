"""One way to compile: cached where a folder can be written, in memory where none can; never holding the GIL."""

from collections.abc import Callable
from typing import Any

import numba


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` at its first call, for the types of that call.

    numba raises RuntimeError when neither the package's folder nor the user's cache folder is writable, as in
    read-only containers; the function is then compiled anew in each process.
    """
    options = {"nopython": True, "nogil": True, "error_model": "numpy"}
    try:
        return numba.jit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        return numba.jit(**options)(function)  # type: ignore[no-any-return]
