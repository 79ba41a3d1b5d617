"""The documentation is true: its lists are complete, its numbers are those that were measured."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

import voxstack as vx
from voxstack.cli import cli

ROOT = Path(__file__).parents[1]
SITE = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *SITE]


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
    for name in ("benchmarks", "association", "permutation", "scale"):
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
