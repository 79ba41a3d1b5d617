"""Simulated cohorts are the sum of what they say, held against that sum."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import voxstack as vx
from voxstack.simulate import Region

REGIONS = (
    Region("mean", "everywhere", (0, -18, 12), 2.0, 80),
    Region("dose", "left", (-40, -20, 20), 0.5, 30, about=3.0),
    Region("group", "right", (40, -20, 20), 1.5, 30),
)


def people(**columns: object) -> pd.DataFrame:
    table = {"participant_id": ["a", "b", "c"], "dose": [1.0, 3.0, 7.5], "group": ["new", "old", "new"]}
    return pd.DataFrame(table | columns)


def maps_of(folder: Path) -> np.ndarray:
    table = pd.read_csv(folder / "participants.tsv", sep="\t")
    return np.array([nib.load(folder / path).get_fdata() for path in table["effect_path"]])


def truth_of(folder: Path, effect: str) -> np.ndarray:
    return nib.load(folder / "truth" / f"{effect}.nii.gz").get_fdata()


def test_without_noise_maps_are_the_sum_of_their_effects(tmp_path: Path) -> None:
    folder = vx.simulate_cohort(tmp_path, participants=people(), regions=REGIONS, resolution=12, noise_sd=0)
    mean, dose, group = (truth_of(folder, effect) for effect in ("mean", "dose", "group"))
    expected = [
        mean - 2.0 * dose - 0.5 * group,  # a: new, the first by the alphabet
        mean + 0.5 * group,  # b: old, at the dose at which nothing is added
        mean + 4.5 * dose - 0.5 * group,
    ]
    np.testing.assert_allclose(maps_of(folder), expected, rtol=1e-6, atol=1e-6)
    assert np.nanmax(dose) == pytest.approx(0.5, rel=0.05)  # the height, at the centre
    mask = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    np.testing.assert_array_equal(np.isfinite(maps_of(folder)), np.broadcast_to(mask, (3, *mask.shape)))
    told = json.loads((folder / "truth" / "regions.json").read_text(encoding="utf-8"))
    assert [(one["effect"], one["about"]) for one in told] == [("mean", 0.0), ("dose", 3.0), ("group", 0.0)]


def test_categories_in_their_own_order_turn_the_effect_around(tmp_path: Path) -> None:
    table = people(group=pd.Categorical(["new", "old", "new"], categories=["old", "new"]))
    turned = vx.simulate_cohort(tmp_path / "t", participants=table, regions=REGIONS, resolution=12, noise_sd=0)
    plain = vx.simulate_cohort(tmp_path / "p", participants=people(), regions=REGIONS, resolution=12, noise_sd=0)
    between = maps_of(turned) - maps_of(plain)
    np.testing.assert_allclose(between[0], truth_of(plain, "group"), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(between[1], -truth_of(plain, "group"), rtol=1e-5, atol=1e-6)


def test_missing_covariates_have_no_effect(tmp_path: Path) -> None:
    table = people(dose=[1.0, np.nan, 7.5], group=["new", None, "old"])
    folder = vx.simulate_cohort(tmp_path, participants=table, regions=REGIONS, resolution=12, noise_sd=0)
    np.testing.assert_allclose(maps_of(folder)[1], truth_of(folder, "mean"), rtol=1e-6)


def test_rows_of_one_person_share_what_is_the_persons_own(tmp_path: Path) -> None:
    table = pd.DataFrame({"participant_id": list("abcd"), "participant": ["p", "q", "p", "q"]})
    options = {"participants": table, "regions": (), "resolution": 6, "noise_sd": 0.5, "smoothness_mm": 6.0}
    folder = vx.simulate_cohort(tmp_path, participant_sd=2.0, **options)
    inside = nib.load(folder / "mask.nii.gz").get_fdata() > 0
    correlation = np.corrcoef(maps_of(folder)[:, inside])
    same = 2.0**2 / (2.0**2 + 0.5**2)
    np.testing.assert_allclose([correlation[0, 2], correlation[1, 3]], same, atol=0.02)
    assert np.abs(correlation[[0, 0, 2], [1, 3, 3]]).max() < 0.1  # of two persons


def test_a_larger_cohort_begins_with_the_smaller(tmp_path: Path) -> None:
    small = vx.simulate_cohort(tmp_path / "s", n_subjects=1, resolution=15)
    large = vx.simulate_cohort(tmp_path / "l", n_subjects=3, resolution=15)
    np.testing.assert_array_equal(maps_of(large)[:1], maps_of(small))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either n_subjects or participants"),
        ({"n_subjects": 2, "participants": people()}, "either n_subjects or participants"),
        ({"n_subjects": 0}, "at least one subject"),
        ({"n_subjects": 2, "seed": -1}, "seed must be a whole number from 0"),
        ({"n_subjects": 2, "noise_sd": -1.0}, "noise_sd must be a number of at least 0"),
        ({"n_subjects": 2, "smoothness_mm": "8"}, "smoothness_mm must be a number"),
        ({"participants": people().iloc[:0]}, "at least one subject"),
        ({"participants": people().drop(columns="participant_id")}, "no column participant_id"),
        ({"participants": people(participant_id=["a", "b", "a"])}, "'a' stands in several rows"),
        ({"participants": people().drop(columns="dose"), "regions": REGIONS}, "'dose', which is no column"),
        ({"participants": people(group=list("xyz")), "regions": REGIONS}, "two categories; it has 3"),
        ({"participants": people(), "regions": [*REGIONS, Region("dose", "r", (0, 0, 0), 1, 9)]}, "agree on the value"),
        ({"participants": people(), "regions": (), "participant_sd": 1.0}, "needs the column participant"),
    ],
)
def test_refusals_come_before_anything_is_written(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(vx.errors.InputError, match=said):
        vx.simulate_cohort(tmp_path / "cohort", **options)
    assert not (tmp_path / "cohort").exists()
