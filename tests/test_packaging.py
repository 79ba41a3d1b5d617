"""What the package promises about itself: dependencies, version, public names, documentation, size of files."""

import inspect
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import voxstack as vx

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PYPROJECT)["project"]

CONDA_NAMES = {
    "dask": "dask-core",  # dask itself is a bundle with distributed, bokeh and more
    "matplotlib": "matplotlib-base",  # without Qt
    "playwright": "playwright-python",  # playwright is the program for Node.js
    "zlib-ng": "python-zlib-ng",  # zlib-ng is the library in C
}

FUNCTIONS = {
    "at_mm",
    "clusters_table",
    "compute",
    "contrast",
    "describe",
    "fit_glm",
    "from_arrays",
    "label_clusters",
    "make_design",
    "memory_plan",
    "open_cohort",
    "open_results",
    "permutation_test",
    "read_map",
    "report",
    "save_results",
    "simulate_cohort",
    "stack",
    "threshold",
    "to_nifti",
    "true_discovery_proportion",
    "write_maps",
}
OTHER_NAMES = {"Blocks", "MemoryPlan", "TFCE", "__version__", "errors", "figures"}


def requirements(*extras: str) -> list[Requirement]:
    """Of the package itself and some extras, without references to its own extras."""
    lines = [*PROJECT["dependencies"], *(line for e in extras for line in PROJECT["optional-dependencies"][e])]
    return [r for r in map(Requirement, lines) if r.name != "voxstack"]


def environment() -> list[Any]:
    return list(yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"])


def test_environment_yml_holds_the_dependencies_of_pyproject_and_no_others() -> None:
    wanted: dict[str, SpecifierSet] = {}
    for requirement in requirements("report", "cloud", "gateway", "dashboard", "test"):
        name = canonicalize_name(requirement.name)
        wanted[CONDA_NAMES.get(name, name)] = requirement.specifier
    found = {r.name: r.specifier for r in (Requirement(line) for line in environment() if isinstance(line, str))}
    assert found.pop("python") == PROJECT["requires-python"]
    assert found.pop("pip") == ""
    assert found == wanted


def test_environment_yml_installs_the_package_itself() -> None:
    assert {"pip": ["-e ."]} in environment()


def test_every_dependency_has_a_lower_bound() -> None:
    extras = [extra for extra in PROJECT["optional-dependencies"] if extra != "all"]
    for requirement in requirements(*extras):
        assert [s.operator for s in requirement.specifier] == [">="], str(requirement)


def test_an_extra_called_all_holds_all_others() -> None:
    optional = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, optional["all"])
    assert everything.name == "voxstack"
    assert everything.extras == set(optional) - {"all"}


def test_every_dependency_says_what_it_is_for() -> None:
    extras = [lines for extra, lines in PROJECT["optional-dependencies"].items() if extra != "all"]
    declared = sum(extras, PROJECT["dependencies"])
    written = [m for m in re.finditer(r'^    "([^"]+)",(.*)$', PYPROJECT, flags=re.M) if m[1] in declared]
    assert len(written) == len(declared)
    assert not [m[1] for m in written if not re.match(r"\s+# \S", m[2])]


def test_version_is_one_that_installers_read() -> None:
    assert str(Version(vx.__version__)) == vx.__version__


def test_public_names_are_those_of_the_contract() -> None:
    assert set(vx.__all__) == FUNCTIONS | OTHER_NAMES
    assert set(dir(vx)) >= FUNCTIONS | OTHER_NAMES
    for name in FUNCTIONS:
        assert inspect.isfunction(getattr(vx, name)), name


def sections(function: Callable[..., Any]) -> dict[str, str]:
    """Sections of a NumPy docstring by title; what comes before the first is the summary, ''."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.getdoc(function) or "", flags=re.M)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_public_functions_are_documented(name: str) -> None:
    function = getattr(vx, name)
    signature = inspect.signature(function)
    found = sections(function)
    assert re.match(r"[A-Z].*\.(\s|$)", found[""], flags=re.S), "a summary that is a sentence"

    items = re.findall(r"^(\w[\w, ]*)(?: : .*)?$", found["Parameters"], flags=re.M)
    documented = [parameter for item in items for parameter in item.split(", ")]
    assert documented == list(signature.parameters)
    if signature.return_annotation is None:
        assert "Returns" not in found
    else:
        assert found["Returns"].strip()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_public_functions_are_typed(name: str) -> None:
    signature = inspect.signature(getattr(vx, name))
    unannotated = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not unannotated
    assert signature.return_annotation is not signature.empty
    assert (ROOT / "src/voxstack/py.typed").is_file()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_options_of_public_functions_are_keyword_only(name: str) -> None:
    parameters = inspect.signature(getattr(vx, name)).parameters.values()
    options = [p for p in parameters if p.default is not p.empty and p.name != "cohort"]
    assert not [p.name for p in options if p.kind is not p.KEYWORD_ONLY]


def test_errors_have_one_base_and_are_documented() -> None:
    errors = {n: e for n, e in vars(vx.errors).items() if inspect.isclass(e) and e.__module__ == "voxstack.errors"}
    assert {"VoxstackError", "InputError", "GridMismatch", "DesignError", "StoreError", "VoxstackWarning"} <= set(
        errors
    )
    for name, error in errors.items():
        assert issubclass(error, UserWarning if name.endswith("Warning") else vx.errors.VoxstackError), name
        assert error.__doc__, name


def test_source_files_have_one_idea_each() -> None:
    """No file of more than 400 lines, none without a docstring that says what it is."""
    files = sorted((ROOT / "src").rglob("*.py"))
    assert len(files) > 30
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, file.name
        assert text.startswith('"""') or file.name == "_version.py", file.name
