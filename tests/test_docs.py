"""The documentation is true: its lists are complete, its numbers are those that were measured."""

import json
import re
from pathlib import Path

import click

import voxstack as vx
from voxstack.cli import cli

ROOT = Path(__file__).parents[1]


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
