"""The examples run, and hold what they find against what is known."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

import voxstack as vx

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_script(name: str, folder: Path, *arguments: str | Path) -> str:
    """Run an example in a process of its own, warnings as errors; its output."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    environment = os.environ | {"MPLBACKEND": "Agg"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wager2008_finds_the_published_slopes(data_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    output = tmp_path / "results"
    said = run_script("wager2008.py", tmp_path, data_folder.resolve(), output)
    assert "30 subjects" in said

    published = nib.load(data_folder / "wager2008" / "X-M_effect.img")
    written = nib.load(output / "maps" / "contrast-X_stat-effect_statmap.nii.gz")
    np.testing.assert_allclose(written.affine, published.affine, atol=1e-5)
    values = published.get_fdata().squeeze()
    defined = np.isfinite(values) & (values != 0)
    np.testing.assert_allclose(written.get_fdata()[defined], values[defined], atol=1e-6)
    assert vx.open_results(output / "maps" / "results.zarr").contrast.values.tolist() == ["X"]
    assert (output / "slope.png").stat().st_size > 10_000


def test_wager2008_report_tells_what_its_table_and_page_hold(data_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    output = tmp_path / "results"
    said = run_script("wager2008_report.py", tmp_path, data_folder.resolve(), output)
    told = re.search(r"mean: ([\d,]+) of [\d,]+ voxels are significant", said)
    assert told is not None
    table = pd.read_csv(output / "clusters.tsv", sep="\t")
    assert table["n_voxels"].sum() == int(told[1].replace(",", ""))
    bound = re.search(r"(\d+) voxels, (\d+) or more active", said)
    assert bound is not None
    assert 0 <= int(bound[2]) <= int(bound[1])
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Reappraisal of negative pictures" in page
    assert str(tmp_path) not in page


def t_of_first(model: NDArray[np.float64], y: NDArray[np.float64], dof: int) -> NDArray[np.float64]:
    """t of the first of the orthonormal regressors (2, n), by definition."""
    products = model @ y
    return products[0] / np.sqrt(((y**2).sum(axis=0) - (products**2).sum(axis=0)) / dof)


def test_wager2008_permutation_agrees_with_relabellings_of_our_own(
    data_folder: Path, wager_table: pd.DataFrame, tmp_path: Path
) -> None:
    output = tmp_path / "results"
    said = run_script("wager2008_permutation.py", tmp_path, data_folder.resolve(), output)
    assert "Intercept: 400 relabellings (flip)" in said
    assert "X: 400 relabellings (permute)" in said

    Y = np.array([nib.load(path).get_fdata().squeeze() for path in wager_table["path"]])
    inside = np.isfinite(Y).all(axis=0) & (Y != 0).any(axis=0)
    tests = vx.open_results(output / "maps" / "results.zarr")
    np.testing.assert_array_equal(tests["mask"], inside)

    X = wager_table["X"].to_numpy() - wager_table["X"].mean()
    mean, slope = np.full(30, 30**-0.5), X / np.linalg.norm(X)
    draws = np.random.default_rng(0).random((200, 30))
    flipped = [np.sign(draw - 0.5) * [mean, slope] for draw in draws]
    permuted = [np.array([slope, mean])[:, np.argsort(draw)] for draw in draws]
    for name, pair, relabelled in (("Intercept", [mean, slope], flipped), ("X", [slope, mean], permuted)):
        test = tests.sel(contrast=name)
        observed = t_of_first(np.array(pair), Y[:, inside], 28)
        np.testing.assert_allclose(test.stat.values[inside], observed, rtol=1e-6, atol=1e-9)
        written = nib.load(output / "maps" / f"contrast-{name}_stat-t_statmap.nii.gz").get_fdata()
        np.testing.assert_allclose(written[inside], observed, rtol=1e-5)

        null = test.null_max.sel(statistic="voxel").values
        top = np.argsort(-np.abs(observed))[:1000]
        p = (null > np.abs(observed[top, None]) - 1e-6).mean(axis=1)
        np.testing.assert_allclose(test.voxel_p_fwe.values[inside][top], p)

        # Freedman and Lane: residuals of the model without what is tested. The largest |t| of relabellings, the
        # example's and ours, are two samples of one distribution.
        y = Y[:, inside] - np.outer(pair[1], pair[1] @ Y[:, inside])
        ours = [np.abs(t_of_first(model, y, 28)).max() for model in relabelled]
        assert stats.ks_2samp(null[1:], ours).pvalue > 0.01


@pytest.mark.parametrize("script", ["wager2008.py", "wager2008_permutation.py"])
def test_wager2008_says_what_is_missing(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / script), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "VOXSTACK_DATA" in done.stderr
    assert "Traceback" not in done.stderr


def test_simulated_cohort_recovers_its_truth(tmp_path: Path) -> None:
    said = run_script("simulated_cohort.py", tmp_path)
    (voxels,) = re.findall(r"available: (\d+)", said)
    assert int(voxels) == 6 * 7 * 8
    assert not list(tmp_path.iterdir())


def execute(name: str, folder: Path, *, seconds: int) -> Any:
    """A notebook after it has run in a folder of its own."""
    for needed in ("ipykernel", "nilearn"):
        pytest.importorskip(needed)
    nbclient = pytest.importorskip("nbclient")
    notebook = saved(name)
    folder.mkdir()
    nbclient.NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def saved(name: str) -> Any:
    """A notebook as it is kept."""
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    return notebook


def kinds(notebook: Any) -> list[list[set[str]]]:
    """Of each cell the kinds of its outputs."""
    cells = [cell.get("outputs", []) for cell in notebook.cells]
    return [[set(output.get("data", [output.get("name")])) for output in outputs] for outputs in cells]


@pytest.mark.usefixtures("kernel_folders")
def test_tour_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = execute("tour.ipynb", tmp_path / "work", seconds=120)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]
    shown = [kind for output in outputs for kind in output.get("data", {})]
    assert shown.count("image/png") == 3
    assert shown.count("text/html") >= 4, "datasets and tables show as HTML"
    assert nib.load(tmp_path / "work/tour/maps/contrast-age_stat-t_statmap.nii.gz").shape == (46, 55, 46)


def test_tour_is_kept_without_outputs() -> None:
    cells = [cell for cell in saved("tour.ipynb").cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.usefixtures("kernel_folders")
def test_cluster_survives_a_kill_and_an_interruption(tmp_path: Path) -> None:
    """What is found, the kill, the interruption and the equality of bits are asserted in the notebook itself."""
    notebook = execute("cluster.ipynb", tmp_path / "work", seconds=300)
    assert kinds(notebook) == kinds(saved("cluster.ipynb")), KEEP
    assert nib.load(tmp_path / "work/cluster/maps/contrast-age_stat-tfce_desc-fwe_p.nii.gz").shape == (46, 55, 46)


KEEP = "run jupyter execute --inplace examples/cluster.ipynb, and look at what it shows"


def test_cluster_is_kept_with_the_outputs_of_one_run() -> None:
    cells = [cell for cell in saved("cluster.ipynb").cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), KEEP
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert "stderr" not in [output.get("name") for output in outputs]
    bars = [output.data["text/plain"] for output in outputs if "━" in output.get("data", {}).get("text/html", "")]
    assert [re.sub(r" .*", "", bar) for bar in bars] == [
        "simulate", "stack", "compute", "voxels", "maps", "voxels", "maps", "maps",
    ]  # fmt: skip
    assert [re.search(r"(in|stopped after) [\d.]+ s", bar)[1] for bar in bars] == 6 * ["in"] + ["stopped after", "in"]


def test_cluster_is_kept_without_traces_of_a_machine() -> None:
    cells = [cell for cell in saved("cluster.ipynb").cells if cell.cell_type == "code"]
    text = ""
    for output in [output for cell in cells for output in cell.outputs]:
        shown = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
        text += "\n".join([output.get("text", ""), *shown.values()])
    assert "http://127.0.0.1:" in text
    assert not re.findall(r"(?<![\w.:/<])/(?:home|root|tmp|work|usr|opt|var|Users|mnt|private)\b.*|[A-Z]:\\.*", text)
    assert set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)) == {"127.0.0.1"}
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
