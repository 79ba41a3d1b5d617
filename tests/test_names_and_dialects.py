"""What has to work: spaces and letters of any alphabet in all names, and tables as spreadsheets write them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from both_ways import voxstack
from small_cohorts import AFFINE, content, noise, read_participants, save
from voxstack.errors import InputError

LABELS = ["Zoë 1", "Åse", "李 03", "ß", "Ďábel", "é"]
AGES = [20.5, 31, 22, 43.25, 34, 55]


def write(folder: Path, *, table: str, column: str, ages: str, labels: list[str], image: str) -> pd.DataFrame:
    """Six subjects under any names."""
    paths = save(folder, noise(6))["path"]
    names = [image.format(label) for label in labels]
    for old, new in zip(paths, names, strict=True):
        (folder / old).rename(folder / new)
    (folder / paths[0]).with_name("participants.tsv").unlink()
    people = pd.DataFrame({"participant_id": labels, column: names, ages: AGES, "Ort": ["Köln", "北京"] * 3})
    people.to_csv(folder / table, sep="," if table.endswith(".csv") else "\t", index=False)
    return people


def analysed(folder: Path, table: str, store: str, map_spec: str, ages: str, contrast: str, output: str) -> xr.Dataset:
    """Stack, look at and fit, with paths that start at the current folder."""
    assert voxstack("stack", table, store, "--map", map_spec, "--mask", folder / "mask é.nii", "--quiet") == (0, "", "")
    code, told, error = voxstack("info", store)
    assert (code, error) == (0, "")
    assert ages in told
    fit = ("fit", store, "--design", f"~ {ages} + Ort", "--contrast", f"{contrast}={ages}", "--quiet")
    assert voxstack(*fit, "--mask", folder / "mask é.nii", "--output", output) == (0, "", "")
    return vx.open_results(folder / output / "results.zarr").compute()


def test_names_of_any_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd, plain = tmp_path / "Ärzte & Söhne" / "été 北京 #1", tmp_path / "plain"
    results = []
    for folder in (odd, plain):
        save(folder, np.ones((1, 4, 5, 3), "float32"))
        (folder / "sub-00_effect.nii.gz").rename(folder / "mask é.nii")
    people = write(
        odd, table="Tabelle ä.csv", column="Bild (µ)", ages="größe", labels=LABELS, image="Karte ü {}.nii.gz"
    )
    monkeypatch.chdir(odd)
    for spec, store in (("Dicke µ=Bild (µ)", "Kohorte €.zarr"), ("Dicke µ=Karte ü {participant_id}.nii.gz", "無題")):
        results.append(analysed(odd, "Tabelle ä.csv", store, spec, "größe", "Größe in cm", f"Ergebnisse {store}"))
        cohort = vx.open_cohort(store)
        assert cohort["subject"].values.tolist() == LABELS
        assert cohort["größe"].values.tolist() == AGES
        assert cohort["Ort"].values.tolist() == people["Ort"].tolist()
        np.testing.assert_array_equal(cohort["Dicke µ"], noise(6))
        maps = {path.name for path in (odd / f"Ergebnisse {store}").glob("*.nii.gz")}
        assert {
            f"contrast-Größeincm_stat-{stat}_statmap.nii.gz" for stat in ("t", "z", "p", "effect", "variance")
        } == maps
    write(plain, table="p.csv", column="path", ages="age", labels=list("abcdef"), image="{}.nii.gz")
    monkeypatch.chdir(plain)
    expected = analysed(plain, "p.csv", "c.zarr", "effect=path", "age", "age", "out")
    for result in results:
        xr.testing.assert_equal(result.assign_coords(contrast=["age"]), expected)


def test_letters_that_standard_output_does_not_have(tmp_path: Path) -> None:
    """Such as where Windows redirects it to a file, or a cluster's nodes have no locale."""
    write(tmp_path, table="p.tsv", column="path", ages="größe", labels=LABELS, image="{}.nii.gz")
    vx.stack(tmp_path / "p.tsv", tmp_path / "c.zarr", maps={"effect": "path"})
    command = [sys.executable, "-c", "from voxstack.cli import main; main()", "info", str(tmp_path / "c.zarr")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe: 20.5 to 55" in done.stdout


PLAIN = (
    "participant_id\tage\tsex\tnote\tpath\n"
    "sub-00\t20\tF\t\tsub-00_effect.nii.gz\n"
    "sub-01\t\tM\tça va\tsub-01_effect.nii.gz\n"
    "sub-02\t31.5\tM\t\tsub-02_effect.nii.gz\n"
)
DIALECTS: dict[str, bytes] = {
    "byte order mark": PLAIN.encode("utf-8-sig"),
    "Windows line ends": PLAIN.replace("\n", "\r\n").encode(),
    "old Mac line ends": PLAIN.replace("\n", "\r").encode(),
    "no line end at the end": PLAIN.rstrip("\n").encode(),
    "blank lines at the end": (PLAIN + "\n\r\n").encode(),
    "n/a": PLAIN.replace("\t\t", "\tn/a\t").encode(),
    "NA and NaN": PLAIN.replace("01\t\t", "01\tNA\t").replace("\t\t", "\tNaN\t").encode(),
    "spaces around cells": PLAIN.replace("\t\t", "\tn/a\t").replace("\t", " \t ").replace("\n", "  \n").encode(),
    "quoted cells": PLAIN.replace("F", '"F"').replace("M", '"M"').replace("ça va", '"ça va"').encode(),
    "all that a spreadsheet does": PLAIN.replace("\t\t", "\tn/a\t").replace("\n", "\r\n").encode("utf-8-sig"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The store of the plain table."""
    folder = tmp_path_factory.mktemp("plain")
    save(folder, noise(3))
    (folder / "participants.tsv").write_bytes(PLAIN.encode())
    cohort = vx.stack(folder / "participants.tsv", folder / "c.zarr", maps={"effect": "path"})
    np.testing.assert_array_equal(cohort["age"], [20, np.nan, 31.5])
    assert cohort["sex"].values.tolist() == ["F", "M", "M"]
    assert cohort["note"].values[1] == "ça va"
    return content(folder / "c.zarr")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_in_another_dialect_makes_the_same_store(dialect: str, plain: dict[str, bytes], tmp_path: Path) -> None:
    save(tmp_path, noise(3))
    (tmp_path / "participants.tsv").write_bytes(DIALECTS[dialect])
    words = ("stack", tmp_path / "participants.tsv", tmp_path / "c.zarr", "--map", "effect=path", "--quiet")
    assert voxstack(*words) == (0, "", "")
    assert content(tmp_path / "c.zarr") == plain


def test_identifiers_of_many_digits_are_kept_as_they_are_written(tmp_path: Path) -> None:
    """float64 would change those above 2^53, int64 those above 2^63."""
    save(tmp_path, noise(4))
    (tmp_path / "p.tsv").write_text(
        "participant_id\tscan\tvisit\tcount\tsize\tpath\n"
        f"001\t{2**63 + 1}\tn/a\t{2**53 + 1}\t1e300\tsub-00_effect.nii.gz\n"
        f"002\t7\t{2**53 + 1}\t1\tn/a\tsub-01_effect.nii.gz\n"
        f"0010\t8\t12345678901234567\t2\t0.5\tsub-02_effect.nii.gz\n"
        f"1e3\t9\t4\t3\t1\tsub-03_effect.nii.gz\n"
    )
    cohort = vx.stack(tmp_path / "p.tsv", tmp_path / "c.zarr", maps={"effect": "path"})
    assert cohort["subject"].values.tolist() == ["001", "002", "0010", "1e3"]
    assert cohort["scan"].values.tolist() == [str(2**63 + 1), "7", "8", "9"]
    assert cohort["visit"].values.tolist()[1:] == [str(2**53 + 1), "12345678901234567", "4"]
    assert cohort["count"].values.tolist() == [2**53 + 1, 1, 2, 3]
    np.testing.assert_array_equal(cohort["size"], [1e300, np.nan, 0.5, 1])


@pytest.mark.parametrize(("dtype", "kept"), [("uint64", 2**63 - 1), ("Int64", 2**53 - 1)])
def test_whole_numbers_that_would_change_become_text(dtype: str, kept: int) -> None:
    maps = {"effect": noise(3)}
    for largest, texts in ((kept, False), (kept + 2, True)):
        numbers = pd.Series([1, 2 if dtype == "uint64" else None, largest], dtype=dtype)
        cohort = vx.from_arrays(maps, affine=AFFINE, participants=pd.DataFrame({"number": numbers}))
        found = cohort["number"].values
        assert (found.dtype.kind in "UO") == texts
        assert (int(found[2]) if texts else int(found[2].item())) == largest


def test_complex_covariates_are_refused() -> None:
    table = pd.DataFrame({"phase": [1j, 2, 3]})
    with pytest.raises(InputError, match="'phase' holds complex numbers"):
        vx.from_arrays({"effect": noise(3)}, affine=AFFINE, participants=table)


@pytest.mark.parametrize("text", ["a\0", "\udc80"], ids=["NUL", "half a surrogate pair"])
def test_text_that_a_store_would_change_is_refused(text: str, tmp_path: Path) -> None:
    table = save(tmp_path, noise(3)).assign(path=lambda t: [str(tmp_path / path) for path in t["path"]])
    for wrong, says in (
        (table.assign(participant_id=["a", "b", text]), "participant_id"),
        (table.assign(site=["a", "b", text]), "'site' holds"),
        (table.assign(**{text: 1.0}), "cannot be called"),
    ):
        with pytest.raises(InputError, match=says):
            vx.stack(wrong, tmp_path / "c.zarr", maps={"effect": "path"})
    assert not (tmp_path / "c.zarr").exists()


def test_columns_of_large_tables_are_of_one_kind(tmp_path: Path) -> None:
    """pandas reads wide tables in pieces of some hundred rows, and might take 1 for 1.0 in some of them."""
    rows = [f"s{i}\t{'n/a' if i == 5 else '1' if i < 290 else 'b'}" + 4096 * "\t" for i in range(300)]
    header = "participant_id\tsite\t" + "\t".join(f"q{i}" for i in range(4096))
    (tmp_path / "p.tsv").write_text("\n".join([header, *rows]))
    table, _ = read_participants(tmp_path / "p.tsv", "participant_id")
    assert table["site"].value_counts().to_dict() == {"1": 289, "b": 10}
