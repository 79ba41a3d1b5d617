"""Whether workers see the files of this process."""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from uuid import uuid4

from voxstack.errors import InputError, listing, writing
from voxstack.run.cluster import wait_for_worker
from voxstack.run.resources import active_client
from voxstack.run.versions import check_versions

_PATIENCE = 5.0  # seconds in which a network file system shows a new file on other machines


def check_visible(sources: Iterable[Path], store: Path | None) -> None:
    """Refuse workers that do not see the files to be read, or another folder than this process where they write.

    One worker of each host of the active client looks; without a client there is nothing to ask.

    Parameters
    ----------
    sources
        Files that are to be read.
    store
        Folder that is to be written, made here if need be; None for an object store.

    Raises
    ------
    InputError
        Names hosts and paths.
    StoreError
        The folder cannot be written from here.
    """
    client = active_client()
    files = [(str(path), path.stat().st_size) for path in sources]
    if client is None or not (files or store):
        return
    wait_for_worker(client)
    workers = client.scheduler_info(n_workers=-1)["workers"]
    check_versions(client, workers)  # else they could not even look
    one_each = list({worker["host"]: address for address, worker in workers.items()}.values())
    if store is None:
        told = client.run(_missing, files, None, workers=one_each, on_error="ignore")
    else:
        made = not store.exists()
        # The ending is that of temporary files of the store, which are swept where a killed call leaves one.
        token = store / f"visible.{uuid4().hex}.partial"
        with writing(store):
            token.parent.mkdir(parents=True, exist_ok=True)
            token.touch()
        try:
            told = client.run(_missing, files, str(token), workers=one_each, on_error="ignore")
        finally:
            token.unlink(missing_ok=True)
            if made:
                with suppress(OSError):
                    store.rmdir()
    problems = sorted({problem for found in told.values() for problem in found})
    if problems:
        raise InputError(
            f"Workers must see the files of this process under the same paths: {listing(problems)}. Put the images "
            "and the store on a file system that every machine mounts at the same place, or the store into an object "
            "store, or run on this machine (--scheduler local)."
        )


def _missing(files: list[tuple[str, int]], token: str | None) -> list[str]:
    """What this worker does not see, in words."""
    host, found = socket.gethostname(), []
    for path, size in files:
        try:
            here = Path(path).stat().st_size
        except OSError as error:
            found.append(f"{host} cannot read {path} ({error.strerror})")
            continue
        if here != size:
            found.append(f"{host} has another file at {path} ({here} bytes, not {size})")
        elif not os.access(path, os.R_OK):
            found.append(f"{host} may not read {path}")
    if token is not None:
        folder, until = Path(token).parent, monotonic() + _PATIENCE
        while not Path(token).exists() and monotonic() < until:
            sleep(0.2)
        if not Path(token).exists():
            found.append(f"{host} does not see what is written to {folder} here")
        elif not os.access(folder, os.W_OK):
            found.append(f"{host} may not write to {folder}")
    return found
