"""A paragraph for the methods section of a paper, its references, and the commands that repeat the analysis."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from voxstack.grid import Grid
from voxstack.models.inputs import IN_MEMORY
from voxstack.reporting.findings import ALPHA, USUAL

_REFERENCES = {
    "bh": "Benjamini Y, Hochberg Y (1995). Controlling the false discovery rate: a practical and powerful approach to "
    "multiple testing. Journal of the Royal Statistical Society B 57:289-300.",
    "freedman-lane": "Freedman D, Lane D (1983). A nonstochastic interpretation of reported significance levels. "
    "Journal of Business and Economic Statistics 1:292-298.",
    "winkler": "Winkler AM, Ridgway GR, Webster MA, Smith SM, Nichols TE (2014). Permutation inference for the general "
    "linear model. NeuroImage 92:381-397.",
    "blocks": "Winkler AM, Webster MA, Vidaurre D, Nichols TE, Smith SM (2015). Multi-level block permutation. "
    "NeuroImage 123:253-268.",
    "tfce": "Smith SM, Nichols TE (2009). Threshold-free cluster enhancement: addressing problems of smoothing, "
    "threshold dependence and localisation in cluster inference. NeuroImage 44:83-98.",
    "p": "Phipson B, Smyth GK (2010). Permutation p-values should never be zero. Statistical Applications in Genetics "
    "and Molecular Biology 9:39.",
}

_STATISTICS = {
    "voxel": "the statistic itself",
    "cluster_extent": "cluster extent",
    "cluster_mass": "cluster mass",
    "tfce": "threshold-free cluster enhancement (TFCE)",
}


_SIDES = {
    "two-sided": "two-sided",
    "greater": "one-sided, for positive effects",
    "less": "one-sided, for negative effects",
}


def paragraph(result: xr.Dataset) -> tuple[str, list[str]]:
    """Text that can be pasted into a paper, and its references."""
    record = result.attrs["provenance"]
    used: list[str] = []
    grid, inside = Grid.from_dataset(result), int(result["mask"].sum())
    size = " x ".join(f"{abs(step):g}" for step in grid.voxel_size)
    version = record["versions"]["voxstack"]
    n = record.get("n_subjects")
    who = f"Maps of {n} subjects" if n else "Maps"
    dropped = len(record.get("dropped_subjects", []))
    left_out = f" ({dropped} more, who lacked a covariate, were left out)" if dropped else ""
    if record["function"] == "read_map":
        text = [f"A map of {record['kind']} values with {inside:,} voxels of {size} mm was read by voxstack {version}."]
    else:
        formula = f"the linear model {record['formula']}" if "formula" in record else "a linear model"
        cases = "at each voxel in the subjects that have data there"
        if record["missing"] == "complete":
            cases = "at the voxels where all of them have data"
        text = [
            f"{who}{left_out} were analysed on {inside:,} voxels of {size} mm by voxstack {version}.",
            f"{_first(formula)} was fitted by ordinary least squares {cases}.",
        ]
    names = ", ".join(map(str, result["contrast"].values))
    text.append(f"Tests of t contrasts were {_SIDES[result.attrs['alternative']]}; contrasts were: {names}.")
    if result.attrs["kind"] == "permutation":
        text.append(_permutation(result, record, used))
    text.append(_threshold(record, used, result.attrs["kind"]))
    return " ".join(filter(None, text)), [_REFERENCES[key] for key in dict.fromkeys(used)]


def _permutation(result: xr.Dataset, record: Mapping[str, Any], used: list[str]) -> str:
    used += ["winkler", "p"]
    kinds = {"permute": "permuting subjects", "flip": "flipping signs", "both": "permuting subjects and flipping signs"}
    how = []
    for name in result["contrast"].values:
        one = result.sel(contrast=name)
        every = ", which are all" if bool(one["exhaustive"]) else ""
        how.append(
            f"{int(one['n_relabellings']):,} relabellings by {kinds[str(one['relabelling'].item())]}{every} ({name})"
        )
    if "blocks" in record:
        used.append("blocks")
    if record["method"] == "freedman-lane":
        used.append("freedman-lane")
    statistics = [_STATISTICS[name] for name in record["statistics"]]
    if "tfce" in record["statistics"]:
        used.append("tfce")
        t = record["tfce"]
        statistics[record["statistics"].index("tfce")] += (
            f", E = {t['E']:g}, H = {t['H']:g}, {t['connectivity']} neighbours"
        )
    forming, within = "", ""
    if "blocks" in record:
        within = " Subjects were exchanged in exchangeability blocks."
        if "column" in record["blocks"]:
            within = f" Subjects were exchanged in exchangeability blocks of {record['blocks']['column']}."
    if "cluster_forming_z" in record:
        forming = (
            f" Clusters were formed at z > {record['cluster_forming_z']:.4g} with {record['connectivity']} neighbours."
        )
    return (
        f"p-values come from {'; '.join(how)}, with the method of {_method(record['method'])} for nuisance regressors "
        f"and seed {record['seed']}. They were corrected for all voxels by the distribution of the maximum of "
        f"{', '.join(statistics)}.{forming}{within}"
    )


def _method(name: str) -> str:
    return " and ".join(part.capitalize() for part in name.split("-")) if name != "ter-braak" else "ter Braak"


def _threshold(record: Mapping[str, Any], used: list[str], kind: str) -> str:
    options = record.get("threshold")
    correction = options["correction"] if options else USUAL[kind]
    alpha = options["alpha"] if options else ALPHA
    if correction == "fdr":
        used.append("bh")
    said = {
        "none": f"Voxels with p <= {alpha:g}, not corrected for their number, are reported as significant.",
        "fdr": f"The false discovery rate was kept at {alpha:g} (Benjamini-Hochberg), contrast by contrast.",
        "bonferroni": f"Voxels are significant at p <= {alpha:g} by Bonferroni's correction.",
        "fwe": f"The family-wise error rate was kept at {alpha:g}.",
    }[correction]
    extent = options["cluster_extent"] if options else 0
    return said + (f" Clusters of fewer than {extent} voxels were left out." if extent > 1 else "")


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]


def commands(result: xr.Dataset) -> list[str]:
    """Command lines that repeat a result, with COHORT in place of the cohort's path; none where there are none."""
    line, options = _command(result), result.attrs["provenance"].get("threshold")
    if line is None or options is None or options.get("mask") in IN_MEMORY:
        return [line] if line else []
    words = [
        "voxstack",
        "threshold",
        "RESULTS",
        "--correction",
        options["correction"],
        "--alpha",
        repr(options["alpha"]),
    ]
    words += ["--variable", options["variable"], "--alternative", options["alternative"]]
    words += ["--cluster-extent", str(options["cluster_extent"]), "--connectivity", str(options["connectivity"])]
    words += ["--mask", options["mask"]] if "mask" in options else []
    return [line, shlex.join([*words, "--output", "SIGNIFICANT"])]


def _command(result: xr.Dataset) -> str | None:
    record = result.attrs["provenance"]
    names = [str(name) for name in result["contrast"].values]
    if record["function"] not in ("contrast", "permutation_test") or not _can_be_said(record, names):
        return None
    words = ["voxstack", "fit" if record["function"] == "contrast" else "permute", "COHORT"]
    words += ["--design", record["formula"], "--variable", record["variable"], "--missing", record["missing"]]
    for name, stat_type in zip(map(str, result["contrast"].values), result["stat_type"].values, strict=True):
        rows = [_expression(row, record["regressors"]) for row in np.atleast_2d(record["contrasts"][name])]
        words.append("--f-contrast" if stat_type == "F" else "--contrast")
        words.append(rows[0] if rows == [name] else f"{name}={', '.join(rows)}")
    words += ["--alternative", result.attrs["alternative"]]
    if record.get("min_subjects", 1) > 1:
        words += ["--min-subjects", str(record["min_subjects"])]
    words += [word for size in record.get("effect_sizes", []) for word in ("--effect-size", size)]
    words += ["--confidence", repr(record["confidence"])] if "confidence" in record else []
    words += ["--mask", record["mask"]] if "mask" in record else []
    words += ["--drop-missing"] if record.get("dropped_subjects") else []
    if record["function"] == "permutation_test":
        words += _permuting(record)
    return shlex.join([*words, "--output", "RESULTS"])


def _can_be_said(record: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether the command line has words for all that was asked for."""
    blocks, tfce = record.get("blocks", {}), record.get("tfce", {})
    return (
        "formula" in record
        and record.get("mask") not in IN_MEMORY
        and "labels" not in blocks
        and not (blocks.get("within") and blocks.get("whole"))
        and (tfce.get("E", 0.5), tfce.get("H", 2.0), tfce.get("dh")) == (0.5, 2.0, None)
        and all(name in record["contrasts"] and _can_be_named(name, record) for name in names)
    )


def _can_be_named(name: str, record: Mapping[str, Any]) -> bool:
    rows = [_expression(row, record["regressors"]) for row in np.atleast_2d(record["contrasts"][name])]
    closed = all(row.count(left) == row.count(right) for row in rows for left, right in ("()", "[]"))
    return closed and (rows == [name] or re.fullmatch(r"\w([\w .+-]*\w)?", name) is not None)


def _permuting(record: Mapping[str, Any]) -> list[str]:
    words = ["--permutations", str(record["n_permutations"]), "--seed", str(record["seed"])]
    words += [word for name in ("method", "relabelling", "tail", "precision") for word in (f"--{name}", record[name])]
    words += [word for name in record["statistics"] for word in ("--statistic", name)]
    if "blocks" in record:
        words += ["--whole-blocks" if record["blocks"]["whole"] else "--blocks", record["blocks"]["column"]]
    if "cluster_forming_z" in record:
        words += [
            "--cluster-forming-z",
            repr(record["cluster_forming_z"]),
            "--connectivity",
            str(record["connectivity"]),
        ]
    if "tfce" in record:
        words += ["--tfce-connectivity", str(record["tfce"]["connectivity"])]
    if "scale" in record:
        words += ["--scale", record["scale"], "--two-sided-clusters", record["two_sided_clusters"]]
    return words + (["--joint"] if record["joint"] else [])


def _expression(row: Any, regressors: list[str]) -> str:
    terms = [(float(weight), name) for weight, name in zip(row, regressors, strict=True) if weight]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]
    return " + ".join(f"{weight!r} * {name}" for weight, name in terms) or "0"
