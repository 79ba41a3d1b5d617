"""One way to compile: cached where a folder can be written, in memory where none can; never holding the GIL."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile `function` at its first call, for the types of that call.

    numba raises RuntimeError when neither the package's folder nor the user's cache folder is writable, as in
    read-only containers; the function is then compiled anew in each process.
    """
    return _compiled(function, fastmath=False)


def jit_reordered(function: Function) -> Function:
    """As `jit`, for loops without NaN whose sums and maxima may be taken in any order: they are vectorised."""
    return _compiled(function, fastmath={"nnan", "nsz", "reassoc", "contract"})


def _compiled(function: Function, fastmath: Any) -> Function:
    options: Any = {"nopython": True, "nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return cast(Function, numba.jit(cache=True, **options)(function))
    except RuntimeError:
        return cast(Function, numba.jit(**options)(function))
