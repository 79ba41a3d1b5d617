"""p-values of any map of a result, and the values of the map that have them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack.errors import InputError, listing
from voxstack.inference.options import Correction, check_choices
from voxstack.kernels import pvalues
from voxstack.kernels.critical import critical_f, critical_t, critical_z
from voxstack.kernels.pvalues import Alternative
from voxstack.schema import SPACE, is_corrected, is_p_value, validate

Float = NDArray[np.float64]
Critical = Callable[[float], float]

_ENHANCED = ("cluster_extent", "cluster_mass", "tfce")
_DEFAULTS = {"contrast": ("z_score", "p_value"), "permutation": ("stat",)}


@dataclass(frozen=True)
class Evidence:
    """A map of one contrast and its p-values.

    Attributes
    ----------
    values, p : (x, y, z) float64
        NaN where nothing was tested.
    critical
        From a p-value to the value of the map that has it; NaN where voxels differ in that.
    """

    values: Float
    p: Float
    critical: Critical


def check_result(maps: xr.Dataset) -> None:
    """Refuse what is no result of tests, or has lost a dimension."""
    if not isinstance(maps, xr.Dataset):
        raise InputError(f"A result is a Dataset of contrast or permutation_test, not a {type(maps).__name__}.")
    validate(maps, "contrast", "permutation")
    if "contrast" not in maps.dims or not set(SPACE) <= set(maps.dims):
        raise InputError("The result has lost a dimension. Select with a list to keep it: .sel(contrast=['age']).")
    if not all(maps.sizes[dim] for dim in ("contrast", *SPACE)):
        raise InputError("Nothing is left of the result: it has no contrast, or no voxel.")
    missing = [name for name in ("mask", "spatial_ref", "stat_type") if name not in maps.coords]
    if missing:
        raise InputError(f"The result has lost its coordinate {missing[0]}. Select from results, and keep coordinates.")


def check_not_thresholded(maps: xr.Dataset) -> None:
    """Refuse what `threshold` gave: voxels that were tested and are not significant are gone from it."""
    if "significant" in maps:
        raise InputError(
            "This result is thresholded already, so it does not have all voxels that were tested. Take the result that "
            "was given to vx.threshold."
        )


def maps_of(result: xr.Dataset) -> list[str]:
    """Names of the maps that a result has of each contrast."""
    return [str(name) for name in result.data_vars if set(result[name].dims) == {"contrast", *SPACE}]


def choose_variable(maps: xr.Dataset, variable: str | None) -> str:
    """The map that is meant: the one that is named, or z of a contrast, or t or F of a permutation test."""
    there = maps_of(maps)
    known = [name for name in there if name in (*_P_OF, *_ENHANCED) or is_p_value(name)]
    defaults = _DEFAULTS[maps.attrs["kind"]]
    name = next((one for one in defaults if one in known), defaults[0]) if variable is None else variable
    if name not in known:
        what = "has no p-values" if name in there else "is not there"
        raise InputError(f"The map {name!r} {what}. Choose variable= among {listing(known, most=12)}.")
    return name


def choose_alternative(maps: xr.Dataset, variable: str, alternative: Alternative | None) -> Alternative:
    """The one that is given, or that of the result; p-values have theirs already."""
    own: Alternative = maps.attrs.get("alternative", "two-sided")
    if alternative is None:
        return own
    check_choices(alternative=alternative)
    if alternative != own and (maps.attrs["kind"] == "permutation" or is_p_value(variable)):
        raise InputError(
            f"The p-values of this result are for the alternative {own!r}. Test again for {alternative!r}, or leave "
            "alternative= out."
        )
    return alternative


def evidence(one: xr.Dataset, variable: str, correction: Correction, alternative: Alternative) -> Evidence:
    """p-values of one contrast.

    Parameters
    ----------
    one
        The result at a single contrast.
    variable, alternative
        Of `choose_variable` and `choose_alternative`.
    correction
        "fwe" takes those that are corrected already.
    """
    corrected = variable in _ENHANCED or is_corrected(variable)
    if corrected and correction != "fwe":
        raise InputError(
            f"{variable} has p-values that are corrected already. Choose correction='fwe', or another variable=."
        )
    values = _values(one, variable)
    if correction == "fwe":
        return Evidence(values, *_corrected(one, variable))
    return Evidence(values, *((values, float) if is_p_value(variable) else _P_OF[variable](one, alternative)))


def _values(one: xr.Dataset, variable: str) -> Float:
    return np.asarray(one[variable].transpose(*SPACE).values, dtype=np.float64)


def _of_z(one: xr.Dataset, alternative: Alternative) -> tuple[Float, Critical]:
    side: Alternative = "greater" if one["stat_type"].item() == "F" else alternative
    return pvalues.z_to_p(_values(one, "z_score"), side), lambda p: critical_z(p, side)


def _of_stat(one: xr.Dataset, alternative: Alternative) -> tuple[Float, Critical]:
    if one.attrs["kind"] == "permutation":
        return _values(one, "p_uncorrected"), lambda _: np.nan
    stat, dof = _values(one, "stat"), _dof(one)
    q, shared = int(one["dof_num"]), float(dof) if dof.ndim == 0 else None
    if one["stat_type"].item() == "F":
        return pvalues.f_to_p(stat, q, dof), lambda p: np.nan if shared is None else critical_f(p, q, shared)
    p_of_t = pvalues.t_to_p(stat, dof, alternative)
    return p_of_t, lambda p: np.nan if shared is None else critical_t(p, shared, alternative)


def _dof(one: xr.Dataset) -> Float:
    """Residual degrees of freedom: (), or (x, y, z) of available cases."""
    dof = one["dof"]
    return np.asarray(dof.transpose(*SPACE).values if dof.ndim else dof.values, dtype=np.float64)


def z_of(one: xr.Dataset) -> Float:
    """z (x, y, z) of one contrast of a result that has z, or t or F."""
    if "z_score" in one:
        return _values(one, "z_score")
    stat, dof = _values(one, "stat"), _dof(one)
    if one["stat_type"].item() == "F":
        return pvalues.f_to_z(stat, int(one["dof_num"]), dof)
    return pvalues.t_to_z(stat, dof)


_P_OF: Mapping[str, Callable[[xr.Dataset, Alternative], tuple[Float, Critical]]] = {"z_score": _of_z, "stat": _of_stat}


def _corrected(one: xr.Dataset, variable: str) -> tuple[Float, Critical]:
    """Of a permutation test: p-values corrected for all voxels, and what fewer relabellings' maxima lie above."""
    if one.attrs["kind"] != "permutation":
        raise InputError(
            "correction='fwe' needs the result of permutation_test (voxstack permute). Others are 'fdr' and "
            "'bonferroni'."
        )
    if variable == "p_uncorrected":
        raise InputError(
            "p_uncorrected is not corrected. Choose variable='stat' or a corrected p for correction='fwe'."
        )
    if is_p_value(variable):
        return _values(one, variable), float
    statistic = "voxel" if variable == "stat" else variable
    if f"{statistic}_p_fwe" not in one:
        raise InputError(f"The permutation test did not correct p of {variable}: it had {_statistics(one)}.")
    return _values(one, f"{statistic}_p_fwe"), lambda p: _critical_maximum(one, statistic, p)


def _statistics(one: xr.Dataset) -> str:
    return "statistics=(" + listing(repr(str(name)) for name in one["statistic"].values) + ")"


def _critical_maximum(one: xr.Dataset, statistic: str, p: float) -> float:
    """The largest value whose corrected p is above a level: what is significant lies beyond it."""
    of_z = statistic == "voxel" and one["dof"].ndim > 0  # maxima are in z then, and the map in t or F
    if of_z or ("tail_shape" in one.coords and np.isfinite(one["tail_shape"].sel(statistic=statistic))):
        return np.nan
    maxima = one["null_max"].sel(statistic=statistic).values[: int(one["n_relabellings"])]
    least = pvalues.critical_maximum(maxima, p)
    signed = statistic in ("voxel", "tfce")  # extent and mass have no sign
    less = signed and one.attrs["alternative"] == "less" and one["stat_type"].item() == "t"
    return -least if less else least
