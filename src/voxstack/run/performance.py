"""Dask's report on where time went."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voxstack.errors import InputError, warn, writing
from voxstack.run.resources import active_client


@contextmanager
def performance_report(path: Path | None) -> Iterator[None]:
    """Write Dask's performance report of everything inside, also where that is stopped or fails.

    Parameters
    ----------
    path
        One HTML file, which needs no network; None writes nothing.

    Raises
    ------
    InputError
        There is no Dask client to report on, or bokeh is not installed.
    StoreError
        The file cannot be written; found before the work.
    """
    if path is None:
        yield
        return
    if active_client() is None:
        raise InputError(
            "--performance-report: only Dask's schedulers have one. Use --scheduler local, tcp, tls or gateway."
        )
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise InputError("--performance-report needs bokeh. Install it with: pip install bokeh.") from error
    from distributed import performance_report as of_dask

    with writing(path):
        path.touch()
    report = of_dask(filename=str(path), mode="inline")
    report.__enter__()
    try:
        yield
    finally:
        try:
            report.__exit__(None, None, None)
        except Exception as error:  # the scheduler is lost, most likely; the results, or their error, matter more
            warn(f"{path}: the report could not be written ({error!r}).")
