"""What contrasts may be written as, and what is refused."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from voxstack.contrasts import parse_contrasts
from voxstack.errors import DesignError

REGRESSORS = ["Intercept", "age", "sex[T.M]", "C(site)[T.b]", "C(site)[T.b]:age", "a - b", "x"]


def weights(spec: Any) -> list[float]:
    (contrast,) = parse_contrasts(spec, REGRESSORS)
    assert contrast.stat_type == "t"
    return contrast.weights[0].tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("age", {"age": 1}),
        ("a - b", {"a - b": 1}),  # the exact name wins
        ("-age", {"age": -1}),
        ("2 * age - sex[T.M] / 4", {"age": 2, "sex[T.M]": -0.25}),
        ("(age + x) / 2 - (x - Intercept)", {"age": 0.5, "x": -0.5, "Intercept": 1}),
        ("C(site)[T.b]:age - C(site)[T.b]", {"C(site)[T.b]:age": 1, "C(site)[T.b]": -1}),
        ("1e-3*age", {"age": 1e-3}),
    ],
)
def test_expressions(text: str, expected: dict[str, float]) -> None:
    assert weights(text) == [expected.get(name, 0) for name in REGRESSORS]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "agee",
        "age * x",
        "age + 1",
        "1",
        "age ** 2",
        "x[0]",
        "f(age)",
        "age >",
        "age / 0",
        "_1_",
        "_1",
        "+".join(["x"] * 5000),
    ],
)
def test_what_is_no_linear_expression_is_refused(text: str) -> None:
    with pytest.raises(DesignError, match=r"regressor|zeros"):
        parse_contrasts(text, REGRESSORS)


@pytest.mark.parametrize(
    "labelled",
    [
        {"x": 2, "age": -1},
        pd.Series({"x": 2.0, "age": -1.0, "Intercept": 0.0}),
        xr.DataArray([2.0, -1.0], {"regressor": ["x", "age"]}, dims="regressor"),
    ],
)
def test_weights_with_names_are_matched_by_them(labelled: Any) -> None:
    assert weights({"c": labelled}) == [0, -1, 0, 0, 0, 0, 2]


def test_weights_with_an_unknown_name_are_refused() -> None:
    with pytest.raises(DesignError, match=r"'c' has weights for agee"):
        parse_contrasts({"c": {"agee": 1}}, REGRESSORS)


@pytest.mark.parametrize("spec", [[[0, 1, 0]], np.eye(7), [0, 1, 0]])
def test_weights_without_a_name_are_refused_with_what_to_write(spec: Any) -> None:
    with pytest.raises(DesignError, match=r"\{'name': \[0, 1, -1\]\}"):
        parse_contrasts(spec, REGRESSORS)


def test_rows_that_repeat_others_do_not_count() -> None:
    rows = np.array([[0, 1, 0], [0, 2, 0], [0, 1, 1e-6], [0, 0, 5]])
    (contrast,) = parse_contrasts({"F": rows}, ["a", "b", "c"])
    assert contrast.stat_type == "F"
    assert contrast.rank == 2
