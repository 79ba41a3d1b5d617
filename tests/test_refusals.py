"""What cannot be stacked: the same paragraph in Python and on the command line, and the store is whole.

Each mistake is made while appending to a cohort or overwriting it. One that only reading the images tells is made in
both, and when it is put right the call does what it would have done without it, byte for byte.
"""

import gzip
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

import voxstack as vx
from both_ways import refusal, whole
from small_cohorts import AFFINE, content, noise, save
from voxstack.errors import InputError

SHAPE = (12, 13, 11)
GOALS = ("append", "overwrite")
IMAGE, TABLE = "new-02_effect.nii.gz", "participants.tsv"
PATTERN = "{participant_id}_effect.nii.gz"


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a folder of five subjects, new-00 to new-04, or with how it is stacked.

    Attributes
    ----------
    says
        Of the message, in this order: what was found, where, and what to do.
    damage
        Does it to a folder.
    options
        Of `stack`; {folder} in a text stands for the folder.
    begun
        Only reading the images tells, so others may have been written.
    """

    says: tuple[str, ...]
    damage: Callable[[Path], object] = lambda folder: None
    options: dict[str, Any] | None = None
    begun: bool = False


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, new subjects for it, and what stacking them makes of it."""
    study = tmp_path_factory.mktemp("study")
    for folder, label, seed in (("old", "sub", 0), ("new", "new", 1)):
        table = save(study / folder, noise(5, SHAPE, seed)).assign(age=range(20, 25))
        for path in (study / folder).glob("*.nii.gz"):
            path.rename(path.with_name(path.name.replace("sub", label)))
        table["participant_id"] = [f"{label}-{i:02d}" for i in range(5)]
        table["path"] = [f"{label}-{i:02d}_effect.nii.gz" for i in range(5)]
        table.to_csv(study / folder / TABLE, sep="\t", index=False)
    vx.stack(study / "old" / TABLE, study / "old.zarr", maps={"effect": "path"})
    for goal in GOALS:
        shutil.copytree(study / "old.zarr", study / f"{goal}.zarr")
        vx.stack(study / "new" / TABLE, study / f"{goal}.zarr", maps={"effect": "path"}, **{goal: True})
    return study


def check(mistake: Mistake, goal: str, study: Path, folder: Path) -> None:
    """Make a mistake in a copy of the study; then put it right, if it has left something behind."""
    shutil.copytree(study / "new", folder / "new")
    shutil.copytree(study / "old.zarr", folder / "c.zarr")
    mistake.damage(folder / "new")
    table, store = folder / "new" / TABLE, folder / "c.zarr"
    texts = {name: text.replace("{folder}", str(folder / "new")) for name, text in (mistake.options or {}).items()}
    name, spec = texts.pop("map", "effect=path").split("=", 1)
    words = ["stack", table, store, "--map", f"{name}={spec}", f"--{goal}", "--quiet"]
    words += [word for option, text in texts.items() for word in (f"--{option}", text)]
    if "mask" in texts and texts["mask"].replace(".", "").isdecimal():
        texts["mask"] = float(texts["mask"])
    with whole(store, begun=mistake.begun):
        said = refusal(lambda: vx.stack(table, store, maps={name: spec}, **{goal: True}, **texts), *words)
    at = 0
    for part in mistake.says:
        part = part.replace("{folder}", str(folder / "new"))
        assert part in said[at:], said
        at = said.index(part, at) + len(part)
    assert not list(folder.glob("*.lock"))
    if not mistake.begun:
        return
    shutil.rmtree(folder / "new")
    shutil.copytree(study / "new", folder / "new")
    vx.stack(table, store, maps={"effect": "path"}, **{goal: True})
    assert content(store) == content(study / f"{goal}.zarr")


def edited(old: str, new: str) -> Callable[[Path], object]:
    """The table with a text in place of another one."""

    def damage(folder: Path) -> None:
        before = (folder / TABLE).read_text()
        assert old in before
        (folder / TABLE).write_bytes(before.replace(old, new).encode())

    return damage


def table_of(data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / TABLE).write_bytes(data)


def image_of(
    values: NDArray[Any], affine: NDArray[Any] = AFFINE, **header: tuple[int, str, Any]
) -> Callable[[Path], object]:
    """Another image, and bytes of its header: where they are, their format, and what to write there."""

    def damage(folder: Path) -> None:
        whole = bytearray(nib.Nifti1Image(values, affine).to_bytes())
        for at, form, value in header.values():
            struct.pack_into(form, whole, at, *np.ravel(value))
        (folder / IMAGE).write_bytes(gzip.compress(bytes(whole)))

    return damage


def shortened(start: int, end: int) -> Callable[[Path], object]:
    """A compressed image with its first and last bytes alone; the last four tell the size of what it held."""

    def damage(folder: Path) -> None:
        data = (folder / IMAGE).read_bytes()
        (folder / IMAGE).write_bytes(data[:start] + data[len(data) - end :])

    return damage


def in_its_place(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / IMAGE).unlink()
        make(folder / IMAGE)

    return damage


def half_missing(folder: Path) -> None:
    """Two subjects of which each has the half that the other one lacks."""
    for number, missing in ((1, slice(0, 6)), (3, slice(6, None))):
        volume = noise(1, SHAPE)[0]
        volume[missing] = np.nan
        nib.Nifti1Image(volume, AFFINE).to_filename(folder / f"new-{number:02d}_effect.nii.gz")


def mask_of(values: float, shift: float = 0) -> Callable[[Path], object]:
    image = nib.Nifti1Image(np.full(SHAPE, values, "float32"), AFFINE + np.eye(4, k=3) * shift)
    return lambda folder: image.to_filename(folder / "mask.nii")


ONE = noise(1, SHAPE)[0]
INFINITE = ONE.copy()
INFINITE[3, 4, 5], INFINITE[6, 7, 8] = np.inf, -np.inf
COLOURS = np.ones(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
ADVICE = ("Nothing was written",)
BAD = ("1 image cannot be used", "new-02", f"{{folder}}/{IMAGE}")

IMAGES = {
    "missing": Mistake((*BAD, "there is no such file", *ADVICE), lambda folder: (folder / IMAGE).unlink()),
    "truncated": Mistake((*BAD, "truncated", "Copy it again", *ADVICE), shortened(-300, 0)),
    "truncated as only inflating tells": Mistake(
        (f"{{folder}}/{IMAGE}", "damaged", "Copy it again"), shortened(3000, 8), begun=True
    ),
    "no image": Mistake((*BAD, "not a NIfTI image", *ADVICE), lambda f: (f / IMAGE).write_text("<html>404</html>")),
    "wrong magic": Mistake((*BAD, "not a NIfTI image", *ADVICE), image_of(ONE, magic=(344, "4s", b"ni1\0"))),
    "empty file": Mistake((*BAD, "not a NIfTI image", *ADVICE), lambda folder: (folder / IMAGE).write_bytes(b"")),
    "a folder": Mistake((*BAD, "Is a directory", *ADVICE), in_its_place(Path.mkdir)),
    "symbolic links in a circle": Mistake((*BAD, "symbolic links", *ADVICE), in_its_place(lambda p: p.symlink_to(p))),
    "two volumes": Mistake((*BAD, "holds 2 volumes", "one image per subject"), image_of(np.stack([ONE, ONE], -1))),
    "flat": Mistake((*BAD, "not a volume, its shape is (12, 13)", *ADVICE), image_of(ONE[..., 0])),
    "no voxel": Mistake((*BAD, "its shape is (0, 13, 11)", *ADVICE), image_of(ONE, dim=(42, "<h", 0))),
    "fewer than no voxels": Mistake((*BAD, "its shape is (12, -13, 11)", *ADVICE), image_of(ONE, dim=(44, "<h", -13))),
    "more voxels than bytes": Mistake(
        (*BAD, "truncated, 7216 of 4000000000352 bytes", *ADVICE), image_of(ONE, dim=(42, "<3h", [10_000] * 3))
    ),
    "data within the header": Mistake((*BAD, "inside its header", *ADVICE), image_of(ONE, offset=(108, "<f", 0))),
    "data at infinity": Mistake((*BAD, "infinity", *ADVICE), image_of(ONE, offset=(108, "<f", np.inf))),
    "intercept that is no number": Mistake((*BAD, "intercept", *ADVICE), image_of(ONE, scl=(112, "<2f", [1, np.nan]))),
    "complex numbers": Mistake((*BAD, "complex64", "not one of real numbers"), image_of(ONE.astype("complex64"))),
    "colours": Mistake((*BAD, "not one of real numbers"), image_of(COLOURS)),
    "affine without numbers": Mistake(
        (*BAD, "does not place the voxels in space", "Repair its header"),
        image_of(ONE, srow=(280, "<12f", [np.nan] * 12)),
    ),
    "affine of rank 2": Mistake(
        (*BAD, "does not place the voxels in space", "Repair its header"), image_of(ONE, srow=(280, "<4f", [0] * 4))
    ),
    "other shape": Mistake(
        ("1 image lies on another lattice", "new-02", IMAGE, "12 x 13 x 10 voxels", "--resample"),
        image_of(ONE[..., :10]),
    ),
    "moved by more than a thousandth of a millimetre": Mistake(
        ("1 image lies on another lattice", "new-02", IMAGE, "--resample"),
        image_of(ONE, AFFINE + np.eye(4, k=3) * 1.2e-3),
    ),
    "missing everywhere": Mistake(
        ("new-02", IMAGE, "no data: every voxel is missing"), image_of(ONE * np.float32(np.nan)), begun=True
    ),
    "infinite": Mistake(
        ("new-02", IMAGE, "holds 2 infinite values", "Mark missing values as NaN"),
        image_of(INFINITE),
        begun=True,
    ),
}


def test_a_lattice_moved_by_less_is_the_same(study: Path, tmp_path: Path) -> None:
    """As the mistake above, with 0.9 thousandths."""
    shutil.copytree(study / "new", tmp_path / "new")
    image_of(noise(5, SHAPE, 1)[2], AFFINE + np.eye(4, k=3) * 0.9e-3)(tmp_path / "new")
    vx.stack(tmp_path / "new" / TABLE, tmp_path / "c.zarr", maps={"effect": "path"})
    np.testing.assert_array_equal(vx.open_cohort(tmp_path / "c.zarr")["effect"], noise(5, SHAPE, 1))


NOT_A_TABLE = (f"{{folder}}/{TABLE} is not a tab-separated table in UTF-8",)
SAVE_AS = "Save it as plain text in UTF-8"

TABLES = {
    "label twice": Mistake((TABLE, "must be unique", "new-01", "make labels"), edited("new-02\t", "new-01\t")),
    "label empty": Mistake((TABLE, "no participant_id in data row 3"), edited("new-02\t", "\t")),
    "label n/a": Mistake((TABLE, "no participant_id in data row 3"), edited("new-02\t", "n/a\t")),
    "label column of another name": Mistake(
        (TABLE, "no column 'id'", "participant_id", "--label"), options={"label": "id"}
    ),
    "map column of another name": Mistake(("'paht'", "path", "nor a pattern"), options={"map": "effect=paht"}),
    "pattern with another column": Mistake(("uses sub", "participant_id"), options={"map": "effect={sub}.nii.gz"}),
    "covariate x": Mistake(("cannot be called x", "Rename it"), edited("\tage", "\tx")),
    "covariate of a store's own name": Mistake(
        ("cannot be called 'zarr.json'", "Rename it"), edited("\tage", "\tzarr.json")
    ),
    "covariate of 300 letters": Mistake(("aaa", "longer than", "Rename it"), edited("\tage", "\t" + "a" * 300)),
    "path of 300 letters": Mistake(
        ("5 images", "aaa", "File name too long", *ADVICE), options={"map": f"effect={'a' * 300}{PATTERN}"}
    ),
    "missing": Mistake((f"no participants table {{folder}}/{TABLE}",), lambda folder: (folder / TABLE).unlink()),
    "a folder": Mistake(
        (f"it needs a table, and {{folder}}/{TABLE} is a folder",),
        lambda folder: ((folder / TABLE).unlink(), (folder / TABLE).mkdir()),
    ),
    "empty": Mistake((*NOT_A_TABLE, SAVE_AS), table_of(b"")),
    "blank": Mistake((*NOT_A_TABLE, SAVE_AS), table_of(b" \n\n \n")),
    "header alone": Mistake((f"{{folder}}/{TABLE} has no rows",), table_of(b"participant_id\tage\tpath\n")),
    "semicolons": Mistake((TABLE, "read as tab-separated", "semicolons", SAVE_AS), edited("\t", ";")),
    "Latin 1": Mistake(
        (*NOT_A_TABLE, "can't decode byte 0xe9", SAVE_AS),
        table_of("participant_id\tname\nnew-00\té\n".encode("latin-1")),
    ),
    "UTF-16": Mistake(
        (*NOT_A_TABLE, "can't decode byte 0xff", SAVE_AS), table_of("participant_id\tage\nnew-00\t3\n".encode("utf-16"))
    ),
    "NUL": Mistake((*NOT_A_TABLE, "NUL", SAVE_AS), edited("\t22", "\t2\0")),
    "an image": Mistake((*NOT_A_TABLE, SAVE_AS), lambda f: shutil.copy(f / IMAGE, f / TABLE)),
    "an open quotation mark": Mistake((*NOT_A_TABLE, SAVE_AS), edited("\t22", '\t"22')),
    "rows longer than the header": Mistake((*NOT_A_TABLE, "line 4", SAVE_AS), edited("\t22", "\t22\t1\t2")),
}

MASKS = {
    "missing": Mistake(("{folder}/mask.nii", "no such file"), options={"mask": "{folder}/mask.nii"}),
    "empty": Mistake(("mask {folder}/mask.nii is empty",), mask_of(0), {"mask": "{folder}/mask.nii"}),
    "without a number": Mistake(("mask {folder}/mask.nii is empty",), mask_of(np.nan), {"mask": "{folder}/mask.nii"}),
    "elsewhere": Mistake(
        ("{folder}/mask.nii", "does not overlap the maps", "12 x 13 x 11 voxels"),
        mask_of(1, 500),
        {"mask": "{folder}/mask.nii"},
    ),
    "a share above 1": Mistake(("fraction must be above 0 and at most 1, not 1.5",), options={"mask": "1.5"}),
    "intersection empty": Mistake(
        ("No voxel is left in the mask", "Ask for a smaller fraction"), half_missing, begun=True
    ),
}


def goals(mistakes: dict[str, Mistake]) -> list[tuple[str, str]]:
    """Names of mistakes with a goal; both goals where what is left behind differs."""
    return [
        (name, goal)
        for number, (name, mistake) in enumerate(mistakes.items())
        for goal in (GOALS if mistake.begun else GOALS[number % 2 :][:1])
    ]


@pytest.mark.parametrize(("name", "goal"), goals(IMAGES))
def test_image(name: str, goal: str, study: Path, tmp_path: Path) -> None:
    check(IMAGES[name], goal, study, tmp_path)


@pytest.mark.parametrize(("name", "goal"), goals(TABLES))
def test_table(name: str, goal: str, study: Path, tmp_path: Path) -> None:
    check(TABLES[name], goal, study, tmp_path)


@pytest.mark.parametrize(("name", "goal"), goals(MASKS))
def test_mask(name: str, goal: str, study: Path, tmp_path: Path) -> None:
    check(MASKS[name], goal, study, tmp_path)


def test_what_is_raised_is_not_logged_as_well(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """nibabel logs it on standard error, without the name of the file; what it repairs is still told."""
    shutil.copytree(study / "new", tmp_path / "new")
    table, store = tmp_path / "new" / TABLE, tmp_path / "c.zarr"
    image_of(ONE, datatype=(70, "<h", 9999))(tmp_path / "new")
    with pytest.raises(InputError, match=rf"{IMAGE}: .*data code 9999 not recognized"):
        vx.stack(table, store, maps={"effect": "path"})
    assert caplog.text == ""
    image_of(ONE, size=(0, "<i", 999))(tmp_path / "new")
    vx.stack(table, store, maps={"effect": "path"})
    assert "sizeof_hdr should be 348" in caplog.text


@pytest.mark.parametrize(
    ("participants", "maps", "says"),
    [
        (["a", "b"], {"effect": "path"}, "path of a table, not a list"),
        (TABLE, "path", r"such as maps=\{'effect': 'path'\}"),
        (TABLE, {"effect": 3}, "'effect': 3 is neither a column"),
    ],
)
def test_arguments_of_another_type(participants: Any, maps: Any, says: str, study: Path, tmp_path: Path) -> None:
    table = study / "new" / participants if isinstance(participants, str) else participants
    with pytest.raises(InputError, match=says):
        vx.stack(table, tmp_path / "c.zarr", maps=maps)
