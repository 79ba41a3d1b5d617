"""Adding subjects to a cohort: what has to fit, and how what is known of both is joined."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from voxstack.covariates import decode, encode
from voxstack.errors import InputError, listing
from voxstack.io.first_level import CONTRAST
from voxstack.schema import COUNTS, SUBJECT, covariate_names
from voxstack.store.coverage import Coverage
from voxstack.store.location import Location
from voxstack.store.published import Published, open_array

_NO_OPTIONS = ("function", "versions", "appended")  # that all subjects have to share
_OF_SOURCES = (CONTRAST, "entities")  # known of some sources alone: maps that a table names may be of any contrast


def check_addition(
    old: xr.Dataset, labels: Sequence[str], covariates: Mapping[str, xr.Variable], details: Mapping[str, Any]
) -> None:
    """Refuse subjects that the cohort has already, other covariates, and other options.

    Parameters
    ----------
    old
        The cohort.
    labels, covariates
        Of the subjects to be added.
    details
        What their maps are made with, as `Request.details` tells it.
    """
    known = {str(label) for label in old[SUBJECT].values}
    there = sorted(set(labels) & known)
    if not there:
        there = sorted(known & {other for label in labels for other in (f"sub-{label}", label.removeprefix("sub-"))})
    if there:
        raise InputError(
            f"The cohort has {listing(there)} already. Leave {'it' if len(there) == 1 else 'them'} out of the table; "
            "labels must be unique."
        )
    made = {key: value for key, value in old.attrs["provenance"].items() if key not in _NO_OPTIONS}
    asked = {key: value for key, value in details.items() if key not in _NO_OPTIONS}
    keys = made.keys() | asked.keys()
    keys -= {key for key in _OF_SOURCES if not (key in made and key in asked)}
    differ = sorted(key for key in keys if made.get(key) != asked.get(key))
    if differ:
        told = "; ".join(f"{key} was {made.get(key)!r} and is {asked.get(key)!r}" for key in differ)
        raise InputError(f"Subjects can only be added with the options that the cohort was stacked with: {told}.")
    join_covariates(old, covariates)


def join_covariates(old: xr.Dataset, new: Mapping[str, xr.Variable]) -> dict[str, xr.Variable]:
    """Covariates of the cohort and of the subjects that are added, in this order.

    Raises
    ------
    InputError
        A column that only one of them has, or that holds numbers in one and text in the other.
    """
    known = covariate_names(old)
    lacking, unknown = sorted(set(known) - set(new)), sorted(set(new) - set(known))
    if lacking or unknown:
        problems = [f"the table has no column {listing(lacking)}"] if lacking else []
        problems += [f"the cohort has no covariate {listing(unknown)}"] if unknown else []
        raise InputError(f"The covariates of the cohort and of the table differ: {', and '.join(problems)}.")
    return {name: encode(_join(name, decode(name, old[name].variable), decode(name, new[name]))) for name in known}


def _join(name: str, old: "pd.Series[Any]", new: "pd.Series[Any]") -> "pd.Series[Any]":
    if old.isna().all() or new.isna().all():
        whole = new if old.isna().all() else old
        both = [part if part is whole else pd.Series([None] * len(part), dtype=object) for part in (old, new)]
        joined = pd.concat([part.astype(object) for part in both], ignore_index=True)
        return joined.astype(_with_missing(whole.dtype))
    kinds = {_kind(old), _kind(new)}
    if len(kinds) > 1:
        raise InputError(
            f"The covariate {name!r} holds {_kind(old)} in the cohort and {_kind(new)} in the table. Make them alike."
        )
    levels = [part.dtype for part in (old, new) if isinstance(part.dtype, pd.CategoricalDtype)]
    if not levels:
        return pd.concat([old, new], ignore_index=True)
    known = list(levels[0].categories)
    found = [*(list(levels[1].categories) if len(levels) > 1 else []), *old.dropna(), *new.dropna()]
    more = sorted({level for level in found if level not in set(known)}, key=str)
    if more and levels[0].ordered:
        raise InputError(
            f"The covariate {name!r} has ordered levels, {listing(known, most=20)}, and {listing(more)} is not one of "
            "them."
        )
    dtype = pd.CategoricalDtype([*known, *more], ordered=levels[0].ordered)
    return pd.concat([old.astype(object), new.astype(object)], ignore_index=True).astype(dtype)


def _with_missing(dtype: Any) -> Any:
    """The type that holds the same values with some missing."""
    if pd.api.types.is_bool_dtype(dtype) and not isinstance(dtype, pd.CategoricalDtype):
        return "boolean"
    return np.float64 if dtype == np.int64 else dtype


def _kind(column: "pd.Series[Any]") -> str:
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(column.dtype.categories)
    if pd.api.types.is_bool_dtype(column.dtype):
        return "truth values"
    return "numbers" if pd.api.types.is_numeric_dtype(column.dtype) else "text"


def stored_coverage(location: Location, published: Published) -> Coverage:
    """Of the subjects that a cohort holds."""
    store = location.open(read_only=True)
    counts = [open_array(store, name, published.arrays[name])[:] for name in ("n_valid", *COUNTS)]
    return Coverage(*(np.asarray(count, dtype=np.int32) for count in counts))
