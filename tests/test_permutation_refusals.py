"""What `permutation_test` refuses: before any data are read, and in words that name what is wrong."""

import re
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.typing import NDArray

import voxstack as vx
from permuted_cohorts import SHAPE
from random_cohorts import cohort_of
from voxstack.errors import DesignError, InputError, VoxstackWarning

SUBJECTS = [f"sub-{i + 1:04d}" for i in range(6)]
AGE = np.array([1.0, 4, 2, 8, 5, 7])
DESIGN = pd.DataFrame({"one": 1.0, "age": AGE}, index=SUBJECTS)
CLUSTERS = {"statistics": "cluster_extent", "cluster_forming_z": 2.3}


def unreadable(block: NDArray[np.float64]) -> NDArray[np.float64]:
    raise AssertionError("data were read")


@pytest.fixture
def cohort() -> xr.Dataset:
    """A cohort whose data cannot be read."""
    people = pd.DataFrame({"family": list("aabbcc")}, index=SUBJECTS)
    whole = cohort_of(np.zeros((6, *SHAPE)), participants=people)
    lazy = da.zeros((6, *SHAPE), chunks=3).map_blocks(unreadable, dtype=float, meta=np.empty((0, 0, 0, 0)))
    return whole.assign(map=whole["map"].copy(data=lazy))


def test_data_that_cannot_be_read_are_what_a_valid_test_reads(cohort: xr.Dataset) -> None:
    with pytest.raises(AssertionError, match="data were read"):
        vx.permutation_test(cohort, DESIGN, "age")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        # Names of options
        ({"statistics": "voxels"}, ["no statistic 'voxels'", "voxel, cluster_extent, cluster_mass, tfce"]),
        ({"statistics": ["tfce", "size", "mass"]}, ["'size', 'mass'", "cluster_mass"]),
        ({"statistics": []}, ["No statistic"]),
        ({"method": "freedman"}, ["method='freedman'", "'freedman-lane'", "'still-white'"]),
        ({"alternative": "both"}, ["alternative='both'", "'two-sided', 'greater', 'less'"]),
        ({"relabelling": "signs"}, ["relabelling='signs'", "'auto', 'permute', 'flip', 'both'"]),
        ({"two_sided_clusters": "both"}, ["two_sided_clusters='both'", "'signed', 'absolute'"]),
        ({"scale": "t"}, ["scale='t'", "'z', 'stat'"]),
        ({"precision": "single"}, ["precision='single'", "'mixed', 'double'"]),
        ({"tail": "gamma"}, ["tail='gamma'", "'counts', 'gpd'"]),
        ({"variable": "thickness"}, ["no map 'thickness'", "map"]),
        # Numbers
        *(
            ({"n_permutations": number}, ["n_permutations", "from 2 to", f"not {number!r}"])
            for number in (0, 1, -5, True, 2.5, 100.0, "100", None)
        ),
        *(({"seed": seed}, ["seed", "from 0 to", f"not {seed!r}"]) for seed in (-1, 0.5, "a", None, True)),
        # Cluster-forming thresholds, of which there is one
        ({"statistics": "cluster_extent"}, ["cluster_extent", "one cluster-forming threshold", "cluster_forming_p"]),
        ({"statistics": ["voxel", "cluster_mass"]}, ["cluster_mass", "cluster_forming_p", "cluster_forming_z"]),
        (CLUSTERS | {"cluster_forming_p": 0.01}, ["one cluster-forming threshold"]),
        ({"cluster_forming_z": 2.3}, ["threshold", "cluster_extent or cluster_mass"]),
        ({"cluster_forming_p": 0.01, "statistics": "tfce"}, ["threshold", "cluster_extent or cluster_mass"]),
        *(
            ({"statistics": "cluster_extent", "cluster_forming_p": p}, ["cluster_forming_p", "0.5", f"not {p!r}"])
            for p in (0.6, 0.5, 0, 1, -0.1, 1.5, np.nan)
        ),
        *(
            ({"statistics": "cluster_mass", "cluster_forming_z": z}, ["cluster_forming_z", "above 0", f"not {z!r}"])
            for z in (0, -2.3, np.inf, np.nan)
        ),
        *((CLUSTERS | {"connectivity": c}, ["connectivity", "6, 18 or 26", str(c)]) for c in (8, 0, 27)),
        ({"statistics": "tfce", "tfce": {"E": 1}}, ["tfce", "TFCE(", "dict"]),
        # Blocks
        ({"blocks": list("aabbcc")}, ["blocks", "name of a covariate", "Blocks", "list"]),
        ({"blocks": np.ones(6)}, ["blocks", "name of a covariate", "Blocks", "ndarray"]),
    ],
)
def test_options_that_there_are_not(cohort: xr.Dataset, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError, match="(?s)" + ".*".join(map(re.escape, words))):
        vx.permutation_test(cohort, DESIGN, "age", **options)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"dh": -1}, ["dh", "above 0", "-1"]),
        ({"dh": 0}, ["dh", "above 0"]),
        ({"dh": np.float32(-0.5)}, ["dh", "above 0", "-0.5"]),
        ({"dh": np.nan}, ["dh", "nan"]),
        ({"dh": np.inf}, ["dh", "inf"]),
        ({"dh": "fsl"}, ["dh", "None, a height above 0, or 'auto'", "'fsl'"]),
        ({"E": np.nan}, ["E must", "nan"]),
        ({"E": -0.5}, ["E must", "at least 0", "-0.5"]),
        ({"E": "0.5"}, ["E must", "'0.5'"]),
        ({"H": np.inf}, ["H must", "inf"]),
        ({"connectivity": 8}, ["connectivity", "6, 18 or 26", "8"]),
    ],
)
def test_parameters_of_tfce(parameters: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError, match=".*".join(map(re.escape, words))):
        vx.TFCE(**parameters)


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns, index=SUBJECTS)


@pytest.mark.parametrize(
    ("design", "contrasts", "options", "words"),
    [
        pytest.param(
            table(one=1.0),
            "one",
            {"relabelling": "permute"},
            ["'one'", "no relabelling but the identity", "alike"],
            id="a constant is permuted",
        ),
        pytest.param(
            DESIGN,
            "age",
            {"relabelling": "permute", "blocks": vx.Blocks(range(6))},
            ["'age'", "no relabelling but the identity", "6 blocks"],
            id="blocks of one",
        ),
        pytest.param(
            DESIGN,
            "age",
            {"relabelling": "permute", "blocks": vx.Blocks([1] * 6, whole=True)},
            ["'age'", "no relabelling but the identity"],
            id="one whole block",
        ),
        pytest.param(
            table(one=1.0, group=[0, 0, 0, 0, 1, 1]),
            "group",
            {"relabelling": "permute", "blocks": "family"},
            ["'group'", "no relabelling but the identity"],
            id="a regressor that does not vary within families",
        ),
        pytest.param(
            DESIGN, "age", {"blocks": "site"}, ["no covariate 'site'", "family"], id="no such covariate for blocks"
        ),
        pytest.param(
            DESIGN, "age", {"blocks": vx.Blocks([1, 1, 2, 2, 3])}, ["5 rows", "6 subjects"], id="blocks of others"
        ),
        pytest.param(
            DESIGN,
            "age",
            {"blocks": vx.Blocks(pd.Series(1, index=SUBJECTS[:4]))},
            ["no exchangeability block", "sub-0005", "sub-0006"],
            id="blocks of some",
        ),
        pytest.param(
            table(one=1.0, age=AGE - AGE.mean()),
            ["one", "age"],
            {"joint": True},
            ["joint=True", "share their relabellings", "'one'", "64", "'flip'", "'age'", "720", "'permute'"],
            id="joint flips and permutations",
        ),
        *(
            pytest.param(
                DESIGN,
                {"t of age": "age", "F of age": ["age"]},
                {"joint": True, **options},
                ["joint=True", "'t of age' is t", "'F of age' is F"],
                id=f"joint t and F of {options['statistics']}",
            )
            for options in ({"statistics": ["voxel", "tfce"]}, CLUSTERS)
        ),
        pytest.param(
            table(one=1.0, zero=0.0, age=AGE),
            {"age": "age", "nothing": "zero"},
            {},
            ["cannot estimate", "'nothing'"],
            id="a contrast that cannot be estimated",
        ),
        pytest.param(
            table(age=AGE, twice=2 * AGE, one=1.0),
            "age",
            {},
            ["rank deficient", "cannot estimate", "'age'"],
            id="one of two regressors that are the same",
        ),
        pytest.param(DESIGN, "iq", {}, ["'iq'", "one, age"], id="no such regressor"),
        pytest.param(DESIGN, {"C": [0, 1, 0]}, {}, ["'C'", "3 weights", "2 regressors"], id="too many weights"),
        pytest.param(DESIGN.iloc[:4], "age", {}, ["sub-0005", "sub-0006"], id="subjects without a row"),
        pytest.param(
            table(one=1.0, **{f"slope{i}": np.cos(i * AGE) for i in range(1, 6)}),
            "slope1",
            {},
            ["rank 6", "6 subjects", "no degrees of freedom"],
            id="no degrees of freedom",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::voxstack.errors.VoxstackWarning")
def test_designs_in_which_nothing_can_be_tested(
    cohort: xr.Dataset, design: Any, contrasts: Any, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(DesignError, match="(?s)" + ".*".join(map(re.escape, words))):
        vx.permutation_test(cohort, design, contrasts, **options)


def test_masks_without_a_voxel_and_cohorts_that_are_none(cohort: xr.Dataset) -> None:
    with pytest.raises(InputError, match="No voxel is left"):
        vx.permutation_test(cohort, DESIGN, "age", mask=np.zeros(SHAPE, dtype=bool))
    with pytest.raises(InputError, match=r"shape \(2, 2, 2\).*\(5, 4, 3\)"):
        vx.permutation_test(cohort, DESIGN, "age", mask=np.ones((2, 2, 2), dtype=bool))
    with pytest.raises(InputError, match="no cohort"):
        vx.permutation_test(cohort.drop_vars("map"), DESIGN, "age")
    with pytest.raises(InputError, match="sub-0003 more than once"):
        vx.permutation_test(cohort.isel(subject=[0, 1, 2, 2]), DESIGN, "age")
    with pytest.raises(InputError, match="maps map, other"):
        vx.permutation_test(cohort.assign(other=cohort["map"]), DESIGN, "age")


def test_warnings_of_rank_and_of_blocks_without_effects_name_what_lacks() -> None:
    maps = np.random.default_rng(0).normal(size=(6, *SHAPE))
    people = pd.DataFrame({"family": list("aaabbb")}, index=SUBJECTS)
    readable = cohort_of(maps, participants=people)
    with pytest.warns(VoxstackWarning, match="twice can be written as a combination"):
        vx.permutation_test(readable, DESIGN.assign(twice=2 * AGE - 3), {"mean": "one + age - twice"}, n_permutations=5)
    with pytest.warns(VoxstackWarning, match="no effect of blocks a, b"):
        vx.permutation_test(readable, DESIGN, "age", blocks="family", n_permutations=5)


def test_what_differs_between_blocks_alone_is_not_flipped_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    maps = np.random.default_rng(0).normal(size=(6, *SHAPE))
    people = pd.DataFrame({"person": list("aabbcc"), "group": list("xxyyyy")}, index=SUBJECTS)
    readable = cohort_of(maps, participants=people)
    with pytest.warns(
        VoxstackWarning, match=r"'group\[T.y\]' differs between blocks alone.* Blocks\(..., whole=True\)"
    ):
        vx.permutation_test(readable, "~ group", "group[T.y]", blocks="person", n_permutations=5)
    # Silent are those who ask for it, and the mean, which nobody can exchange.
    vx.permutation_test(readable, "~ group", "group[T.y]", blocks="person", relabelling="flip", n_permutations=5)
    vx.permutation_test(readable, "~ 1", "Intercept", blocks="person", n_permutations=5)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda data: vx.fit_glm("cohort.zarr", "~ 1"),
            "what open_cohort, stack or from_arrays give, not 'cohort.zarr'",
        ),
        (lambda data: vx.permutation_test("cohort.zarr", "~ 1", "Intercept"), "what open_cohort, stack or from_arrays"),
        (lambda data: vx.contrast(vx.fit_glm(data, "~ 1"), 3), "a mapping of names to weights, not 3"),
        (lambda data: vx.permutation_test(data, "~ 1", "Intercept", statistics=None), "No statistic was asked for"),
        (lambda data: vx.from_arrays(data["map"].values, affine=np.eye(4)), "named arrays"),
        (
            lambda data: vx.from_arrays({"a": data["map"].values}, affine=np.eye(4), participants=pd.Series(range(6))),
            "participants are a DataFrame, indexed by label, not a Series",
        ),
        (lambda data: vx.to_nifti(data), "such as result.z_score, not of a Dataset"),
        (lambda data: clusters_of(data, cluster_forming_p="0.01"), "must be a number between 0 and 0.5, not '0.01'"),
        (lambda data: clusters_of(data, cluster_forming_z="x"), "cluster_forming_z must be a number above 0, not 'x'"),
    ],
)
def test_arguments_of_another_type_are_refused_in_words(call: Any, says: str) -> None:
    with pytest.raises((InputError, DesignError), match=re.escape(says)):
        call(cohort_of(np.random.default_rng(0).normal(size=(6, *SHAPE))))


def clusters_of(data: xr.Dataset, **threshold: Any) -> xr.Dataset:
    return vx.permutation_test(data, "~ 1", "Intercept", statistics="cluster_mass", **threshold)


def test_subjects_without_a_covariate_are_left_out_on_request() -> None:
    maps = np.random.default_rng(0).normal(size=(6, *SHAPE))
    people = pd.DataFrame({"age": [1.0, np.nan, 2, 8, 5, 7]}, index=SUBJECTS)
    data = cohort_of(maps, participants=people)
    with pytest.raises(DesignError, match="age is missing for 1 subject: sub-0002"):
        vx.permutation_test(data, "~ age", "age", n_permutations=20)
    test = vx.permutation_test(data, "~ age", "age", n_permutations=20, drop_missing=True)
    five = vx.permutation_test(data.drop_sel(subject="sub-0002"), "~ age", "age", n_permutations=20)
    np.testing.assert_array_equal(test.voxel_p_fwe, five.voxel_p_fwe)
    assert test.attrs["provenance"]["dropped_subjects"] == ["sub-0002"]
