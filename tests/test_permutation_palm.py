"""`permutation_test` against PALM (Winkler et al. 2014): every relabelling of small cohorts, for each file of it.

What PALM computes of z is compared on z. Its p-values count with a bare >=, so that where relabellings mirror each
other rounding errors decide: there the count is taken again, from its maxima and by brute force, with a tolerance.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr

import brute_force
import palm
import voxstack as vx
from brute_force import Case, Float
from voxstack.errors import VoxstackWarning

CLOSE = 1e-9  # relative to max(1, value)
NAMES = {"vox": "voxel", "clustere": "cluster_extent", "clusterm": "cluster_mass", "tfce": "tfce"}


@dataclass(frozen=True)
class Run:
    """One run of PALM.

    Attributes
    ----------
    kinds
        Of statistics, as files call them.
    maps
        How files call contrasts; in order, those of t, and F at the end.
    blocks
        How those of the file are exchanged.
    options
        Of `permutation_test`.
    """

    kinds: tuple[str, ...]
    maps: tuple[str, ...] = ("tstat",)
    blocks: dict[str, bool] | None = None
    options: dict[str, Any] = field(default_factory=dict)


ALL = ("vox", "clustere", "tfce")
RUNS = {
    "A1_one8_extent_tfce": Run(ALL),
    "A2_one8_mass": Run(("vox", "clusterm")),
    "A3_one8_twotail": Run(
        ("vox", "clusterm", "tfce"), options={"alternative": "two-sided", "two_sided_clusters": "absolute"}
    ),
    "A4_one8_tfce26_dh01": Run(("vox", "tfce"), options={"tfce": vx.TFCE(connectivity=26, dh=0.1)}),
    "B1_two8_extent_tfce": Run(ALL, ("tstat_c1", "tstat_c2")),
    "B3_two8_corrcon": Run(ALL, ("tstat_c1", "tstat_c2"), options={"joint": True}),
    "C_cov6_Dekker": Run(ALL, options={"method": "dekker"}),
    "C_cov6_Draper-Stoneman": Run(ALL, options={"method": "draper-stoneman"}),
    "C_cov6_Freedman-Lane": Run(ALL, options={"method": "freedman-lane"}),
    "D1_anova9_F": Run(ALL, ("tstat_c1", "tstat_c2", "fstat_c3")),
    "E1_pair12_within": Run(ALL, blocks={"within": True, "whole": False}),
    "F1_whole12_whole": Run(ALL, blocks={"within": False, "whole": True}),
    "G1_nest10": Run(ALL, blocks={}),
}
MAPS = [
    pytest.param(folder, kind, map_, id=f"{folder}-{kind}-{map_}")
    for folder, run in RUNS.items()
    for kind in run.kinds
    for map_ in run.maps
]


def contrasts(folder: str) -> dict[str, Float]:
    t = palm.matrix(f"{palm.inputs_of(folder)}_C")
    return {name: t if name.startswith("f") else t[number] for number, name in enumerate(RUNS[folder].maps)}


def relabelling(folder: str) -> str:
    return "flip" if palm.inputs_of(folder) == "one8" else "permute"


@cache
def found(folder: str) -> xr.Dataset:
    run, inputs = RUNS[folder], palm.inputs_of(folder)
    images = palm.INPUTS / f"{inputs}.nii"
    cohort = vx.from_arrays({"effect": palm.image(images)}, affine=nib.load(images).affine, mask=palm.mask())
    options: dict[str, Any] = {"alternative": "greater", "tfce": vx.TFCE(dh="auto"), **run.options}
    if run.blocks is not None:
        options["blocks"] = vx.Blocks.read(palm.INPUTS / f"{inputs}_eb.csv", **run.blocks)
    if any(kind.startswith("cluster") for kind in run.kinds):
        options["cluster_forming_z"] = 2.3
    statistics = [NAMES[kind] for kind in run.kinds]
    without_block_effects = inputs == "nest10"
    with pytest.warns(VoxstackWarning, match="no effect of blocks") if without_block_effects else nullcontext():
        return vx.permutation_test(
            cohort, palm.matrix(f"{inputs}_X"), contrasts(folder), statistics=statistics, n_permutations=2000, **options
        )


@cache
def by_brute_force(folder: str, map_: str) -> Float:
    """Scores (b, v) of all relabellings."""
    run, inputs = RUNS[folder], palm.inputs_of(folder)
    design = palm.matrix(f"{inputs}_X")
    levels = brute_force.free(len(design))
    if run.blocks is not None:
        levels = palm.matrix(f"{inputs}_eb").astype(int)
        levels = brute_force.one_level(levels[:, 0], **run.blocks) if run.blocks else levels
    weights = np.atleast_2d(contrasts(folder)[map_])
    method = run.options.get("method", "freedman-lane")
    alternative = run.options.get("alternative", "greater")
    case = Case(design, weights, "F" if map_.startswith("f") else "t", relabelling(folder), levels, method, alternative)
    return case.score(brute_force.all_statistics(palm.image(palm.INPUTS / f"{inputs}.nii")[:, palm.mask()], case))


def to_z(result: xr.Dataset, t_or_f: Float) -> Float:
    dof_num = float(result["dof_num"]) if result["stat_type"] == "F" else None
    return brute_force.to_z(t_or_f, float(result["dof"]), dof_num)


def close(value: Float, expected: Float) -> bool:
    return bool((np.abs(value - expected) <= CLOSE * np.maximum(1, np.abs(expected))).all())


@pytest.mark.parametrize(("folder", "kind", "map_"), MAPS)
def test_statistics_and_maxima_are_those_of_palm(folder: str, kind: str, map_: str) -> None:
    result = found(folder).sel(contrast=map_)
    map_of_ours = result["stat"] if kind == "vox" else abs(result[NAMES[kind]])
    assert np.isnan(map_of_ours.values[~palm.mask()]).all()
    assert close(map_of_ours.values[palm.mask()], palm.map_of(folder, kind, map_))

    expected = palm.maxima(folder, kind, map_)
    assert result["n_relabellings"] == len(expected)
    assert result["exhaustive"]
    assert result["relabelling"] == relabelling(folder)
    null = result["null_max"].sel(statistic=NAMES[kind]).values
    assert np.isnan(null[len(expected) :]).all()
    null = null[: len(expected)]
    null = to_z(result, null) if kind == "vox" else null
    assert close(null[:1], expected[:1]), "the identity comes first"
    assert close(np.sort(null), np.sort(expected))


@pytest.mark.parametrize(("folder", "kind", "map_"), MAPS)
def test_corrected_p_values_are_those_of_palm_but_for_ties(folder: str, kind: str, map_: str) -> None:
    result = found(folder).sel(contrast=map_)
    in_z = result["stat"].values[palm.mask()]
    if kind == "vox":
        in_z = to_z(result, in_z)
        in_z = np.abs(in_z) if RUNS[folder].options.get("alternative") == "two-sided" else in_z
    observed = in_z if kind == "vox" else palm.map_of(folder, kind, map_)
    together = [palm.maxima(folder, kind, other) for other in RUNS[folder].maps]
    nulls = {"fwep": palm.maxima(folder, kind, map_)}
    if RUNS[folder].options.get("joint"):
        nulls["cfwep"] = np.max(together, axis=0)
    for what, null in nulls.items():
        p = result[f"{NAMES[kind]}_p_{'fwe_joint' if what == 'cfwep' else 'fwe'}"].values[palm.mask()]
        np.testing.assert_allclose(p, brute_force.p_corrected(observed, null), rtol=1e-12)
        # Of values that are equal but for rounding, all but those of the identity may fall to either side.
        difference = np.abs(null[1:, None] - observed)
        tied = ((difference > 0) & (difference <= CLOSE * np.maximum(1, observed))).any(axis=0)
        assert tied.mean() < 0.2
        np.testing.assert_allclose(p[~tied], palm.map_of(folder, kind, map_, what)[~tied], rtol=1e-6)


@pytest.mark.parametrize(
    ("folder", "map_"), [pytest.param(f, m, id=f"{f}-{m}") for f, run in RUNS.items() for m in run.maps]
)
def test_uncorrected_p_values_are_those_of_palm_but_for_ties(folder: str, map_: str) -> None:
    p = found(folder).sel(contrast=map_)["p_uncorrected"].values[palm.mask()]
    scores = by_brute_force(folder, map_)
    np.testing.assert_allclose(p, brute_force.p_uncorrected(scores), rtol=1e-12)
    difference = np.abs(scores[1:] - scores[0])
    tied = (difference <= CLOSE * np.maximum(1, np.abs(scores[0]))).any(axis=0)
    expected = palm.map_of(folder, "vox", map_, "uncp")
    np.testing.assert_allclose(p[~tied], expected[~tied], rtol=1e-6)
    assert (p >= expected - 1e-9).all(), "a bare >= loses ties, and never finds any"
