"""What is told of a run in the folder of its results, and never in a store."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxstack.errors import writing
from voxstack.store import keys
from voxstack.store.location import Location

RECORD = "provenance.json"


def write_record(folder: str | Path, told: Mapping[str, Any], storage_options: Mapping[str, Any] | None = None) -> None:
    """Write provenance.json beside results, or replace that of an earlier run.

    Parameters
    ----------
    folder
        Or a URL.
    told
        Plain values.
    storage_options
        Credentials and settings of an object store.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    location = Location.of(folder, storage_options)
    content = json.dumps(told, indent=2, ensure_ascii=False, default=str) + "\n"
    with writing(f"{location}/{RECORD}"):
        keys.put(location.open(read_only=False), {RECORD: content.encode()})
