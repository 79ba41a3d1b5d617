"""Warnings stand at the user's line, however deep in voxstack they come from."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import voxstack as vx
from voxstack.errors import VoxstackWarning

TABLE = pd.DataFrame({"age": np.arange(6.0), "twice": 2 * np.arange(6.0), "site": list("aaaaaa")})
COHORT = vx.from_arrays(
    {"effect": np.random.default_rng(0).normal(size=(6, 2, 2, 2))},
    affine=np.eye(4),
    participants=TABLE.set_axis([f"s{i}" for i in range(6)]),
)
FORMULA = "~ age + twice + C(site)"


@pytest.mark.parametrize(
    "call",
    [
        lambda: vx.make_design(COHORT, FORMULA),
        lambda: vx.fit_glm(COHORT, FORMULA),
        lambda: vx.permutation_test(COHORT, FORMULA, "Intercept", n_permutations=4),
    ],
)
def test_they_stand_at_the_users_line(call: Callable[[], Any]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VoxstackWarning)
        call()
    ours = [one for one in caught if issubclass(one.category, VoxstackWarning)]
    assert ours
    assert {Path(one.filename).name for one in ours} == {"test_warnings.py"}
