"""Whether a cluster runs the same code as this process."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from voxstack.errors import VoxstackError, warn

_PACKAGES = (
    "voxstack", "numpy", "scipy", "numba", "xarray", "zarr", "nibabel", "dask", "distributed", "cloudpickle",
)  # fmt: skip

Versions = Mapping[str, str | None]
"""By package; None where it is not installed."""

_checked: "WeakKeyDictionary[Any, set[str]]" = WeakKeyDictionary()


def check_versions(client: Any, workers: Iterable[str]) -> None:
    """Refuse a cluster whose scheduler or workers run other code than this process.

    Each worker is asked once, when it is first seen, through Dask's own messages: these need neither voxstack nor the
    same Python on the other side, where a task would fail with a ModuleNotFoundError from deep inside, or crash.

    What differs is an error or a warning by one rule:

    - voxstack has to be the same. Tasks name its private functions and carry its private classes.
    - Python, and each package that tasks are made of, packed with or computed by, has to be the same in the first two
      numbers of its version. Compiled functions of one Python mean nothing to another. Dask, distributed, cloudpickle,
      xarray and zarr send objects whose private attributes change between releases, and NumPy's arrays of 2 cannot be
      read by 1. Of NumPy, SciPy, Numba and nibabel the last digits of results may change, which then depended on the
      worker that computed them; checkpoints would not be continued bit by bit.
    - Other differences (the third number, as in 2.1.0 and 2.1.3) mend bugs: a `VoxstackWarning`, once for each client.
      Those of Python are none.

    Parameters
    ----------
    client
        Of distributed.
    workers
        Addresses of those that are there.

    Raises
    ------
    VoxstackError
        Names each package with both versions, how many workers have another one, and what to do.
    """
    known = _checked.setdefault(client, set())
    new = set(workers) - known
    if not new:
        return
    others = _ask(client, new)
    mine = _of_this_process()
    different = _differences(mine, others)
    fatal = [told for told, harmless in different if not harmless]
    if fatal:
        raise VoxstackError(
            f"The cluster runs other code than this process: {'; '.join(fatal)}. Give both the same environment "
            "(one container image, or one lock file of conda or pip), start the cluster again, and repeat the call."
        )
    if different and not known:
        warn(
            f"The cluster runs other versions than this process: {'; '.join(told for told, _ in different)}. Results "
            "may differ in their last digits from those of this process."
        )
    known.update(address for address in others if address in new)


def _ask(client: Any, workers: Iterable[str]) -> dict[str, Versions]:
    """Versions of the scheduler, under that name, and of workers, but for such as are gone meanwhile."""
    packages = list(_PACKAGES)

    async def ask() -> dict[str, Any]:
        message = {"op": "versions", "packages": packages}
        found = await client.scheduler.broadcast(msg=message, workers=list(workers), on_error="ignore")
        return {"scheduler": await client.scheduler.versions(packages=packages), **found}

    with suppress(OSError, KeyError):  # the connection is lost, or a worker is no more; both are found out elsewhere
        return {name: told["packages"] for name, told in client.sync(ask, callback_timeout="30s").items()}
    return {}


def _of_this_process() -> Versions:
    from distributed.versions import get_versions

    found: Versions = get_versions(packages=_PACKAGES)["packages"]
    return found


def _differences(mine: Versions, others: Mapping[str, Versions]) -> list[tuple[str, bool]]:
    """What to say of each package that differs, and whether it does no harm."""
    found = []
    for package in ("python", *_PACKAGES):
        having: defaultdict[str | None, list[str]] = defaultdict(list)
        for name, versions in others.items():
            if versions.get(package) != mine[package]:
                having[versions.get(package)].append(name)
        for version, names in having.items():
            harmless = package != "voxstack" and _series(version) == _series(mine[package])
            if package == "python" and harmless:
                continue
            found.append((f"{package} is {_called(version)} on {_who(names)}, here {_called(mine[package])}", harmless))
    return found


def _series(version: str | None) -> list[str] | None:
    """The first two numbers."""
    return None if version is None else version.split(".")[:2]


def _called(version: str | None) -> str:
    return "not installed" if version is None else version.removesuffix(".final.0")


def _who(names: list[str]) -> str:
    workers = sum(name != "scheduler" for name in names)
    told = ["the scheduler"] * (workers < len(names)) + [f"{workers} worker{'s'[: workers > 1]}"] * (workers > 0)
    return " and ".join(told)
