"""Object stores that fail for a moment: requests are tried again, and what comes of it is what would have come."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import xarray as xr

import voxstack as vx
from remote_stores import Remote
from small_cohorts import MAPS, noise, save
from voxstack.errors import StoreError


class Unreliable(ThreadingHTTPServer):
    """In front of an S3 server: some requests fail, by turns in all ways.

    Parameters
    ----------
    behind
        Address of the server.
    every
        One of so many requests fails.
    """

    daemon_threads = True
    ways = ("500", "503", "reset before", "reset after")

    def __init__(self, behind: str, every: int) -> None:
        super().__init__(("127.0.0.1", 0), Unreliably)
        self.behind, self.every = urlsplit(behind).netloc, every
        self.requests, self.failed, self.lock = 0, Counter[tuple[str, str]](), threading.Lock()

    def fate(self, method: str) -> str:
        with self.lock:
            self.requests += 1
            if self.every == 0 or self.requests % self.every:
                return "fine"
            way = self.ways[self.requests // self.every % len(self.ways)]
            self.failed[method, way] += 1
            return way


class Unreliably(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Unreliable

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate = self.server.fate(self.command)
        if fate in ("500", "503"):
            self.send_response(int(fate))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fate != "reset before":
            behind = HTTPConnection(self.server.behind)
            behind.request(self.command, self.path, body, dict(self.headers))
            told = behind.getresponse()
            content = told.read()
            behind.close()
        if fate.startswith("reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self.send_response(told.status)
        for name, value in told.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        if self.command != "HEAD" and told.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer


@pytest.fixture
def unreliable(
    s3: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Unreliable, dict[str, Any]]]:
    monkeypatch.setattr("voxstack.store.remote._PAUSE", 0.001)
    server = Unreliable(s3["endpoint"], every=request.param)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    quick = {"backoff": {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=20)}}
    yield server, {**s3, "endpoint": f"http://127.0.0.1:{server.server_port}", "retry_config": quick}
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("unreliable", [3], indirect=True)
def test_one_of_three_requests_fails_and_nothing_shows(
    s3: dict[str, Any], unreliable: tuple[Unreliable, dict[str, Any]], tmp_path: Path, small_chunks: None
) -> None:
    server, options = unreliable
    root, volumes = f"s3://bucket/{tmp_path.name}", noise(8)
    save(tmp_path / "m", volumes)
    table = tmp_path / "m" / "participants.tsv"
    for name, kept in (("undisturbed", s3), ("c", options)):
        cohort = vx.stack(table, f"{root}/{name}", maps=MAPS, storage_options=kept)
        np.testing.assert_array_equal(cohort["effect"].values, volumes)
        result = vx.contrast(vx.fit_glm(cohort, "~ 1"), "Intercept").compute()[["stat"]]
        for overwrite in (False, True):
            vx.save_results(result, f"{root}/{name}-r", overwrite=overwrite, storage_options=kept)
        xr.testing.assert_identical(vx.open_results(f"{root}/{name}-r", storage_options=kept).compute(), result)
    content = {url: Remote("", s3).content(f"{root}/{url}") for url in ("undisturbed", "c", "undisturbed-r", "c-r")}
    assert content["c"] == content["undisturbed"]
    assert content["c-r"] == content["undisturbed-r"]
    assert {way for _, way in server.failed} == set(Unreliable.ways)
    assert {method for method, _ in server.failed} >= {"GET", "PUT", "POST"}


@pytest.mark.parametrize("unreliable", [1], indirect=True)
def test_one_that_stays_away_is_said_to(unreliable: tuple[Unreliable, dict[str, Any]], tmp_path: Path) -> None:
    server, options = unreliable
    save(tmp_path / "m", noise(3))
    few = {**options, "retry_config": {**options["retry_config"], "max_retries": 2}}
    with pytest.raises(StoreError, match=r"c cannot be read: .* after 2 retries"):
        vx.stack(tmp_path / "m" / "participants.tsv", "s3://bucket/c", maps=MAPS, storage_options=few)
    assert server.requests == 3
    with pytest.raises(StoreError, match=r"c cannot be read: .* after 15 retries"):
        vx.open_cohort("s3://bucket/c", storage_options=options)
    assert server.requests == 3 + 16


@pytest.mark.parametrize("unreliable", [0], indirect=True)
@pytest.mark.parametrize("step", ["fit", "stack"])
def test_one_that_goes_away_meanwhile(
    unreliable: tuple[Unreliable, dict[str, Any]], tmp_path: Path, step: str, small_chunks: None
) -> None:
    """What was done is kept, and gone on with when it is back."""
    server, options = unreliable
    save(tmp_path / "m", noise(8))
    table, url = tmp_path / "m" / "participants.tsv", f"s3://bucket/{tmp_path.name}"
    kept = {"storage_options": {**options, "retry_config": {**options["retry_config"], "max_retries": 1}}}
    if step == "fit":
        cohort = vx.stack(table, url, maps=MAPS, **kept)
        server.every = 1
        with pytest.raises(StoreError, match=f"{url}: 'effect' cannot be read|{url} cannot be read"):
            vx.fit_glm(cohort, "~ 1").compute()
        server.every = 0
        assert vx.fit_glm(cohort, "~ 1").compute()["beta"].notnull().all()
        return
    write: Any = vx.store.building.write_batch

    def last(batch: Any) -> None:
        if batch.number == 2:
            server.every = 1
        write(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxstack.store.building.write_batch", last)
        with pytest.raises(StoreError, match=f"{url} cannot be written: .*What was done is kept"):
            vx.stack(table, url, maps=MAPS, **kept)
    server.every = 0
    cohort = vx.stack(table, url, maps=MAPS, break_lock=True, **kept)
    np.testing.assert_array_equal(cohort["effect"].values, noise(8))
