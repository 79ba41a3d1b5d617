"""What comes out of first-level models, as a participants table: fitted models, and nilearn's table of their maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import pandas as pd
from nibabel.spatialimages import SpatialImage

from voxstack.errors import InputError, listing
from voxstack.io.places import Place, joined
from voxstack.io.secrets import StorageOptions
from voxstack.io.sources import MapSpec

EFFECT, VARIANCE = "effect", "variance"
_OUTPUTS = {EFFECT: "effect_size", VARIANCE: "effect_variance"}  # what nilearn calls them
_SUBJECT, _MAP, _PATHS = "subject_label", "map_name", {EFFECT: "effects_map_path", VARIANCE: "variance_map_path"}


class Subjects(NamedTuple):
    """Rows of a cohort, and where their maps are.

    Attributes
    ----------
    table
        Indexed by subject label, with columns of images or of places of images, and of covariates.
    maps
        For each map's name its column.
    """

    table: pd.DataFrame
    maps: Mapping[str, MapSpec]


def are_models(given: Any) -> TypeGuard[Sequence[Any]]:
    """Whether something is a sequence of fitted first-level models, or of what computes contrasts as these do."""
    return isinstance(given, Sequence) and bool(given) and all(hasattr(one, "compute_contrast") for one in given)


def of_models(models: Sequence[Any], contrast: Any, label: str) -> Subjects:
    """Effect and variance of a contrast of fitted first-level models.

    Parameters
    ----------
    models
        nilearn's ``FirstLevelModel``, or anything with its ``compute_contrast(contrast, output_type=...)`` and
        ``subject_label``.
    contrast
        What their ``compute_contrast`` takes.
    label
        Name of the subjects' index.

    Raises
    ------
    InputError
        No contrast, a model without label, or one that cannot compute the contrast; it names the subject.
    """
    if contrast is None:
        raise InputError("Fitted models have many contrasts: name one with first_level_contrast=.")
    labels = [getattr(model, _SUBJECT, None) for model in models]
    missing = [number for number, one in enumerate(labels, start=1) if one is None]
    if missing:
        raise InputError(
            f"Model {listing(missing)} of {len(models)} has no subject_label. Give each one its own, such as "
            "FirstLevelModel(..., subject_label='sub-01')."
        )
    rows = {name: [_computed(model, contrast, output) for model in models] for name, output in _OUTPUTS.items()}
    table = pd.DataFrame(rows, index=pd.Index([str(one) for one in labels], name=label), dtype=object)
    return Subjects(table, {name: name for name in rows})


def _computed(model: Any, contrast: Any, output: str) -> SpatialImage:
    try:
        image = model.compute_contrast(contrast, output_type=output)
    except Exception as error:  # whatever a model raises that is not fitted, or has no such regressor
        raise InputError(
            f"{model.subject_label}: its first-level model cannot compute {output} of the contrast {contrast!r}: "
            f"{error}"
        ) from error
    if not isinstance(image, SpatialImage):
        raise InputError(
            f"{model.subject_label}: {output} of the contrast {contrast!r} is no volume, but a {type(image).__name__}."
        )
    return image


def is_table_of_maps(table: pd.DataFrame) -> bool:
    """Whether a table is nilearn's: a row for each subject and map, with the columns that it wants."""
    return {_SUBJECT, _MAP, _PATHS[EFFECT]} <= set(map(str, table.columns))


def of_table(
    table: pd.DataFrame, contrast: Any, label: str, folder: Place, storage_options: StorageOptions | None
) -> Subjects:
    """One of the maps that a table of nilearn names.

    Parameters
    ----------
    table
        With the columns subject_label, map_name and effects_map_path; variance_map_path too, where there are
        variances. All others are covariates.
    contrast
        The map_name; None where there is one.
    label
        Name of the subjects' index.
    folder
        Where relative paths start.
    storage_options
        For URLs.

    Raises
    ------
    InputError
        No such map, or several and none is named.
    """
    names = table[_MAP].astype(str)
    there = list(dict.fromkeys(names))
    if contrast is None and len(there) > 1:
        raise InputError(
            f"The table has several maps: {listing(there, most=20)}. Choose one with first_level_contrast=."
        )
    wanted = there[0] if contrast is None else str(contrast)
    if wanted not in there:
        raise InputError(f"The table has no map {wanted!r}; it has {listing(there, most=20)}.")
    rows = table[names == wanted].drop(columns=_MAP).rename(columns={_SUBJECT: label}).set_index(label)
    paths = {name: column for name, column in _PATHS.items() if column in rows.columns}
    for column in paths.values():
        rows[column] = [_place(cell, folder, storage_options) for cell in rows[column]]
    return Subjects(rows, dict(paths))


def _place(cell: Any, folder: Place, storage_options: StorageOptions | None) -> Any:
    if isinstance(cell, str | Path) and str(cell).strip():
        return joined(folder, str(cell).strip(), storage_options)
    return cell


def with_covariates(subjects: Subjects, covariates: pd.DataFrame) -> Subjects:
    """Subjects with the columns of a table that is indexed by their labels, in which others may stand, too.

    A label such as ``01`` is that of ``sub-01`` where the table has it so, as tables of BIDS do. Rows of several
    sessions get what stands there of their participant, unless the table has rows for sessions.

    Raises
    ------
    InputError
        Subjects without a row, or columns of both.
    """
    table, known = subjects.table, set(covariates.index)
    labels = [one if one in known else f"sub-{one}" if f"sub-{one}" in known else one for one in map(str, table.index)]
    people = list(map(str, table["participant"])) if "participant" in table.columns else labels
    keys = people if not known.intersection(labels) else labels
    lacking = list(dict.fromkeys(key for key in keys if key not in known))
    if lacking:
        raise InputError(f"The table of covariates has no row for {listing(lacking)}. Add them, or leave them out.")
    twice = sorted(set(map(str, table.columns)) & set(map(str, covariates.columns)))
    if twice:
        raise InputError(f"The table of covariates has the column {listing(twice)}, as the subjects' own. Rename it.")
    index = pd.Index(labels, name=table.index.name)
    of_subjects = covariates.loc[keys].set_axis(index, axis=0)
    return Subjects(pd.concat([table.set_axis(index, axis=0), of_subjects], axis=1), subjects.maps)
