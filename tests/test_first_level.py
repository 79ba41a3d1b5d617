"""What first-level models give as input of `stack`: fitted models, nilearn's table, folders of derivatives."""

import gc
import pickle
import shutil
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from nilearn.glm import save_glm_to_bids
from nilearn.glm.first_level import FirstLevelModel
from nilearn.glm.second_level import SecondLevelModel

import voxstack as vx
from voxstack.cli import cli
from voxstack.errors import GridMismatch, InputError, VoxstackWarning
from voxstack.io.masked import within_mask

SHAPE, AFFINE, CONTRAST = (7, 8, 6), np.diag([4.0, 4, 4, 1]), "task"
LABELS = ["sub-01", "sub-02", "sub-03", "sub-04", "sub-05"]
# Of nilearn, which tells that it uses what it was given.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:nilearn.*", "ignore::RuntimeWarning:nilearn.*")


def design(n_scans: int = 30) -> pd.DataFrame:
    scans = np.arange(n_scans)
    return pd.DataFrame({"task": np.sin(scans / 3), "rest": np.cos(scans / 5), "constant": 1.0})


def fitted(label: str, number: int, matrix: pd.DataFrame | None = None, mask: Any = None) -> FirstLevelModel:
    """To series whose task has an effect of `number`."""
    rng = np.random.default_rng(number)
    matrix = design() if matrix is None else matrix
    series = rng.normal(size=(*SHAPE, len(matrix))) + 100 + number * matrix["task"].to_numpy()
    inside = nib.Nifti1Image(np.ones(SHAPE, np.uint8) if mask is None else mask.astype(np.uint8), AFFINE)
    model = FirstLevelModel(subject_label=label, mask_img=inside, signal_scaling=False, minimize_memory=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mask is used which was given
        return model.fit(nib.Nifti1Image(series.astype(np.float32), AFFINE), design_matrices=matrix)


@pytest.fixture(scope="module")
def models() -> list[FirstLevelModel]:
    return [fitted(label, number) for number, label in enumerate(LABELS)]


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    return pd.DataFrame({"participant_id": [*LABELS[::-1], "sub-99"], "age": [25.0, 31, 47, 52, 60, 99]})


def images(models: list[FirstLevelModel], output: str) -> np.ndarray[Any, Any]:
    return np.stack([model.compute_contrast(CONTRAST, output_type=output).get_fdata() for model in models])


class TestModels:
    def test_effect_and_variance_of_fitted_models(self, models: Any, people: pd.DataFrame, tmp_path: Path) -> None:
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast=CONTRAST, covariates=people)
        assert cohort["subject"].values.tolist() == LABELS
        assert set(cohort.data_vars) >= {"effect", "variance"}
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)
        np.testing.assert_allclose(cohort["variance"], images(models, "effect_variance"), rtol=1e-6)
        assert cohort["age"].values.tolist() == [60.0, 52, 47, 31, 25]

    def test_the_second_level_is_that_of_nilearn(self, models: Any, people: pd.DataFrame, tmp_path: Path) -> None:
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast=CONTRAST, covariates=people)
        ours = vx.contrast(vx.fit_glm(cohort, "~ age", variable="effect"), "Intercept")
        theirs = SecondLevelModel().fit(models, design_matrix=pd.DataFrame({"Intercept": 1.0, "age": cohort["age"]}))
        t = theirs.compute_contrast(
            "Intercept", first_level_contrast=CONTRAST, output_type="stat", second_level_stat_type="t"
        )
        np.testing.assert_allclose(ours["stat"][0], t.get_fdata(), rtol=1e-4)

    def test_weights_as_contrast(self, models: Any, tmp_path: Path) -> None:
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast=np.array([1.0, 0, 0]))
        assert cohort.attrs["provenance"]["first_level_contrast"] == [1, 0, 0]
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)

    def test_anything_that_computes_contrasts(self, tmp_path: Path) -> None:
        class Model:
            def __init__(self, number: int) -> None:
                self.subject_label = f"{number:02d}"

            def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
                value = {"effect_size": 1.0, "effect_variance": 0.5}[output_type] + float(self.subject_label)
                return nib.Nifti1Image(np.full(SHAPE, value), AFFINE)

        people = pd.DataFrame({"participant_id": ["sub-02", "sub-01"], "age": [2, 1]})
        cohort = vx.stack((Model(1), Model(2)), tmp_path / "c.zarr", first_level_contrast="a", covariates=people)
        assert cohort["subject"].values.tolist() == ["sub-01", "sub-02"]  # as the table calls them
        assert cohort["age"].values.tolist() == [1, 2]
        assert cohort["variance"].values[:, 0, 0, 0].tolist() == [1.5, 2.5]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({}, "name one with first_level_contrast="),
            (
                {"first_level_contrast": "nothing"},
                r"cannot compute the contrast 'nothing':\n  sub-01, sub-02, .*, sub-05: effect_size: .*not valid",
            ),
            ({"first_level_contrast": CONTRAST, "maps": {"a": "b"}}, "maps= does not go with first-level models"),
            ({"first_level_contrast": CONTRAST, "entities": {"a": "b"}}, "entities= does not go with"),
            (
                {"first_level_contrast": CONTRAST, "covariates": pd.DataFrame({"participant_id": LABELS[:3], "a": 1})},
                "no row for sub-04, sub-05",
            ),
        ],
    )
    def test_mistakes(self, models: Any, tmp_path: Path, options: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            vx.stack(models, tmp_path / "c.zarr", **options)
        assert list(tmp_path.iterdir()) == []

    def test_models_without_label_or_fit(self, models: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Model 2 of the list has no subject_label"):
            vx.stack([models[0], FirstLevelModel()], tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        unfitted = FirstLevelModel(subject_label="sub-77")
        with pytest.raises(InputError, match=r"sub-77: effect_size: .*not fitted"):
            vx.stack([models[0], unfitted], tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        with pytest.raises(InputError, match="must be unique"):
            vx.stack([models[0], models[0]], tmp_path / "c.zarr", first_level_contrast=CONTRAST)

    def test_weights_are_found_for_each_model_anew(self, models: Any, tmp_path: Path) -> None:
        """nilearn writes those of the first model into a list, which would be other columns of the second one."""
        other = fitted("sub-06", 6, design()[["rest", "task", "constant"]])
        contrast = ["task"]
        cohort = vx.stack([models[0], other], tmp_path / "c.zarr", first_level_contrast=contrast)
        np.testing.assert_allclose(cohort["effect"], images([models[0], other], "effect_size"), rtol=1e-6)
        assert contrast == ["task"]
        assert vx.stack(models, tmp_path / "t.zarr", first_level_contrast=("task",)).sizes["subject"] == 5

    def test_voxels_outside_the_mask_of_a_model_are_missing(self, models: Any, tmp_path: Path) -> None:
        inside = np.ones(SHAPE, bool)
        inside[:3] = False
        other = fitted("sub-06", 6, mask=inside)
        with warnings.catch_warnings():
            warnings.simplefilter("error", VoxstackWarning)  # of zeros that are taken as data
            cohort = vx.stack([*models, other], tmp_path / "c.zarr", first_level_contrast=CONTRAST, mask=0.5)
        assert np.array_equal(np.isnan(cohort["variance"][5]), ~inside)
        np.testing.assert_allclose(cohort["effect"][5].values[inside], images([other], "effect_size")[0][inside])
        assert int(vx.stack([*models, other], tmp_path / "i.zarr", first_level_contrast=CONTRAST).mask.sum()) == 192

    def test_only_voxels_within_the_mask_are_held_and_sent_to_workers(self) -> None:
        inside = np.zeros(SHAPE, bool)
        inside[2:4, 3] = True
        whole = np.arange(inside.size, dtype=float).reshape(SHAPE)
        image = within_mask(nib.Nifti1Image(whole, AFFINE), nib.Nifti1Image(inside.astype(np.uint8), AFFINE))
        for one in (image, pickle.loads(pickle.dumps(image))):
            assert np.array_equal(np.asanyarray(one.dataobj), np.where(inside, whole, np.nan), equal_nan=True)
        assert sum(part.nbytes for part in vars(image.dataobj).values() if isinstance(part, np.ndarray)) < 150

    def test_models_that_are_made_one_after_the_other(self, models: Any, tmp_path: Path) -> None:
        alive: list[weakref.ref[Any]] = []

        def load() -> Iterator[Any]:
            for number, label in enumerate(LABELS):
                assert sum(one() is not None for one in alive) <= 1
                model = fitted(label, number)
                alive.append(weakref.ref(model))
                yield model
                del model
                gc.collect()

        cohort = vx.stack(load(), tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)

    def test_a_contrast_of_several_rows(self, models: Any, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"sub-01: the contrast .* has 2 rows \(F\), and so no single effect"):
            vx.stack(models, tmp_path / "c.zarr", first_level_contrast=np.eye(2, 3))

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (lambda models: models[0], "One first-level model is no cohort"),
            (lambda models: [], "The list of first-level models is empty"),
            (lambda models: [nib.Nifti1Image(np.ones(SHAPE), AFFINE)] * 2, "Number 1 of the list is a Nifti1Image"),
            (lambda models: iter([models[0], "sub-02.nii"]), "Number 2 of the list is a str"),
        ],
    )
    def test_what_is_no_list_of_models(self, models: Any, tmp_path: Path, given: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            vx.stack(given(models), tmp_path / "c.zarr", first_level_contrast=CONTRAST)

    def test_a_series_of_paths_is_no_list_of_models(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="Images and their paths go into a column of a table"):
            vx.stack(pd.Series(["sub-01.nii", "sub-02.nii"]), tmp_path / "c.zarr")

    def test_called_again_after_a_stop_models_that_have_changed_are_stacked_anew(
        self, models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("voxstack.store.layout.publish", stopped)
            with pytest.raises(KeyboardInterrupt):
                vx.stack(models, tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        cohort = vx.stack(models, tmp_path / "c.zarr", first_level_contrast="rest")
        expected = np.stack([m.compute_contrast("rest", output_type="effect_size").get_fdata() for m in models])
        np.testing.assert_allclose(cohort["effect"], expected, rtol=1e-6)

    def test_models_are_appended(self, models: Any, people: pd.DataFrame, tmp_path: Path) -> None:
        options = {"first_level_contrast": CONTRAST, "covariates": people}
        vx.stack(models[:2], tmp_path / "c.zarr", **options)
        cohort = vx.stack(models[2:], tmp_path / "c.zarr", append=True, **options)
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)
        assert cohort["age"].values.tolist() == [60.0, 52, 47, 31, 25]
        with pytest.raises(InputError, match="sub-05 already"):
            vx.stack(models[4:], tmp_path / "c.zarr", append=True, **options)
        assert cohort.attrs["provenance"]["first_level_contrast"] == CONTRAST
        more = pd.DataFrame({"participant_id": ["more"], "age": [20.0]})
        with pytest.raises(InputError, match="first_level_contrast was 'task' and is 'rest'"):
            vx.stack([Constant("more")], tmp_path / "c.zarr", first_level_contrast="rest", covariates=more, append=True)

    def test_grids_that_differ_name_the_subject(self, models: Any, tmp_path: Path) -> None:
        class Elsewhere:
            subject_label = "sub-elsewhere"

            def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
                return nib.Nifti1Image(np.ones(SHAPE), np.diag([3.0, 3, 3, 1]))

        with pytest.raises(GridMismatch, match="sub-elsewhere"):
            vx.stack([*models, Elsewhere()], tmp_path / "c.zarr", first_level_contrast=CONTRAST)


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
            (lambda table: table.assign(map_name="task"), "must be unique, .* sub-01, sub-02"),
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


class Constant:
    """A model of a subject whose maps have one value."""

    def __init__(self, label: Any) -> None:
        self.subject_label = label

    def compute_contrast(self, contrast: str, output_type: str) -> nib.Nifti1Image:
        return nib.Nifti1Image(np.ones(SHAPE), AFFINE)


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
            (pd.DataFrame({"participant_id": ["sub-01"], "age": [1]}), "one row for several subjects, sub-01"),
            (pd.DataFrame({"participant_id": ["01", "01", "sub-01"], "age": [1, 2, 3]}), "must be unique"),
            (pd.DataFrame({"participant_id": ["01", "sub-01"], "effect": [1, 2]}), "has the column effect"),
            (pd.DataFrame({"participant_id": ["sub-07"]}), "The table of covariates has no row for 01, sub-01"),
            (pd.DataFrame({"who": ["sub-07"]}), "The table of covariates has no column 'participant_id'"),
            ("nowhere.tsv", "There is no table of covariates nowhere.tsv"),
            ({"age": [1]}, "The table of covariates is a DataFrame or the path of a table, not a dict"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, given: Any, says: str) -> None:
        models = [Constant("01"), Constant("sub-01")]
        with pytest.raises(InputError, match=says):
            vx.stack(models, tmp_path / "c.zarr", first_level_contrast="a", covariates=given)


@pytest.fixture(scope="module")
def derivatives(models: Any, people: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As nilearn writes them, two tasks, within a dataset with participants."""
    root = tmp_path_factory.mktemp("dataset")
    folder = root / "derivatives" / "nilearn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the report that is written with the maps
        for model in models:
            for task in ("stop", "go"):
                save_glm_to_bids(model, contrasts=[CONTRAST], out_dir=folder,
                                 prefix=f"{model.subject_label}_task-{task}_space-MNI")  # fmt: skip
    people.to_csv(root / "participants.tsv", sep="\t", index=False)
    return folder


def put(path: Path, value: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.full(SHAPE, value, np.float32), AFFINE).to_filename(path)


class TestDerivatives:
    def test_maps_are_found_by_their_entities(self, derivatives: Path, models: Any, tmp_path: Path) -> None:
        cohort = vx.stack(derivatives, tmp_path / "c.zarr", first_level_contrast=CONTRAST, entities={"task": "stop"})
        np.testing.assert_allclose(cohort["effect"], images(models, "effect_size"), rtol=1e-6)
        np.testing.assert_allclose(cohort["variance"], images(models, "effect_variance"), rtol=1e-6)
        assert cohort["subject"].values.tolist() == LABELS
        assert cohort["age"].values.tolist() == [60.0, 52, 47, 31, 25]

    def test_maps_that_are_not_told_apart(self, derivatives: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"sub-01 has 2 maps that differ in task \(task: go, stop\)\. Choose with"):
            vx.stack(derivatives, tmp_path / "c.zarr", first_level_contrast=CONTRAST)
        with pytest.raises(InputError, match=r"no effect map with contrast-none; there are .*task: go, stop"):
            vx.stack(derivatives, tmp_path / "c.zarr", first_level_contrast="none")
        with pytest.raises(InputError, match="holds no statistical maps"):
            vx.stack(tmp_path, tmp_path / "c.zarr")

    def test_names_of_fitlins_and_what_lies_beside_them(self, tmp_path: Path) -> None:
        at = tmp_path / "dataset" / "derivatives" / "fitlins" / "node-subjectLevel"
        expected = {}
        for number, label in enumerate(LABELS, start=1):
            for contrast in ("faces", "houses"):
                for stat in ("effect", "variance", "t", "z", "p"):
                    value = number + 10 * (contrast == "houses") + 100 * (stat == "variance")
                    put(at / label / f"{label}_task-x_contrast-{contrast}_stat-{stat}_statmap.nii.gz", value)
                    expected[label, contrast, stat] = value
        (at / "sub-01" / "sub-01_task-x_contrast-faces_stat-effect_statmap.json").write_text("{}", encoding="utf-8")
        put(at / "contrast-faces_stat-effect_statmap.nii.gz", 99)  # of the group
        put(at / ".git" / "sub-01_task-x_contrast-faces_stat-effect_statmap.nii.gz", 99)
        put(at / "sub-01" / "._sub-02_task-x_contrast-faces_stat-effect_statmap.nii.gz", 99)
        table = "participant_id\tage\n" + "".join(f"{label[4:]}\t{label[-1]}\n" for label in LABELS[::-1])
        (tmp_path / "dataset" / "participants.tsv").write_text(table, encoding="utf-8")
        cohort = vx.stack(at, tmp_path / "c.zarr", first_level_contrast="houses", entities={"task": "task-x"})
        for map_ in ("effect", "variance"):
            values = [expected[label, "houses", map_] for label in LABELS]
            assert cohort[map_].values[:, 0, 0, 0].tolist() == values
        assert cohort["subject"].values.tolist() == ["01", "02", "03", "04", "05"]  # as the table has them
        assert cohort["age"].values.tolist() == [1, 2, 3, 4, 5]

    def test_maps_that_voxstack_writes(self, tmp_path: Path) -> None:
        results = []
        for number, label in enumerate(LABELS[:2]):
            values = np.random.default_rng(number).normal(size=(4, *SHAPE))
            of_runs = vx.from_arrays({"effect": values}, affine=AFFINE)
            results.append(vx.compute(vx.contrast(vx.fit_glm(of_runs, "~ 1"), {"mean": "Intercept"})))
            vx.write_maps(results[-1], tmp_path / "maps", prefix=f"{label}_")
        cohort = vx.stack(tmp_path / "maps", tmp_path / "c.zarr", first_level_contrast="mean")
        for name in ("effect", "variance"):
            np.testing.assert_allclose(cohort[name], [one[name][0] for one in results], rtol=1e-6)

    def test_a_relative_folder_in_a_dataset(
        self, derivatives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"first_level_contrast": CONTRAST, "entities": {"task": "go"}}
        monkeypatch.chdir(derivatives)
        for number, name in enumerate((".", f"../{derivatives.name}")):
            cohort = vx.stack(name, tmp_path / f"{number}.zarr", **options)
            assert cohort["age"].values.tolist() == [60.0, 52, 47, 31, 25]

    def test_folders_that_are_links(self, tmp_path: Path) -> None:
        put(tmp_path / "elsewhere" / "sub-01_stat-effect_statmap.nii.gz", 1)
        (tmp_path / "maps").mkdir()
        (tmp_path / "maps" / "sub-01").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "maps")
        assert vx.stack(tmp_path / "maps", tmp_path / "c.zarr")["subject"].values.tolist() == ["sub-01"]

    @pytest.mark.parametrize(
        ("names", "options", "says"),
        [
            (
                ["sub-01_contrast-a_stat-effect", "sub-02_contrast-b_stat-effect"], {},
                r"maps of sub-01 and sub-02 differ in contrast \(contrast: a, b\)\. Choose with entities=\{'contrast'",
            ),
            (
                ["sub-01_space-MNI_stat-effect", "sub-02_stat-effect"], {},
                r"maps of sub-01 and sub-02 differ in space \(space: MNI, none\)",
            ),
            (
                ["sub-01_acq-a_stat-effect", "sub-01_acq-b_stat-effect"], {"entities": {"acquisition": ["a", "b"]}},
                "sub-01 has 2 maps that differ in acq",
            ),
            (
                ["sub-01_acq-a_stat-effect", "sub-01_acq-b_stat-variance"], {"entities": {"acq": ["a", "b"]}},
                "sub-01 has an effect, .*acq-a.* of another kind than .*acq-b",
            ),
            (
                ["sub-01_stat-effect", "sub-01_run-1_stat-effect"], {},
                "Of sub-01 there are maps with run and one without, which may stand for all",
            ),
            (
                ["sub-01_stat-effect", "sub-01_stat-variance", "sub-02_stat-effect"], {},
                "effect maps of sub-02 without variance maps",
            ),
            (
                ["sub-01_stat-effect", "sub-01_stat-variance", "sub-02_stat-variance"], {},
                "variance maps of sub-02 without effect maps",
            ),
            (["sub-01_stat-effect", "other/sub-01_stat-effect"], {}, "sub-01 has several maps of one name: .*other"),
            (["sub-01_stat-effect"], {"entities": "task=x"}, "entities are keys and values such as"),
            (
                ["sub-01_stat-effect"], {"first_level_contrast": "a", "entities": {"contrast": "b"}},
                "first_level_contrast is 'a' and the entity contrast 'b'",
            ),
        ],
    )  # fmt: skip
    def test_maps_that_do_not_belong_together(
        self, tmp_path: Path, names: list[str], options: dict[str, Any], says: str
    ) -> None:
        for name in names:
            put(tmp_path / "maps" / f"{name}_statmap.nii.gz", 1)
        with pytest.raises(InputError, match=says):
            vx.stack(tmp_path / "maps", tmp_path / "c.zarr", **options)

    def test_several_values_and_none(self, tmp_path: Path) -> None:
        for name in ("sub-01_acq-a", "sub-02_acq-b", "sub-03_acq-c", "sub-01_acq-a_run-1", "sub-01_acq-a_run-2"):
            put(tmp_path / "maps" / f"{name}_stat-effect_statmap.nii.gz", int(name[5]))
        entities = {"acquisition": ["a", "acq-b"], "run": None}
        cohort = vx.stack(tmp_path / "maps", tmp_path / "c.zarr", entities=entities)
        assert cohort["subject"].values.tolist() == ["sub-01", "sub-02"]
        arguments = ["stack", str(tmp_path / "maps"), str(tmp_path / "d.zarr"), "--entity", "acq=a,b"]
        done = CliRunner().invoke(cli, [*arguments, "--entity", "run=", "--quiet"], catch_exceptions=False)
        assert done.exit_code == 0
        assert vx.open_cohort(tmp_path / "d.zarr").identical(cohort)

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"There is no folder .*nowhere"):
            vx.stack(tmp_path / "nowhere", tmp_path / "c.zarr", entities={"task": "x"})
        for given, options in (("memory://maps", {"entities": {"task": "x"}}), ("memory://maps/", {})):
            with pytest.raises(InputError, match="folders are looked through for maps on this machine alone"):
                vx.stack(given, tmp_path / "c.zarr", **options)

    def test_sessions_are_rows_of_their_own(self, derivatives: Path, people: pd.DataFrame, tmp_path: Path) -> None:
        folder = tmp_path / "sessions"
        for session in ("1", "2"):
            for file in derivatives.rglob("*_task-go_*stat-*_statmap.nii.gz"):
                subject, rest = file.name.split("_", 1)
                (folder / subject / f"ses-{session}").mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / subject / f"ses-{session}" / f"{subject}_ses-{session}_{rest}")
        people.to_csv(folder / "participants.tsv", sep="\t", index=False)
        cohort = vx.stack(folder, tmp_path / "c.zarr", entities={"contrast": CONTRAST})
        assert cohort["subject"].values.tolist() == [f"{label}_ses-{s}" for label in LABELS for s in (1, 2)]
        assert cohort["participant"].values.tolist() == [label for label in LABELS for _ in (1, 2)]
        assert cohort["session"].values.tolist() == ["1", "2"] * 5
        assert cohort["age"].values.tolist() == [age for age in (60.0, 52, 47, 31, 25) for _ in (1, 2)]
        one = vx.stack(folder, tmp_path / "one.zarr", entities={"session": "ses-2", "contrast": CONTRAST})
        assert one["subject"].values.tolist() == [f"{label}_ses-2" for label in LABELS]
        told = {"first_level_contrast": CONTRAST, "entities": {"ses": ["2"]}}
        assert told.items() <= one.attrs["provenance"].items()
        both = vx.stack(folder, tmp_path / "one.zarr", entities={"session": "1"}, append=True)
        assert both.sizes["subject"] == 10

    def test_on_the_command_line(self, derivatives: Path, tmp_path: Path) -> None:
        arguments = ["stack", str(derivatives), str(tmp_path / "c.zarr"), "--entity", "task=go"]
        arguments += ["--first-level-contrast", CONTRAST]
        planned = CliRunner().invoke(cli, [*arguments, "--explain"], catch_exceptions=False)
        assert planned.exit_code == 0
        assert not (tmp_path / "c.zarr").exists()
        people = pd.DataFrame({"participant_id": [label[4:] for label in LABELS], "iq": range(5)})
        people.to_csv(tmp_path / "people.csv", index=False)
        done = CliRunner().invoke(cli, [*arguments, "--covariates", str(tmp_path / "people.csv")])
        assert done.exit_code == 0
        cohort = vx.open_cohort(tmp_path / "c.zarr")
        assert cohort["iq"].values.tolist() == [0, 1, 2, 3, 4]
        assert "age" not in cohort.coords  # of the participants.tsv that is there

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--entity", "task"], "write --entity KEY=VALUE"),
            (["--entity", "=go"], "write --entity KEY=VALUE"),
            (["--entity", "task=go", "--entity", "task=stop"], "--entity 'task' was given twice"),
            (["--entity", "task=walk"], "no effect map with task-walk; there are task: go, stop"),
            (["--map", "effect=a"], "maps= does not go with a folder of derivatives"),
        ],
    )
    def test_mistakes_on_the_command_line(
        self, derivatives: Path, tmp_path: Path, options: list[str], says: str
    ) -> None:
        done = CliRunner().invoke(cli, ["stack", str(derivatives), str(tmp_path / "c.zarr"), *options])
        assert isinstance(done.exception, InputError)  # which main makes exit code 2
        assert says in str(done.exception)
