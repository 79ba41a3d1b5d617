"""The page about results, in a real browser: it runs, moves, sorts, escapes, and asks the network for nothing."""

import base64
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

import voxstack as vx
from permuted_cohorts import run
from voxstack.cli import cli
from voxstack.errors import InputError
from voxstack.reporting import methods
from voxstack.reporting.volumes import Window

pytest.importorskip("matplotlib")

NASTY = "<script>document.title='owned'</script>"


def cohort_and_results() -> tuple[xr.Dataset, list[xr.Dataset]]:
    rng = np.random.default_rng(0)
    n = 12
    people = pd.DataFrame(
        {"age": rng.uniform(20, 80, n), "group": np.resize(["a", NASTY], n)}, index=[f"s{i:02d}" for i in range(n)]
    )
    maps = rng.normal(size=(n, 12, 13, 11))
    maps[:, 3:7, 3:7, 3:7] += 2.5
    maps[:, 8:10, 8:11, 2:5] -= 2.5
    mask = np.ones(maps.shape[1:], dtype=bool)
    mask[0] = False
    cohort = vx.from_arrays(
        {"effect": maps}, affine=np.array([[-12.0, 0, 0, 66], [0, 12, 0, -80], [0, 0, 12, -50], [0, 0, 0, 1]]),
        mask=mask, participants=people,
    )  # fmt: skip
    fitted = vx.contrast(vx.fit_glm(cohort, "~ age"), {f"mean {NASTY}": "Intercept + 50 * age", "age": "age"})
    permuted = run(
        cohort, "~ 1", {"mean": "Intercept"}, n_permutations=60, statistics=("voxel", "cluster_mass", "tfce"),
        cluster_forming_z=2.0,
    )  # fmt: skip
    return cohort, [fitted.compute(), permuted]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort, results = cohort_and_results()
    path = tmp_path_factory.mktemp("report") / "page.html"
    return vx.report(results, path, cohort=cohort, title=f"A study {NASTY}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    page = browser.new_page()
    page.troubles, page.asked = [], []
    page.on(
        "console", lambda message: page.troubles.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    assert page.troubles == []
    assert [url for url in page.asked if not url.startswith(("file://", "data:"))] == []
    page.close()


def test_coverage_of_other_subjects_is_left_out(tmp_path: Path) -> None:
    cohort, results = cohort_and_results()
    some = cohort.isel(subject=slice(0, 9))
    pages = [vx.report(results[0], tmp_path / f"{len(one.subject)}.html", cohort=one) for one in (cohort, some)]
    shown, left_out = (Path(page).read_text() for page in pages)
    assert "voxels that some subjects lack" in shown
    assert "Share of subjects with data" in shown
    assert "voxels that some subjects lack" not in left_out
    assert "Share of subjects with data" not in left_out
    assert "counted for other subjects" in left_out


class TestInABrowser:
    def test_text_of_users_is_shown_and_does_nothing(self, opened: Any) -> None:
        assert opened.title() == f"A study {NASTY}"
        assert NASTY in opened.inner_text("h1")
        assert f"Contrast mean {NASTY}" in opened.inner_text("main")

    def test_slices_move_by_keys_sliders_and_pointer(self, opened: Any) -> None:
        viewer = opened.locator(".viewer").first
        told = viewer.locator("output")
        before, picture = told.inner_text(), self.pixels(viewer, "axial")
        viewer.locator("canvas.axial").focus()
        opened.keyboard.press("ArrowRight")
        right = told.inner_text()
        assert self.place(right)[0] == self.place(before)[0] + 12
        assert self.place(right)[1:] == self.place(before)[1:]
        opened.keyboard.press("PageUp")
        up = told.inner_text()
        assert self.place(up)[2] == self.place(right)[2] + 12
        assert self.pixels(viewer, "axial") != picture
        viewer.locator("input.place").nth(1).fill("2")
        assert self.place(told.inner_text())[1] == -80 + 2 * 12
        box = viewer.locator("canvas.coronal").bounding_box()
        opened.mouse.click(box["x"] + 2, box["y"] + 2)
        assert self.place(told.inner_text())[0] == -66  # the left edge of the mask, on the left

    def test_the_readout_is_the_value_there(self, opened: Any) -> None:
        _, (fitted, _) = cohort_and_results()
        viewer = opened.locator(".viewer").nth(1)
        x, y, z = self.place(viewer.locator("output").inner_text())
        shown = float(viewer.locator("output").inner_text().split(":")[1])
        one = fitted["z_score"].sel(contrast="age")
        assert shown == pytest.approx(one.sel(x=x, y=y, z=z).item(), abs=float(abs(one).max()) / 127)
        assert abs(one.sel(x=x, y=y, z=z)) == abs(one).max()  # where it starts

    def test_tables_sort_and_show_their_rows(self, opened: Any) -> None:
        table = opened.locator("table.sortable").first
        columns = table.locator("th").all_inner_texts()
        number = next(i for i, text in enumerate(columns) if text.startswith("value"))
        heading = table.locator("th").nth(number)

        def values() -> list[float]:
            return [float(row.locator("td").nth(number).inner_text()) for row in table.locator("tbody tr").all()]

        unsorted = values()
        assert len(unsorted) > 2
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        assert values() == sorted(unsorted)
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == "descending"
        assert values() == sorted(unsorted, reverse=True)
        button = table.locator("button[data-mm]").first
        button.click()
        place = [float(one) for one in button.get_attribute("data-mm").split()]
        assert self.place(opened.locator(".viewer").first.locator("output").inner_text()) == place

    def test_light_dark_print_and_small(self, opened: Any) -> None:
        colours = set()
        for scheme in ("light", "dark"):
            opened.emulate_media(color_scheme=scheme)
            colours.add(opened.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2
        opened.emulate_media(media="print")
        assert not opened.locator(".viewer").first.is_visible()
        assert opened.locator("figure img").first.is_visible()
        opened.emulate_media(media="screen")
        opened.set_viewport_size({"width": 360, "height": 700})
        assert opened.evaluate("document.documentElement.scrollWidth") <= 360

    def test_everything_has_a_name(self, opened: Any) -> None:
        assert opened.locator("img:not([alt]), canvas:not([aria-label]), html:not([lang])").count() == 0
        assert opened.evaluate("[...document.querySelectorAll('input')].every((one) => one.labels.length > 0)")
        headings = opened.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((one) => Number(one.tagName[1]))")
        assert headings[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(headings))

    def pixels(self, viewer: Any, plane: str) -> str:
        return str(viewer.locator(f"canvas.{plane}").evaluate("(canvas) => canvas.toDataURL()"))

    def place(self, told: str) -> list[float]:
        return [float(one) for one in told.split(" mm")[0].split(",")]


def test_the_page_is_one_file_with_its_tables(page_file: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    _, (fitted, permuted) = cohort_and_results()
    files = dict(re.findall(r'download="([^"]+)" href="data:text/tab-separated-values;base64,([^"]+)"', text))
    written = pd.read_csv(StringIO(base64.b64decode(files["contrast-1-mean_tfce_clusters.tsv"]).decode()), sep="\t")
    expected = vx.clusters_table(vx.threshold(permuted, correction="fwe", variable="tfce"))
    np.testing.assert_allclose(written["value"], expected["value"])
    assert written["n_voxels"].dropna().tolist() == expected["n_voxels"].dropna().tolist()
    for line in vx.threshold(fitted).attrs["summary"]:
        assert line.rsplit(": ", 1)[1][1:] in text
    volumes = re.search(r'id="volumes">(.*?)</script>', text, flags=re.S)
    assert volumes is not None
    data = json.loads(volumes[1])
    assert len(data["maps"]) == 3


def test_a_window_turns_axes_so_that_they_rise() -> None:
    mask = np.zeros((8, 7, 6), dtype=bool)
    mask[5:7, 2:4, 3:4] = True
    affine = np.array([[-3.0, 0, 0, 30], [0, 3, 0, -9], [0, 0, 2, 5], [0, 0, 0, 1]])
    result = vx.read_map(nib.Nifti1Image(np.full(mask.shape, 2.0), affine), mask=mask)
    window = Window(result["mask"])
    assert (np.diag(window.affine)[:3] > 0).all()
    values = np.arange(mask.size, dtype=float).reshape(mask.shape)
    cut = window._cut(values)
    for voxel in np.ndindex(*window.shape):
        there = np.linalg.inv(affine) @ window.affine @ [*voxel, 1]
        assert cut[voxel] == values[tuple(np.rint(there[:3]).astype(int))]


class TestMethods:
    def test_the_paragraph_says_what_was_done(self) -> None:
        _, (fitted, permuted) = cohort_and_results()
        text, references = methods.paragraph(fitted)
        assert "12 subjects" in text
        assert "~ age" in text
        assert "false discovery rate was kept at 0.05" in text
        assert any("Benjamini" in one for one in references)
        text, references = methods.paragraph(permuted)
        assert "60 relabellings by flipping signs" in text
        assert "z > 2 with 26 neighbours" in text
        assert "seed 0" in text
        assert any("Threshold-free" in one for one in references)

    def test_the_command_repeats_the_result(self, tmp_path: Path) -> None:
        folder = vx.simulate_cohort(tmp_path / "sim", n_subjects=10, resolution=12)
        cohort = vx.stack(folder / "participants.tsv", tmp_path / "c.zarr", maps={"effect": "effect_path"})
        result = run(
            cohort, "~ age + sex", {"slope": "2 * age", "any": ["age", "sex[T.M]"]}, n_permutations=20, seed=3,
            statistics=("voxel", "tfce"), tfce=vx.TFCE(connectivity=26), alternative="greater", blocks="sex",
            precision="double",
        )  # fmt: skip
        (line,) = methods.commands(result)
        words = line.replace("COHORT", str(tmp_path / "c.zarr")).replace("RESULTS", str(tmp_path / "out"))
        done = CliRunner().invoke(cli, [*shlex.split(words)[1:], "--quiet"])
        assert done.exit_code == 0, done.output
        again = vx.open_results(tmp_path / "out" / "results.zarr")
        for name in result.data_vars:
            np.testing.assert_allclose(again[name].values, result[name].values, err_msg=str(name))
        # The command line's test has a checkpoint's schedule and progress of its own, and the same options.
        assert {**again.attrs["provenance"], "versions": 0} == {**result.attrs["provenance"], "versions": 0}


def test_a_thresholded_result_is_reported_as_such(tmp_path: Path) -> None:
    _, (fitted, _) = cohort_and_results()
    found = vx.threshold(fitted.sel(contrast=["age"]), correction="none", cluster_extent=3, connectivity=6)
    text = vx.report(found, tmp_path / "r.html").read_text(encoding="utf-8")
    tested = int(fitted["stat"].sel(contrast="age").notnull().sum())
    assert f'<td class="text">{tested:,}</td>' in text
    assert "range of z-score of what is significant" in text
    assert "Significant values of z-score" in text
    assert "voxstack threshold RESULTS --correction none --alpha 0.05 --variable z_score" in text


@pytest.mark.parametrize("oblique", [False, True])
def test_maps_of_other_programs_are_reported(browser: Any, tmp_path: Path, oblique: bool) -> None:
    """Of p alone, with a t of infinity, on grids and masks of their own, with voxels of unequal sides."""
    affine = np.diag([4.0, 8, 12, 1])
    if oblique:
        turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = -30, 20, 15
    t = np.random.default_rng(0).normal(size=(15, 9, 7))
    t[3, 3, 3] = np.inf
    t[6:9, 4:7, 2:4] += 9
    part = np.zeros(t.shape, dtype=bool)
    part[2:12, 2:8, 1:6] = True
    image = nib.Nifti1Image(t, affine)
    background = nib.Nifti1Image(np.abs(np.nan_to_num(t, posinf=0)), affine)
    results = [
        vx.read_map(image, kind="t", dof=20, mask=part),
        vx.read_map(image, kind="t", dof=20),
        vx.read_map(nib.Nifti1Image(np.clip(np.abs(t) / 20, 0, 1), affine), kind="p"),
    ]
    path = vx.report(results, tmp_path / "r.html", background=background)
    page = browser.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert page.locator(".viewer").count() == 3
    box = page.locator("canvas.coronal").nth(1).bounding_box()
    assert box["width"] / box["height"] == pytest.approx(15 * 4 / (7 * 12), rel=0.05)
    page.close()


def test_only_what_the_command_line_has_words_for_is_a_command() -> None:
    cohort, _ = cohort_and_results()
    fit = vx.fit_glm(cohort, "~ age + C(group, levels=None)")
    column = str(fit["regressor"].values[-1])

    def line(contrasts: Any) -> list[str]:
        return methods.commands(vx.contrast(fit, contrasts).compute())

    (words,) = line({"one row": ["age"]})
    assert "--f-contrast 'one row=age'" in words
    (words,) = line(["age"])
    assert "--contrast age" in words
    (words,) = line([column])
    assert shlex.split(words)[shlex.split(words).index("--contrast") + 1] == column
    for name in ("patients > controls", "a/b", " age", "a, b"):
        assert line({name: "age"}) == []
    options: dict[str, Any] = {"n_permutations": 4, "statistics": ("tfce",)}
    assert methods.commands(run(cohort, "~ age", "age", **options, tfce=vx.TFCE(H=1))) == []
    assert methods.commands(run(cohort, "~ age", "age", **options, mask=np.ones((12, 13, 11)))) == []


def test_the_command_line_writes_it(tmp_path: Path) -> None:
    folder = vx.simulate_cohort(tmp_path / "sim", n_subjects=8, resolution=10)
    vx.stack(folder / "participants.tsv", tmp_path / "c.zarr", maps={"effect": "effect_path"})
    fit = ["fit", str(tmp_path / "c.zarr"), "--design", "~ age", "--contrast", "age", "--quiet"]
    for command in (
        [*fit, "--output", str(tmp_path / "out")],
        ["report", str(tmp_path / "out"), "--cohort", str(tmp_path / "c.zarr")],
    ):
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Share of subjects with data" in text
    assert str(tmp_path) not in text


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    cohort, (fitted, _) = cohort_and_results()
    with pytest.raises(InputError, match="not a voxstack"):
        vx.report(cohort, tmp_path / "r.html")
    with pytest.raises(InputError, match="lost a dimension"):
        vx.report(fitted.isel(contrast=0), tmp_path / "r.html")
    with pytest.raises(InputError, match="no result"):
        vx.report([], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []
