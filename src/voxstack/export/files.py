"""Files out: all of them or none, to a folder of this machine or to a URL."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from voxstack.errors import writing
from voxstack.io.places import Place, Remote


def make_folder(folder: Place) -> None:
    """A folder to write into; `StoreError` where that cannot be, before anything is computed for it."""
    probe = folder / f"{uuid4().hex}.partial"
    with writing(folder):
        if isinstance(folder, Path):  # an object store has no folders
            folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"")
        except OSError as error:
            if error.filename is not None:
                error.filename = str(folder)  # the name of the probe tells nobody anything
            raise
        probe.unlink()


def json_file(told: Mapping[str, Any]) -> bytes:
    """Plain values as JSON. It has no infinity and no NaN, which many programs refuse to read: they are null."""
    return (json.dumps(_finite(told), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_files(contents: Mapping[Place, bytes]) -> None:
    """Write files, each in one step, in their order; they replace those of the same names."""
    with staged((place, content) for place, content in contents.items()):
        pass


@contextmanager
def staged(contents: Iterable[tuple[Place, bytes]]) -> Iterator[None]:
    """Write files under other names, and rename them all if what is done meanwhile succeeds.

    Objects at URLs cannot be renamed: they are kept in memory until all are made, and put when what is done meanwhile
    has succeeded. A staged file is as readable as it will be under its own name.
    """
    objects: dict[Remote, bytes] = {}
    files: dict[Path, Path] = {}
    try:
        for place, content in contents:
            if isinstance(place, Remote):
                objects[place] = content
                continue
            with writing(place.parent):
                if place.is_dir():
                    raise IsADirectoryError(f"{place} is a folder")
                # Another call may be writing the same files: each renames its own.
                files[place] = place.with_name(f"{place.name}.{uuid4().hex}.partial")
                files[place].write_bytes(content)
        yield
        for place, partial in files.items():
            with writing(place.parent):
                partial.replace(place)
        for remote, content in objects.items():
            with writing(remote):
                remote.write_bytes(content)
    finally:
        for partial in files.values():
            partial.unlink(missing_ok=True)
