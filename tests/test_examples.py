"""The examples run, and hold what they find against what is known."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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


def test_wager2008_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "wager2008.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "VOXSTACK_DATA" in done.stderr
    assert "Traceback" not in done.stderr


def test_simulated_cohort_recovers_its_truth(tmp_path: Path) -> None:
    said = run_script("simulated_cohort.py", tmp_path)
    (voxels,) = re.findall(r"available: (\d+)", said)
    assert int(voxels) == 6 * 7 * 8
    assert not list(tmp_path.iterdir())


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter's files go into a folder of their own."""
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))


@pytest.mark.usefixtures("kernel")
def test_tour_runs_from_top_to_bottom(tmp_path: Path) -> None:
    pytest.importorskip("ipykernel")
    pytest.importorskip("nilearn")
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    folder = tmp_path / "work"
    folder.mkdir()
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") == 3
    assert kinds.count("text/html") >= 4, "datasets and tables show as HTML"
    assert nib.load(folder / "tour/maps/contrast-age_stat-t_statmap.nii.gz").shape == (46, 55, 46)


def test_tour_is_kept_without_outputs() -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
