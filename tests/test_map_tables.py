"""nilearn's table of first-level maps as input of `stack`, and tables of covariates beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import voxstack as vx
from first_level import LABELS, Constant, images
from voxstack.cli import cli
from voxstack.errors import InputError

# Of nilearn, which tells that it uses what it was given.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:nilearn.*", "ignore::RuntimeWarning:nilearn.*")


@pytest.fixture(scope="module")
def folder(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    rows = []
    for name in ("task", "rest"):
        for model in models:
            path = f"{model.subject_label}_{name}.nii.gz"
            model.compute_contrast(name, output_type="effect_size").to_filename(folder / path)
            rows.append({"subject_label": model.subject_label, "map_name": name, "effects_map_path": path})
    pd.DataFrame(rows).to_csv(folder / "maps.tsv", sep="\t", index=False)
    return folder


class TestTable:
    def test_one_of_its_maps(self, folder: Path, models: Any, people: pd.DataFrame, tmp_path: Path) -> None:
        cohort = vx.stack(folder / "maps.tsv", tmp_path / "c.zarr", first_level_contrast="task", covariates=people)
        assert cohort.attrs["provenance"]["first_level_contrast"] == "task"
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)
        assert "variance" not in cohort
        assert "map_name" not in cohort.coords
        assert cohort["age"].values.tolist() == [60.0, 52, 47, 31, 25]

    def test_a_data_frame_with_variances_and_covariates(self, folder: Path, models: Any, tmp_path: Path) -> None:
        table = pd.read_csv(folder / "maps.tsv", sep="\t").query("map_name == 'rest'")
        table["effects_map_path"] = [str(folder / path) for path in table["effects_map_path"]]
        table["variance_map_path"] = [model.compute_contrast("rest", output_type="effect_variance") for model in models]
        table["iq"] = [101, 102, 103, 104, 105]
        cohort = vx.stack(table, tmp_path / "c.zarr")
        expected = np.stack([image.get_fdata() for image in table["variance_map_path"]])
        np.testing.assert_allclose(cohort["variance"], expected, rtol=1e-6)
        assert cohort["iq"].values.tolist() == [101, 102, 103, 104, 105]

    @pytest.mark.parametrize(
        ("contrast", "says"),
        [(None, "several maps: task, rest. Choose one"), ("walk", "no map 'walk'; it has task, rest")],
    )
    def test_mistakes(self, folder: Path, tmp_path: Path, contrast: str | None, says: str) -> None:
        with pytest.raises(InputError, match=says):
            vx.stack(folder / "maps.tsv", tmp_path / "c.zarr", first_level_contrast=contrast)

    def test_labels_and_names_of_maps_that_look_like_numbers(self, folder: Path, tmp_path: Path) -> None:
        rows = [f"{number},{name},{path}" for number, name, path in (
            ("01", "1", "sub-01_task.nii.gz"), ("02", "1", "sub-02_task.nii.gz"), ("01", "01", "sub-01_rest.nii.gz")
        )]  # fmt: skip
        text = "\n".join(["subject_label,map_name,effects_map_path", *rows])
        (folder / "numbers.csv").write_text(text, encoding="utf-8")
        people = pd.DataFrame({"participant_id": ["sub-02", "sub-01"], "age": [2, 1]})
        cohort = vx.stack(folder / "numbers.csv", tmp_path / "c.zarr", first_level_contrast="1")
        assert cohort["subject"].values.tolist() == ["01", "02"]
        cohort = vx.stack(folder / "numbers.csv", tmp_path / "p.zarr", first_level_contrast="1", covariates=people)
        assert cohort["subject"].values.tolist() == ["sub-01", "sub-02"]
        assert cohort["age"].values.tolist() == [1, 2]

    def test_no_variances(self, folder: Path, tmp_path: Path) -> None:
        table = pd.read_csv(folder / "maps.tsv", sep="\t").query("map_name == 'rest'")
        table["effects_map_path"] = [str(folder / path) for path in table["effects_map_path"]]
        empty = table.assign(variance_map_path=None)
        assert "variance" not in vx.stack(empty.set_index("subject_label"), tmp_path / "c.zarr")
        some = table.assign(variance_map_path=[*table["effects_map_path"][:4], None])
        with pytest.raises(InputError, match="'variance_map_path' is empty for sub-05"):
            vx.stack(some, tmp_path / "s.zarr")

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda table: table.iloc[:0], "has no rows"),
            (lambda table: table.assign(map_name=["task", None, *["task"] * 8]), "no map_name in data row 2"),
            (lambda table: table.assign(subject_label=[*LABELS, *LABELS[:4], None]), "no subject_label in data row 10"),
            (lambda table: pd.concat([table, table["map_name"]], axis=1), "several columns called map_name"),
            (lambda table: table.assign(participant_id="a"), "labels in the columns subject_label and participant_id"),
            (lambda table: table.assign(map_name="task"), "several rows with the map_name 'task' for sub-01, sub-02"),
            (lambda table: table.assign(effects_map_path=""), "images cannot be used|is empty for sub-01"),
        ],
    )
    def test_odd_tables(self, folder: Path, tmp_path: Path, change: Any, says: str) -> None:
        table = change(pd.read_csv(folder / "maps.tsv", sep="\t"))
        with pytest.raises(InputError, match=says):
            vx.stack(table, tmp_path / "c.zarr", first_level_contrast="task")

    def test_a_contrast_of_a_table_of_subjects(self, people: pd.DataFrame, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="first_level_contrast= does not go with a table of one row a subject"):
            vx.stack(people, tmp_path / "c.zarr", maps={"effect": "age"}, first_level_contrast="task")
        with pytest.raises(InputError, match="No map is named"):
            vx.stack(people, tmp_path / "c.zarr")

    def test_on_the_command_line(self, folder: Path, models: Any, tmp_path: Path) -> None:
        arguments = ["stack", str(folder / "maps.tsv"), str(tmp_path / "c.zarr"), "--first-level-contrast", "task"]
        done = CliRunner().invoke(cli, [*arguments, "--quiet"], catch_exceptions=False)
        assert done.exit_code == 0
        np.testing.assert_allclose(
            vx.open_cohort(tmp_path / "c.zarr")["effect"], images(models, "effect_size"), rtol=1e-6
        )


class TestCovariates:
    @pytest.mark.parametrize(
        ("labels", "column", "known", "expected"),
        [
            (["01", "02"], "participant_id", ["sub-02", "sub-01"], ["sub-01", "sub-02"]),
            (["sub-01", "sub-02"], "participant_id", ["02", "01"], ["01", "02"]),
            ([1, 2], "participant_id", [2, 1], ["1", "2"]),
            (["a", "b"], "subject_label", ["b", "a"], ["a", "b"]),  # as nilearn calls it
        ],
    )
    def test_rows_are_found_by_label(
        self, tmp_path: Path, labels: list[Any], column: str, known: list[Any], expected: list[str]
    ) -> None:
        given = pd.DataFrame({column: known, "age": [2, 1]})
        cohort = vx.stack(map(Constant, labels), tmp_path / "c.zarr", first_level_contrast="a", covariates=given)
        assert cohort["subject"].values.tolist() == expected
        assert cohort["age"].values.tolist() == [1, 2]

    def test_a_file_of_labels_that_look_like_numbers(self, tmp_path: Path) -> None:
        (tmp_path / "people.csv").write_text("subject_label,age\n01,1\n10,2\n", encoding="utf-8")
        models = [Constant("sub-10"), Constant("sub-01")]
        cohort = vx.stack(models, tmp_path / "c", first_level_contrast="a", covariates=tmp_path / "people.csv")
        assert cohort["age"].values.tolist() == [2, 1]

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (pd.DataFrame({"participant_id": ["01", "01", "sub-01"], "age": [1, 2, 3]}), "must be unique"),
            (pd.DataFrame({"participant_id": ["01", "02"], "effect": [1, 2]}), "has the column effect"),
            (pd.DataFrame({"participant_id": ["sub-07"]}), "The table of covariates has no row for 01, sub-02"),
            (pd.DataFrame({"who": ["sub-07"]}), "The table of covariates has no column 'participant_id'"),
            ("nowhere.tsv", "There is no table of covariates nowhere.tsv"),
            ({"age": [1]}, "The table of covariates is a DataFrame or the path of a table, not a dict"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, given: Any, says: str) -> None:
        models = [Constant("01"), Constant("sub-02")]
        with pytest.raises(InputError, match=says):
            vx.stack(models, tmp_path / "c.zarr", first_level_contrast="a", covariates=given)
