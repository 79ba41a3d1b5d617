"""Pages of the documentation, taken apart into their blocks, and what runs a block."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from packaging.requirements import Requirement

from background import background, wait_until

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("python", "console", "bash")

# Programs that go on until the page ends, and what they say once they serve.
SERVERS = {
    "dask scheduler": "Scheduler at:",
    "dask worker": "Registered to:",
    "dask-gateway-server": "GET /api/v1/routes",
}


@dataclass(frozen=True)
class Block:
    """A block of a page: its first line, its language or directive, and what the page says that it prints."""

    line: int
    language: str
    code: str
    output: str | None = None

    @property
    def caption(self) -> str | None:
        """The name of the file that a directive code-block holds."""
        found = re.match(r":caption: (.+)\n", self.code) if self.language.startswith("{code-block}") else None
        return found and found[1]

    @property
    def content(self) -> str:
        """Without options of a directive."""
        return re.sub(r"\A(:[\w-]+:.*\n)+", "", self.code)


def blocks(page: Path) -> list[Block]:
    """All blocks of code, fenced or indented; one called output belongs to the one right before it."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    return [_block(one, after) for one, after in zip(tokens, [*tokens[1:], None], strict=True) if _is_code(one)]


def _is_code(token: Token) -> bool:
    return token.type == "code_block" or (token.type == "fence" and token.info.strip() != "output")


def _block(token: Token, after: Token | None) -> Block:
    assert token.map is not None
    output = after.content if after is not None and after.type == "fence" and after.info.strip() == "output" else None
    return Block(token.map[0] + 1, token.info.strip(), token.content, output)


def outputs(page: Path) -> int:
    """The number of blocks called output."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    return sum(token.type == "fence" and token.info.strip() == "output" for token in tokens)


def commands(code: str) -> list[str]:
    """Commands of a block, one by one; where a line has a prompt, those without are output."""
    lines = code.replace("\\\n", " ").splitlines()
    prompted = [found[1] for line in lines if (found := re.match(r"\w*\$ (.*)", line))]
    return [one.strip() for line in prompted or lines for one in line.split(" && ") if one.strip()]


def is_declared(command: str) -> None:
    """What pip would install is this package with extras that it has, or stands in one of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = {r.name: r.extras for lines in extras.values() for r in map(Requirement, lines)}
    declared["voxstack"] = set(extras)
    for word in shlex.split(command)[2:]:
        if not word.startswith("-"):
            wanted = Requirement(f"voxstack{word.removeprefix('.')}" if word.startswith(".") else word)
            assert wanted.extras <= declared[wanted.name], command


def has_its_options(command: str) -> None:
    """A benchmark takes minutes: its options are those that the script has."""
    _, script, *words = shlex.split(command)
    known = re.findall(r'add_argument\(\s*"(--[\w-]+)"', (ROOT / script).read_text(encoding="utf-8"))
    assert {word for word in words if word.startswith("--")} <= set(known), command


def elsewhere(command: str) -> None:
    """Nothing to look at: another place runs it."""


# What is looked at in place of commands that cannot run in a test.
INSTEAD: dict[str, Callable[[str], None]] = {
    "pip install": is_declared,  # .ci/run installs with all extras
    "conda env create": elsewhere,  # test_packaging compares its file with pyproject.toml
    "pytest": elsewhere,  # .ci/run takes the README's line
    "python benchmarks/": has_its_options,
    "helm install": elsewhere,  # test_docs_clusters starts what the files for Kubernetes say
    "kubectl": elsewhere,  # the same
    "sbatch": elsewhere,  # test_docs_clusters has a stand-in for SLURM
}


@dataclass
class Reader:
    """Somebody who does what a page says, in a folder, with names of this machine in place of those of the page."""

    page: Path
    folder: Path
    here: dict[str, str] = field(default_factory=dict)
    names: dict[str, object] = field(default_factory=dict)
    servers: ExitStack = field(default_factory=ExitStack)

    def read(self) -> Iterator[tuple[Block, str]]:
        """Write files, run code; yield each block that ran and what it printed. Servers end at last."""
        self.names["__name__"] = self.page.stem
        with self.servers:
            for block in blocks(self.page):
                if block.caption is not None:
                    self.write(block.caption, block.content)
                if block.language == "python":
                    yield block, self.python(block)
                elif block.language in RUN:
                    yield block, "".join(self.command(command) for command in commands(block.code))

    def local(self, text: str) -> str:
        for there, here in self.here.items():
            text = text.replace(there, here)
        return text

    def write(self, caption: str, content: str) -> None:
        path = self.folder / self.local(caption)
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.local(content), encoding="utf-8")

    def python(self, block: Block) -> str:
        """Run in the namespace of the page; tracebacks show the line of the page."""
        printed = io.StringIO()
        code = compile("\n" * block.line + self.local(block.code), str(self.page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, self.names)
        return printed.getvalue()

    def command(self, command: str) -> str:
        """Run by a shell, which finds the scripts of this environment first."""
        for begin, look in INSTEAD.items():
            if command.startswith(begin):
                look(command)
                return ""
        line = self.local(command)
        for program, serves in SERVERS.items():
            if command.startswith(program):
                self.serve(line, serves)
                return ""
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def serve(self, line: str, serves: str) -> None:
        program, *words = shlex.split(line)
        log = self.folder / f"{Path(program).name}-{words[0]}.log"
        process = self.servers.enter_context(background(Path(sys.executable).parent / program, *words, log=log))
        wait_until(lambda: serves in log.read_text() or process.poll() is not None, log=log)
        assert process.poll() is None, log.read_text()
