"""The command line: quick to start, the same as the functions, and plain about mistakes."""

import json
import os
import subprocess
import sys
import time
import warnings
from importlib.metadata import entry_points
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import voxstack as vx
from voxstack.cli import cli, main

MAIN = [sys.executable, "-c", "from voxstack.cli import main; main()"]
HEAVY = ["xarray", "dask", "distributed", "numba", "zarr", "nibabel", "pandas", "scipy", "numpy", "matplotlib"]


def process(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it."""
    environment = {**os.environ, "COLUMNS": "200"}
    command = [*MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)


def succeed(*arguments: str | Path) -> str:
    """What a command prints; it has to end well."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def maps(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "provenance.json"}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated, stacked and fitted by the command line."""
    folder = tmp_path_factory.mktemp("study")
    succeed("simulate", folder / "sim", "--subjects", "9", "--resolution", "15", "--seed", "3", "--quiet")
    succeed("stack", folder / "sim" / "participants.tsv", folder / "c.zarr", "--map", "effect=effect_path", "--quiet")
    succeed(
        *("fit", folder / "c.zarr", "--design", "~ age + sex", "--contrast", "age", "--contrast", "men=sex[T.M]"),
        *("--f-contrast", "both=age, sex[T.M]", "--output", folder / "out", "--quiet"),
    )
    return folder


class TestStart:
    def test_help_is_shown_within_a_second(self) -> None:
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            shown = process("--help")
            seconds.append(time.perf_counter() - start)
            assert shown.returncode == 0
        for verb in ("demo", "simulate", "stack", "info", "fit"):
            assert f"\n  {verb} " in shown.stdout
        assert min(seconds) < 1

    @pytest.mark.parametrize(
        "code",
        [
            "import voxstack; dir(voxstack); voxstack.__version__",
            "from click.testing import CliRunner; from voxstack.cli import cli; CliRunner().invoke(cli, ['--help'])",
        ],
        ids=["import", "help"],
    )
    def test_nothing_heavy_is_imported_before_it_is_needed(self, code: str) -> None:
        tell = f"import sys; {code}; print(sorted(set({HEAVY}) & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True).stdout == "[]\n"

    def test_the_command_is_installed(self) -> None:
        (script,) = entry_points(group="console_scripts", name="voxstack")
        assert script.load() is main

    def test_version(self) -> None:
        assert vx.__version__ in succeed("--version")

    @pytest.mark.parametrize("verb", ["demo", "simulate", "stack", "info", "fit"])
    def test_every_verb_has_help(self, verb: str) -> None:
        shown = succeed(verb, "--help")
        assert shown.startswith(f"Usage: cli {verb}")
        assert ("--scheduler" in shown) == (verb != "info")


class TestVerbs:
    def test_simulate(self, study: Path) -> None:
        table = pd.read_csv(study / "sim" / "participants.tsv", sep="\t")
        assert len(table) == 9
        assert all((study / "sim" / path).is_file() for path in table["effect_path"])

    def test_stack(self, study: Path) -> None:
        table = pd.read_csv(study / "sim" / "participants.tsv", sep="\t")
        cohort = vx.open_cohort(study / "c.zarr")
        images = [nib.load(study / "sim" / path).get_fdata() for path in table["effect_path"]]
        np.testing.assert_array_equal(cohort["effect"].values, np.stack(images))
        assert cohort["age"].values.tolist() == table["age"].tolist()

    def test_fit_says_how_contrasts_are_tested(self, study: Path, tmp_path: Path) -> None:
        """A regressor's name is t; that of a term, which has one column here, F."""
        told = succeed(
            *("fit", study / "c.zarr", "--design", "~ age + sex", "--contrast", "sex", "--contrast", "sex[T.M]"),
            *("--f-contrast", "both=age, sex[T.M]", "--output", tmp_path / "out"),
        )
        assert "\nsex: F of 1 column (the column's own name gives t with a sign)\nsex[T.M]: t\nboth: F of 2 c" in told

    def test_stack_passes_its_options_on(self, study: Path, tmp_path: Path) -> None:
        told = succeed(
            *("stack", study / "sim" / "participants.tsv", tmp_path / "c.zarr", "--label", "participant_id"),
            *("--map", "one=effect_path", "--map", "two={participant_id}/{participant_id}_stat-effect_statmap.nii.gz"),
            *("--mask", "0.5", "--dtype", "float64"),
        )
        assert "one (float64), two (float64)" in told
        cohort = vx.open_cohort(tmp_path / "c.zarr")
        assert cohort["two"].dtype == np.float64
        assert cohort.attrs["provenance"]["mask"] == 0.5
        succeed(
            *("stack", study / "sim" / "participants.tsv", tmp_path / "c.zarr", "--map", "one=effect_path"),
            *("--mask", study / "sim" / "mask.nii.gz", "--overwrite", "--quiet"),
        )
        inside = nib.load(study / "sim" / "mask.nii.gz").get_fdata() > 0
        np.testing.assert_array_equal(vx.open_cohort(tmp_path / "c.zarr")["mask"], inside)

    def test_info(self, study: Path) -> None:
        told = succeed("info", study / "c.zarr")
        for part in (
            "9 (sub-0001, sub-0002, sub-0003 and 6 more)",
            "effect (float32)",
            "of 15 x 15 x 15 mm",
            "sex: F (5), M (4)",
        ):
            assert part in told
        told = succeed("info", study / "out" / "results.zarr")
        for part in ("age, men, both", "~ age + sex", "effect", "variance", "stat", "z_score", "p_value"):
            assert part in told

    def test_fit_gives_what_least_squares_gives(self, study: Path) -> None:
        table = pd.read_csv(study / "sim" / "participants.tsv", sep="\t")
        X = np.column_stack([np.ones(9), table["age"], table["sex"] == "M"]).astype(float)
        data = np.stack([nib.load(study / "sim" / path).get_fdata() for path in table["effect_path"]])
        inside = np.isfinite(data).all(axis=0)
        beta = np.linalg.lstsq(X, data[:, inside], rcond=None)[0]
        for name, column in (("age", 1), ("men", 2)):
            found = nib.load(study / "out" / f"contrast-{name}_stat-effect_statmap.nii.gz").get_fdata()
            np.testing.assert_allclose(found[inside], beta[column], rtol=1e-5, atol=1e-6)
            assert np.isnan(found[~inside]).all()
        names = set(maps(study / "out"))
        assert {"contrast-both_stat-F_statmap.nii.gz", "contrast-both_stat-F_statmap.json"} <= names
        assert len(names) == 2 * (5 + 5 + 3)
        assert not any("partial" in name for name in names)

    def test_fit_writes_the_same_as_the_functions(self, study: Path) -> None:
        fit = vx.fit_glm(vx.open_cohort(study / "c.zarr"), "~ age + sex")
        expected = vx.contrast(fit, {"age": "age", "men": "sex[T.M]", "both": ["age", "sex[T.M]"]}).compute()
        xr.testing.assert_identical(vx.open_results(study / "out" / "results.zarr").compute(), expected)

    def test_fit_passes_its_options_on(self, study: Path, tmp_path: Path) -> None:
        half = nib.load(study / "sim" / "mask.nii.gz")
        inside = half.get_fdata()
        inside[: inside.shape[0] // 2] = 0
        nib.Nifti1Image(inside.astype("uint8"), half.affine).to_filename(tmp_path / "half.nii")
        told = succeed(
            *("fit", study / "c.zarr", "--design", "~ age", "--contrast", "age", "--variable", "effect"),
            *("--missing", "available", "--alternative", "less", "--log10-p", "--mask", tmp_path / "half.nii"),
            *("--output", tmp_path / "out"),
        )
        assert "6 maps and results.zarr" in told
        result = vx.open_results(tmp_path / "out" / "results.zarr")
        np.testing.assert_array_equal(result["mask"], inside > 0)
        assert result.attrs["alternative"] == "less"
        assert result["dof"].dims == ("x", "y", "z")
        assert "contrast-age_stat-log10p_statmap.nii.gz" in maps(tmp_path / "out")
        told = json.loads((tmp_path / "out" / "contrast-age_stat-t_statmap.json").read_text())
        assert told["Alternative"] == "less"

    def test_demo_ends_with_what_was_found_against_what_was_put_in(self, tmp_path: Path) -> None:
        shown = process("demo", "--subjects", "6", "--output", tmp_path / "demo")
        assert shown.returncode == 0, shown.stderr
        files = [line.strip() for line in shown.stdout.splitlines() if line.startswith("  results/")]
        assert len(files) >= 11
        assert all((tmp_path / "demo" / file).exists() for file in files)
        _, title, comparison = shown.stdout.partition("Found against what was put in")
        assert title
        assert "left hippocampus" in comparison
        assert comparison.strip().splitlines()[-1].startswith("sex: |z| > 3.1 in ")
        assert "Traceback" not in shown.stderr
        assert vx.open_cohort(tmp_path / "demo" / "cohort.zarr").sizes["subject"] == 6


class TestSchedulers:
    def test_worker_processes_give_the_same_maps_as_threads(self, study: Path, tmp_path: Path) -> None:
        done = process(
            *("fit", study / "c.zarr", "--design", "~ age + sex", "--contrast", "age", "--contrast", "men=sex[T.M]"),
            *("--f-contrast", "both=age, sex[T.M]", "--output", tmp_path / "out", "--scheduler", "local:2"),
        )
        assert done.returncode == 0, done.stderr
        assert "Dask dashboard: http" in done.stderr
        assert maps(tmp_path / "out") == maps(study / "out")


class TestOutput:
    def test_warnings_are_one_line(self, tmp_path: Path) -> None:
        for i in range(3):
            values = np.random.default_rng(i).standard_normal((3, 3, 3)).astype("float32")
            values[0, 0, 0] = i
            nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / f"{i}.nii")
        (tmp_path / "p.csv").write_text("participant_id\n0\n1\n2\n")
        done = process("stack", tmp_path / "p.csv", tmp_path / "c.zarr", "--map", "m={participant_id}.nii", "--quiet")
        assert done.returncode == 0
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("Warning: 1 voxels of 'm'")
        assert line.endswith("(--zero-is-missing).")

    def test_progress_is_on_stderr_and_the_summary_on_stdout(self, study: Path, tmp_path: Path) -> None:
        arguments = ["stack", study / "sim" / "participants.tsv", tmp_path / "c.zarr", "--map", "effect=effect_path"]
        shown = CliRunner(env={"COLUMNS": "200"}).invoke(cli, list(map(str, arguments)), catch_exceptions=False)
        assert "1/1" in shown.stderr
        assert "stack" in shown.stderr
        assert "1/1" not in shown.stdout
        assert "9 (sub-0001" in shown.stdout


class TestMistakes:
    """Run by `main` itself, where errors become an exit code."""

    @pytest.fixture(autouse=True)
    def undo(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("stack {s}/sim/participants.tsv {t}/c", "(--map effect=effect_path)"),
            ("stack {s}/none.tsv {t}/c --map effect=effect_path", "There is no participants table {s}/none.tsv"),
            ("stack {s}/sim/participants.tsv {t}/c --map effect=paht", "'paht' is neither a column of the table"),
            ("stack {s}/sim/participants.tsv {t}/c --map effect", "write --map NAME=VALUE"),
            ("stack {s}/sim/participants.tsv {t}/c --map =effect_path", "write --map NAME=VALUE"),
            ("stack {s}/sim/participants.tsv {t}/c --map a=effect_path --map a=effect_path", "'a' was given twice"),
            ("stack {s}/sim/participants.tsv {t}/c --map a={{participant_id.nii", "participant_id.nii"),
            ("stack {s}/sim/participants.tsv {t}/c --map a=effect_path --label id", "no column 'id'"),
            ("stack {s}/sim/participants.tsv {t}/c --map a=effect_path --mask 1.5", "fraction must be above 0"),
            ("stack {s}/sim/participants.tsv {t}/c --map a=effect_path --mask {s}/no.nii", "no such file"),
            ("stack {s}/sim/participants.tsv {s}/c.zarr --map effect=effect_path", "exists already"),
            ("stack {s}/sim/participants.tsv {s}/sim --map effect=effect_path --overwrite", "other files in it"),
            ("fit {s}/none.zarr --design ~age --contrast age --output {t}/o", "There is no cohort at {s}/none.zarr"),
            ("fit {s}/sim --design ~age --contrast age --output {t}/o", "{s}/sim is not a voxstack cohort"),
            ("fit {s}/c.zarr --design ~age --contrast agee --output {t}/o", "agee"),
            ("fit {s}/c.zarr --design ~iq --contrast iq --output {t}/o", "iq"),
            ("fit {s}/c.zarr --design ~age+ --contrast age --output {t}/o", "~age+"),
            ("fit {s}/c.zarr --design ~age --output {t}/o", "No contrast was given"),
            ("fit {s}/c.zarr --design ~age --contrast age --variable no --output {t}/o", "no map 'no'"),
            ("fit {s}/c.zarr --design ~age --contrast age --output {s}/out", "results.zarr exists already"),
            ("fit {s}/c.zarr --design ~age --contrast age --output {t}/o --scheduler lokal", "no scheduler 'lokal'"),
            ("fit {s}/c.zarr --design ~age --contrast age --output {t}/o --scheduler local:0", "'local:0'"),
            ("fit {s}/c.zarr --design ~age --contrast age --output {t}/o --memory-limit much", "amount of memory"),
            ("info {s}/none.zarr", "There is no cohort or result at {s}/none.zarr"),
            ("info {s}/sim", "{s}/sim is not a voxstack cohort or result"),
            ("simulate {t}/sim --subjects 0", "at least one subject"),
            ("simulate {t}/sim --subjects 1 --resolution 0.1", "between 1 and 20"),
            ("simulate {t}/sim --subjects 1 --seed -1", "seed must be a whole number"),
            ("demo --subjects 2 --output {t}/demo", "at least 4 subjects"),
        ],
    )
    def test_one_paragraph_and_exit_code_2(
        self,
        study: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: str,
        says: str,
    ) -> None:
        before = maps(study / "out")
        words = [word.format(s=study, t=tmp_path) for word in arguments.split()]
        monkeypatch.setattr(sys, "argv", ["voxstack", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("Error: ")
        assert "\n\n" not in shown.err.rstrip()
        assert says.format(s=study, t=tmp_path) in shown.err
        assert "Traceback" not in shown.err
        assert list(tmp_path.iterdir()) == []
        assert maps(study / "out") == before

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("stak", "There is no command 'stak'; there are demo, simulate, stack, info, fit, permute, "),
            ("stack a.tsv", "Missing argument 'STORE'"),
            ("fit a.zarr --contrast age --output o", "Missing option '--design'"),
            ("fit a.zarr --design ~1 --contrast age --output o --missing some", "'some' is not one of"),
            ("info", "Missing argument 'STORE'"),
        ],
    )
    def test_wrong_usage_ends_with_exit_code_2(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, says: str
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["voxstack", *arguments.split()])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert says in " ".join(capsys.readouterr().err.split())

    def test_a_process_ends_without_a_traceback(self, tmp_path: Path) -> None:
        done = process("stack", tmp_path / "no.tsv", tmp_path / "c.zarr", "--map", "effect=path")
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == f"Error: There is no participants table {tmp_path / 'no.tsv'}.\n"

    def test_bad_images_are_all_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "p.csv").write_text("participant_id\n0\n1\n")
        (tmp_path / "0.nii").write_text("no image")
        words = ["stack", str(tmp_path / "p.csv"), str(tmp_path / "c.zarr"), "--map", "m={participant_id}.nii"]
        monkeypatch.setattr(sys, "argv", ["voxstack", *words])
        with pytest.raises(SystemExit, match="2"):
            main()
        told = capsys.readouterr().err
        assert "0.nii: not a NIfTI image" in told
        assert "1.nii: there is no such file" in told
        assert not (tmp_path / "c.zarr").exists()

    def test_results_are_replaced_where_asked(self, study: Path, tmp_path: Path) -> None:
        fit = ("fit", study / "c.zarr", "--design", "~ age", "--output", tmp_path / "out", "--quiet")
        succeed(*fit, "--contrast", "age")
        succeed(*fit, "--contrast", "older=2*age", "--overwrite")
        assert vx.open_results(tmp_path / "out" / "results.zarr")["contrast"].values.tolist() == ["older"]


class TestTextsOfUsers:
    """What users call things is printed as it is, not taken for rich's markup or emoji."""

    NAMES = ("[red]age[/red]", "[/]", ":smiley:", "[link=http://x.org]y[/link]")

    def test_of_a_cohort(self, tmp_path: Path) -> None:
        images = [nib.Nifti1Image(np.random.default_rng(i).random((3, 3, 3), "float32"), np.eye(4)) for i in range(4)]
        labels = ["[bold]one", "[/x]two", ":warning:", "four[0]"]
        table = pd.DataFrame({"participant_id": labels, "image": images, "site": list(self.NAMES)})
        folder = tmp_path / "[blue]study"
        vx.stack(table, folder / "c.zarr", maps={"effect": "image"})
        told = succeed("info", folder / "c.zarr")
        for text in (*labels[:3], *self.NAMES, str(folder)):
            assert text in told

    def test_of_a_result(self, tmp_path: Path) -> None:
        cohort = vx.from_arrays({"effect": np.random.default_rng(0).random((6, 3, 3, 3))}, affine=np.eye(4))
        fit = vx.fit_glm(cohort, "~ 1")
        vx.save_results(vx.contrast(fit, dict.fromkeys(self.NAMES, "Intercept")), tmp_path / "r.zarr")
        told = succeed("info", tmp_path / "r.zarr")
        for text in self.NAMES:
            assert text in told

    def test_of_the_demo(self, tmp_path: Path) -> None:
        folder = tmp_path / "[red]demo[/red]"
        told = succeed("demo", "--subjects", "4", "--output", folder)
        assert f"Everything is in {folder}" in told.replace("\n", " ")
