"""What is refused, asked for in Python and on the command line, and what becomes of the stores meanwhile."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

import voxstack as vx
from small_cohorts import content
from voxstack.cli import main
from voxstack.errors import VoxstackError


def voxstack(*words: str | Path) -> tuple[int, str, str]:
    """The command: its exit code, and what it prints on standard output and on standard error."""
    given, out, err = sys.argv, StringIO(), StringIO()
    sys.argv = ["voxstack", *map(str, words)]
    try:
        with warnings.catch_warnings(action="default"), redirect_stdout(out), redirect_stderr(err):
            main()
        code: Any = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    finally:
        sys.argv = given
    return code, out.getvalue(), err.getvalue()


def refusal(call: Callable[[], object], *words: str | Path) -> str:
    """What is said of a mistake: the same by the exception as, with exit code 2, on standard error."""
    with pytest.raises(VoxstackError) as error:
        call()
    said = str(error.value)
    told = voxstack(*words)
    assert told == (2, "", f"Error: {said}\n"), told
    assert "\n\n" not in said
    return said


@contextmanager
def whole(store: Path, *, begun: bool = False) -> Iterator[None]:
    """Whatever is tried meanwhile, the files of a store are as they were.

    Where a call has `begun` to append to a cohort or to overwrite it, there may be other files, too, and the last chunk
    may have more rows; then the cohort has to open as it did.
    """
    before, opened = content(store), vx.open_cohort(store).load() if begun else None
    yield
    after = content(store)
    if opened is None:
        assert after == before
        return
    kept = before.keys() - {"effect/c/0/0/0/0"}
    assert {key: after.get(key) for key in kept} == {key: before[key] for key in kept}
    xr.testing.assert_identical(vx.open_cohort(store).load(), opened)
