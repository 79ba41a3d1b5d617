"""The subjects of a cohort and where their maps are, from whatever users have: a table, a folder, or fitted models."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from voxstack.errors import InputError, listing
from voxstack.io.bids import of_derivatives
from voxstack.io.first_level import EFFECT, VARIANCE, Subjects, are_models, known_labels, of_models
from voxstack.io.joining import with_covariates
from voxstack.io.map_table import COLUMNS, MAP, SUBJECT, is_table_of_maps, of_table
from voxstack.io.places import Place, place_of
from voxstack.io.secrets import StorageOptions
from voxstack.io.sources import MapSpec
from voxstack.io.tables import covariates, indexed, read_table

_LABELS = ("participant_id", "subject_label")  # what BIDS and nilearn call the column of subject labels
Participants = pd.DataFrame | str | Path | Iterable[Any]


@dataclass(frozen=True)
class Given:
    """What a user gives of subjects and maps; see `voxstack.stack`."""

    participants: Participants
    maps: Mapping[str, MapSpec] | None
    label: str
    first_level_contrast: Any = None
    entities: Mapping[str, Any] | None = None
    covariates: pd.DataFrame | str | Path | None = None

    @property
    def of_models(self) -> bool:
        """Whether `read` computes the maps, which may take hours."""
        return are_models(self.participants)

    def read(self, storage_options: StorageOptions | None) -> tuple[Subjects, Place]:
        """Subjects by label, and the folder that relative paths start from.

        Raises
        ------
        InputError
            What is given does not fit together, or is not what it has to be.
        """
        if not isinstance(self.label, str):
            raise InputError(f"label is the name of the column of subject labels, not {self.label!r}.")
        known = self._covariates(storage_options)
        if known is not None and are_models(self.participants):
            self._check_covariates(known_labels(self.participants), known)  # before models compute anything
        subjects, folder = self._found(storage_options)
        if known is not None:
            # A table of one's own keeps its labels, which patterns of paths are filled from.
            subjects = with_covariates(subjects, *known, respelled=self.maps is None)
        return subjects, folder

    def _check_covariates(self, labels: list[str], known: tuple[pd.DataFrame, str]) -> None:
        """Refuse those that models of these labels cannot have."""
        if labels:
            rows = pd.DataFrame({EFFECT: None, VARIANCE: None}, index=pd.Index(labels, name=self.label))
            subjects = with_covariates(Subjects(rows, {}), *known, respelled=True)
            covariates(subjects.table, maps=rows.columns, leave_out=rows.columns)

    def _covariates(self, storage_options: StorageOptions | None) -> tuple[pd.DataFrame, str] | None:
        """Indexed by label, and what to call them; None where there are none."""
        given, folder = self.covariates, _folder(self.participants)
        if given is None and folder is not None and self.maps is None:
            given = next(filter(os.path.lexists, _tables_near(folder)), None)  # a link that is broken is an error
        if given is None:
            return None
        labels = [self.label, *_LABELS]
        table, _, name = read_table(given, labels, storage_options, what="table of covariates")
        label = next((one for one in labels if one in (table.index.name, *table.columns)), self.label)
        return indexed(table, label, name), name

    def _found(self, storage_options: StorageOptions | None) -> tuple[Subjects, Place]:
        if hasattr(self.participants, "compute_contrast"):
            raise InputError("One first-level model is no cohort: give a list of fitted ones, one for each subject.")
        if are_models(self.participants):
            kind = type(self.participants).__name__
            self._refuse("first-level models", "entities")
            self._refuse(f"first-level models; it needs a DataFrame or the path of a table, not a {kind}", "maps")
            subjects = of_models(self.participants, self.first_level_contrast, self.label)
            return self._checked(subjects, "The list of first-level models"), Path.cwd()
        if (folder := _folder(self.participants)) is not None:
            self._refuse(f"a folder of derivatives: it needs a table, and {folder} is a folder", "maps")
            entities = {} if self.entities is None else self.entities
            subjects = of_derivatives(folder, entities, self.first_level_contrast, self.label)
            return self._checked(subjects, f"The folder {folder}"), folder
        self._refuse_missing_folder()
        table, place, name = read_table(self.participants, [self.label], storage_options)
        self._refuse("a table", "entities")
        if self.maps is None and is_table_of_maps(table):
            given = read_table(self.participants, [self.label, SUBJECT, MAP], storage_options)
            subjects = of_table(given, self.first_level_contrast, self.label, storage_options)
            return self._checked(subjects, name), place
        self._refuse_first_level(table, name)
        if self.maps is None:
            raise InputError(
                'No map is named. Say what to stack, for example maps={"effect": "effect_path"} '
                "(--map effect=effect_path)."
            )
        return Subjects(indexed(table, self.label, name), self.maps), place

    def _refuse_first_level(self, table: pd.DataFrame, name: str) -> None:
        """A contrast can be chosen from nilearn's table alone."""
        if self.first_level_contrast is None:
            return
        if self.maps is not None:
            self._refuse("a table of one row a subject, whose maps= are named", "first_level_contrast")
        raise InputError(
            f"first_level_contrast= goes with nilearn's table, which has the columns {listing(COLUMNS)}. {name} has "
            f"{listing(table.columns, most=20)}."
        )

    def _refuse_missing_folder(self) -> None:
        """Entities are those of maps in a folder, which is not there."""
        given = self.participants
        if not isinstance(given, str | Path):
            return
        place = place_of(given)
        if not isinstance(place, Path) and (self.entities is not None or str(given).endswith("/")):
            raise InputError(
                f"{given}: folders are looked through for maps on this machine alone. Of maps at URLs make a table "
                "with the columns subject_label, map_name and effects_map_path."
            )
        if isinstance(place, Path) and self.entities is not None and not place.exists():
            raise InputError(f"There is no folder {place}.")

    def _checked(self, subjects: Subjects, name: str) -> Subjects:
        if self.label in subjects.table.columns:
            raise InputError(f"label={self.label!r} (--label) is the name of another column. Take another one.")
        return subjects._replace(table=indexed(subjects.table.reset_index(), self.label, name))

    def _refuse(self, what: str, *options: str) -> None:
        """Refuse options that do not go with what participants are."""
        given = [option for option in options if getattr(self, option) is not None]
        if given:
            raise InputError(f"{listing(f'{option}=' for option in given)} does not go with {what}.")


def _folder(participants: Participants) -> Path | None:
    """The folder that is meant, where it is one."""
    if not isinstance(participants, str | Path):
        return None
    place = place_of(participants)
    return place if isinstance(place, Path) and place.is_dir() else None


def _tables_near(folder: Place) -> list[Path]:
    """Where the participants of derivatives may stand: there, or in the dataset that they are derived from."""
    assert isinstance(folder, Path)
    here = Path(os.path.normpath(folder.absolute()))  # without "..", whose parents are others
    derivatives = next((at for at, place in enumerate(here.parents) if place.name == "derivatives"), 0)
    return [place / "participants.tsv" for place in (here, *here.parents[: derivatives + 2])]
