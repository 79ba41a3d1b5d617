"""The documentation is true: its code runs, its outputs are what it prints, its lists are complete."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
import yaml

import voxstack as vx
from voxstack.cli import cli

ROOT = Path(__file__).parents[1]
SITE = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *SITE]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what the page says that it prints."""

    line: int
    language: str
    code: str
    output: str | None


def blocks(page: Path) -> list[Block]:
    """Blocks that run: python, console and bash; a block called output belongs to the one before it."""
    text = page.read_text(encoding="utf-8")
    fenced = re.finditer(r"^```(\w+)\n(.*?)^```\n(?:\s*^```output\n(.*?)^```\n)?", text, flags=re.M | re.S)
    found = [Block(text.count("\n", 0, match.start(2)), match[1], match[2], match[3]) for match in fenced]
    return [block for block in found if block.language in ("python", "console", "bash")]


def commands(code: str) -> list[str]:
    """Command lines of voxstack in a console block, with or without prompts; installing is left out."""
    lines = code.replace("\\\n", " ").splitlines()
    prompted = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line.strip() for line in prompted or lines if line.startswith("voxstack ")]


@pytest.fixture(scope="module")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vx.simulate_cohort(tmp_path_factory.mktemp("simulated") / "cohort", n_subjects=8, resolution=6)


@pytest.fixture
def folder(small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, which holds what the pages assume: the folder cohort."""
    matplotlib = pytest.importorskip("matplotlib")
    shutil.copytree(small_cohort, tmp_path / "cohort")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    matplotlib.use("Agg")
    yield tmp_path
    from matplotlib import pyplot as plt

    plt.close("all")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_blocks_run_in_order_and_print_what_the_page_says(page: Path, folder: Path) -> None:
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            printed = run_python(block, page, names)
        else:
            printed = "".join(run_command(command) for command in commands(block.code))
        if block.output is not None:
            assert printed.splitlines() == block.output.splitlines(), f"{page.name}, line {block.line}"


def run_python(block: Block, page: Path, names: dict[str, object]) -> str:
    """Run in the namespace of the page; tracebacks show the line of the page."""
    printed = io.StringIO()
    code = compile("\n" * block.line + block.code, str(page), "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def run_command(command: str) -> str:
    """Run through the installed console script."""
    script = shutil.which("voxstack", path=str(Path(sys.executable).parent))
    assert script is not None, "the console script voxstack is not installed"
    line = command.replace("voxstack", f'"{script}"', 1)
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def test_files_on_the_page_of_clusters_can_be_read() -> None:
    text = (ROOT / "docs/clusters.md").read_text(encoding="utf-8")
    files = re.findall(r"^```{code-block} (\w+)\n:caption: (.+?)\n(.*?)^```", text, flags=re.M | re.S)
    assert {"dask_gateway_config.py", "gateway.yaml", "cluster.yaml", "job.yaml", "on_slurm.py"} <= {
        f[1] for f in files
    }
    for language, name, code in files:
        if language == "python":
            compile(code, name, "exec")
        if language == "yaml":
            assert isinstance(yaml.safe_load(code), dict), name


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "docs/concepts.md", "docs/statistics.md"])
def test_pages_show_code(name: str) -> None:
    assert any(block.language == "python" for block in blocks(ROOT / name))


@pytest.mark.parametrize("name", ["README.md", "docs/getting-started.md", "docs/cli.md"])
def test_pages_show_commands(name: str) -> None:
    assert [c for block in blocks(ROOT / name) if block.language != "python" for c in commands(block.code)]


def test_reference_lists_every_public_name() -> None:
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^(?:   |\.\. py:data:: )(\w+)", text, flags=re.M))
    assert set(vx.__all__) <= listed


def options_of(verb: str) -> set[str]:
    """Long options of a verb, without --help."""
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return {o for p in command.params if isinstance(p, click.Option) for o in p.opts} - {"--help"}


def test_command_line_page_lists_every_verb_and_option_and_no_other() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## (?:voxstack )?([\w ]+?)(?: [A-Z| ]+)?$\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    )
    listed = {title: set(re.findall(r"^\| `(--[\w-]+)", body, flags=re.M)) for title, body in sections.items()}
    shared = listed.pop("Verbs that compute")
    del listed["Next"]
    verbs = cli.list_commands(click.Context(cli))
    assert set(listed) == set(verbs)
    for verb in verbs:
        computes = f"`{verb}`" in sections["Verbs that compute"]
        assert listed[verb] | (shared if computes else set()) == options_of(verb), verb


def test_readme_quotes_the_benchmarks() -> None:
    """The tables are those of the last runs whose numbers are kept."""
    readme, numbers = (ROOT / "README.md").read_text(encoding="utf-8"), []
    for name in ("benchmarks", "permutation", "scale"):
        assert (ROOT / f"benchmarks/results/{name}.md").read_text(encoding="utf-8") in readme
        numbers += json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))["numbers"]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| at (?:least|most) .+? \| (missed)? ?\|$", readme, flags=re.M)
    assert [(name, bool(missed)) for name, _, missed in rows] == [(n["name"], not n["reached"]) for n in numbers]


def tables_of(page: Path) -> set[str]:
    """Results of benchmarks whose tables a page of the site includes."""
    return set(re.findall(r"^```{include} \.\./benchmarks/results/(\w+)\.md$", page.read_text("utf-8"), flags=re.M))


def test_site_includes_the_tables_that_the_readme_quotes_and_types_none() -> None:
    kept = {path.stem for path in (ROOT / "benchmarks/results").glob("*.md")}
    assert set().union(*map(tables_of, SITE)) == kept
    assert {"benchmarks", "permutation", "scale"} <= tables_of(ROOT / "docs/benchmarks.md")
    for page in SITE:
        assert "| asked for |" not in page.read_text(encoding="utf-8"), page.name


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_what_a_page_shows_and_links_to_is_there(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        # Pages of the gallery are made when the site is built.
        assert target.startswith("gallery/") or (page.parent / target).exists(), target


def next_pages(page: Path) -> list[str]:
    """Where a page leads: the links of its last section, which is called Next."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    assert headings.count("Next") == 1, f"{page.name} has one section called Next"
    assert headings[-1] == "Next", f"the last section of {page.name} is Next"
    section = re.split(r"^```|^\[\^", text.rpartition("\n## Next\n")[2], flags=re.M)[0]
    items = re.findall(r"^- (.+(?:\n  .+)*)", section, flags=re.M)
    links = [re.match(r"\[[^\]]+\]\(([^)#]+)(?:#[\w-]+)?\): \w", item) for item in items]
    assert 1 <= len(items) <= 3
    assert all(links), f"each of {page.name}'s next pages has a word on when to take it"
    return [link[1] for link in links if link]


@pytest.mark.parametrize("page", SITE, ids=lambda page: page.stem)
def test_every_page_ends_with_where_to_go_next(page: Path) -> None:
    for target in next_pages(page):
        # Pages of the gallery are made when the site is built.
        assert target.startswith("gallery/") or (page.parent / target) in SITE, target
        assert target != page.name


def test_every_page_is_reached_from_the_first_by_going_on() -> None:
    reached: set[Path] = set()
    ahead = {ROOT / "docs/index.md"}
    while ahead:
        reached |= ahead
        ahead = {page.parent / target for page in ahead for target in next_pages(page)} & set(SITE) - reached
    assert {page.stem for page in SITE} == {page.stem for page in reached}


def test_the_picture_of_the_way_names_public_functions_and_can_be_read_aloud() -> None:
    svg = {"svg": "http://www.w3.org/2000/svg"}
    picture = ElementTree.parse(ROOT / "docs/_static/way.svg").getroot()
    called = {name for text in picture.iterfind("svg:text[@class='call']", svg) for name in str(text.text).split(", ")}
    assert {"stack", "fit_glm", "contrast", "permutation_test", "threshold", "write_maps"} <= called <= set(vx.__all__)
    described = str(picture.findtext("svg:desc", namespaces=svg))
    assert all(name in described for name in called)
    for page in ("index", "concepts"):
        assert ":file: _static/way.svg" in (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
