"""Figures show what they are given."""

import re
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import voxstack as vx
from permuted_cohorts import run
from voxstack.errors import InputError
from voxstack.figures.drawing import drawn

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def drawing() -> Any:
    matplotlib.use("Agg")
    yield
    from matplotlib import pyplot as plt

    plt.close("all")


def people(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {"age": rng.uniform(20, 80, n), "site": np.resize(["a", "b", "c"], n)}, index=[f"s{i:02d}" for i in range(n)]
    )


def cohort(n: int = 8) -> xr.Dataset:
    maps = np.random.default_rng(0).normal(size=(n, 8, 9, 7))
    maps[0, 2, 2, 2] = np.nan
    return vx.from_arrays({"effect": maps}, affine=np.diag([20.0, 20, 20, 1]), participants=people(n))


def texts(figure: Any) -> str:
    found = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    return "\n".join(found)


def test_maps_of_p_are_drawn_as_their_logarithm() -> None:
    p = np.full((8, 9, 7), 0.5)
    p[1, 2, 3], p[4, 4, 4] = 1e-6, 0.0
    result = vx.read_map(nib.Nifti1Image(p, np.diag([20.0, 20, 20, 1])), kind="p")
    figure = vx.figures.plot_slices(result["p_value"].sel(contrast="map"), cuts=[40.0, 60.0])
    assert "-log10 of the uncorrected p-value: map" in texts(figure)
    values = np.unique(drawn(result["p_value"].sel(contrast="map")))
    np.testing.assert_allclose(values, [-np.log10(0.5), 6])  # p = 0 as far as the others


def test_z_of_f_has_one_direction() -> None:
    result = vx.contrast(
        vx.fit_glm(cohort(), "~ age + site"), {"any": ["site[T.b]", "site[T.c]"], "age": "age"}
    ).compute()
    z = {name: result["z_score"].sel(contrast=name) for name in ("any", "age")}
    assert float(z["any"].min()) < 0
    np.testing.assert_array_equal(drawn(z["any"]), z["any"].clip(min=0))
    np.testing.assert_array_equal(drawn(z["age"]), z["age"])


def test_where_nothing_is_left_brains_are_drawn_empty() -> None:
    maps = cohort()["effect"]
    assert "effect, beyond 99, colours" in texts(vx.figures.plot_montage(maps, threshold=99))
    vx.figures.plot_glass_brain(maps.isel(subject=1), threshold=99)
    vx.figures.plot_slices(maps.isel(subject=1), threshold=99)
    nothing = maps.isel(subject=2).where(False)  # as of a contrast in which nothing is significant
    vx.figures.plot_glass_brain(nothing)
    figure = vx.figures.plot_slices(nothing, cuts=3)
    assert [text for text in texts(figure).split("\n") if text.startswith("z=")] == ["z=30", "z=60", "z=90"]


@pytest.mark.parametrize("plot", [vx.figures.plot_slices, vx.figures.plot_glass_brain])
def test_colours_of_negative_values_are_centred_on_0(plot: Any) -> None:
    values = np.zeros((8, 9, 7))
    values[2:4, 2:4, 2:4], values[5:7, 5:7, 3:5] = -6, -1
    one = vx.read_map(nib.Nifti1Image(values, np.diag([20.0, 20, 20, 1])), kind="z")["z_score"].sel(contrast="map")
    bar = plot(one.where(one < 0)).axes[-1]
    assert bar.get_ylim() == (-6, 6)


@pytest.mark.parametrize("code", [0, 4])
def test_glass_brain_and_montage(code: int) -> None:
    one = cohort()["effect"]
    one.coords["spatial_ref"].attrs["space_code"] = code
    figure = vx.figures.plot_glass_brain(one.isel(subject=0), threshold=1.0)
    assert "subject maps: s00" in texts(figure)
    figure = vx.figures.plot_montage(one, subjects=["s01", "s05", "s02"], columns=2)
    shown = texts(figure)
    assert all(name in shown for name in ("s01", "s05", "s02"))
    assert "s03" not in shown


def test_a_map_out_of_scale_leaves_others_their_colours() -> None:
    one = cohort()["effect"]
    usual = np.nanquantile(np.abs(one.isel(subject=slice(1, None)).values), 0.999)
    odd = one.copy(data=one.values * np.where(np.arange(8) == 0, 1000, 1)[:, None, None, None])
    shown = texts(vx.figures.plot_montage(odd))
    largest = float(shown.split("colours from ")[1].split(" to ")[1].split("\n")[0])
    assert 0.7 * usual < largest < 1.3 * usual


def test_columns_of_a_design_are_drawn_over_their_largest_value() -> None:
    table = people(16).assign(person=np.repeat([f"p{i}" for i in range(8)], 2))
    data = vx.from_arrays({"effect": np.ones((16, 2, 2, 2))}, affine=np.eye(4), participants=table)
    design = vx.make_design(data, "~ age + C(person)")
    figure = vx.figures.plot_design(design)
    (picture,) = figure.findobj(matplotlib.image.AxesImage)
    np.testing.assert_allclose(picture.get_array(), design.values / np.abs(design.values).max(axis=0))
    assert figure.get_figwidth() < 7  # not wider for each person


def test_design_and_contrasts() -> None:
    data = cohort()
    design = vx.make_design(data, "~ age + site")
    figure = vx.figures.plot_design(design)
    assert {"Intercept", "age", "site[T.b]", "site[T.c]"} <= set(texts(figure).split("\n"))
    result = vx.contrast(vx.fit_glm(data, design), {"older": "2 * age", "sites": ["site[T.b]", "site[T.c]"]})
    figure = vx.figures.plot_contrasts(result)
    assert {"older", "sites [1]", "sites [2]"} <= set(texts(figure).split("\n"))
    (picture,) = figure.findobj(matplotlib.image.AxesImage)
    np.testing.assert_array_equal(picture.get_array(), [[0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_names_are_no_formulas() -> None:
    table = people(8).assign(**{"odd$name": np.resize(["a$\\frac$", "b"], 8)})
    maps = np.random.default_rng(0).normal(size=(8, 4, 4, 4))
    data = vx.from_arrays({"effect": maps}, affine=np.eye(4), participants=table)
    design = vx.make_design(data, "~ Q('odd$name')")
    result = vx.contrast(vx.fit_glm(data, design), {"a $ b": design["regressor"].values[-1]})
    for figure in (
        vx.figures.plot_design(design),
        vx.figures.plot_contrasts(result),
        vx.figures.plot_effect(data, "odd$name", (1, 1, 1)),
        vx.figures.plot_slices(result["z_score"].compute()[0]),
    ):
        figure.canvas.draw()


def test_null_distribution_shows_the_observed_maximum_and_its_p() -> None:
    result = run(cohort(), np.ones((8, 1)), {"mean": [1]}, statistics=("voxel", "tfce"))
    figure = vx.figures.plot_null(result, statistic="tfce")
    maxima = result["null_max"].sel(statistic="tfce", contrast="mean").values
    p = np.mean(maxima >= maxima[0] - 1e-9)
    assert f"observed: {maxima[0]:.4g}, p = {p:.3g}" in texts(figure)
    limit = next(line.get_xdata()[0] for line in figure.axes[0].lines if "exceeded" in line.get_label())
    assert (maxima > limit + 1e-9).mean() <= 0.05 < (maxima >= limit - 1e-9).mean()
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert sum(heights) == len(maxima)


@pytest.mark.parametrize(
    ("contrast", "options", "measured"),
    [
        ({"a": [1]}, {}, "|t|"),
        ({"a": [1]}, {"alternative": "greater"}, "t"),
        ({"a": [1]}, {"alternative": "less"}, "-t"),
        ({"a": np.eye(1)}, {"alternative": "less"}, "F"),
        ({"a": [1]}, {"missing": "available"}, "|z|"),
        ({"a": [1]}, {"statistics": ("cluster_extent",), "cluster_forming_z": 1.0}, "cluster extent"),
    ],
)
def test_maxima_say_of_what_they_are(contrast: Any, options: Any, measured: str) -> None:
    result = run(cohort(), np.ones((8, 1)), contrast, relabelling="flip", n_permutations=20, **options)
    figure = vx.figures.plot_null(result, statistic=str(result["statistic"].values[0]))
    assert f"largest {measured} of a relabelling" in texts(figure)


def test_p_of_negative_maxima_counts_the_observed_one() -> None:
    """All maxima are below 0 where a one-sided test looks the other way."""
    maps = np.abs(np.random.default_rng(0).normal(size=(6, 3, 3, 2))) + 5
    data = vx.from_arrays({"effect": maps}, affine=np.eye(4))
    result = run(data, np.ones((6, 1)), {"mean": [1]}, alternative="less", relabelling="flip")
    assert result["null_max"].values[0, 0, 0] < 0
    figure = vx.figures.plot_null(result)
    p = result["voxel_p_fwe"].min().item()
    assert f"p = {p:.3g}" in texts(figure)


def test_effect_at_a_voxel_is_that_of_least_squares() -> None:
    data = cohort()
    at = (40.0, 40.0, 40.0)
    figure = vx.figures.plot_effect(data, "age", at)
    y, age = data["effect"].sel(x=40, y=40, z=40).values, data["age"].values
    slope, intercept = np.polyfit(age[1:], y[1:], 1)  # the first subject lacks the voxel
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), intercept + slope * line.get_xdata())
    assert "1 of 8 subjects missing" in texts(figure)
    figure = vx.figures.plot_effect(data, "site", at)
    means = pd.Series(y).groupby(data["site"].values).mean()
    groups = figure.axes[0].findobj(matplotlib.collections.LineCollection)
    np.testing.assert_allclose([group.get_segments()[0][0][1] for group in groups], means)


def test_coverage(tmp_path: Any) -> None:
    folder = vx.simulate_cohort(tmp_path / "sim", n_subjects=4, resolution=12)
    stored = vx.stack(folder / "participants.tsv", tmp_path / "c.zarr", maps={"effect": "effect_path"}, mask=0.5)
    assert "share of 4 subjects with data" in texts(vx.figures.plot_coverage(stored))
    others = xr.concat([stored, stored], "subject", data_vars="minimal", coords="minimal", compat="override")
    for changed in (stored.isel(subject=[0, 2]), others):
        assert changed["n_valid"].max() == 4
        with pytest.raises(InputError, match=r"n_valid was not counted for the [28] subjects of this cohort"):
            vx.figures.plot_coverage(changed)


def test_coverage_of_a_selection_can_be_counted_anew() -> None:
    data = cohort()
    assert "share of 8 subjects with data" in texts(vx.figures.plot_coverage(data))
    two = data.isel(subject=[0, 1])
    with pytest.raises(InputError, match="count anew") as refused:
        vx.figures.plot_coverage(two)
    advice = re.search(r"plot_slices\((.*)\)\.$", str(refused.value))
    assert advice
    share = eval(advice[1], {"cohort": two})
    assert share.min() == 0.5
    assert share.max() == 1
    vx.figures.plot_slices(share)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda data, f: f.plot_glass_brain(data["effect"]), "has the dimensions x, y and z"),
        (lambda data, f: f.plot_montage(data["effect"], subjects=["nobody"]), "no subject nobody"),
        (lambda data, f: f.plot_montage(data["effect"][0]), "dimensions subject, x, y and z"),
        (lambda data, f: f.plot_effect(data, "iq", (0, 0, 0)), "no covariate 'iq'"),
        (lambda data, f: f.plot_effect(data, "age", (900, 0, 0)), "outside the grid"),
        (lambda data, f: f.plot_design(data["effect"]), "dimensions subject and regressor"),
        (lambda data, f: f.plot_null(data), "no null_max"),
        (lambda data, f: f.plot_coverage(data.drop_vars("n_valid", errors="ignore")), "n_valid"),
    ],
)
def test_mistakes_are_named(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(cohort(), vx.figures)
