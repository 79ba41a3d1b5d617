"""Exchangeability blocks: from labels, covariates and files, in words and numbers, and what is refused."""

import math
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import palm
from voxstack.errors import DesignError, InputError, VoxstackWarning
from voxstack.inference.exchangeability import Blocks
from voxstack.inference.explanation import check_relabellings, warn_without_block_effects
from voxstack.kernels.exchangeability import Tree, orbits, tree_of

SUBJECTS = [f"sub-{i}" for i in range(1, 7)]
FAMILIES = pd.Series(["b", "a", "b", "c", "a", "b"], index=SUBJECTS)

PAIRS = "\n".join(str(i // 2 + 1) for i in range(12))
NESTED = (palm.INPUTS / "nest10_eb.csv").read_text()  # of 4 and 6 subjects, of 2, 2, 3 and 3 within these


def exchanged(tree: Tree) -> set[frozenset[int]]:
    """Sets of subjects that can take each other's places."""
    number = orbits(tree)
    return {frozenset(np.flatnonzero(number == one).tolist()) for one in number}


def written(folder: Path, text: str) -> Path:
    path = folder / "eb.csv"
    path.write_text(text, encoding="utf-8")
    return path


# ----- labels


@pytest.mark.parametrize(
    "labels",
    [
        FAMILIES.tolist(),
        FAMILIES,
        FAMILIES.iloc[::-1],
        FAMILIES.reset_index(drop=True),
        FAMILIES.astype("category"),
        FAMILIES.map({"a": 1.0, "b": 10.0, "c": 5.0}),
        FAMILIES.map({"a": 1, "b": 10, "c": 5}).astype("Int64"),
        xr.DataArray(FAMILIES.to_numpy(dtype=object), {"subject": SUBJECTS}, dims="subject")[::-1],
        "family",
    ],
)
def test_labels_are_matched_by_subject_or_by_row(labels: Any) -> None:
    covariates = pd.DataFrame({"family": FAMILIES})
    tree = Blocks(labels).resolve(SUBJECTS, covariates)
    assert exchanged(tree) == {frozenset({0, 2, 5}), frozenset({1, 4}), frozenset({3})}
    names = {block.label: sorted(block.rows.tolist()) for block in tree.children}
    assert [names[label] for label in sorted(names)] == [[1, 4], [0, 2, 5], [3]]


def test_blocks_have_the_names_that_labels_read() -> None:
    for labels, names in (
        (["x", "y", "x"], {"x", "y"}),
        ([1.0, 20.0, 1.0], {"1", "20"}),
        ([True, False, True], {"True", "False"}),
    ):
        assert {block.label for block in Blocks(labels).resolve(["1", "2", "3"]).children} == names


def test_subjects_that_the_design_leaves_out_need_no_label() -> None:
    labels = FAMILIES.where(FAMILIES != "c")
    kept = np.array([True, True, True, False, True, False])
    assert exchanged(Blocks(labels).resolve(SUBJECTS, kept=kept)) == {frozenset({0, 2}), frozenset({1, 3})}


def test_within_whole_and_both() -> None:
    labels = ["a", "a", "b", "b", "c", "c", "c"]
    names = [str(i) for i in range(7)]
    apart, pairs = {frozenset({i}) for i in range(4, 7)}, frozenset({4, 5, 6})
    assert exchanged(Blocks(labels).resolve(names)) == {frozenset({0, 1}), frozenset({2, 3}), pairs}
    whole = Blocks(labels, whole=True).resolve(names)
    assert exchanged(whole) == {frozenset({0, 2}), frozenset({1, 3})} | apart
    assert exchanged(Blocks(labels, within=False, whole=True).resolve(names)) == exchanged(whole)
    both = Blocks(labels, within=True, whole=True).resolve(names)
    assert exchanged(both) == {frozenset({0, 1, 2, 3}), pairs}


def test_nested_blocks_are_columns_of_signed_numbers() -> None:
    levels = palm.matrix("nest10_eb").astype(int)
    names = [f"s{i}" for i in range(10)]
    expected = exchanged(tree_of(10, levels))
    assert expected == {frozenset({0, 1, 2, 3}), frozenset({4, 5, 6, 7, 8, 9})}
    table = pd.DataFrame(levels, index=names)
    for labels in (levels, levels.tolist(), levels[:, :3], table):
        assert exchanged(Blocks(labels).resolve(names)) == expected
    assert exchanged(Blocks(table).resolve(names[::-1])) == {frozenset(9 - i for i in those) for those in expected}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blocks("clan"), "no covariate 'clan' to take blocks from; there are: family"),
        (lambda: Blocks(["a", "b"]), "have 2 rows; there are 6 subjects"),
        (lambda: Blocks(FAMILIES.where(FAMILIES != "a")), "block of sub-2, sub-5 is missing"),
        (lambda: Blocks(["a", "a", "", "b", "b", "b"]), "block of sub-3 is missing"),
        (lambda: Blocks(FAMILIES.drop("sub-4")), "no exchangeability block for sub-4."),
        (lambda: Blocks(FAMILIES.set_axis(range(1, 7))), "for sub-1.*set the labels as index"),
        (lambda: Blocks(pd.concat([FAMILIES, FAMILIES[:1]])), "several exchangeability blocks for sub-1"),
        (lambda: Blocks([1, 1, -2, -2, 3, 3]), "block of sub-3, sub-4 is negative. Labels of one column"),
        (lambda: Blocks([[1, 1]] * 5 + [[1, 0]]), "Column 2 of the .* has '0' for sub-6"),
        (lambda: Blocks([[1, 1]] * 4 + [[1.5, 1]] * 2), "Column 1 of the .* has '1.5' for sub-5"),
        (lambda: Blocks(pd.DataFrame({"site": list("AABBCC"), "family": 1})), "Column 1 of the .* has 'A' for sub-1"),
        (lambda: Blocks([[1, 2, i] for i in range(1, 6)] + [[1, -2, 6]]), "Column 2 .* has both -2 and 2 within one"),
        (lambda: Blocks(np.zeros((6, 0))), "have no column"),
        (lambda: Blocks(np.zeros((6, 2, 2))), "one value per subject, or one row of values"),
        (lambda: Blocks(["a"] * 6, within=False), "nothing could be exchanged"),
        (lambda: Blocks(np.ones((6, 2)), whole=True), "have 2 columns, whose signs say"),
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(DesignError, match=message):
        make().resolve(SUBJECTS, pd.DataFrame({"family": FAMILIES}))


# ----- files


@pytest.mark.parametrize(
    "text",
    [
        NESTED,
        "\ufeff" + NESTED,
        NESTED.replace(",", "  "),
        NESTED.replace(",", ".0\t"),
        NESTED.replace(",", " , ") + "\n \n",
    ],
)
def test_files_of_palm(tmp_path: Path, text: str) -> None:
    assert Blocks.read(written(tmp_path, text)).explain().n_relabellings == 576


def test_files_of_one_column(tmp_path: Path) -> None:
    path = written(tmp_path, PAIRS)
    difference, groups = np.tile([1.0, -1.0], 6), np.repeat([0.0, 1.0], 6)
    assert Blocks.read(path).explain(difference).n_relabellings == 64
    assert Blocks.read(str(path), within=False, whole=True).explain(groups).n_relabellings == 20
    assert Blocks.read(path, within=True, whole=True).explain().n_relabellings == math.factorial(6) * 2**6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n1,x\n", "eb.csv, line 2, column 2: 'x' where a whole number"),
        ("block\n1\n", "eb.csv, line 1, column 1: 'block' where .* no header"),
        ("1,2\n1,\n", "eb.csv, line 2, column 2: nothing where"),
        ("1 2\n\n1 2\n", "eb.csv, line 2, column 1: nothing where"),
        ("1\n1.5\n", "eb.csv, line 2, column 1: '1.5' where"),
        ("1\nNaN\n", "eb.csv, line 2, column 1: 'NaN' where"),
        ("1\n0\n", "eb.csv, line 2, column 1: '0' where"),
        ("1\n1e300\n", "eb.csv, line 2, column 1: '1e300' where"),
        ("1 2\n1 2 3\n", "eb.csv, line 2: 3 columns; line 1 has 2"),
        ("\n", "eb.csv is empty"),
    ],
)
def test_errors_in_files_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Blocks.read(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "no.csv"))):
        Blocks.read(tmp_path / "no.csv")


# ----- in words and numbers


@settings(deadline=None, max_examples=30)
@given(labels=st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_explanations_count_what_blocks_allow(labels: list[str]) -> None:
    sizes = Counter(labels)
    within = Blocks(labels).explain()
    assert within.n_subjects == len(labels)
    assert sorted(within.block_sizes[0]) == sorted(sizes.values())
    assert within.n_relabellings == math.prod(math.factorial(size) for size in sizes.values())
    assert Blocks(labels).explain(kind="flip").n_relabellings == 2 ** len(labels)
    whole = Blocks(labels, whole=True)
    equal = Counter(sizes.values())
    assert whole.explain().n_relabellings == math.prod(math.factorial(number) for number in equal.values())
    assert whole.explain(kind="flip").n_relabellings == 2 ** len(sizes)


def test_nested_blocks_in_words(tmp_path: Path) -> None:
    found = Blocks.read(written(tmp_path, NESTED)).explain()
    assert str(found).splitlines() == [
        "10 subjects.",
        "Level 1: 1 block of 4 subjects and 1 block of 6 subjects. They keep their places.",
        (
            "Level 2: 2 blocks of 2 subjects and 2 blocks of 3 subjects. "
            "They are exchanged as wholes within their block of level 1."
        ),
        "Subjects are exchanged within their block of level 2.",
        "576 distinct relabellings of this design, the identity included: no p-value is below 1/576 = 0.00174.",
    ]
    assert found.block_sizes == ((4, 6), (2, 2, 3, 3))
    flips = Blocks.read(written(tmp_path, NESTED)).explain(kind="flip")
    assert flips.n_relabellings == 2**4
    assert "Level 2: 2 blocks of 2 subjects and 2 blocks of 3 subjects. They flip as wholes." in str(flips)
    assert "Subjects do not flip by themselves." in str(flips)


def test_unequal_whole_blocks_and_blocks_without_a_partner() -> None:
    found = Blocks(["a", "a", "b", "b", "c", "d", "d", "d"], whole=True).explain()
    assert found.restrictions == (
        (
            "Blocks of unequal size are not exchanged with each other; these are 1 block of 1 subject, "
            "2 blocks of 2 subjects and 1 block of 3 subjects."
        ),
        "As wholes, blocks c, d keep their places: each of them is the only one of its kind.",
    )
    assert "2 of 4 are exchanged as wholes, the others keep their places." in found.summary
    assert found.n_relabellings == 2


def test_equal_blocks_with_unequal_blocks_within() -> None:
    levels = [[1, 1, 1], [1, 1, 1], [1, 1, 2], [1, 1, 2], [1, 2, 1], [1, 2, 2], [1, 2, 2], [1, 2, 2]]
    found = Blocks(levels).explain()
    assert any("equal size but different blocks within" in one for one in found.restrictions)
    assert found.n_relabellings == 2 * 2 * 2 * math.factorial(3)


def test_a_block_without_a_partner() -> None:
    found = Blocks([1, 1, 2, 2, 3], whole=True).explain()
    assert found.restrictions[1:] == ("As a whole, block 3 keeps its place: there is no other like it.",)


def test_a_twin_without_its_co_twin_and_blocks_in_which_nothing_can_move() -> None:
    labels = pd.Series(["t1", "t1", "t2", "t3", "t3"], index=["Ann", "Bea", "Cem", "Dan", "Eli"])
    found = Blocks(labels).explain([1.0, 2.0, 3.0, 4.0, 4.0])
    assert found.restrictions == (
        "Nothing can be exchanged within a block of a single subject: t2 (Cem).",
        "All subjects of block t3 are alike in the design, so that exchanging them changes nothing.",
    )
    assert found.n_relabellings == 2
    flips = Blocks(labels).explain([1.0, 2.0, 0.0, 4.0, 0.0], kind="flip")
    assert flips.restrictions == ("Flips change nothing where the design is 0: Cem, Eli.",)
    assert flips.n_relabellings == 2**3


def test_huge_numbers_are_exact_and_read_as_powers_of_ten() -> None:
    found = Blocks(np.arange(200) // 2, within=True, whole=True).explain()
    assert found.n_relabellings == math.factorial(100) * 2**100
    assert str(found).endswith("About 10^188 distinct relabellings of this design, the identity included.")
    assert "12,870 distinct" in str(Blocks(["a"] * 16).explain(np.repeat([0, 1], 8)))


def test_designs_of_another_length_are_refused() -> None:
    with pytest.raises(DesignError, match="design has 5 rows; there are 6 subjects"):
        Blocks(FAMILIES).explain(np.ones(5))


def test_only_the_identity_is_an_error_that_explains() -> None:
    constant = Blocks(FAMILIES, whole=True).explain(np.ones((6, 1)))
    with pytest.raises(DesignError, match=r"contrast 'mean' has no relabelling but the identity(.|\n)*unequal size"):
        check_relabellings("mean", constant)
    check_relabellings("mean", Blocks(FAMILIES, whole=True).explain(np.ones((6, 1)), kind="flip"))
    alike = Blocks(["a"] * 6).explain(np.ones((6, 1)))
    assert "All subjects of block a are alike in the design" in str(alike)
    assert "No relabelling of this design is left but the identity." in str(alike)


# ----- block effects


def indicators(labels: Any) -> NDArray[np.float64]:
    return np.array([[one == label for label in np.unique(labels)] for one in labels], dtype=float)


AGE = np.array([21.0, 35, 28, 44, 60, 51])


def test_within_block_designs_without_block_effects_get_a_warning() -> None:
    design = np.column_stack([AGE, np.ones(6)])
    with pytest.warns(VoxstackWarning, match="no effect of blocks a, b: differences"):
        warn_without_block_effects(design, Blocks(FAMILIES).resolve(SUBJECTS))
    with pytest.warns(VoxstackWarning, match="no effect of block b:"):
        warn_without_block_effects(
            np.column_stack([design, indicators(FAMILIES)[:, 0]]), Blocks(FAMILIES).resolve(SUBJECTS)
        )


@pytest.mark.parametrize(
    ("design", "tree"),
    [
        (np.column_stack([AGE, indicators(FAMILIES)]), Blocks(FAMILIES).resolve(SUBJECTS)),
        (np.column_stack([AGE, np.ones(6), indicators(FAMILIES)[:, :2]]), Blocks(FAMILIES).resolve(SUBJECTS)),
        (np.column_stack([AGE * 1e6, indicators(FAMILIES) @ [[3, 1, 0], [1, 5, 0], [2, 2, 1e-3]]]),
         Blocks(FAMILIES).resolve(SUBJECTS)),
        (AGE[:, None], Blocks(FAMILIES, whole=True).resolve(SUBJECTS)),
        (AGE[:, None], Blocks(["a", "a", "b", "b", "c", "c"], within=True, whole=True).resolve(SUBJECTS)),
        (AGE[:, None], Blocks(["a"] * 6).resolve(SUBJECTS)),
        (AGE[:, None], Blocks(SUBJECTS).resolve(SUBJECTS)),
        (AGE[:, None], tree_of(6)),
    ],
    ids=["indicators", "treatment coding", "other coding", "whole", "both", "one", "single subjects", "no blocks"],
)  # fmt: skip
def test_no_warning_where_block_effects_are_there_or_not_needed(design: Any, tree: Tree) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_without_block_effects(design, tree)


def test_of_nested_blocks_the_outermost_that_are_exchangeable_need_effects() -> None:
    levels = palm.matrix("nest10_eb").astype(int)
    tree = Blocks(levels).resolve([str(i) for i in range(10)])
    age = np.arange(10.0)[:, None] ** 2
    with pytest.warns(VoxstackWarning, match="no effect of blocks 1, 2:"):
        warn_without_block_effects(np.column_stack([age, np.ones(10)]), tree)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_without_block_effects(np.column_stack([age, indicators(levels[:, 1])]), tree)
