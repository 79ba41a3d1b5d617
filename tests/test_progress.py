"""Progress of long work: a bar in terminals, the same bar in notebooks, a line now and then in logs."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from voxstack import progress
from voxstack.progress import track

# Steps of 20 ms, with the name of a contrast that looks like markup, like HTML, and steers terminals.
SCRIPT = """
import time
from voxstack import progress
progress.LINE_EVERY = {every}
def note():
    return "p 0.01 of [red]x[/red] <b>sex[t.male]</b>\\x1b[2J"
def steps():
    for i in range({steps}):
        time.sleep(0.02)
        yield i
for _ in progress.track(steps(), total={steps}, description="voxels", visible=True, note=note):
    pass
"""
NAME = "p 0.01 of [red]x[/red] <b>sex[t.male]</b>"


def script(*, steps: int, every: float = 30.0) -> str:
    return SCRIPT.format(steps=steps, every=every)


class TestTrack:
    @pytest.mark.parametrize("visible", [False, True])
    def test_results_pass_through_and_the_bar_is_on_stderr(
        self, visible: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stderr, stdout = io.StringIO(), io.StringIO()
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setattr("sys.stdout", stdout)
        assert list(track(iter("abc"), total=3, description="stacking", visible=visible)) == ["a", "b", "c"]
        assert stdout.getvalue() == ""
        assert ("stacking" in stderr.getvalue()) == visible
        assert ("3/3" in stderr.getvalue()) == visible

    def test_an_error_ends_the_bar_and_is_passed_on(self, capsys: pytest.CaptureFixture[str]) -> None:
        def broken() -> Iterator[int]:
            yield 1
            raise ZeroDivisionError("second")

        with pytest.raises(ZeroDivisionError, match="second"):
            list(track(broken(), total=3, description="stacking", visible=True))
        assert re.fullmatch(r"stacking 1/3, .+, stopped after 0\.0 s\n", capsys.readouterr().err)
        assert "voxstack-progress" not in [thread.name for thread in threading.enumerate()]

    def test_nothing_is_shown_where_there_is_nothing_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert list(track([], total=0, description="stacking", visible=True)) == []
        assert capsys.readouterr().err == ""


class TestLines:
    """Of a pipe or a log file."""

    def lines(self, capsys: pytest.CaptureFixture[str]) -> list[str]:
        said = capsys.readouterr()
        assert said.out == ""
        return said.err.splitlines()

    def test_short_work_is_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        list(track(range(2000), total=2000, description="voxels", visible=True))
        (line,) = self.lines(capsys)
        assert re.fullmatch(r"voxels 2000/2000, [\d.]+/s, in \d\.\d s", line)

    def test_long_work_is_a_line_now_and_then(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(progress, "LINE_EVERY", 0.2)
        started = time.monotonic()
        work = (time.sleep(0.01) for _ in range(100))
        list(track(work, total=100, description="voxels", visible=True, note=lambda: "p 0.02 of age"))
        most = (time.monotonic() - started) / 0.2 + 1
        *lines, last = self.lines(capsys)
        assert 3 <= len(lines) <= most
        done = []
        for line in lines:
            match = re.fullmatch(r"voxels (\d+)/100, ([\d.]+)/s, ([\d.]+) s left, p 0.02 of age", line)
            assert match is not None, line
            done.append(int(match[1]))
            # The rate is that of all steps so far, and what is left takes as long at that rate.
            assert float(match[3]) == pytest.approx((100 - done[-1]) / float(match[2]), abs=0.06)
        assert done == sorted(set(done))
        assert last.startswith("voxels 100/100, ")

    def test_no_news_is_no_line(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "LINE_EVERY", 0.02)
        list(track((time.sleep(0.3) for _ in range(2)), total=2, description="maps", visible=True))
        lines = [line.partition(",")[0] for line in self.lines(capsys)]
        assert lines[:2] == ["maps 0/2", "maps 1/2"]
        assert len(lines) <= 4  # the last step may be told twice: with time left, and with time taken

    def test_the_rate_does_not_believe_in_bursts(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Sixteen steps that run side by side complete at once; the next sixteen take as long again."""
        monkeypatch.setattr(progress, "LINE_EVERY", 0.05)

        def bursts() -> Iterator[int]:
            for step in range(32):
                if step % 16 == 0:
                    time.sleep(0.5)
                yield step

        list(track(bursts(), total=32, description="maps", visible=True))
        half = next(line for line in self.lines(capsys) if line.startswith("maps 16/32"))
        left = re.search(r"([\d.]+) s left", half)
        assert left is not None
        assert float(left[1]) >= 0.4

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.04, "0.0 s"), (2.34, "2.3 s"), (9.97, "10 s"), (72, "72 s"), (100, "2 min"), (150 * 60, "2 h 30 min"),
            (3599, "1 h 0 min"), (119.5 * 3600, "120 h"),
        ],
    )  # fmt: skip
    def test_durations_read_well(self, seconds: float, text: str) -> None:
        assert progress._duration(seconds) == text

    def test_ipython_without_a_kernel_is_no_notebook(self, tmp_path: Path) -> None:
        pytest.importorskip("IPython")
        environment = os.environ | {"IPYTHONDIR": str(tmp_path)}
        command = [sys.executable, "-m", "IPython", "--no-banner", "-c", script(steps=3)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
        (line,) = done.stderr.splitlines()
        assert line.startswith("voxels 3/3, ")
        assert line.rstrip().endswith(f"{NAME} [2J")


class TestTerminal:
    def test_the_bar_moves_and_names_are_no_markup(self) -> None:
        ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "160"}
        environment.pop("FORCE_COLOR", None)
        with subprocess.Popen([sys.executable, "-c", script(steps=30)], stderr=theirs, env=environment) as process:
            os.close(theirs)
            shown = self.read(ours)
        assert process.returncode == 0
        assert len(re.findall(r"\b\d+/30\b", shown)) >= 3, "it is drawn again and again"
        assert "\x1b[2J" not in shown, "the name cleared the screen"
        text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)
        assert re.search(r"30/30, [\d.]+/s, in \d+\.\d s, p 0.01 of", text)
        assert f"{NAME} [2J" in text

    def read(self, terminal: int) -> str:
        parts = []
        try:
            while part := os.read(terminal, 65536):
                parts.append(part)
        except OSError:  # how Linux says that the other side has closed it
            pass
        os.close(terminal)
        return b"".join(parts).decode()


class _Text(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def executed(
    kernel_folders: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, list[tuple[str, float, Any]]]:
    """A notebook after it has run, and the messages that the kernel sent: type, time, content."""
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    sent = []

    class Client(nbclient.NotebookClient):
        def process_message(self, message: Any, *arguments: Any) -> Any:
            if message["msg_type"].endswith("display_data"):
                sent.append((message["msg_type"], time.monotonic(), message["content"]))
            return super().process_message(message, *arguments)

    cells = [nbformat.v4.new_code_cell(script(steps=60))]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = str(tmp_path_factory.mktemp("notebook"))
    Client(notebook, timeout=60, resources={"metadata": {"path": folder}}).execute()
    return notebook, sent


class TestNotebook:
    def test_one_picture_is_drawn_again_a_few_times_a_second(self, executed: Any) -> None:
        _, sent = executed
        kinds = [kind for kind, _, _ in sent]
        assert kinds == ["display_data", *["update_display_data"] * (len(sent) - 1)]
        assert len({content["transient"]["display_id"] for _, _, content in sent}) == 1
        assert len(sent) >= 4
        took = sent[-1][1] - sent[0][1]
        assert len(sent) - 2 <= took / progress.CELL_EVERY  # the first and the last one are drawn at once

    def test_the_end_stays_in_the_saved_notebook(self, executed: Any) -> None:
        notebook, sent = executed
        (output,) = notebook.cells[0].outputs
        assert output.data == sent[-1][2]["data"]
        assert re.match(r"voxels 60/60, [\d.]+/s, in \d\.\d s, p 0.01", output.data["text/plain"])
        assert "━━━" in output.data["text/html"]
        assert "widget" not in str(output.data)

    def test_names_are_text(self, executed: Any) -> None:
        html = executed[0].cells[0].outputs[0].data["text/html"]
        assert "\x1b" not in html
        page = _Text(html)
        assert page.tags == {"pre", "span"}
        assert NAME in page.text
        assert page.text.count("\n") == 1
