"""Places in object stores, for the tests of what lies at URLs."""

from pathlib import Path
from typing import Any

from voxstack.io.places import Remote

SECRET = "a-secret-key"


def upload(folder: Path, url: str, options: dict[str, Any]) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            (Remote(url, options) / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return url


def keys_at(url: str, options: dict[str, Any]) -> set[str]:
    from obstore.store import from_url

    return {item["path"] for items in from_url(url, **options).list() for item in items}


def nowhere(options: dict[str, Any]) -> dict[str, Any]:
    """An endpoint that nobody listens at."""
    return {**options, "endpoint": "http://127.0.0.1:9", "retry_config": {"max_retries": 0}}
