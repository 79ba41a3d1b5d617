"""Files that may not be read, and folders that may not be written.

Modes count for nothing with root, so the calls are made by a process that has given up root's right to pass over them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

import voxstack as vx
from both_ways import refusal, voxstack, whole
from small_cohorts import MAPS, content, noise, save
from voxstack.errors import StoreError

GIVE_UP = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
DENIED = "Permission denied"


def unreadable(folder: Path) -> None:
    """An image, a table, a mask and a store."""
    save(folder / "in", noise(4))
    table, store = folder / "in" / "participants.tsv", folder / "c.zarr"
    vx.stack(table, store, maps=MAPS)
    image, mask = folder / "in" / "sub-02_effect.nii.gz", folder / "in" / "mask.nii.gz"
    shutil.copy(image, mask)
    words = ("stack", table, store, "--map", "effect=path", "--overwrite", "--quiet")
    with whole(store):
        image.chmod(0)
        said = refusal(lambda: vx.stack(table, store, maps=MAPS, overwrite=True), *words)
        assert f"sub-02: {image}: cannot be read ({DENIED})" in said
        image.chmod(0o600)
        mask.chmod(0)
        masked = (*words, "--mask", mask)
        said = refusal(lambda: vx.stack(table, store, maps=MAPS, mask=mask, overwrite=True), *masked)
        assert f"{mask}: cannot be read ({DENIED})" in said
        table.chmod(0)
        said = refusal(lambda: vx.stack(table, store, maps=MAPS, overwrite=True), *words)
        assert f"table {table} cannot be read" in said
        assert DENIED in said
    (store / "zarr.json").chmod(0)
    code, out, error = voxstack("info", store)
    assert (code, out) == (2, "")
    assert DENIED in error
    assert str(store) in error


def unwritable(folder: Path) -> None:
    """The folder of a store or of results, which can be read all the same."""
    save(folder / "in", noise(4))
    table, closed = folder / "in" / "participants.tsv", folder / "closed"
    cohort = vx.stack(table, closed / "c.zarr", maps=MAPS)
    result = vx.contrast(vx.fit_glm(cohort, "~ 1"), "Intercept").compute()
    vx.save_results(result, closed / "out" / "results.zarr")
    before = content(closed)
    folders = [path for path in (closed, *closed.rglob("*")) if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    stack = ("stack", table, "--map", "effect=path", "--quiet")
    for said in (
        refusal(lambda: vx.stack(table, closed / "n.zarr", maps=MAPS), *stack, closed / "n.zarr"),
        refusal(
            lambda: vx.stack(table, closed / "c.zarr", maps=MAPS, overwrite=True),
            *stack,
            closed / "c.zarr",
            "--overwrite",
        ),
        refusal(lambda: vx.simulate_cohort(closed / "p", n_subjects=2), "simulate", closed / "p", "--subjects", "2"),
    ):
        assert str(closed) in said
        assert DENIED in said
    fit = ("fit", closed / "c.zarr", "--design", "~ 1", "--contrast", "Intercept", "--quiet", "--output")
    for output in (closed / "out", closed / "new"):
        code, out, error = voxstack(*fit, output, "--overwrite")
        assert (code, out) == (2, "")
        assert error.startswith(f"Error: {output} cannot be written: ")
        assert DENIED in error
        for write in (vx.write_maps, vx.save_results):
            with pytest.raises(StoreError, match=rf"{closed}.* cannot be written: .*{DENIED}"):
                write(result, output / "r")
    closed.chmod(0o755)  # now only the store itself may not be written
    said = refusal(
        lambda: vx.stack(table, closed / "c.zarr", maps=MAPS, overwrite=True), *stack, closed / "c.zarr", "--overwrite"
    )
    assert DENIED in said
    assert content(closed) == before
    assert voxstack(*fit, folder / "out") == (0, "", "")
    xr.testing.assert_identical(vx.open_results(folder / "out" / "results.zarr").compute(), result)
    for path in folders:
        path.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no modes on Windows")
def test_what_is_not_permitted(tmp_path: Path) -> None:
    root = os.geteuid() == 0
    if root and shutil.which("setpriv") is None:
        pytest.skip("root may read and write everything, and there is no setpriv to give that up")
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run([*GIVE_UP, *command] if root else command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    unreadable(Path(sys.argv[1]) / "one")
    unwritable(Path(sys.argv[1]) / "other")
