"""One-sample cluster tests against MNE-Python's, on a grid of 50,000 voxels with 100 subjects, on one thread both.

Both do the same work: they flip the signs of subjects, and cluster or enhance maps of t, two-sided in clusters of one
sign each, with 6 neighbours. The threshold of clusters is the t with p = 0.001 of one tail; their mass is the sum of t.
MNE sums TFCE in steps of 0.2, as its documentation does, and voxstack integrates exactly. MNE gets its data in double
precision, in which it computes, and the grid as slices of neighbours that follow one another, the fastest of the ways
in which it takes one. It returns corrected p-values alone; voxstack counts uncorrected ones, too.
"""

from collections.abc import Mapping
from typing import Any

import dask
import numpy as np
from measure import Number, medians
from mne.stats import combine_adjacency, permutation_cluster_1samp_test
from relabelling import Contender, Effort, Maps, Run, marginal, ours, smooth_noise
from scipy import stats
from threadpoolctl import threadpool_limits

import voxstack as vx

N, P = 100, 0.001
_CLUSTERS = {"statistics": ("cluster_mass",), "cluster_forming_p": P, "connectivity": 6, "scale": "stat"}
_TFCE = {"statistics": ("tfce",), "scale": "stat"}
_STEPS = {"start": 0, "step": 0.2}


def measure(effort: Effort) -> tuple[dict[str, object], list[Number]]:
    """Seconds of one more relabelling of both, and their ratios."""
    shape = (50, 40, 25) if effort.resolution == 2 else (20, 16, 10)
    maps = smooth_noise(np.ones(shape, dtype=bool), N)
    maps[:, :4, :4, :4] += maps.std()  # without any cluster in the data MNE does not flip at all
    threshold = float(stats.t.isf(P, N - 1))
    with dask.config.set(num_workers=1), threadpool_limits(1):
        _check_agreement(maps, threshold)
        clusters = {
            "voxstack": Contender(_ours(maps, _CLUSTERS), 512, 4096),
            "MNE-Python": Contender(_mne(maps, threshold), 256, 512),
        }
        tfce = {
            "voxstack": Contender(_ours(maps, _TFCE), 128, 256),
            "MNE-Python": Contender(_mne(maps, _STEPS), 16, 32),
        }
        seconds = {"cluster mass": marginal(clusters, effort), "TFCE": marginal(tfce, effort)}
    middle = {name: medians(times) for name, times in seconds.items()}
    numbers = [
        Number(
            f"{name} against MNE-Python, one thread",
            middle[name]["MNE-Python"] / middle[name]["voxstack"],
            target,
            "times",
        )
        for name, target in (("cluster mass", 3), ("TFCE", 12))
    ]
    return {"seconds_per_relabelling": seconds, "median": middle}, numbers


def _ours(maps: Maps, options: Mapping[str, Any]) -> Run:
    return ours(maps, np.ones(maps.shape[1:], dtype=bool), np.ones((N, 1)), relabelling="flip", **options)


def _mne(maps: Maps, threshold: float | dict[str, float]) -> Run:
    n, slices = maps.shape[:2]
    values = maps.reshape(n, slices, -1).astype(np.float64)
    neighbours = combine_adjacency(*maps.shape[2:])  # in a slice; MNE joins each slice to the next by itself

    def run(number: int) -> object:
        return permutation_cluster_1samp_test(
            values,
            threshold=threshold,
            n_permutations=number,
            adjacency=neighbours,
            n_jobs=1,
            out_type="indices",  # masks would be as many as voxels, of as many voxels
            verbose="ERROR",
        )

    return run


def _check_agreement(maps: Maps, threshold: float) -> None:
    """Speed of a wrong answer is worth nothing: the largest cluster must be MNE's, and TFCE in its steps, too."""
    clusters: Any = _mne(maps, threshold)(4)
    mass: Any = _ours(maps, _CLUSTERS)(4)
    np.testing.assert_allclose(
        mass["null_max"].sel(statistic="cluster_mass").values[0, 0], abs(clusters[3][0]), rtol=1e-6
    )
    steps: Any = _mne(maps, _STEPS)(4)
    ours_in_steps: Any = _ours(maps, {**_TFCE, "tfce": vx.TFCE(dh=_STEPS["step"])})(4)
    np.testing.assert_allclose(ours_in_steps["tfce"].values[0].ravel(), steps[0].ravel(), rtol=1e-6, atol=1e-9)
