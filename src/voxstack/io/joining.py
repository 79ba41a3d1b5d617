"""Covariates that stand in a table of their own, beside the subjects that first-level models give."""

import re

import pandas as pd

from voxstack.errors import InputError, listing
from voxstack.io.first_level import Subjects

_ROW = re.compile(r"_(ses|run)-.*")


def with_covariates(subjects: Subjects, covariates: pd.DataFrame, name: str, *, respelled: bool) -> Subjects:
    """Subjects with the columns of a table that is indexed by their labels, in which others may stand, too.

    Labels may have ``sub-`` before them in one of the two alone, as in tables of BIDS; if they are `respelled` a cohort
    has those of the table. Rows of several sessions or runs get what stands there of their participant, where the table
    has no row of their own. `name` is what to call the table in messages.

    Raises
    ------
    InputError
        Subjects without a row, two that have the same one, or columns of both.
    """
    table, known = subjects.table, set(covariates.index)
    given = list(map(str, table.index))
    labels = [_as_known(one, known) for one in given]
    people = [_as_known(_ROW.sub("", one), known) for one in given]
    keys = [label if label in known else person for label, person in zip(labels, people, strict=True)]
    lacking = list(dict.fromkeys(key for key in keys if key not in known))
    if lacking:
        raise InputError(f"{name} has no row for {listing(lacking)}. Add them, or leave these subjects out.")
    index = pd.Index(labels, name=table.index.name)
    if index.has_duplicates:
        raise InputError(
            f"{name} has one row for several subjects, {listing(index[index.duplicated()].unique())}, with and without "
            "sub-. Give each subject one label."
        )
    twice = sorted(set(map(str, table.columns)) & set(map(str, covariates.columns)))
    if twice:
        raise InputError(f"{name} has the column {listing(twice)}, as the subjects' own. Rename it.")
    index = index if respelled else table.index
    of_subjects = covariates.loc[keys].set_axis(index, axis=0)
    return subjects._replace(table=pd.concat([table.set_axis(index, axis=0), of_subjects], axis=1))


def _as_known(label: str, known: set[str]) -> str:
    """A label as the table has it."""
    others = (label.removeprefix("sub-"), f"sub-{label}")
    return next((one for one in (label, *others) if one in known), label)
