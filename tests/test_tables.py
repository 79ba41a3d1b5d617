"""Participants tables, covariates, and the images that a table names."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import voxstack as vx
from small_cohorts import read_participants
from voxstack.errors import InputError
from voxstack.io.sources import image_columns, resolve_maps
from voxstack.io.tables import covariates


def write(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def image(shape: tuple[int, ...] = (2, 3, 4)) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4))


def plain(values: pd.Series) -> Any:
    """One covariate as it would be stored."""
    table = pd.DataFrame({"covariate": values}).set_index(pd.Index([f"s{i}" for i in range(len(values))]))
    return covariates(table, maps=["effect"], leave_out=[])["covariate"].values


class TestFiles:
    @pytest.mark.parametrize(("name", "separator"), [("p.tsv", "\t"), ("p.csv", ","), ("P.CSV", ","), ("p.txt", "\t")])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("last_line_end", [True, False])
    def test_dialects_of_tables(
        self, tmp_path: Path, name: str, separator: str, line_end: str, encoding: str, last_line_end: bool
    ) -> None:
        lines = [["participant_id", "age", "größe"], ["sub-01", "23.5", "klein"], ["sub-02", "40", "groß"]]
        text = line_end.join(separator.join(line) for line in lines) + (line_end if last_line_end else "")
        table, folder = read_participants(write(tmp_path / name, text, encoding=encoding), "participant_id")
        assert folder == tmp_path
        assert table.index.tolist() == ["sub-01", "sub-02"]
        assert table["age"].tolist() == [23.5, 40.0]
        assert table["größe"].tolist() == ["klein", "groß"]

    @pytest.mark.parametrize("missing", ["", "n/a", "N/A", "NA", "NaN", "nan"])
    def test_missing_cells(self, tmp_path: Path, missing: str) -> None:
        text = f"participant_id\tage\tsex\na\t{missing}\tF\nb\t31\t{missing}\n"
        kept = covariates(
            read_participants(write(tmp_path / "p.tsv", text), "participant_id")[0], maps=[], leave_out=[]
        )
        np.testing.assert_array_equal(kept["age"].values, [np.nan, 31.0])
        assert kept["sex"].values[0] == "F"
        assert np.isnan(kept["sex"].values[1])

    def test_words_that_only_look_missing_are_kept(self, tmp_path: Path) -> None:
        text = "participant_id\tgroup\na\tNone\nb\tnull\nc\tn.a.\n"
        table, _ = read_participants(write(tmp_path / "p.tsv", text), "participant_id")
        assert table["group"].tolist() == ["None", "null", "n.a."]

    def test_labels_stay_as_they_are_written(self, tmp_path: Path) -> None:
        text = "participant_id\tage\n001\t20\n1\t30\n1e3\t40\n1.0\t50\n"
        table, _ = read_participants(write(tmp_path / "p.tsv", text), "participant_id")
        assert table.index.tolist() == ["001", "1", "1e3", "1.0"]

    def test_label_may_be_another_column(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.csv", "age,subject\n20,01\n30,02\n")
        table, _ = read_participants(path, "subject")
        assert table.index.tolist() == ["01", "02"]
        assert list(covariates(table, maps=["effect"], leave_out=[])) == ["age"]

    def test_rows_longer_than_the_header_never_shift_the_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.tsv", "participant_id\tage\nsub-01\t20\t\nsub-02\t30\t\n")
        try:
            table, _ = read_participants(path, "participant_id")
        except InputError:
            return
        assert table.index.tolist() == ["sub-01", "sub-02"]

    def test_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no participants table .*nowhere\.tsv"):
            read_participants(tmp_path / "nowhere.tsv", "participant_id")

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param(b"", id="empty"),
            pytest.param("participant_id\tage\nJos\xe9\t3\n".encode("latin-1"), id="not UTF-8"),
            pytest.param(b"participant_id\tage\na\t1\nb\t2\t3\t4\n", id="ragged"),
        ],
    )
    def test_file_that_is_no_table_is_named(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "p.tsv"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"p\.tsv is not a tab-separated table in UTF-8"):
            read_participants(path, "participant_id")


class TestLabels:
    def test_unknown_label_column_lists_what_there_is(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.tsv", "subject_id\tage\na\t1\n")
        with pytest.raises(InputError, match=r"p\.tsv has no column 'participant_id'.*subject_id, age.*label="):
            read_participants(path, "participant_id")
        with pytest.raises(InputError, match=r"has no column 'id'.*age"):
            read_participants(pd.DataFrame({"age": [1]}), "id")

    def test_duplicate_labels_are_named(self) -> None:
        table = pd.DataFrame({"participant_id": ["a", "b", "a", "c", "b", "b"]})
        with pytest.raises(InputError, match=r"participant_id must be unique.*: a, b\. For repeated measures"):
            read_participants(table, "participant_id")

    def test_labels_are_compared_as_text(self) -> None:
        with pytest.raises(InputError, match="unique"):
            read_participants(pd.DataFrame({"participant_id": [1, "1"]}), "participant_id")

    def test_missing_labels_tell_their_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path / "p.tsv", "participant_id\tage\na\t1\nn/a\t2\nc\t3\n\t4\n")
        with pytest.raises(InputError, match=r"no participant_id in data row 2, 4"):
            read_participants(path, "participant_id")

    @pytest.mark.parametrize("label", ["", "n/a", None, float("nan")])
    def test_labels_that_a_store_would_lose_tell_their_rows(self, label: Any) -> None:
        table = pd.DataFrame({"participant_id": ["a", label, "c"]})
        with pytest.raises(InputError, match=r"has no participant_id in data row 2; .*Give every row a label"):
            read_participants(table, "participant_id")
        with pytest.raises(InputError, match="has no label in data row 2;"):
            vx.from_arrays(
                {"effect": np.ones((3, 2, 2, 2))}, affine=np.eye(4), participants=table.set_index("participant_id")
            )

    def test_table_without_rows(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"p\.tsv has no rows"):
            read_participants(write(tmp_path / "p.tsv", "participant_id\tage\n"), "participant_id")

    def test_index_can_hold_the_labels_and_the_table_is_left_as_it_was(self) -> None:
        table = pd.DataFrame({"age": [20, 30]}, index=pd.Index([7, 8], name="participant_id"))
        before = table.copy()
        read, folder = read_participants(table, "participant_id")
        assert read.index.tolist() == ["7", "8"]
        assert folder == Path.cwd()
        pd.testing.assert_frame_equal(table, before)

    def test_columns_of_one_name_are_refused(self) -> None:
        table = pd.DataFrame([["a", 1, 2]], columns=["participant_id", "age", "age"])
        with pytest.raises(InputError, match="several columns called age"):
            read_participants(table, "participant_id")


class TestCovariates:
    @pytest.mark.parametrize("name", ["subject", "x", "y", "z", "mask", "n_valid", "spatial_ref", "effect"])
    def test_names_that_the_cohort_needs_are_refused(self, name: str) -> None:
        table = pd.DataFrame({"age": [1], name: [2]}, index=["a"])
        with pytest.raises(InputError, match=f"cannot be called {name}"):
            covariates(table, maps=["effect"], leave_out=[])
        assert list(covariates(table, maps=["effect"], leave_out=[name])) == ["age"]

    @pytest.mark.parametrize("dtype", ["int8", "int64", "Int64", "uint16", "Int8"])
    def test_whole_numbers(self, dtype: str) -> None:
        values = plain(pd.Series([3, 0, 7], dtype=dtype))
        assert values.dtype == np.int64
        assert values.tolist() == [3, 0, 7]

    @pytest.mark.parametrize("dtype", ["float32", "float64", "Float64"])
    def test_real_numbers(self, dtype: str) -> None:
        values = plain(pd.Series([0.5, None, -2], dtype=dtype))
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, [0.5, np.nan, -2])

    def test_whole_numbers_with_missing_become_real(self) -> None:
        values = plain(pd.Series([3, None, 7], dtype="Int64"))
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, [3, np.nan, 7])

    @pytest.mark.parametrize("dtype", ["bool", "boolean"])
    def test_truth_values(self, dtype: str) -> None:
        values = plain(pd.Series([True, False], dtype=dtype))
        assert values.dtype == np.bool_
        assert values.tolist() == [True, False]

    def test_truth_values_with_missing_become_numbers(self) -> None:
        np.testing.assert_array_equal(plain(pd.Series([True, None, False], dtype="boolean")), [1.0, np.nan, 0.0])

    @pytest.mark.parametrize("dtype", ["object", "str", "string", "category"])
    @settings(deadline=None, max_examples=15)
    @given(texts=st.lists(st.none() | st.sampled_from(["M", "F", "d'été", "北"]), min_size=1, max_size=6))
    def test_text_of_any_kind_with_and_without_missing(self, dtype: str, texts: list[str | None]) -> None:
        values = plain(pd.Series(texts, dtype=dtype))
        assert [None if pd.isna(value) else value for value in values] == texts
        assert values.dtype.kind == ("O" if None in texts else "U")
        assert all(isinstance(value, str) or np.isnan(value) for value in values)

    @pytest.mark.parametrize("dtype", ["object", "str", "string", "category"])
    def test_the_word_for_missing_text_is_missing_as_in_a_file(self, dtype: str) -> None:
        table = pd.DataFrame({"sex": ["F", "n/a", "NA"]}, index=["a", "b", "c"], dtype=dtype)
        kept = covariates(table, maps=["effect"], leave_out=[])["sex"]
        assert [None if pd.isna(value) else value for value in kept.values] == ["F", None, "NA"]
        assert kept.attrs == ({"levels": ["F", "NA"]} if dtype == "category" else {})
        assert table["sex"].tolist() == ["F", "n/a", "NA"]

    def test_the_word_for_missing_text_makes_no_text_of_numbers(self) -> None:
        np.testing.assert_array_equal(plain(pd.Series([0.5, "n/a", 2], dtype=object)), [0.5, np.nan, 2])

    def test_numbers_in_a_column_of_objects_are_numbers(self) -> None:
        assert plain(pd.Series([3, 0], dtype=object)).dtype == np.int64
        np.testing.assert_array_equal(plain(pd.Series([0.5, None], dtype=object)), [0.5, np.nan])

    def test_categories_are_text_even_if_they_are_numbers(self) -> None:
        values = plain(pd.Series([2, 1, 2], dtype="category"))
        assert values.tolist() == ["2", "1", "2"]


class TestSources:
    @pytest.fixture
    def table(self) -> pd.DataFrame:
        return pd.DataFrame(
            {"path": ["a.nii", "/elsewhere/b.nii.gz"], "session": [1, 2], "site": ["n", None]},
            index=pd.Index(["sub-1", "sub-2"], name="participant_id"),
        )

    def test_column_of_paths(self, table: pd.DataFrame, tmp_path: Path) -> None:
        sources = resolve_maps(table, tmp_path, {"effect": "path"})["effect"]
        assert [source.image for source in sources] == [tmp_path / "a.nii", Path("/elsewhere/b.nii.gz")]
        assert {source.volume for source in sources} == {None}

    def test_columns_of_images_are_no_covariates(self, table: pd.DataFrame) -> None:
        table["file"] = ["wm.nii.gz ", None]
        table["image"] = pd.Series([image(), image()], index=table.index)
        table["note"] = ["see a.nii below", "b.nii"]
        table["anything"] = ["one", "two"]
        assert image_columns(table, {"effect": "anything"}) == ["path", "file", "image", "anything"]

    def test_pattern_over_the_columns(self, table: pd.DataFrame, tmp_path: Path) -> None:
        sources = resolve_maps(table, tmp_path, {"effect": "{participant_id}/ses-{session:02d}.nii.gz"})["effect"]
        assert [source.image for source in sources] == [
            tmp_path / "sub-1" / "ses-01.nii.gz",
            tmp_path / "sub-2" / "ses-02.nii.gz",
        ]

    def test_one_image_of_four_dimensions(self, table: pd.DataFrame, tmp_path: Path) -> None:
        image((2, 3, 4, 2)).to_filename(tmp_path / "all.nii.gz")
        for spec in ("all.nii.gz", Path("all.nii.gz"), image((2, 3, 4, 2))):
            sources = resolve_maps(table, tmp_path, {"effect": spec})["effect"]
            assert [source.volume for source in sources] == [0, 1]

    def test_column_of_images_in_memory(self, table: pd.DataFrame) -> None:
        images = [image(), image()]
        sources = resolve_maps(table.assign(img=pd.Series(images, index=table.index)), Path(), {"effect": "img"})
        assert [source.image for source in sources["effect"]] == images

    def test_several_maps(self, table: pd.DataFrame, tmp_path: Path) -> None:
        sources = resolve_maps(table, tmp_path, {"effect": "path", "variance": "v-{session}.nii"})
        assert list(sources) == ["effect", "variance"]
        assert sources["variance"][1].image == tmp_path / "v-2.nii"

    @pytest.mark.parametrize("shape", [(2, 3, 4, 3), (2, 3, 4)])
    def test_number_of_volumes_must_be_that_of_the_rows(
        self, table: pd.DataFrame, tmp_path: Path, shape: tuple[int, ...]
    ) -> None:
        image(shape).to_filename(tmp_path / "all.nii")
        found = 3 if len(shape) == 4 else 1
        with pytest.raises(InputError, match=rf"'effect'.*all\.nii holds {found} volumes.*2 rows"):
            resolve_maps(table, tmp_path, {"effect": "all.nii"})
        with pytest.raises(InputError, match=rf"image in memory holds {found} volumes"):
            resolve_maps(table, tmp_path, {"effect": image(shape)})

    @pytest.mark.parametrize(
        ("maps", "says"),
        [
            ({}, "No map is named"),
            ({"x": "path"}, "A map cannot be called x"),
            ({"mask": "path"}, "A map cannot be called mask"),
            ({"effect": "paht"}, r"'effect': 'paht' is neither a column of the table \(path, session, site\)"),
            ({"effect": "{sub}.nii"}, r"uses sub, but the table's columns are participant_id, path, session, site"),
            ({"effect": "{site}.nii"}, r"the pattern '\{site\}\.nii' is empty for sub-2"),
            ({"effect": "site"}, "the column 'site' is empty for sub-2"),
            ({"effect": "gone.nii.gz"}, r"gone\.nii\.gz: there is no such file"),
            ({"effect": "{participant_id.nii"}, r"'effect'.*\{participant_id\.nii"),
            ({"effect": "{participant_id:d}.nii"}, r"'effect'.*\{participant_id:d\}\.nii"),
        ],
    )
    def test_what_cannot_be_resolved_is_named(
        self, table: pd.DataFrame, tmp_path: Path, maps: dict[str, str], says: str
    ) -> None:
        with pytest.raises(InputError, match=says):
            resolve_maps(table, tmp_path, maps)
