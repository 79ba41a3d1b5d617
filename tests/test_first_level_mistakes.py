"""First-level input that is nearly right: nobody is taken for another one, and nobody is left out without a word."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import voxstack as vx
from first_level import AFFINE, SHAPE, Constant, design, fitted
from voxstack.cli import cli
from voxstack.errors import InputError, VoxstackWarning

EFFECT = "_stat-effect_statmap.nii.gz"


def put(path: Path, value: float) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.full(SHAPE, value, np.float32), AFFINE).to_filename(path)
    return str(path)


def first(cohort: Any, name: str = "effect") -> list[float]:
    return list(cohort[name].values[:, 0, 0, 0])


class TestWhoseMaps:
    def test_covariates_do_not_lead_a_pattern_to_other_files(self, tmp_path: Path, monkeypatch: Any) -> None:
        for number in (1, 2):
            put(tmp_path / "m" / f"0{number}.nii.gz", number)
            put(tmp_path / "m" / f"sub-0{number}.nii.gz", 900 + number)
        people = pd.DataFrame({"participant_id": ["01", "02"]})
        known = pd.DataFrame({"participant_id": ["sub-02", "sub-01"], "age": [2, 1]})
        monkeypatch.chdir(tmp_path)
        cohort = vx.stack(people, "c.zarr", maps={"effect": "m/{participant_id}.nii.gz"}, covariates=known)
        assert first(cohort) == cohort["age"].values.tolist() == [1, 2]
        assert cohort["subject"].values.tolist() == ["01", "02"]

    @pytest.mark.parametrize("kind", ["file", "buffer"])
    def test_models_that_use_a_file_or_a_buffer_again(self, tmp_path: Path, kind: str) -> None:
        buffer = np.zeros(SHAPE)

        class Model(Constant):
            def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
                value = float(self.subject_label[-1]) + 10 * (output_type == "effect_variance")
                if kind == "file":
                    return nib.load(put(tmp_path / "scratch.nii", value))
                buffer[:] = value
                return nib.Nifti1Image(buffer, AFFINE)

        cohort = vx.stack(map(Model, ["s1", "s2", "s3"]), tmp_path / "c.zarr", first_level_contrast="x")
        assert first(cohort) == [1, 2, 3]
        assert first(cohort, "variance") == [11, 12, 13]

    def test_the_mask_of_a_model_lies_where_its_affine_says(self, tmp_path: Path) -> None:
        class Masker:
            mask_img_: Any

        class Model(Constant):
            masker_ = Masker()

        inside = np.zeros(SHAPE, np.uint8)
        inside[:3] = 1
        flip = np.eye(4)
        flip[0, 0], flip[0, 3] = -1, SHAPE[0] - 1
        Model.masker_.mask_img_ = nib.Nifti1Image(inside[::-1], AFFINE @ flip)
        cohort = vx.stack([Model("a"), Model("b")], tmp_path / "c.zarr", first_level_contrast="x")
        np.testing.assert_array_equal(cohort["mask"], inside == 1)

    def test_weights_by_position_over_designs_that_differ(self, tmp_path: Path) -> None:
        models = [fitted("a", 1), fitted("b", 2, design()[["rest", "task", "constant"]])]
        with pytest.warns(VoxstackWarning, match="weights by position"):
            vx.stack(models, tmp_path / "c.zarr", first_level_contrast=np.array([1, 0, 0]))
        vx.stack(models, tmp_path / "d.zarr", first_level_contrast="task")  # is no problem

    def test_a_list_like_thing_that_can_be_gone_through_once(self, tmp_path: Path) -> None:
        class Bar:
            """As progress bars around generators are."""

            def __init__(self) -> None:
                self.models = map(Constant, ["a", "b", "c"])

            def __len__(self) -> int:
                return 3

            def __iter__(self) -> Any:
                return self.models

        assert vx.stack(Bar(), tmp_path / "c.zarr", first_level_contrast="x").sizes["subject"] == 3

    def test_one_subject_in_two_spellings(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"must be unique, but several are called 01, sub-01"):
            vx.stack([Constant("01"), Constant("sub-01")], tmp_path / "c.zarr", first_level_contrast="x")
        vx.stack([Constant("01"), Constant("02")], tmp_path / "c.zarr", first_level_contrast="x")
        with pytest.raises(InputError, match="The cohort has 02 already"):
            vx.stack([Constant("sub-02")], tmp_path / "c.zarr", first_level_contrast="x", append=True)

    def test_errors_of_models_have_a_name(self, tmp_path: Path) -> None:
        class Model(Constant):
            def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
                raise KeyError(contrast)

        with pytest.raises(InputError, match="a: effect_size: KeyError: 'x'"):
            vx.stack([Model("a")], tmp_path / "c.zarr", first_level_contrast="x")

    @pytest.mark.parametrize(
        "options",
        [
            {"mask": "nowhere.nii"},
            {"mask": 1.5},
            {"covariates": "nowhere.tsv"},
            {"covariates": pd.DataFrame({"participant_id": ["a"]})},
            {"covariates": pd.DataFrame({"participant_id": ["a", "b"], "effect": 1})},
            {"covariates": pd.DataFrame({"participant_id": ["a", "b"], "mask": 1})},
            {"store": "there"},
            {"append": True, "overwrite": True},
        ],
    )
    def test_nothing_is_computed_before_the_rest_is_known_to_be_right(self, tmp_path: Path, options: Any) -> None:
        class Model(Constant):
            def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
                pytest.fail("computed")

        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "mine.txt").write_text("mine")
        store = tmp_path / options.get("store", "c.zarr")
        options = {key: value for key, value in options.items() if key != "store"}
        with pytest.raises((InputError, vx.errors.StoreError)):
            vx.stack([Model("a"), Model("b")], store, first_level_contrast="x", **options)


class TestFolders:
    def test_subjects_without_the_map_are_named(self, tmp_path: Path) -> None:
        for label, contrast in (("01", "a"), ("02", "a"), ("03", "b"), ("04", "a")):
            put(tmp_path / "m" / f"sub-{label}_contrast-{contrast}{EFFECT}", int(label))
        with pytest.warns(VoxstackWarning, match=r"no effect map with contrast-a of sub-03, of whom there are other"):
            cohort = vx.stack(tmp_path / "m", tmp_path / "c.zarr", first_level_contrast="a")
        assert first(cohort) == [1, 2, 4]
        some: dict[str, Any] = {"first_level_contrast": "a", "entities": {"sub": ["01", "sub-02"]}}
        assert first(vx.stack(tmp_path / "m", tmp_path / "d.zarr", **some)) == [1, 2]  # as was asked for
        some["entities"]["sub"] += ["99"]
        with pytest.raises(InputError, match="no such effect map of sub-99"):
            vx.stack(tmp_path / "m", tmp_path / "e.zarr", **some)

    def test_names_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        odd = ["sub-a_b", "Sub-08", "sub-01_task-x_task-y"]
        for name in ("sub-01", "sub-CC-11", "sub-é1_task-a-b_run-1.5", *odd):
            put(tmp_path / "m" / f"{name}_contrast-éB{EFFECT}", 1)
        with pytest.warns(VoxstackWarning) as warned:
            cohort = vx.stack(tmp_path / "m", tmp_path / "c.zarr", first_level_contrast="éB", entities={"task": ""})
        assert cohort["subject"].values.tolist() == ["sub-01", "sub-CC-11"]
        unread, others = (str(one.message) for one in warned)
        assert all(name in unread for name in odd)
        assert "sub-é1" in others

    def test_runs_in_two_spellings(self, tmp_path: Path) -> None:
        for name in ("sub-01_run-1", "sub-01_run-01"):
            put(tmp_path / "m" / f"{name}{EFFECT}", 1)
        with pytest.raises(InputError, match="sub-01_run-01 and sub-01_run-1 are the same"):
            vx.stack(tmp_path / "m", tmp_path / "c.zarr")

    def test_a_participants_table_that_was_not_fetched(self, tmp_path: Path) -> None:
        at = tmp_path / "study" / "derivatives" / "maps"
        put(at / f"sub-01{EFFECT}", 1)
        (tmp_path / "study" / "participants.tsv").write_text("participant_id\tage\nsub-01\t99\n")
        (at / "participants.tsv").symlink_to("../.git/annex/objects/x")
        with pytest.raises(InputError, match=r"no table of covariates .*maps/participants\.tsv"):
            vx.stack(at, tmp_path / "c.zarr")

    def test_what_is_appended_is_of_the_same_kind(self, tmp_path: Path) -> None:
        put(tmp_path / "a" / f"sub-01_task-x_contrast-faces{EFFECT}", 1)
        put(tmp_path / "b" / f"sub-02_task-y_contrast-faces{EFFECT}", 2)
        put(tmp_path / "c" / f"sub-02_task-x_contrast-faces{EFFECT}", 3)
        vx.stack(tmp_path / "a", tmp_path / "c.zarr")
        with pytest.raises(InputError, match=r"entities was \{'task': \['x'\]\} and is \{'task': \['y'\]\}"):
            vx.stack(tmp_path / "b", tmp_path / "c.zarr", append=True)
        assert first(vx.stack(tmp_path / "c", tmp_path / "c.zarr", append=True)) == [1, 3]

    def test_several_contrasts_are_known_in_the_cohort(self, tmp_path: Path) -> None:
        for label, contrast in (("01", "a"), ("02", "b")):
            put(tmp_path / "m" / f"sub-{label}_contrast-{contrast}{EFFECT}", 1)
        put(tmp_path / "n" / f"sub-03_contrast-c{EFFECT}", 1)
        cohort = vx.stack(tmp_path / "m", tmp_path / "c.zarr", entities={"contrast": ["b", "a"]})
        assert cohort.attrs["provenance"]["first_level_contrast"] == ["a", "b"]
        with pytest.raises(InputError, match="first_level_contrast was"):
            vx.stack(tmp_path / "n", tmp_path / "c.zarr", append=True)

    def test_a_contrast_is_chosen_among_several(self, tmp_path: Path) -> None:
        for label, contrast in (("01", "go"), ("02", "go"), ("03", "stop")):
            put(tmp_path / "m" / f"sub-{label}_contrast-{contrast}{EFFECT}", int(label))
        both: dict[str, Any] = {"entities": {"contrast": ["go", "stop"]}, "first_level_contrast": "go"}
        with pytest.warns(VoxstackWarning, match="sub-03"):
            cohort = vx.stack(tmp_path / "m", tmp_path / "c.zarr", **both)
        assert first(cohort) == [1, 2]
        assert cohort.attrs["provenance"]["first_level_contrast"] == "go"

    def test_values_that_belong_together_may_be_appended_one_by_one(self, tmp_path: Path) -> None:
        for label, acq in (("01", "_acq-a"), ("02", ""), ("03", "")):
            put(tmp_path / f"m{label[1]}" / f"sub-{label}{acq}{EFFECT}", int(label))
        options: dict[str, Any] = {"entities": {"acq": ["a", ""]}}
        vx.stack(tmp_path / "m1", tmp_path / "c.zarr", **options)
        for number in (2, 3):
            cohort = vx.stack(tmp_path / f"m{number}", tmp_path / "c.zarr", append=True, **options)
        assert first(cohort) == [1, 2, 3]

    def test_sessions_of_some_subjects_alone(self, tmp_path: Path) -> None:
        for name in ("sub-01_ses-1", "sub-01_ses-2", "sub-02"):
            put(tmp_path / "m" / f"{name}{EFFECT}", 1)
        people = pd.DataFrame({"participant_id": ["02", "01", "01_ses-2"], "age": [2, 1, 12]})
        cohort = vx.stack(tmp_path / "m", tmp_path / "c.zarr", covariates=people)
        assert cohort["age"].values.tolist() == [1, 12, 2]

    @pytest.mark.parametrize("given", [{"contrast": None}, {"contrast": 5}, {"contrast": "b"}])
    def test_a_contrast_that_is_given_twice(self, tmp_path: Path, given: Any) -> None:
        put(tmp_path / "m" / f"sub-01_contrast-a{EFFECT}", 1)
        with pytest.raises(InputError, match="Give one of them"):
            vx.stack(tmp_path / "m", tmp_path / "c.zarr", first_level_contrast="a", entities=given)
        again: dict[str, Any] = {"first_level_contrast": "a", "entities": {"contrast": "contrast-a"}}
        assert vx.stack(tmp_path / "m", tmp_path / "d.zarr", **again).sizes["subject"] == 1

    @pytest.mark.parametrize("label", ["effect", "session", "participant"])
    def test_a_label_that_is_another_column(self, tmp_path: Path, label: str) -> None:
        put(tmp_path / "m" / f"sub-01_ses-1{EFFECT}", 1)
        done = CliRunner().invoke(cli, ["stack", str(tmp_path / "m"), str(tmp_path / "c.zarr"), "--label", label])
        assert isinstance(done.exception, InputError)
        assert f"label='{label}' (--label) is the name of another column" in str(done.exception)


class TestTables:
    def table(self, folder: Path) -> pd.DataFrame:
        rows = [(f"sub-0{n}", name, put(folder / f"{n}{name}.nii", n)) for n in (1, 2, 3) for name in "ab"]
        return pd.DataFrame(rows, columns=["subject_label", "map_name", "effects_map_path"])

    def test_subjects_without_the_map_are_named(self, tmp_path: Path) -> None:
        table = self.table(tmp_path).drop(index=2)
        with pytest.warns(VoxstackWarning, match="has other maps of sub-02, but not 'a'"):
            cohort = vx.stack(table, tmp_path / "c.zarr", first_level_contrast="a")
        assert first(cohort) == [1, 3]

    @pytest.mark.parametrize(
        "indexed",
        [
            lambda table: table.set_index("map_name"),
            lambda table: table.set_index("subject_label", drop=False),
            lambda table: table.set_index("effects_map_path"),
            lambda table: table.set_axis(list("uvwxyz")),
        ],
    )
    def test_any_index(self, tmp_path: Path, indexed: Any) -> None:
        cohort = vx.stack(indexed(self.table(tmp_path)), tmp_path / "c.zarr", first_level_contrast="b")
        assert first(cohort) == [1, 2, 3]

    def test_images_that_are_not_used_are_told(self, tmp_path: Path) -> None:
        table = self.table(tmp_path).assign(variances_map_path=str(tmp_path / "1a.nii"))
        with pytest.warns(VoxstackWarning, match="images in variances_map_path, which are not used"):
            vx.stack(table, tmp_path / "c.zarr", first_level_contrast="a")

    @pytest.mark.parametrize("empty", ["", " ", "n/a", None, np.nan])
    def test_variances_that_are_empty(self, tmp_path: Path, empty: Any) -> None:
        table = self.table(tmp_path).assign(variance_map_path=empty)
        assert "variance" not in vx.stack(table, tmp_path / "c.zarr", first_level_contrast="a")
        table["variance_map_path"] = [str(tmp_path / "1a.nii"), *[empty] * 5]
        with pytest.raises(InputError, match="'variance_map_path' is empty for sub-02, sub-03"):
            vx.stack(table, tmp_path / "d.zarr", first_level_contrast="a")

    def test_a_table_that_is_nearly_nilearns(self, tmp_path: Path) -> None:
        table = self.table(tmp_path).rename(columns={"effects_map_path": "effect_map_path"})
        with pytest.raises(InputError, match=r"columns subject_label, map_name, effects_map_path\. .*effect_map_path"):
            vx.stack(table, tmp_path / "c.zarr", label="subject_label", first_level_contrast="a")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label": None}, "label is the name of the column of subject labels, not None"),
        ({"label": ["participant_id"]}, "label is the name of the column"),
        ({"storage_options": "x"}, "storage_options must be a mapping"),
        ({"source_options": [1]}, "source_options must be a mapping"),
        ({"zero_is_missing": "False"}, "zero_is_missing must be True or False, not 'False'"),
        ({"append": "no"}, "append must be True or False"),
        ({"overwrite": 1}, "overwrite must be True or False"),
        ({"shard": "yes"}, "shard must be True or False"),
        ({"store": 5}, "A store is a path or a URL, not a int"),
    ],
)
def test_options_of_another_type(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    arguments: dict[str, Any] = {"store": tmp_path / "c.zarr", "first_level_contrast": "x", **options}
    with pytest.raises(InputError, match=says):
        vx.stack([Constant("a"), Constant("b")], **arguments)
    assert list(tmp_path.iterdir()) == []


def test_hints_of_what_was_meant(tmp_path: Path) -> None:
    put(tmp_path / "m" / f"sub-01_contrast-facesMinusHouses{EFFECT}", 1)
    with pytest.raises(InputError, match="nilearn writes 'a - b' as aMinusB"):
        vx.stack(tmp_path / "m", tmp_path / "c.zarr", first_level_contrast="faces - houses")
    with pytest.raises(InputError, match="No map has the entity tsk"):
        vx.stack(tmp_path / "m", tmp_path / "c.zarr", entities={"tsk": "x"})
