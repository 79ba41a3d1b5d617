"""Permutation tests against nilearn's, on the MNI 2 mm mask with 100 subjects.

Both do the same work on two cores, nilearn in processes and voxstack on threads, with one BLAS thread each: they
permute the tested and the nuisance regressors together, refit, and take the maximum of |t| over voxels. Spatial
statistics are of maps of t, two-sided in clusters of one sign each, with 6 neighbours; the threshold of clusters is
p = 0.001 of one tail. Extents and masses are both asked for, since nilearn computes both. nilearn gets its data in
single precision, in which it is fastest. It sums TFCE over 100 steps, and voxstack integrates exactly; voxstack also
counts uncorrected p-values.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
from measure import Number, medians
from nilearn.datasets import load_mni152_brain_mask
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from numpy.typing import NDArray
from relabelling import Contender, Effort, Maps, Run, marginal, mni_mask, ours, regressors, smooth_noise

from voxstack.plan.permutation import WINDOW

N, THREADS = 100, 2


@dataclass(frozen=True)
class _Comparison:
    """Of one test.

    Attributes
    ----------
    name
        In the table.
    target
        How many times as fast voxstack is to be.
    our_runs, their_runs
        Relabellings of the shorter run, and how many more the longer one has.
    our_options, their_options
        Of the functions.
    n_nuisance
        Columns beside the intercept.
    """

    name: str
    target: float
    our_runs: tuple[int, int]
    their_runs: tuple[int, int]
    our_options: Mapping[str, Any] = field(default_factory=dict)
    their_options: Mapping[str, Any] = field(default_factory=dict)
    n_nuisance: int = 0


_CLUSTERS = _Comparison(
    "cluster extent and mass",
    30,
    (512, WINDOW),
    (16, 64),
    {"statistics": ("cluster_extent", "cluster_mass"), "cluster_forming_p": 0.001, "connectivity": 6, "scale": "stat"},
    {"threshold": 0.002},  # of both tails
)
_COMPARISONS = (
    # A whole window of relabellings more, so that what is done once for each window is in the difference.
    _Comparison("max-T", 12, (512, WINDOW), (64, 192)),
    _Comparison("max-T, two nuisance columns", 20, (512, WINDOW), (64, 192), n_nuisance=2),
    _CLUSTERS,
    _Comparison("TFCE", 50, (128, 512), (4, 8), {"statistics": ("tfce",), "scale": "stat"}, {"tfce": True}),
)


def measure(effort: Effort) -> tuple[dict[str, object], list[Number]]:
    """Seconds of one more relabelling of both, and their ratios."""
    mask = mni_mask(effort.resolution)
    maps = smooth_noise(mask, N)
    _check_agreement(maps, effort.resolution)
    seconds = {one.name: _compare(one, maps, effort) for one in _COMPARISONS}
    middle = {name: medians(times) for name, times in seconds.items()}
    numbers = [
        Number(
            f"{one.name} against nilearn",
            middle[one.name]["nilearn"] / middle[one.name]["voxstack"],
            one.target,
            "times",
        )
        for one in _COMPARISONS
    ]
    return {"seconds_per_relabelling": seconds, "median": middle}, numbers


def _compare(one: _Comparison, maps: Maps, effort: Effort) -> dict[str, list[float]]:
    columns = regressors(N)[:, : 1 + one.n_nuisance]
    design = np.column_stack([columns, np.ones(N)])
    contenders = {
        "voxstack": Contender(ours(maps, mni_mask(effort.resolution), design, **one.our_options), *one.our_runs),
        "nilearn": Contender(_nilearn(maps, effort.resolution, columns, **one.their_options), *one.their_runs),
    }
    with dask.config.set(num_workers=THREADS):
        return marginal(contenders, effort)


def _nilearn(maps: Maps, resolution: int, columns: NDArray[np.float64], **options: Any) -> Run:
    image = load_mni152_brain_mask(resolution=resolution)
    masker = NiftiMasker(mask_img=image, standardize=None).fit()
    target = maps[:, np.asarray(image.dataobj) > 0]
    nuisance = columns[:, 1:] if columns.shape[1] > 1 else None

    def run(number: int) -> object:
        with warnings.catch_warnings():
            # nilearn's own image of cluster sizes; its sizes fit into the 32 bits that it falls back to.
            warnings.filterwarnings("ignore", "Data array used to create a new image contains 64-bit ints")
            return permuted_ols(
                columns[:, :1],
                target,
                confounding_vars=nuisance,
                n_perm=number,
                n_jobs=THREADS,
                masker=masker,
                random_state=0,
                output_type="dict",
                **options,
            )

    return run


def _check_agreement(maps: Maps, resolution: int) -> None:
    """Speed of a wrong answer is worth nothing: t and the extents of clusters must be nilearn's, but for rounding."""
    columns, mask = regressors(N), mni_mask(resolution)
    result: Any = ours(maps, mask, np.column_stack([columns, np.ones(N)]), **_CLUSTERS.our_options)(4)
    theirs: Any = _nilearn(maps, resolution, columns, **_CLUSTERS.their_options)(4)
    worst = np.abs(result["stat"].values[0][mask] - theirs["t"][0]).max()
    assert worst < 1e-3, f"t differs from nilearn's by up to {worst}"
    differ = np.mean(result["cluster_extent"].values[0][mask] != theirs["size"][0])
    assert differ < 1e-4, f"clusters differ from nilearn's at {100 * differ} % of the voxels"
