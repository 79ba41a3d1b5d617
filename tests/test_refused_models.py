"""Models, contrasts and stores that cannot be had: the same paragraph in Python and on the command line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import xarray as xr

import voxstack as vx
from both_ways import refusal, voxstack, whole
from small_cohorts import AFFINE, SHAPE, content, noise, save
from voxstack.errors import DesignError, InputError, StoreError


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, the folder of a fit, and masks."""
    study = tmp_path_factory.mktemp("study")
    table = save(study / "maps", noise(8)).assign(age=np.arange(8.0) ** 2, sex=list("FMMFFMFM"))
    table["iq"] = [100.0, 90, np.nan, 120, np.nan, 80, 95, 111]
    table["dose"] = [1.0, 2, 3, np.inf, 5, 6, 7, 9]
    table.to_csv(study / "maps" / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    vx.stack(study / "maps" / "participants.tsv", study / "c.zarr", maps={"effect": "path"})
    vx.stack(study / "maps" / "participants.tsv", study / "two.zarr", maps={"one": "path", "other": "path"})
    code, _, error = voxstack(
        *("fit", study / "c.zarr", "--design", "~ age", "--contrast", "age", "--output", study / "out", "--quiet")
    )
    assert code == 0, error
    for name, value, shift in (("empty", 0, 0), ("elsewhere", 1, 500)):
        mask = nib.Nifti1Image(np.full(SHAPE, value, "uint8"), AFFINE + np.eye(4, k=3) * shift)
        mask.to_filename(study / f"{name}.nii")
    (study / "text.nii").write_text("no image")
    return study


def fitted(store: Path, design: str, contrast: str, **options: Any) -> xr.Dataset:
    return vx.contrast(vx.fit_glm(vx.open_cohort(store), design, **options), contrast)


MODELS: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("~ iq", "iq", {}, ("iq is missing for 2 subjects: sub-02, sub-04", "--drop-missing")),
    ("~ dose", "dose", {}, ("dose is infinite for sub-03", "mark it as missing")),
    ("~ np.log(age)", "Intercept", {}, ("missing or infinite values in np.log(age) for sub-00",)),
    ("~ agee", "agee", {}, ("'~ agee' uses agee", "It has: age, dose, iq, sex")),
    ("~ age + ", "age", {}, ("'~ age + ' cannot be read",)),
    ("~ age", "sex", {}, ("'sex' is not a regressor", "The regressors are: Intercept, age")),
    ("~ age", "age - sex", {}, ("'age - sex' is not a regressor", "The regressors are: Intercept, age")),
    ("~ age", "age", {"variable": "thickness"}, ("no map 'thickness'", "It has: effect")),
    ("~ C(age)", "Intercept", {}, ("rank 8 and the cohort 8 subjects", "Use fewer than 8 independent regressors")),
    ("~ bs(age, df=5) * sex", "Intercept", {}, ("no degrees of freedom are left", "Use fewer than 8")),
    ("~ age", "age", {"mask": "empty.nii"}, ("empty.nii is empty or does not overlap", "4 x 5 x 3 voxels")),
    ("~ age", "age", {"mask": "elsewhere.nii"}, ("elsewhere.nii is empty or does not overlap", "first voxel at")),
    ("~ age", "age", {"mask": "gone.nii"}, ("gone.nii: there is no such file",)),
    ("~ age", "age", {"mask": "text.nii"}, ("text.nii: not a NIfTI image",)),
    ("~ age", "age", {"mask": "maps"}, ("maps: no image format ends like this", ".nii.gz")),
    ("~ age", "age", {"missing": "available", "min_subjects": 9}, ("min_subjects is 9", "only 8 subjects")),
]


@pytest.mark.parametrize(("design", "contrast", "options", "says"), MODELS, ids=lambda value: str(value)[:30])
def test_models(design: str, contrast: str, options: dict[str, Any], says: tuple[str, ...], study: Path) -> None:
    if "mask" in options:
        options = {"mask": str(study / options["mask"])}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    before = content(study / "out")
    with whole(study / "c.zarr"), whole(study / "out" / "results.zarr"):
        said = refusal(
            lambda: fitted(study / "c.zarr", design, contrast, **options),
            *("fit", study / "c.zarr", "--design", design, "--contrast", contrast, *words),
            *("--output", study / "out", "--overwrite", "--quiet"),
        )
    assert all(part in said for part in says), said
    assert content(study / "out") == before


def test_one_of_several_maps_has_to_be_chosen(study: Path) -> None:
    words = ("--design", "~ age", "--contrast", "age", "--output", study / "new")
    said = refusal(lambda: fitted(study / "two.zarr", "~ age", "age"), "fit", study / "two.zarr", *words)
    assert "has the maps one, other. Say which one" in said
    assert not (study / "new").exists()


def test_subjects_without_a_row_in_the_design_are_named(study: Path) -> None:
    cohort = vx.open_cohort(study / "c.zarr")
    table = cohort[["age"]].to_dataframe()[["age"]].assign(one=1.0)
    with pytest.raises(DesignError, match=r"no row for sub-01, sub-06\.$"):
        vx.fit_glm(cohort, table.drop(index=["sub-01", "sub-06"]))
    with pytest.raises(DesignError, match=r"no row for sub-00, .* and 3 more\. .*set the labels as its index"):
        vx.fit_glm(cohort, table.reset_index(drop=True))


def attribute(**new: Any) -> Callable[[Path], None]:
    """Change the root's attributes."""

    def change(store: Path) -> None:
        root = json.loads((store / "zarr.json").read_text())
        root["attributes"] |= new
        (store / "zarr.json").write_text(json.dumps(root))

    return change


STORES: list[tuple[str, Callable[[Path], object], str]] = [
    ("a newer schema", attribute(schema_version=99), "newer voxstack (schema 99"),
    ("another schema", attribute(schema_version="2a"), "newer voxstack (schema 2a"),
    ("another kind", attribute(kind="atlas"), "is not a voxstack cohort"),
    ("no metadata", lambda store: (store / "zarr.json").unlink(), "{store}"),
    ("a file", lambda store: (shutil.rmtree(store), store.write_text("mine")), "{store}"),
    ("a folder of something else", lambda store: (shutil.rmtree(store), save(store, noise(1))), "{store}"),
]


@pytest.mark.parametrize(("change", "says"), [store[1:] for store in STORES], ids=[store[0] for store in STORES])
def test_what_is_no_cohort_of_this_version(
    change: Callable[[Path], object], says: str, study: Path, tmp_path: Path
) -> None:
    """Nobody reads it, appends to it or writes over it."""
    store, table = tmp_path / "c.zarr", study / "maps" / "participants.tsv"
    shutil.copytree(study / "c.zarr", store)
    change(store)
    before = content(tmp_path)
    code, out, error = voxstack("info", store)
    assert (code, out) == (2, "")
    fit = ("fit", store, "--design", "~ age", "--contrast", "age", "--output", tmp_path / "out", "--quiet")
    said = [error, refusal(lambda: fitted(store, "~ age", "age"), *fit)]

    def stack(**goal: bool) -> object:
        return vx.stack(table, store, maps={"effect": "path"}, **goal)

    words = ("stack", table, store, "--map", "effect=path", "--quiet")
    said.append(refusal(lambda: stack(append=True), *words, "--append"))
    said.append(refusal(lambda: stack(overwrite=True), *words, "--overwrite"))
    assert all(says.format(store=store) in text for text in said), said
    assert content(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("name", "change"), [(store[0], store[1]) for store in STORES], ids=[s[0] for s in STORES])
def test_what_is_no_result_of_this_version(
    name: str, change: Callable[[Path], object], overwrite: bool, study: Path, tmp_path: Path
) -> None:
    shutil.copytree(study / "out", tmp_path / "out")
    change(tmp_path / "out" / "results.zarr")
    before = content(tmp_path)
    words = ("--design", "~ age", "--contrast", "age", "--output", tmp_path / "out", "--quiet")
    code, out, error = voxstack("fit", study / "c.zarr", *words, *(["--overwrite"] if overwrite else []))
    assert (code, out) == (2, "")
    assert error.startswith("Error: ")
    result = vx.open_results(study / "out" / "results.zarr")
    with pytest.raises(StoreError) as refused:
        vx.save_results(result, tmp_path / "out" / "results.zarr", overwrite=overwrite)
    assert error == f"Error: {refused.value}\n"
    if not overwrite and name != "a file":
        assert f"{tmp_path / 'out' / 'results.zarr'} exists already" in error
    elif "schema" in name:
        assert "newer voxstack" in error
    assert content(tmp_path) == before


def test_results_in_a_cohort_are_refused(study: Path, tmp_path: Path) -> None:
    fit = ("fit", study / "c.zarr", "--design", "~ age", "--contrast", "age", "--quiet")
    (tmp_path / "link").symlink_to(study / "c.zarr")
    with whole(study / "c.zarr"):
        for folder in (study / "c.zarr", study / "c.zarr" / "new" / "er", tmp_path / "link" / "new"):
            code, _, error = voxstack(*fit, "--output", folder)
            assert code == 2
            assert f"would lie in the store {study / 'c.zarr'}, which removes what is not its own. Choose" in error


@pytest.mark.parametrize(
    ("place", "says"),
    [("file", "File exists"), ("file/below", "Not a directory"), ("a" * 300, "too long"), ("loop", "symbolic|exists")],
    ids=["a file", "below a file", "300 letters", "symbolic links in a circle"],
)
def test_places_that_are_no_folder(place: str, says: str, study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = str(tmp_path / place)
    words = ("fit", study / "c.zarr", "--design", "~ age", "--contrast", "age", "--output", place, "--quiet")
    code, out, error = voxstack(*words)
    assert (code, out) == (2, "")
    assert error.startswith(f"Error: {place}")
    result = vx.open_results(study / "out" / "results.zarr")
    with pytest.raises(StoreError, match=rf"{place} cannot be written: .*({says}).*call again"):
        vx.write_maps(result, place)
    with pytest.raises(StoreError, match=place):
        vx.save_results(result, f"{place}/r.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_place_of_a_map_leaves_the_others_as_they_were(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "out", tmp_path / "out")
    sidecar = tmp_path / "out" / "contrast-age_stat-z_statmap.json"
    sidecar.unlink()
    sidecar.mkdir()
    before = content(tmp_path)
    words = ("--design", "~ age + sex", "--contrast", "age", "--output", tmp_path / "out", "--overwrite", "--quiet")
    code, _, error = voxstack("fit", study / "c.zarr", *words)
    assert code == 2
    assert f"{sidecar} is a folder" in error
    assert content(tmp_path) == before


LARGEST = np.iinfo(np.int32).max


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (LARGEST, "int64", True),
        (LARGEST + 1, "int64", False),
        (-LARGEST - 1, "int64", True),
        (-LARGEST - 2, "int64", False),
        (2**63, "uint64", False),
        (2**32 - 1, "uint32", True),
    ],
)
def test_whole_numbers_beyond_those_of_nifti(value: int, dtype: str, fits: bool) -> None:
    data = xr.DataArray(
        np.full(SHAPE, value, dtype), coords=vx.from_arrays({"a": noise(1)}, affine=AFFINE)["mask"].coords
    )
    if fits:
        assert np.asarray(vx.to_nifti(data).dataobj)[0, 0, 0] == value
    else:
        with pytest.raises(InputError, match=r"beyond int32.*Convert it to float64 first"):
            vx.to_nifti(data)
