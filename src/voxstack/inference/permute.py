"""`permutation_test`: p-values from relabelled designs, corrected for all voxels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack import provenance
from voxstack.blocks import Columns, as_blocks, columns
from voxstack.checks import check_number
from voxstack.contrasts import Contrast, ContrastSpec
from voxstack.covariates import decode
from voxstack.design import Matrix
from voxstack.errors import InputError
from voxstack.grid import Grid
from voxstack.inference.checkpoint import Checkpoint, digest
from voxstack.inference.engine import count_voxels, enhance_maps, fingerprint
from voxstack.inference.exchangeability import Blocks
from voxstack.inference.hypotheses import Hypothesis, Precision, Procedure, Relabelling, check_joint, make_hypotheses
from voxstack.inference.options import check_choices, choose_statistics, choose_threshold
from voxstack.inference.results import TailRule, assemble
from voxstack.inference.statistics import TFCE, VOXEL, Enhancement, Scale, check_connectivity
from voxstack.io.places import located
from voxstack.kernels.exchangeability import Tree, tree_of
from voxstack.kernels.pvalues import Alternative
from voxstack.models.analysis import begin_analysis, tested_contrasts
from voxstack.models.blueprint import Missing
from voxstack.models.inputs import described_mask, labels_of
from voxstack.plan.permutation import PermutationWork, Schedule
from voxstack.run import resources
from voxstack.schema import annotate, covariate_names, is_p_value
from voxstack.store.location import Location
from voxstack.store.mask import AnalysisMask


def permutation_test(
    cohort: xr.Dataset,
    design: str | Matrix,
    contrasts: ContrastSpec,
    *,
    variable: str | None = None,
    missing: Missing = "complete",
    min_subjects: int | None = None,
    drop_missing: bool = False,
    mask: AnalysisMask | None = None,
    n_permutations: int = 5000,
    statistics: Sequence[str] = ("voxel",),
    alternative: Alternative = "two-sided",
    method: str = "freedman-lane",
    relabelling: Relabelling = "auto",
    blocks: str | Blocks | None = None,
    seed: int = 0,
    cluster_forming_p: float | None = None,
    cluster_forming_z: float | None = None,
    connectivity: int = 26,
    tfce: TFCE | None = None,
    two_sided_clusters: Literal["signed", "absolute"] = "signed",
    scale: Scale = "z",
    joint: bool = False,
    tail: TailRule = "counts",
    precision: Precision = "mixed",
    checkpoint: str | Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    r"""Test hypotheses by relabelling subjects, with p-values corrected for all voxels.

    The design is relabelled, and the model fitted anew to the same data, voxel by voxel and relabelling by relabelling.
    A p-value is the share of relabellings, the identity among them, whose statistic reaches the observed one; corrected
    for all voxels, whose largest statistic does. Blocks of voxels are computed in parallel, on the active Dask client
    or on threads. p-values do not depend on chunks or workers, and maxima only in their last digits.

    Parameters
    ----------
    cohort
        Of `open_cohort`, `stack` or `from_arrays`.
    design
        What `make_design` takes: a formula, a DataFrame or a DataArray, aligned to the cohort by subject label.
    contrasts
        As of `contrast`.
    variable
        Map to test; needed only where the cohort has several.
    missing
        "complete": voxels that some subject lacks are NaN. "available": at each voxel the subjects that have data there
        count. All subjects are relabelled, then those that a voxel lacks dropped, and voxels, which then differ in
        their degrees of freedom, are compared by z.
    min_subjects
        Of available cases: voxels with data of fewer subjects are NaN.
    drop_missing
        Leave out subjects that lack a covariate of the design, as of `fit_glm`; by default they are an error.
    mask : (x, y, z) bool, path, URL or image
        Narrows the cohort's mask.
    n_permutations
        Relabellings, the identity included; where there are no more distinct ones, each of them is run once, and the
        test is exact (coordinates `n_relabellings` and `exhaustive`).
    statistics
        Any of "voxel", "cluster_extent", "cluster_mass" and "tfce".
    alternative
        Of t contrasts: "two-sided", "greater" or "less". F has one alternative only.
    method
        How nuisance regressors are dealt with: "freedman-lane", "draper-stoneman", "dekker", "manly", "ter-braak" or
        "still-white". Without any, all but "ter-braak" are the same.
    relabelling
        "permute", "flip" signs, or "both"; "auto" flips where no permutation changes what a contrast tests, as for the
        mean of one group, and permutes elsewhere (coordinate `relabelling`). Permutations suppose exchangeable errors,
        flips symmetric ones.
    blocks
        Of exchangeability: the name of a covariate, within whose groups subjects are exchanged; or `Blocks`, for groups
        that are exchanged as wholes and for nested ones.
    seed
        Of the relabellings. A larger `n_permutations` goes on where a smaller one ended.
    cluster_forming_p, cluster_forming_z
        Cluster-forming threshold, one of both: p of one tail, or z.
    connectivity
        Neighbours in a cluster: 6, 18 or 26.
    tfce
        Parameters of TFCE; `TFCE()` if not given.
    two_sided_clusters
        Of two-sided t contrasts: "signed" clusters are of one sign each, "absolute" ones of absolute values.
    scale
        Of the maps that are clustered or enhanced: "z", or "stat", t and F themselves.
    joint
        Correct across contrasts, too: variables ``<statistic>_p_fwe_joint``. All contrasts must share their
        relabellings; for statistics of clusters and TFCE their types and alternatives, too.
    tail
        Of corrected p-values: "counts", or "gpd" for a generalised Pareto distribution that is fitted to the largest
        maxima where not all relabellings are run. It gives p-values below 1 / `n_relabellings`, which are approximate
        and err on the side of being too large. Where it does not fit they are counted (NaN in the coordinate
        `tail_shape`).
    precision
        "mixed": single precision screens, and whatever is close to an observed value or to a maximum is computed in
        double precision. "double" computes all in double precision: the same p-values, at half the speed. TFCE always
        is in double precision.
    checkpoint
        Folder or URL that gets the results of tasks as they complete. The same call, after a stop in whatever way, goes
        on from there and gives the same result; one with more relabellings goes further. It is never removed.
    storage_options
        Credentials and settings for the URLs of the checkpoint and of a mask.
    progress
        Show progress bars.

    Returns
    -------
    xarray.Dataset
        `stat` (t or F), `p_uncorrected`, `voxel_p_fwe`, and of the other statistics their values and ``_p_fwe``:
        (contrast, x, y, z) float64, NaN outside the mask and where there is no residual variance. Outside clusters
        extent and mass are 0 and p is 1. TFCE has the sign of the statistic. `null_max` (statistic, contrast,
        permutation): the largest value of each relabelling, the identity first, in units of the statistic in the
        direction of the alternative (so of \|t\| for two-sided tests; of available cases in z); NaN beyond
        `n_relabellings`. The coordinate `dof` is along `contrast`, or of available cases (x, y, z).

    Raises
    ------
    DesignError
        The design does not fit the cohort, a contrast cannot be estimated, or nothing can be relabelled.
    InputError
        No such map, mask, statistic, method or option; cluster statistics without exactly one threshold; a checkpoint
        of another run, or that is damaged.
    StoreError
        The checkpoint cannot be written; what is in it is kept.

    Warns
    -----
    VoxstackWarning
        The design is rank deficient; subjects are permuted within blocks that have no effect in the design; images are
        flipped one by one although what is tested differs between blocks alone.

    Notes
    -----
    Winkler et al. (2014), NeuroImage 92:381, for the model, its partition and the methods; Freedman and Lane (1983),
    Journal of Business and Economic Statistics 1:292; Winkler et al. (2015), NeuroImage 123:253, for blocks; Phipson
    and Smyth (2010), Statistical Applications in Genetics and Molecular Biology 9:39, for the p-value; Smith and
    Nichols (2009), NeuroImage 44:83, for TFCE. Values that are equal but for rounding count as equal.
    """
    # Validate
    mask = located(mask, storage_options)
    check_choices(
        alternative=alternative,
        missing=missing,
        method=method,
        relabelling=relabelling,
        two_sided_clusters=two_sided_clusters,
        scale=scale,
        tail=tail,
        precision=precision,
    )
    check_number("n_permutations (--permutations), the identity included,", n_permutations, 2)
    check_number("seed", seed, 0)
    names = choose_statistics(statistics)
    check_connectivity(connectivity)
    if not isinstance(tfce, TFCE | None):
        raise InputError(f"tfce must be TFCE(...), such as vx.TFCE(H=2, connectivity=26), not a {type(tfce).__name__}.")
    threshold = choose_threshold(names, cluster_forming_p, cluster_forming_z)
    name, matrix, basis, kept, inside, cases = begin_analysis(
        cohort,
        design,
        variable=variable,
        missing=missing,
        min_subjects=min_subjects,
        mask=mask,
        drop_missing=drop_missing,
    )
    tested = tested_contrasts(contrasts, matrix, basis)
    tree, subjects = _tree(blocks, cohort, kept), list(labels_of(cohort)[kept])
    procedure = Procedure(
        subjects, tree, relabelling, method, alternative, int(n_permutations), int(seed), precision, cases
    )
    hypotheses = make_hypotheses(tested, matrix.values, basis, procedure)
    if joint:
        check_joint(hypotheses, names)
    of_maps = [one for one in names if one != VOXEL]
    enhancement = Enhancement(of_maps, inside, threshold, connectivity, tfce or TFCE(), two_sided_clusters, scale)
    details = _details(names, tested, matrix, procedure, enhancement) | {"variable": name}

    # Compute
    data, given = as_blocks(cohort[name]), resources()
    whole = columns(data, inside, kept)
    work = _work(whole, data, hypotheses, enhancement)
    identity = {} if checkpoint is None else _identity(details, matrix, hypotheses, fingerprint(whole))
    place = None if checkpoint is None else Location.of(checkpoint, storage_options)
    kept_so_far = Checkpoint.begin(place, identity, asdict(work.schedule(given)))
    schedule = Schedule(**kept_so_far.schedule)
    work.check(schedule, given)
    parts = columns(data, inside, kept, most=schedule.part)
    found = count_voxels(parts, hypotheses, kept_so_far, progress=progress)
    if of_maps:
        enhance_maps(parts, hypotheses, found, enhancement, kept_so_far, progress=progress)

    # Conclude
    result = assemble(hypotheses, found, names, enhancement, Grid.from_dataset(cohort), joint=joint, tail=tail)
    details |= {"n_permutations": int(n_permutations), "joint": joint, "tail": tail, "n_subjects": len(matrix)}
    details |= {} if mask is None else {"mask": described_mask(mask)}
    details |= {} if blocks is None else {"blocks": _described_blocks(blocks)}
    record = provenance.record("permutation_test", **details)
    result = annotate(result, "permutation", alternative=alternative, provenance=record)
    for variable_name in filter(is_p_value, map(str, result.data_vars)):
        result[variable_name].attrs["alternative"] = alternative
    return result


def _details(
    names: Sequence[str],
    tested: Sequence[Contrast],
    matrix: xr.DataArray,
    procedure: Procedure,
    enhancement: Enhancement,
) -> dict[str, Any]:
    """What the counts and maxima depend on, but for the data and the number of relabellings: for provenance."""
    regressors = [str(regressor) for regressor in matrix["regressor"].values]
    details = {key: matrix.attrs[key] for key in ("formula", "dropped_subjects") if key in matrix.attrs}
    details |= {"contrasts": {one.name: one.weights.tolist() for one in tested}, "regressors": regressors}
    details |= {"statistics": list(names), "alternative": procedure.alternative, "method": procedure.method}
    details |= {"relabelling": procedure.relabelling, "seed": procedure.seed, "precision": procedure.precision}
    details |= {"missing": procedure.cases.missing}
    if procedure.cases.min_subjects > 1:
        details["min_subjects"] = procedure.cases.min_subjects
    if enhancement.threshold is not None:
        details |= {"cluster_forming_z": enhancement.threshold, "connectivity": enhancement.connectivity}
    if "tfce" in names:
        details["tfce"] = asdict(enhancement.tfce)
    if enhancement.names:
        details |= {"scale": enhancement.scale, "two_sided_clusters": enhancement.two_sided}
    return details


def _work(
    blocks: Sequence[Columns], data: da.Array, hypotheses: Sequence[Hypothesis], enhancement: Enhancement
) -> PermutationWork:
    return PermutationWork(
        blocks=tuple(len(block.numbers) for block in blocks),
        n_subjects=len(hypotheses[0].partition.effect),
        itemsize=data.dtype.itemsize,
        chunk=math.prod(data.chunksize) * data.dtype.itemsize,
        n_relabellings=max(h.number for h in hypotheses),
        n_hypotheses=len(hypotheses),
        n_statistics=len(enhancement.names),
        suprathreshold=enhancement.suprathreshold_share,
        available=hypotheses[0].cases.missing == "available",
    )


def _identity(
    details: Mapping[str, Any], matrix: xr.DataArray, hypotheses: Sequence[Hypothesis], data: str
) -> dict[str, Any]:
    """What a checkpoint's results depend on, but for the number of relabellings."""
    first = [part for h in hypotheses for part in h.relabellings.batch(0, min(h.relabellings.count, 32))]
    digests = {
        "the data, or their chunks,": data,
        "the design": digest(matrix.values),
        "the order of relabellings": digest(*first),
    }
    identity: dict[str, Any] = provenance.plain(details)
    return {**identity, **{name: {"digest": found} for name, found in digests.items()}}


def _described_blocks(blocks: str | Blocks) -> dict[str, Any]:
    """For provenance: the covariate, or that there were labels."""
    one = Blocks(blocks) if isinstance(blocks, str) else blocks
    told = {"column": one.labels} if isinstance(one.labels, str) else {"labels": "given"}
    return {**told, "within": not one.whole if one.within is None else one.within, "whole": one.whole}


def _tree(blocks: str | Blocks | None, cohort: xr.Dataset, kept: NDArray[np.bool_]) -> Tree:
    """The tree of exchangeability of the subjects that are kept."""
    if blocks is None:
        return tree_of(int(kept.sum()))
    one = Blocks(blocks) if isinstance(blocks, str) else blocks
    if not isinstance(one, Blocks):
        raise InputError(
            f"blocks must be the name of a covariate, or Blocks(...) of labels or of a file; it is {type(blocks)}."
        )
    covariates = {name: decode(name, cohort[name].variable) for name in covariate_names(cohort)}
    return one.resolve(list(labels_of(cohort)), covariates, kept=kept)
