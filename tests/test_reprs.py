"""What notebooks show of cohorts, designs, fits, results and tables: text of users is text, and does nothing."""

from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from permuted_cohorts import run

NASTY = "<img src=x onerror=owned()><script>&amp;"


class Page(HTMLParser):
    """Tags, names of their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What users look at, with hostile labels, levels, names and attributes wherever they may choose them."""
    rng = np.random.default_rng(0)
    n = 12
    people = pd.DataFrame(
        {f"age{NASTY}": rng.normal(size=n), "group": np.resize(["a", f"b{NASTY}"], n)},
        index=[f"{i}{NASTY}" for i in range(n)],
    )
    maps = rng.normal(size=(n, 5, 6, 4))
    maps[:, 1:3, 1:3, 1:3] += 3
    cohort = vx.from_arrays({f"map{NASTY}": maps}, affine=np.diag([3.0, 3.0, 3.0, 1.0]), participants=people)
    design = vx.make_design(cohort, "~ group")
    fit = vx.fit_glm(cohort, design)
    result = vx.contrast(fit, [f"group[T.b{NASTY}]"])
    tests = run(cohort, "~ 1", {f"mean{NASTY}": "Intercept"}, n_permutations=40, statistics=("voxel", "tfce"))
    significant = vx.threshold(tests, correction="fwe", variable="stat", alpha=0.1)
    return {
        "cohort": cohort.assign_attrs({f"note{NASTY}": NASTY}),
        "map": cohort[f"map{NASTY}"],
        "design": design,
        "fit": fit,
        "contrast": result,
        "computed": vx.compute(result),
        "voxel": vx.at_mm(vx.compute(result), 3, 3, 3),
        "permutation": tests,
        "threshold": significant,
        "clusters": vx.clusters_table(significant),
    }


@pytest.mark.parametrize(
    "what",
    ["cohort", "map", "design", "fit", "contrast", "computed", "voxel", "permutation", "threshold", "clusters"],
)
def test_text_of_users_is_text(what: str, shown: dict[str, Any]) -> None:
    with xr.set_options(display_style="html"), pd.option_context("display.max_colwidth", None):
        page = Page(shown[what]._repr_html_())
    assert NASTY in page.text
    assert not page.tags & {"img", "script", "iframe", "object", "embed", "link"}
    assert not [name for name in page.attributes if name.startswith("on")]
