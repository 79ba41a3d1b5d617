"""Which maps a result has: what each file is called, what it holds and what its sidecar says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from voxstack.errors import InputError, listing
from voxstack.schema import SPACE

_STATS = {
    "effect": "effect",
    "variance": "variance",
    "cohens_d": "cohensd",
    "partial_r2": "partialr2",
    "ci_lower": "cilower",
    "ci_upper": "ciupper",
}
"""What file names call the maps of a contrast, beside those whose names depend on the contrast or on options."""

_OF_T = frozenset({"effect", "variance", "cohens_d", "ci_lower", "ci_upper"})  # NaN for F
_INFINITE = {"greater": "ci_upper", "less": "ci_lower"}  # in every voxel, which many programs cannot read


@dataclass(frozen=True)
class PlannedMap:
    """A map to be written.

    Attributes
    ----------
    entities
        Parts of the file's name, in order.
    variable, selection
        Where it is in the dataset.
    meta
        What its sidecar says beside the provenance.
    suffix
        End of the file's name.
    """

    entities: Mapping[str, str]
    variable: str
    selection: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = "statmap"


def planned(dataset: xr.Dataset, *, log10_p: bool) -> list[PlannedMap]:
    """The maps of a result of any kind, with -log10 of p-values in their place where asked for."""
    kind = dataset.attrs["kind"]
    if "significant" in dataset:
        return list(_of_threshold(dataset, log10_p))
    if kind == "fit":
        return list(_of_fit(dataset))
    if kind == "discoveries":
        return list(_of_discoveries(dataset))
    return list((_of_contrasts if kind == "contrast" else _of_permutations)(dataset, log10_p))


def _of_contrasts(result: xr.Dataset, log10_p: bool) -> Iterator[PlannedMap]:
    for name in result["contrast"].values:
        one = result[["stat_type", "dof_num", "dof"]].sel(contrast=name)
        stat_type = str(one["stat_type"].item())
        meta = _contrast_meta(result, str(name), one, stat_type)
        stats = _STATS | {"stat": stat_type, "z_score": "z", "p_value": "log10p" if log10_p else "p"}
        empty = {_INFINITE.get(result.attrs["alternative"])} if stat_type == "t" else _OF_T
        for variable, stat in stats.items():
            if variable not in result or variable in empty:
                continue
            described = result[variable].attrs["long_name"]
            if stat == "log10p":
                described = f"-log10 of the {described}"
            level = result[variable].attrs.get("confidence")
            more = {"Description": described} | ({} if level is None else {"ConfidenceLevel": level})
            yield PlannedMap({"contrast": str(name), "stat": stat}, variable, {"contrast": str(name)}, meta | more)
    if result["dof"].dims == SPACE:
        yield PlannedMap({"stat": "dof"}, "dof", meta={"Description": result["dof"].attrs["long_name"]})


def _of_permutations(result: xr.Dataset, log10_p: bool) -> Iterator[PlannedMap]:
    suffix = "log10p" if log10_p else "p"
    for name in result["contrast"].values:
        one = result[["stat_type", "dof_num", "dof", "relabelling", "n_relabellings", "exhaustive"]].sel(contrast=name)
        stat_type, selection = str(one["stat_type"].item()), {"contrast": str(name)}
        meta = _contrast_meta(result, str(name), one, stat_type)
        meta |= {"Relabelling": str(one["relabelling"].item()), "Relabellings": int(one["n_relabellings"])}
        meta["Exhaustive"] = bool(one["exhaustive"])
        for variable in (str(variable) for variable in result.data_vars if result[variable].dims[1:] == SPACE):
            stat, _, corrected = variable.partition("_p_")
            told = meta | {"Description": result[variable].attrs["long_name"]}
            entities = {"contrast": str(name), "stat": stat_type if stat == "stat" else stat.removeprefix("p_")}
            if variable == "p_uncorrected":
                entities = {"contrast": str(name), "stat": "voxel", "desc": "uncorrected"}
                corrected = "uncorrected"
            elif corrected:
                entities["desc"] = corrected
            if corrected and log10_p:
                told["Description"] = f"-log10 of the {told['Description']}"
            yield PlannedMap(entities, variable, selection, told, suffix if corrected else "statmap")


def _of_threshold(result: xr.Dataset, log10_p: bool) -> Iterator[PlannedMap]:
    """The map that was thresholded, and what is significant of it."""
    options = result.attrs["provenance"]["threshold"]
    unthresholded = result.drop_vars("significant")
    for one in planned(unthresholded, log10_p=log10_p):
        if one.variable != options["variable"]:
            continue
        name = str(result["contrast"].sel(one.selection).item())
        told = {**one.meta, "Threshold": {**options, "value": float(result["threshold"].sel(one.selection))}}
        correction = {"none": "uncorrected"}.get(options["correction"], options["correction"])
        label = "".join(dict.fromkeys((one.entities.get("desc", ""), correction)))
        yield PlannedMap({**one.entities, "desc": f"thresholded{label}"}, one.variable, one.selection, told, one.suffix)
        told = {**told, "Description": result["significant"].attrs["long_name"]}
        entities = {**one.entities, "desc": f"significant{label}"}
        yield PlannedMap(entities, "significant", {"contrast": name}, told, "mask")


def _of_discoveries(result: xr.Dataset) -> Iterator[PlannedMap]:
    """Shares of active voxels, and numbers of the clusters or regions, at each threshold."""
    thresholds = result["cluster_forming_z"].values if "cluster_forming_z" in result.dims else [None]
    record = result.attrs["provenance"]
    for name in map(str, result["contrast"].values):
        for z in thresholds:
            selection: dict[str, Any] = {"contrast": name} | ({} if z is None else {"cluster_forming_z": float(z)})
            at = "" if z is None else f"z{z:g}".replace(".", "p")
            told: dict[str, Any] = {"Contrast": name, "Alpha": record["alpha"], "Alternative": record["alternative"]}
            told |= {} if z is None else {"ClusterFormingZ": float(z)}
            for variable, what, suffix in (("true_discovery_proportion", "tdp", "statmap"), ("label", "label", "dseg")):
                entities = {"contrast": name, "desc": f"{what}{at}"}
                described = told | {"Description": result[variable].attrs["long_name"]}
                yield PlannedMap(entities, variable, selection, described, suffix)


def _contrast_meta(result: xr.Dataset, name: str, one: xr.Dataset, stat_type: str) -> dict[str, Any]:
    provenance = result.attrs["provenance"]
    if name not in provenance["contrasts"]:
        raise InputError(
            f"The result does not say what {name!r} is: it was renamed or put together after contrast, which knows "
            f"{listing(provenance['contrasts'])}. Name contrasts when testing: contrast(fit, {{'name': ...}})."
        )
    rows = np.atleast_2d(provenance["contrasts"][name])
    weights = [{r: float(w) for r, w in zip(provenance["regressors"], row, strict=True) if w != 0} for row in rows]
    meta: dict[str, Any] = {"Contrast": name, "StatType": stat_type, "Weights": weights}
    meta["Alternative"] = result.attrs["alternative"] if stat_type == "t" else "F is one-sided"
    if stat_type == "F":
        meta["NumeratorDegreesOfFreedom"] = int(one["dof_num"])
    shared = one["dof"].ndim == 0
    return meta | {"DegreesOfFreedom": float(one["dof"]) if shared else "differ between voxels: stat-dof_statmap"}


def _of_fit(fit: xr.Dataset) -> Iterator[PlannedMap]:
    for regressor in map(str, fit["regressor"].values):
        meta = {"Regressor": regressor, "Description": fit["beta"].attrs["long_name"]}
        yield PlannedMap({"regressor": regressor, "stat": "beta"}, "beta", {"regressor": regressor}, meta)
    for variable in ("residual_variance", "dof"):
        yield PlannedMap({"stat": variable}, variable, meta={"Description": fit[variable].attrs["long_name"]})
