"""Simulated studies for `validity.py`: who was measured, what is tested, and whether a permutation test may be trusted.

Maps are of 7 x 7 x 7 voxels, of smooth noise that is the same everywhere (the grid's opposite sides touch). Skewed
noise is exponential, with skewness 2. Number i of a study always is the same study, whichever process makes it.
"""

import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import xarray as xr
from nibabel import Nifti1Image
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, special

import voxstack as vx

Float = NDArray[np.float64]

SHAPE = (7, 7, 7)
CENTRE = 3
N_RELABELLINGS = 60  # 5% is attainable: p <= 0.05 means that 3 of 60 reach the observed value, itself among them
LEVEL = 0.05
UNCORRECTED = "uncorrected"
SPATIAL = ("voxel", "cluster_extent", "cluster_mass", "tfce")
VOXEL_TFCE = ("voxel", "tfce")
TFCE_OF_T = "tfce_of_t"  # not of z
FORMING_P = 0.01  # of one tail: hardly any map is without a cluster, and cluster mass is continuous
# Whose uncorrected p-value is looked at: fixed in advance, and where a field of view may end.
VOXEL = (CENTRE, CENTRE, 6)
SMOOTHING = 1.0  # standard deviation of the kernel, in voxels


@dataclass(frozen=True)
class Study:
    """One simulated study.

    Attributes
    ----------
    maps : (n, x, y, z) float64
        NaN is missing.
    design : (n, p) float64
        What is tested comes first.
    weights
        Of contrasts; None is the first column.
    families : (n,) int64
        Of subjects who resemble each other.
    """

    maps: Float
    design: Float
    weights: Mapping[str, ArrayLike] | None = None
    families: NDArray[np.int64] | None = None

    @property
    def contrasts(self) -> Mapping[str, ArrayLike]:
        """By name."""
        return self.weights or {"tested": np.eye(self.design.shape[1])[0]}


def noise(rng: np.random.Generator, n: int, *, skewed: bool = False) -> Float:
    """Maps (n, x, y, z) of smooth noise with mean 0 and variance 1 at each voxel."""
    smooth = _smoothed(rng.standard_normal((n, *SHAPE))) / _kernel_length()
    if not skewed:
        return smooth
    return np.asarray(-special.log_ndtr(-smooth) - 1.0)  # the exponential distribution's quantiles, less its mean


def _smoothed(values: Float) -> Float:
    return np.asarray(ndimage.gaussian_filter(values, (0, *[SMOOTHING] * 3), mode="wrap"))


@cache
def _kernel_length() -> float:
    impulse = np.zeros((1, *SHAPE))
    impulse[0, 0, 0, 0] = 1.0
    return float(np.linalg.norm(_smoothed(impulse)))


def one_sample(rng: np.random.Generator, *, skewed: bool = False) -> Study:
    """Twenty subjects, whose mean is 0."""
    return Study(noise(rng, 20, skewed=skewed), np.ones((20, 1)))


def two_groups(
    rng: np.random.Generator, sizes: tuple[int, int] = (10, 10), *, skewed: bool = False, ratio: float = 1.0
) -> Study:
    """Two groups with the same mean; the standard deviation of the first is `ratio` of that of the second."""
    first = np.repeat([1.0, 0.0], sizes)
    maps = noise(rng, sum(sizes), skewed=skewed) * np.where(first == 1, ratio, 1.0)[:, None, None, None]
    return Study(maps, np.column_stack([first, np.ones(len(first))]))


def three_groups(rng: np.random.Generator, *, joint: bool = False) -> Study:
    """Three groups of eight with the same mean: F of their differences, or two t of differences from the third."""
    groups = np.repeat(np.eye(3), 8, axis=0)
    differences = [[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]
    weights = {"a-c": differences[0], "b-c": differences[1]} if joint else {"groups": differences}
    return Study(noise(rng, 24), groups, weights)


def families_within(rng: np.random.Generator) -> Study:
    """Eight families of three who resemble each other; the regressor varies within families and between them."""
    family = np.repeat(np.arange(8), 3)
    maps = noise(rng, 24) + noise(rng, 8)[family]
    tested = rng.standard_normal(24) + rng.standard_normal(8)[family]
    return Study(maps, np.column_stack([tested, np.eye(8)[family]]), families=family)


def families_between(rng: np.random.Generator) -> Study:
    """Eight families of three who resemble each other; the regressor is the same for a whole family."""
    family = np.repeat(np.arange(8), 3)
    maps = noise(rng, 24) + noise(rng, 8)[family]
    return Study(maps, np.column_stack([rng.standard_normal(8)[family], np.ones(24)]), families=family)


def nuisance(rng: np.random.Generator, n: int = 24) -> Study:
    """Two nuisance regressors that correlate by 0.7 with the tested one, and have effects of their own."""
    tested = rng.standard_normal(n)
    others = 0.7 * tested[:, None] + np.sqrt(1 - 0.7**2) * rng.standard_normal((n, 2))
    maps = noise(rng, n) + others.sum(axis=1)[:, None, None, None]
    return Study(maps, np.column_stack([tested, others, np.ones(n)]))


def missing_at_random(rng: np.random.Generator) -> Study:
    """Two groups; 20% of the subjects' voxels are missing."""
    study = two_groups(rng)
    return Study(np.where(rng.random(study.maps.shape) < 0.2, np.nan, study.maps), study.design)


def missing_at_edge(rng: np.random.Generator) -> Study:
    """Two groups; fields of view end at different heights, tilted: the uppermost voxels lack 40% of the subjects."""
    study = two_groups(rng)
    x, y, z = np.indices(SHAPE) - np.array([CENTRE, CENTRE, 0])[:, None, None, None]
    n = len(study.maps)
    height, tilt = rng.uniform(4, 9, n), rng.uniform(-0.25, 0.25, (2, n))
    end = height[:, None, None, None] + np.tensordot(tilt.T, np.stack([x, y]), axes=1)
    return Study(np.where(z > end, np.nan, study.maps), study.design)


@dataclass(frozen=True)
class Scenario:
    """Studies, and how they are tested.

    Attributes
    ----------
    title
        In words.
    study
        Makes one of random numbers.
    made_with
        Its arguments.
    tested_with
        Arguments of `permutation_test`; of `blocks` those of `Blocks`, whose labels are the study's families.
    expected
        "valid": of what the criterion is about. "fails": what the test supposes does not hold, and it is known to
        reject too often. "shown": approximate, or not the default method; shown beside it.
    statistics
        Of maps.
    effect, radius
        Planted in a ball in the middle: in units of the noise's standard deviation for each unit of the tested
        regressor, and in voxels.
    """

    title: str
    study: Callable[..., Study]
    made_with: Mapping[str, Any] = field(default_factory=dict)
    tested_with: Mapping[str, Any] = field(default_factory=dict)
    expected: Literal["valid", "fails", "shown"] = "valid"
    statistics: tuple[str, ...] = SPATIAL
    effect: float = 0.0
    radius: float = 1.5

    @property
    def region(self) -> NDArray[np.bool_]:
        """Where an effect is planted (x, y, z)."""
        return np.asarray(np.linalg.norm(np.indices(SHAPE) - np.full((3, 1, 1, 1), CENTRE), axis=0) <= self.radius)

    @property
    def looked_at(self) -> tuple[str, ...]:
        """Whose p-values; uncorrected ones are of one contrast."""
        return self.statistics if "joint" in self.tested_with else (UNCORRECTED, *self.statistics)

    def make(self, number: int) -> Study:
        """One study. Scenarios that differ only in how they are tested have the same ones."""
        key = zlib.crc32(repr((self.study.__name__, sorted(self.made_with.items()))).encode())
        study = self.study(np.random.default_rng([key, number]), **self.made_with)
        return replace(study, maps=study.maps + self.effect * study.design[:, :1, None, None] * self.region)


def _nuisance_by(method: str) -> Scenario:
    return Scenario(
        f"nuisance, {method}", nuisance, tested_with={"method": method}, expected="shown", statistics=("voxel",)
    )


_AVAILABLE = {"missing": "available"}

SCENARIOS: Mapping[str, Scenario] = {
    "one-sample": Scenario("mean of one group, signs flipped", one_sample),
    "two-groups": Scenario("10 against 10", two_groups),
    "skewed": Scenario("10 against 10, skewed", two_groups, {"skewed": True}),
    "unequal-sizes": Scenario("5 against 15", two_groups, {"sizes": (5, 15)}),
    "within-blocks": Scenario("families, exchanged within", families_within, tested_with={"blocks": {"within": True}}),
    "whole-blocks": Scenario(
        "families, exchanged as wholes", families_between, tested_with={"blocks": {"whole": True}}
    ),
    "nuisance": Scenario("nuisance correlated with the regressor", nuisance),
    "groups-F": Scenario("three groups, F", three_groups),
    "groups-joint": Scenario(
        "three groups, two t corrected jointly", three_groups, {"joint": True}, {"joint": True}, statistics=VOXEL_TFCE
    ),
    "missing-random": Scenario("20% missing at random", missing_at_random, tested_with=_AVAILABLE),
    "missing-edge": Scenario("missing at the edge of the field of view", missing_at_edge, tested_with=_AVAILABLE),
    "skewed-flips": Scenario(
        "mean of one group, skewed, signs flipped", one_sample, {"skewed": True}, expected="fails"
    ),
    "unequal-variances": Scenario(
        "5 against 15, the 5 twice as variable",
        two_groups,
        {"sizes": (5, 15), "ratio": 2.0},
        expected="fails",
        statistics=("voxel",),
    ),
    "blocks-ignored": Scenario(
        "families, their blocks ignored", families_between, expected="fails", statistics=("voxel",)
    ),
    "nuisance-small": Scenario("nuisance, 10 subjects", nuisance, {"n": 10}, expected="shown", statistics=("voxel",)),
    **{name: _nuisance_by(name) for name in ("draper-stoneman", "dekker", "manly", "ter-braak", "still-white")},
}

WITH_EFFECT: Mapping[str, Scenario] = {
    "one-sample": Scenario("mean of one group, 19 voxels", one_sample, statistics=SPATIAL[:3], effect=0.7),
    "nuisance": Scenario("nuisance, 19 voxels", nuisance, statistics=SPATIAL[:3], effect=1.2),
    "two-groups": Scenario("10 against 10, 19 voxels", two_groups, effect=1.5),
    "large-region": Scenario("mean of one group, 123 voxels", one_sample, effect=0.4, radius=3.0),
}


def _test(scenario: Scenario, study: Study, number: int, **options: Any) -> xr.Dataset:
    """What voxstack says of a study; relabellings are drawn anew for each."""
    if "blocks" in options:
        assert study.families is not None
        options["blocks"] = vx.Blocks(study.families, **options["blocks"])
    if "cluster_extent" in scenario.statistics:
        options["cluster_forming_p"] = FORMING_P
    result = vx.permutation_test(
        vx.from_arrays({"effect": study.maps}, affine=np.eye(4), mask=np.ones(SHAPE, dtype=bool)),
        study.design,
        study.contrasts,
        statistics=scenario.statistics,
        n_permutations=N_RELABELLINGS,
        seed=number,
        **options,
    )
    assert result.n_relabellings.values.min() == N_RELABELLINGS, "with fewer relabellings 5% may be out of reach"
    return result


def count_rejected(name: str, start: int, stop: int) -> Counter[str]:
    """How many of the studies start to stop of a scenario are rejected: by the voxel fixed in advance, and anywhere."""
    scenario, counts = SCENARIOS[name], Counter[str]()
    for number in range(start, stop):
        result = _test(scenario, scenario.make(number), number, **scenario.tested_with)
        joint = "_joint" if "joint" in scenario.tested_with else ""
        for one in scenario.looked_at:
            p = result["p_uncorrected" if one == UNCORRECTED else f"{one}_p_fwe{joint}"].values
            counts[one] += int(np.any((p[(0, *VOXEL)] if one == UNCORRECTED else p) <= LEVEL))
    return counts


def count_detected(name: str, start: int, stop: int) -> Counter[tuple[str, bool, bool]]:
    """Of studies start to stop with an effect: by statistic, in how many voxstack and nilearn find some voxel of it."""
    scenario, counts = WITH_EFFECT[name], Counter[tuple[str, bool, bool]]()
    of_t = replace(scenario, statistics=("tfce",))
    for number in range(start, stop):
        study = scenario.make(number)
        ours = _test(scenario, study, number, connectivity=6)  # as in nilearn
        p = {one: ours[f"{one}_p_fwe"].values[0] for one in scenario.statistics}
        theirs = _nilearn(study, number, tfce="tfce" in p)
        if "tfce" in p:
            p[TFCE_OF_T] = _test(of_t, study, number, scale="stat")["tfce_p_fwe"].values[0]
            theirs[TFCE_OF_T] = theirs["tfce"]
        found = {one: bool((p[one][scenario.region] <= LEVEL).any()) for one in p}
        counts.update((one, found[one], bool((theirs[one][scenario.region] <= LEVEL).any())) for one in p)
    return counts


def _nilearn(study: Study, number: int, *, tfce: bool) -> dict[str, Float]:
    """Corrected p-values (x, y, z) of the same hypothesis, from the same number of relabellings.

    nilearn adds the intercept itself: given as a confound it would make it flip signs. Its number of relabellings does
    not count the identity, and its cluster-forming threshold is of both tails.
    """
    nuisance = study.design[:, 1:-1]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Data array used to create a new image contains 64-bit ints")
        found = permuted_ols(
            study.design[:, :1],
            study.maps.reshape(len(study.maps), -1),
            confounding_vars=nuisance if nuisance.size else None,
            n_perm=N_RELABELLINGS - 1,
            n_jobs=1,
            random_state=number,
            masker=NiftiMasker(Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)), standardize=None).fit(),
            threshold=2 * FORMING_P,
            tfce=tfce,
        )
    names = {"voxel": "t", "cluster_extent": "size", "cluster_mass": "mass", "tfce": "tfce"}
    return {  # less the rounding errors of -log10 p
        one: (10.0 ** -found[f"logp_max_{name}"][0] - 1e-12).reshape(SHAPE)
        for one, name in names.items()
        if f"logp_max_{name}" in found
    }
