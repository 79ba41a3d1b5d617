"""Object stores, looked at without voxstack."""

import json
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import fsspec
import obstore

LOCK = "stack.lock"


@dataclass
class Remote:
    """A place in an object store."""

    root: str
    options: dict[str, Any] = field(default_factory=dict)

    def bucket(self) -> Any:
        return obstore.store.from_url("s3://bucket", **self.options)

    def content(self, url: str) -> dict[str, bytes]:
        """All keys below a URL."""
        path = url.partition("://")[2]
        if url.startswith("memory://"):
            files = fsspec.filesystem("memory")
            found = {name: files.cat_file(name) for name in files.find(f"/{path}")}
            return {name.removeprefix(f"/{path}/"): held for name, held in found.items()}
        prefix = path.removeprefix("bucket/")
        found = {meta["path"]: bytes(obstore.get(self.bucket(), meta["path"]).bytes())
                 for batch in obstore.list(self.bucket(), prefix) for meta in batch}  # fmt: skip
        return {name.removeprefix(f"{prefix}/"): held for name, held in found.items()}

    def put(self, url: str, key: str, held: bytes) -> None:
        path = f"{url.partition('://')[2]}/{key}"
        if url.startswith("memory://"):
            fsspec.filesystem("memory").pipe_file(f"/{path}", held)
        else:
            obstore.put(self.bucket(), path.removeprefix("bucket/"), held)

    def lock(self, url: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.content(url)[LOCK])
        return told

    def leave_lock(self, url: str, *, silent: float) -> dict[str, Any]:
        """What a run that gave its last sign of life so many seconds ago has left."""
        told = {"run": "0" * 32, "host": "node-17", "process": 4711, "beat": time.time() - silent}
        self.put(url, LOCK, json.dumps(told).encode())
        return told

    def unfinished_uploads(self) -> str:
        """What the server lists of uploads in parts that were begun and never ended."""
        with urllib.request.urlopen(f"{self.options['endpoint']}/bucket?uploads") as answer:
            told: str = answer.read().decode()
        return told
