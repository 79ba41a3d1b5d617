"""Folders of BIDS derivatives as input of `stack`."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from nilearn.glm import save_glm_to_bids

import voxstack as vx
from first_level import AFFINE, CONTRAST, LABELS, SHAPE, images
from voxstack.cli import cli
from voxstack.errors import InputError, VoxstackWarning

# Of nilearn, which tells that it uses what it was given.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:nilearn.*", "ignore::RuntimeWarning:nilearn.*")


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
                r"maps of sub-01 and sub-02 differ in contrast \(contrast: a, b\)\. Choose with first_level_contrast=",
            ),
            (
                ["sub-01_space-MNI_stat-effect", "sub-02_stat-effect"], {},
                r"maps of sub-01 and sub-02 differ in space \(space: MNI, no space \(''\)\)",
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
        with pytest.warns(VoxstackWarning, match="acq-a or acq-b, no run of sub-03, of whom there are other maps"):
            cohort = vx.stack(tmp_path / "maps", tmp_path / "c.zarr", entities=entities)
        assert cohort["subject"].values.tolist() == ["sub-01", "sub-02"]
        arguments = ["stack", str(tmp_path / "maps"), str(tmp_path / "d.zarr"), "--entity", "acq=a,b"]
        with pytest.warns(VoxstackWarning, match="sub-03"):
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
        told = {"first_level_contrast": CONTRAST, "entities": {"task": ["go"], "space": ["MNI"]}}
        record = one.attrs["provenance"]
        assert {key: record[key] for key in told} == told
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
