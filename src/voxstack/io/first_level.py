"""What fitted first-level models give, as a participants table with images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from math import prod
from types import MappingProxyType
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from voxstack.errors import InputError, listing, warn
from voxstack.io.masked import within_mask
from voxstack.io.sources import MapSpec

EFFECT, VARIANCE = "effect", "variance"
CONTRAST = "first_level_contrast"
"""In provenance, too, where it has to be that of what is appended."""
_OUTPUTS = {EFFECT: "effect_size", VARIANCE: "effect_variance"}  # what nilearn calls them
_SUBJECT = "subject_label"


class Subjects(NamedTuple):
    """Rows of a cohort, and where their maps are.

    Attributes
    ----------
    table
        Indexed by subject label, with columns of images or of places of images, and of covariates.
    maps
        For each map's name its column.
    details
        For provenance: what of the first level was chosen.
    """

    table: pd.DataFrame
    maps: Mapping[str, MapSpec]
    details: Mapping[str, Any] = MappingProxyType({})


def are_models(given: Any) -> TypeGuard[Iterable[Any]]:
    """Whether something is a list or the like, which has to be one of fitted first-level models."""
    return isinstance(given, Iterable) and not isinstance(given, str | Mapping | pd.DataFrame)


def of_models(models: Iterable[Any], contrast: Any, label: str) -> Subjects:
    """Effect and variance of a contrast of fitted first-level models.

    Parameters
    ----------
    models
        nilearn's ``FirstLevelModel``, or anything with its ``compute_contrast(contrast, output_type=...)`` and
        ``subject_label``. They are gone through once, and none is kept.
    contrast
        What their ``compute_contrast`` takes.
    label
        Name of the subjects' index.

    Raises
    ------
    InputError
        No contrast; something that is no model, or has no label or that of another one; models that cannot compute the
        contrast, all of which are named; a contrast of several rows.
    """
    known_labels(models)  # before any work
    if contrast is None:
        raise InputError("Fitted models have many contrasts: name one with first_level_contrast=.")
    labels, failures, columns = [], defaultdict(list), set()
    rows: dict[str, list[SpatialImage]] = {name: [] for name in _OUTPUTS}
    for number, model in enumerate(models, start=1):
        labels.append(_label(number, model))
        columns.add(_columns(model))
        try:
            for name, output in _OUTPUTS.items():
                rows[name].append(_computed(model, contrast, output))
        except _CannotError as error:
            failures[str(error)].append(labels[-1])
    _check_labels(labels)
    if failures:
        told = "\n  ".join(f"{listing(some)}: {error}" for error, some in failures.items())
        raise InputError(f"First-level models that cannot compute the contrast {_on_one_line(contrast)}:\n  {told}")
    if len(columns) > 1 and _by_position(contrast):
        warn(
            f"The contrast {_on_one_line(contrast)} has weights by position, and the designs of these models differ in "
            "their columns: it may be another contrast for some. Name the columns instead, as in 'faces - houses'."
        )
    table = pd.DataFrame(rows, index=pd.Index(labels, name=label), dtype=object)
    return Subjects(table, {name: name for name in rows}, {CONTRAST: _plain(contrast)})


def known_labels(models: Iterable[Any]) -> list[str]:
    """Labels of models that can be gone through again, checked; none of others."""
    if not isinstance(models, Sequence | np.ndarray | pd.Series):
        return []
    labels = [_label(number, model) for number, model in enumerate(models, start=1)]
    _check_labels(labels)
    return labels


def _label(number: int, model: Any) -> str:
    if not hasattr(model, "compute_contrast"):
        raise InputError(
            f"Number {number} of the list is a {type(model).__name__}, and no fitted first-level model. Images and "
            "their paths go into a column of a table, which maps= names."
        )
    label = getattr(model, _SUBJECT, None)
    if label is None:
        raise InputError(
            f"Model {number} of the list has no subject_label. Give each one its own, such as "
            "FirstLevelModel(..., subject_label='sub-01')."
        )
    return str(label)


def _check_labels(labels: Sequence[str]) -> None:
    if not labels:
        raise InputError("The list of first-level models is empty.")
    known = [label.removeprefix("sub-") for label in labels]
    twice = list(dict.fromkeys(label for label, one in zip(labels, known, strict=True) if known.count(one) > 1))
    if twice:
        raise InputError(
            f"The subject_label of first-level models must be unique, but several are called {listing(twice)}. Runs of "
            "a subject belong into one model, and sessions get labels such as sub-01_ses-1."
        )


class _CannotError(Exception):
    """A model that is not fitted, or has no such regressor."""


def _computed(model: Any, contrast: Any, output: str) -> SpatialImage:
    # nilearn writes the weights that it finds for one model into a list, and the next one may have other columns.
    own = list(deepcopy(contrast)) if isinstance(contrast, list | tuple) else deepcopy(contrast)
    try:
        image = model.compute_contrast(own, output_type=output)
        if isinstance(image, SpatialImage) and prod(image.shape[3:]) <= 1:  # others are refused below
            return within_mask(image, getattr(getattr(model, "masker_", None), "mask_img_", None))
    except Exception as error:  # whatever a model raises
        words = " ".join(str(error).split())
        raise _CannotError(f"{output}: {words if ' ' in words else f'{type(error).__name__}: {words}'}") from error
    if not isinstance(image, SpatialImage):
        raise InputError(
            f"{model.subject_label}: {output} of the contrast {_on_one_line(contrast)} is no volume, but a "
            f"{type(image).__name__}."
        )
    raise InputError(
        f"{model.subject_label}: the contrast {_on_one_line(contrast)} has {prod(image.shape[3:])} rows (F), "
        "and so no single effect for the second level. Name its rows one by one, and stack a cohort of each."
    )


def _by_position(contrast: Any) -> bool:
    """Whether a contrast is given by weights, for one run at least."""
    if isinstance(contrast, list | tuple):
        return any(_by_position(one) for one in contrast)
    return not isinstance(contrast, str)


def _columns(model: Any) -> tuple[tuple[str, ...], ...]:
    """Of the design of each run, as nilearn's models have them."""
    return tuple(tuple(map(str, getattr(one, "columns", ()))) for one in getattr(model, "design_matrices_", None) or ())


def _plain(contrast: Any) -> Any:
    """As JSON has it."""
    if isinstance(contrast, list | tuple):
        return [_plain(one) for one in contrast]
    if isinstance(contrast, np.ndarray | np.generic):
        return contrast.tolist()
    return contrast if isinstance(contrast, str | int | float) else repr(contrast)


def _on_one_line(contrast: Any) -> str:
    return " ".join(repr(contrast).split())
