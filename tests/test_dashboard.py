"""The picture of the dashboard in the documentation is drawn by a script, and shows a test that runs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def coloured(picture: Path) -> set[tuple[int, int, int]]:
    """Colours, in steps of 32, that fill more than one pixel in 1,000 of the right half, where the task stream is."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pixels = (pyplot.imread(picture)[..., :3] * 7.99).astype(int)
    pixels = pixels[80:450, 320:].reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    often = colours[counts > len(pixels) / 1000]
    return {tuple(colour) for colour in often.tolist() if max(colour) - min(colour) >= 3}


def test_the_script_draws_tasks_of_several_kinds(tmp_path: Path) -> None:
    pytest.importorskip("bokeh")
    pytest.importorskip("playwright")
    spec = importlib.util.spec_from_file_location("make_dashboard", DOCS / "make_dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    if script.chromium() is None:
        pytest.skip("there is no Chromium on this machine")
    picture = tmp_path / "dashboard.png"
    command = [sys.executable, str(DOCS / "make_dashboard.py"), "--quick", str(picture)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dashboard.png"]
    assert len(coloured(picture)) >= 2


def test_the_picture_in_the_documentation_is_small_and_not_blank() -> None:
    picture = DOCS / "_static" / "dashboard.png"
    assert picture.stat().st_size < 300_000
    assert len(coloured(picture)) >= 3


def test_the_script_says_when_there_is_no_browser(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    command = [sys.executable, str(DOCS / "make_dashboard.py"), str(tmp_path / "dashboard.png")]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "There is no Chromium on this machine."
