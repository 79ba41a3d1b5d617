"""A Dask scheduler that runs already, at an address."""

import asyncio
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import dask

from voxstack.errors import InputError, VoxstackError
from voxstack.run.cluster import wait_for_worker
from voxstack.run.wanted import Wanted


@contextmanager
def remote_scheduler(wanted: Wanted) -> Iterator[str]:
    """Run everything inside on the workers of a scheduler, which goes on to run.

    Certificates are those of Dask's configuration (``distributed.comm.tls``); how long to wait for an answer is its
    ``distributed.comm.timeouts.connect``.

    Yields
    ------
    str
        Where to watch it.

    Raises
    ------
    InputError
        The address is none, or workers are asked for.
    VoxstackError
        Nothing answers there, not a Dask scheduler, or not with these certificates; or no worker comes.
    """
    address = wanted.spec
    if wanted.workers is not None:
        raise InputError(
            f"--workers: the cluster at {address} has the workers that it has. Scale it where you started it."
        )
    try:
        parts = urlsplit(address)
        whole = bool(parts.hostname and parts.port) and not (parts.path or parts.query or parts.fragment)
    except ValueError:  # a port that is no number
        whole = False
    if not whole:
        raise InputError(f"--scheduler {address}: write {address.partition(':')[0]}://HOST:PORT.")
    with connect(address) as client:
        wait_for_worker(client)
        yield str(client.dashboard_link)


def connect(address: str) -> Any:
    """A client of the scheduler at an address; `VoxstackError` says why there is none."""
    from distributed import Client, Security
    from distributed.versions import VersionMismatchWarning

    seconds = float(dask.utils.parse_timedelta(dask.config.get("distributed.comm.timeouts.connect", "30 s")))
    # A client that fails to connect would stay behind as the one that Dask uses, and some would wait for ever.
    knocking = _knock(address, Security().get_connection_args("client"))
    try:
        answer = asyncio.run(asyncio.wait_for(knocking, seconds + 1))
    except TypeError as error:  # what Dask raises where it needs certificates and has none
        raise VoxstackError(
            f"{address} needs certificates, and Dask's configuration has none: set distributed.comm.tls.ca-file, and "
            f"cert and key of distributed.comm.tls.client ({error})."
        ) from error
    except TimeoutError as error:
        raise VoxstackError(
            f"{address}: no Dask scheduler has answered for {seconds:.0f} seconds. {_ADVICE}"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise VoxstackError(f"{address} cannot be used as a Dask scheduler: {_told(error)} {_ADVICE}") from error
    if answer != "Scheduler":
        raise VoxstackError(f"{address} is a Dask {answer}, not a scheduler. {_ADVICE}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VersionMismatchWarning)  # voxstack has its own, of what matters
        return Client(address)


async def _knock(address: str, arguments: Mapping[str, Any]) -> str:
    """What kind of server of Dask answers."""
    from distributed.comm.core import connect
    from distributed.core import send_recv

    comm = await connect(address, **arguments)
    try:
        return str((await send_recv(comm, op="identity"))["type"])
    finally:
        comm.abort()


_ADVICE = (
    "Look whether it runs, whether the address and its beginning (tcp or tls) are right, and whether a firewall is "
    "between; and for tls, whether Dask's configuration distributed.comm.tls names the certificates of that cluster."
)


def _told(error: BaseException) -> str:
    """What went wrong, the reasons of reasons included."""
    told: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        text = re.sub(r"in <[\w.]+ object at \w+>: ", "", str(seen)).strip()
        if text and not any(text in before for before in told):
            told.append(text)
        seen = seen.__cause__ or seen.__context__
    return "; ".join(told).rstrip(".") + "."
