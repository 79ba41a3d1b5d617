"""Every block of code in the README and on the pages of docs runs, and prints what the page says."""

import ast
import json
import re
import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import voxstack as vx
from pages import INSTEAD, PAGES, ROOT, RUN, Block, Reader, blocks, commands, outputs
from voxstack.io.places import Remote

# Directives that hold no code.
DIRECTIVES = {"{toctree}", "{include}", "{eval-rst}", "{raw}"}

# Files that a page shows and that none of its commands names, and the tests that use them.
USED = {
    "~/.config/dask/gateway.yaml": "test_docs_blocks.py",  # Dask's folder of configuration, in the fixture folder
    "dask_gateway_config.py, for SLURM": "test_docs_clusters.py",
    "Dockerfile": "test_docs_clusters.py",
    "cluster.yaml": "test_docs_clusters.py",
    "job.yaml": "test_docs_clusters.py",
    "on_slurm.py": "test_docs_clusters.py",
    "on_slurm.sh": "test_docs_clusters.py",
}


@pytest.fixture(scope="module")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vx.simulate_cohort(tmp_path_factory.mktemp("simulated") / "cohort", n_subjects=8, resolution=6)


@pytest.fixture
def objects(s3: dict[str, Any], small_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The bucket s3://bucket of the environment, with the cohort's table and maps in it; the server's address."""
    endpoint = str(s3["endpoint"])
    for method, path in (("POST", "moto-api/reset"), ("PUT", "bucket")):
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{path}", method=method)).close()
    (Remote("s3://bucket", s3) / "participants.tsv").write_bytes((small_cohort / "participants.tsv").read_bytes())
    for image in small_cohort.glob("sub-*/*_statmap.nii.gz"):
        (Remote("s3://bucket", s3) / f"maps/{image.parent.name}.nii.gz").write_bytes(image.read_bytes())
    for prefix in ("AWS", "MINIO"):
        monkeypatch.setenv(f"{prefix}_ACCESS_KEY_ID", s3["aws_access_key_id"])
        monkeypatch.setenv(f"{prefix}_SECRET_ACCESS_KEY", s3["aws_secret_access_key"])
    for name, value in (("ENDPOINT_URL", endpoint), ("REGION", "us-east-1"), ("ALLOW_HTTP", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    # Of this test alone: clients are kept, and do not notice a changed environment.
    monkeypatch.setattr("voxstack.io.objects._clients", {})
    return endpoint


@pytest.fixture
def folder(small_cohort: Path, objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, which holds what the pages assume: the folder cohort."""
    matplotlib = pytest.importorskip("matplotlib")
    shutil.copytree(small_cohort, tmp_path / "cohort")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    matplotlib.use("Agg")
    yield tmp_path
    from matplotlib import pyplot as plt

    plt.close("all")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def names_here(folder: Path, endpoint: str) -> dict[str, str]:
    """What pages call machines, folders and numbers of workers, and what is meant on this machine."""
    port = free_port()
    return {
        "http://minio.example.org:9000": endpoint,
        "10.0.0.1:8786": f"127.0.0.1:{port}",
        "10.0.0.1 --port 8786": f"127.0.0.1 --port {port} --dashboard-address 127.0.0.1:0",
        "127.0.0.1:8000": f"127.0.0.1:{free_port()}",
        "~/.config/dask": str(folder / "config"),
        "/shared/": f"{folder}/shared-",
        "local:16": "local:2",
        "--nworkers 8": "--nworkers 1",
        "--workers 8": "--workers 1",
    }


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_blocks_run_in_order_and_print_what_the_page_says(page: Path, folder: Path, objects: str) -> None:
    reader = Reader(page, folder, names_here(folder, objects))
    for block, printed in reader.read():
        if block.output is not None:
            assert printed.splitlines() == block.output.splitlines(), f"{page.name}, line {block.line}"


def looks_like_code(text: str) -> bool:
    """A command, JSON, or statements of Python that call, assign or import; formulas and drawings are none of these."""
    if re.search(r"^\s*(\w*\$ |(voxstack|pip|conda|python|dask|export|cd|ssh|import|from) )|\bvx\.", text, flags=re.M):
        return True
    with suppress(ValueError):
        return isinstance(json.loads(text), dict | list)
    with suppress(SyntaxError):
        return any(isinstance(node, ast.Call | ast.Assign) for node in ast.walk(ast.parse(text)))
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_block_of_code_escapes(page: Path) -> None:
    """A block runs, is a file that a test uses, is a directive without code, or a drawing, a formula, a log."""
    all_blocks = blocks(page)
    for block in all_blocks:
        where = f"{page.name}, line {block.line}: {block.language or 'no language'}"
        if block.language.startswith("{code-block}"):
            assert block.caption, f"{where} runs nowhere: name the file in :caption:, or make it python or console"
            assert is_used(block.caption, all_blocks), f"{where}: no command and no test uses {block.caption}"
        elif block.language == "text":
            assert not looks_like_code(block.code), f"{where} looks like code: make it python or console"
        else:
            assert block.language in RUN or block.language.split()[0] in DIRECTIVES, where
    assert outputs(page) == sum(block.output is not None for block in all_blocks if block.language in RUN)


def is_used(file: str, of_page: list[Block]) -> bool:
    lines = [line for block in of_page if block.language in RUN[1:] for line in commands(block.code)]
    if any(file in line.split() for line in lines if not line.startswith(tuple(INSTEAD))):
        return True
    return file in USED and f'"{file}"' in (ROOT / "tests" / USED[file]).read_text(encoding="utf-8")


def test_docstrings_have_no_code_that_does_not_run() -> None:
    files = sorted((ROOT / "src").rglob("*.py"))
    assert not [file.name for file in files if ">>>" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("code", ["import x", "$ voxstack info x", "x = f(y)", '{"a": 1}', "vx.stack(a,"])
def test_code_is_known_as_such(code: str) -> None:
    assert looks_like_code(code)


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "docs/concepts.md", "docs/statistics.md"])
def test_pages_show_code(name: str) -> None:
    assert any(block.language == "python" for block in blocks(ROOT / name))


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "docs/cli.md"])
def test_pages_show_commands(name: str) -> None:
    lines = [line for block in blocks(ROOT / name) if block.language in RUN[1:] for line in commands(block.code)]
    assert any(line.startswith("voxstack ") for line in lines)
