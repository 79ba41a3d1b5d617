"""What is told of a run in the folder of its results, and never in a store."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxstack.export.files import write_files
from voxstack.io.places import Remote, place_of

RECORD = "provenance.json"


def write_record(folder: str | Path | Remote, told: Mapping[str, Any]) -> None:
    """Write provenance.json beside results, or replace that of an earlier run; `StoreError` where that cannot be.

    Parameters
    ----------
    folder
        Or a URL.
    told
        Plain values.
    """
    content = json.dumps(told, indent=2, ensure_ascii=False, default=str) + "\n"
    write_files({place_of(folder, None) / RECORD: content.encode()})
