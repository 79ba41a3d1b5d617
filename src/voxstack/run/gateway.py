"""Clusters of a dask-gateway server."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from typing import Any

import dask

from voxstack.errors import InputError, VoxstackError, warn
from voxstack.run.cluster import START_TIMEOUT, timeout, wait_for_worker
from voxstack.run.wanted import Wanted

_WORKERS = 2
_MEMORY = "worker_memory"  # what the documentation of dask-gateway calls that option of a cluster

# A gateway that is collected closes itself once more, in whatever thread that happens. There it fails, or waits for
# ever for the event loop that it stands in. So those that are closed are kept.
_kept: list[Any] = []


@contextmanager
def gateway_cluster(wanted: Wanted) -> Iterator[str]:
    """Run everything inside on a cluster of a dask-gateway server.

    A new cluster is shut down at the end, in whatever way that comes, short of this process being killed; one that is
    named goes on to run. Who the user is stands in Dask's configuration (``gateway.auth``).

    Yields
    ------
    str
        Where to watch it.

    Raises
    ------
    InputError
        dask-gateway is not installed; no address; options that do not fit.
    VoxstackError
        The gateway does not answer or lets the user not in; no such cluster; none starts, or no worker comes, in time.
    """
    address, _, name = wanted.spec.partition(":")[2].partition("#")
    if name and wanted.workers is not None:
        raise InputError(f"--workers is for a new cluster; {name} has the workers that it has. Leave one of them out.")
    address = address or str(dask.config.get("gateway.address", None) or "")
    if not address.startswith(("http://", "https://")):
        raise InputError(
            f"--scheduler {wanted.spec}: write gateway:https://HOST, or set gateway.address of Dask's configuration "
            "(DASK_GATEWAY__ADDRESS)."
        )
    with ExitStack() as stack:
        with _in_words(address):
            gateway = stack.enter_context(_gateway(address))
            cluster_name = name or gateway.submit(**_options(gateway, wanted.memory_limit))
            if not name:
                stack.callback(_shut_down, gateway, cluster_name)
            _wait_for_start(gateway, cluster_name)
            cluster = stack.enter_context(gateway.connect(cluster_name, shutdown_on_close=False))
            _kept.append(cluster)
            client = stack.enter_context(cluster.get_client())
            if not name:
                cluster.scale(wanted.workers or _WORKERS)
        wait_for_worker(client)
        yield str(cluster.dashboard_link or "")


def _gateway(address: str) -> Any:
    try:
        from dask_gateway import Gateway
    except ImportError as error:
        raise InputError(
            "--scheduler gateway needs dask-gateway. Install it with: pip install 'voxstack[gateway]'."
        ) from error
    gateway = Gateway(address)
    _kept.append(gateway)
    return gateway


def _options(gateway: Any, memory_limit: str | None) -> dict[str, Any]:
    """What to ask of a new cluster, beside what Dask's configuration says (``gateway.cluster.options``).

    Which options there are is up to each gateway. Where it has one called ``worker_memory``, as in dask-gateway's
    documentation, that gets the limit: as text such as "4 G" if its default is text; as bytes if that is too large to
    be GiB; as GiB otherwise.
    """
    if memory_limit is None:
        return {}
    options = gateway.cluster_options()
    if _MEMORY not in options:
        return {}
    size = dask.utils.parse_bytes(memory_limit)
    default = options[_MEMORY]
    value = f"{size / 2**30:.6g} G" if isinstance(default, str) else size if default > 2**20 else size / 2**30
    try:
        setattr(options, _MEMORY, type(default)(value))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"--memory-limit {memory_limit}: this gateway refuses that for its workers ({error})."
        ) from error
    return {_MEMORY: options[_MEMORY]}


def _wait_for_start(gateway: Any, name: str) -> None:
    since, seconds = monotonic(), timeout(START_TIMEOUT)
    while True:
        status = gateway.get_cluster(name).status.name
        if status == "RUNNING":
            return
        if status != "PENDING":
            raise VoxstackError(
                f"The cluster {name} of the gateway is {status.lower()}. Look at the gateway's log; its scheduler_cmd "
                "and worker_cmd must be commands that there are (docs: Clusters)."
            )
        if monotonic() - since > seconds:
            raise VoxstackError(
                f"The cluster {name} of the gateway has not started for {seconds:.0f} seconds. Look at the gateway's "
                f"log and at the queue that it waits in. Dask's configuration {START_TIMEOUT!r} sets how long to wait."
            )
        sleep(0.25)


def _shut_down(gateway: Any, name: str) -> None:
    try:
        gateway.stop_cluster(name)
    except Exception as error:  # whatever it is, the results are more important
        warn(f"The cluster {name} of the gateway could not be shut down ({error!r}). Stop it by hand.")


@contextmanager
def _in_words(address: str) -> Iterator[None]:
    """What the gateway's client raises, as `VoxstackError`."""
    try:
        yield
    except VoxstackError:
        raise
    except Exception as error:  # of aiohttp, ssl, dask_gateway, and of whatever authenticates
        status = getattr(error, "status", None)
        if status in (401, 403):
            told = (
                f"The gateway {address} does not let you in ({status}). Dask's configuration gateway.auth says who you "
                "are: type, and kwargs such as username and password."
            )
        else:
            told = (
                f"The gateway {address} cannot be used: {str(error) or repr(error)}. Look "
                "whether it runs, whether the address and gateway.auth of Dask's configuration are right, and what the "
                "gateway's log says."
            )
        raise VoxstackError(told) from error
