"""Calls in processes of their own, which are killed."""

import multiprocessing
from collections.abc import Callable
from typing import Any

# Processes start in a moment, since one that has imported everything is their parent.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["voxstack.store.stack", "voxstack.inference.permute", "dask.array", "xarray", "zarr"])


def killed(call: Callable[..., object], *arguments: Any, when: Callable[[], object] | None = None) -> int | None:
    """Run a call in a process of its own, which is killed as soon as `when` returns; the exit code of the process."""
    process = _CONTEXT.Process(target=call, args=arguments)
    process.start()
    if when is not None:
        when()
        process.kill()
    process.join(60)
    code = process.exitcode
    process.close()
    return code
