"""Patterns stay below the folder that they name, whatever stands in the table."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import voxstack as vx
from both_ways import voxstack, whole
from small_cohorts import MAPS, noise, save
from voxstack.errors import InputError
from voxstack.io.patterns import Pattern
from voxstack.io.places import Remote
from voxstack.io.sources import resolve_maps

FOLDER = Path("/data/study")


def table(*values: Any, name: str = "path") -> pd.DataFrame:
    labels = [f"sub-{number}" for number in range(len(values))]
    return pd.DataFrame({name: values}, index=pd.Index(labels, name="participant_id"))


def images(pattern: str, *values: Any, folder: Any = FOLDER, **options: Any) -> list[str]:
    found = resolve_maps(table(*values), folder, {"effect": pattern}, **options)["effect"]
    return [str(source.image) for source in found]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "value", "found"),
        [
            ("maps/{path}.nii", "a", "/data/study/maps/a.nii"),
            ("maps/{path}.nii", "siteA/sub-01", "/data/study/maps/siteA/sub-01.nii"),
            ("maps/{path}.nii", "siteA/../siteB/sub-01", "/data/study/maps/siteB/sub-01.nii"),
            ("{path}.nii", "a/b", "/data/study/a/b.nii"),
            ("{path}.nii", "..a", "/data/study/..a.nii"),
            ("../other/{path}.nii", "a", "/data/study/../other/a.nii"),
            ("/elsewhere/{path}.nii", "a", "/elsewhere/a.nii"),
            ("maps/sub-{path}/../all/x.nii", "a", "/data/study/maps/all/x.nii"),
            ("s3://bucket/maps/{path}.nii", "siteA/sub-01", "s3://bucket/maps/siteA/sub-01.nii"),
            ("file:///elsewhere/{path}.nii", "a", "/elsewhere/a.nii"),
        ],
    )
    def test_values_below_the_folder_are_taken(self, pattern: str, value: str, found: str) -> None:
        assert images(pattern, value) == [found]

    @pytest.mark.parametrize(
        ("pattern", "value"),
        [
            ("maps/{path}.nii", "../../etc/x"),
            ("maps/{path}.nii", "a/../../b"),
            ("maps/{path}.nii", "/etc/x"),
            ("maps/sub-{path}.nii", "/etc/x"),
            ("maps/sub-{path}.nii", "1/../../x"),
            ("{path}", "/etc/x.nii"),
            ("{path}", "../x.nii"),
            ("{path}", "s3://other/x.nii"),
            ("{path}", "file:///etc/x.nii"),
            ("{path}://bucket/x.nii", "s3"),
            ("{path}/../../x.nii", "a"),
            ("s3://bucket/maps/{path}.nii", "../../x"),
            ("s3://bucket/maps/{path}.nii", "../x"),
            ("s3://bucket/maps/{path}.nii", "/x"),
            ("s3://{path}/maps/x.nii", "another"),
            ("s3://bucket-{path}/maps/x.nii", "another"),
            ("file:///data/{path}.nii", "../etc/x"),
        ],
    )
    @pytest.mark.parametrize("folder", [FOLDER, Remote("s3://bucket/tables")], ids=["folder", "bucket"])
    def test_values_that_lead_elsewhere_are_refused(self, pattern: str, value: str, folder: Any) -> None:
        with pytest.raises(InputError) as error:
            images(pattern, value, folder=folder)
        said = str(error.value)
        assert "Map 'effect'" in said
        assert f"for sub-0, whose path is {value!r}" in said
        assert "allow_outside=True (--allow-outside)" in said

    def test_the_first_few_subjects_are_named(self) -> None:
        with pytest.raises(InputError, match=r"for sub-1, whose path is '\.\./1'; for sub-2, .*; and for 1 more\."):
            images("maps/{path}.nii", "a", *(f"../{number}" for number in range(1, 7)))

    @pytest.mark.parametrize(
        ("pattern", "value", "found"),
        [
            ("maps/{path}.nii", "../../x", "/data/study/maps/../../x.nii"),
            ("{path}", "/etc/x.nii", "/etc/x.nii"),
            ("{path}", "s3://other/x.nii", "s3://other/x.nii"),
        ],
    )
    def test_they_are_taken_where_that_is_allowed(self, pattern: str, value: str, found: str) -> None:
        assert images(pattern, value, allow_outside=True) == [found]

    def test_columns_of_paths_may_lead_anywhere(self) -> None:
        paths = ["/etc/x.nii", "../x.nii", "s3://other/x.nii"]
        assert images("path", *paths) == ["/etc/x.nii", "/data/study/../x.nii", "s3://other/x.nii"]

    @given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "/"]), min_size=1, max_size=6))
    def test_what_is_taken_lies_below_the_folder(self, parts: list[str]) -> None:
        value = "/".join(parts)
        depth = lowest = 0
        for part in f"x{value}.nii".split("/"):  # as the system would go, without links
            depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
            lowest = min(lowest, depth)
        try:
            path = Pattern.parse("maps/x{path}.nii").fill_below({"path": value})
        except InputError:
            assert lowest < 0 or depth < 1 or value.startswith("/")
        else:
            assert path.startswith("maps/")
            assert ".." not in path.split("/")

    @pytest.mark.parametrize(
        "field",
        ["path!r", "path!s", "path:1000000000", "path:>1000000000", "path:{path}", "path:.1000000000f", "path:s{x}"],
    )
    def test_formats_are_widths_alone(self, field: str) -> None:
        with pytest.raises(
            InputError, match=r"^Map 'effect': the pattern '.*' has the field \{path.*A field is the name"
        ):
            images(f"maps/{{{field}}}.nii", "a")

    @pytest.mark.parametrize("field", ["path.__class__", "path.__init__.__globals__", "path[0]", "0", ""])
    def test_fields_are_columns_alone(self, field: str) -> None:
        with pytest.raises(InputError, match="but the table's columns are participant_id, path"):
            images(f"maps/{{{field}}}.nii", "a")

    def test_a_column_may_be_called_anything(self) -> None:
        found = resolve_maps(table(7, name="a.real"), FOLDER, {"effect": "{a.real:03d}.nii"})["effect"]
        assert found[0].image == FOLDER / "007.nii"


def test_nothing_is_opened_before_all_patterns_are_known_to_be_confined(tmp_path: Path) -> None:
    maps = {"other": "gone.nii", "effect": "{path}"}  # the first one, of all rows, would be opened to count its volumes
    with pytest.raises(InputError, match=r"'effect'.*would leave the folder of the table"):
        resolve_maps(table("../x.nii"), tmp_path, maps)


def test_stack_refuses_and_allows_in_both_ways(tmp_path: Path) -> None:
    volumes = noise(2)
    save(tmp_path / "in", volumes)
    labels = ["sub-00", "sub-01"]
    rows = pd.DataFrame({"participant_id": labels, "where": [f"../in/{label}_effect" for label in labels]})
    (tmp_path / "study").mkdir()
    participants = tmp_path / "study" / "participants.tsv"
    rows.to_csv(participants, sep="\t", index=False)
    vx.stack(tmp_path / "in" / "participants.tsv", tmp_path / "c.zarr", maps=MAPS)
    words = ("stack", participants, tmp_path / "c.zarr", "--map", "effect={where}.nii.gz", "--overwrite", "--quiet")
    with whole(tmp_path / "c.zarr"):
        code, _, err = voxstack(*words)
    assert code == 2
    assert "would leave the folder of the table for sub-00, whose where is '../in/sub-00_effect'" in err
    assert voxstack(*words, "--allow-outside") == (0, "", "")
    cohort = vx.stack(participants, tmp_path / "d.zarr", maps={"effect": "{where}.nii.gz"}, allow_outside=True)
    assert (cohort["effect"].values == volumes).all()
    assert (vx.open_cohort(tmp_path / "c.zarr")["effect"].values == volumes).all()
