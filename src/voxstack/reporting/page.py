"""`report`: one self-contained page that says what was done and found."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from voxstack import figures
from voxstack._version import __version__
from voxstack.computation import compute
from voxstack.design import make_design
from voxstack.errors import InputError, VoxstackError
from voxstack.export.files import make_folder, write_files
from voxstack.export.nifti import to_nifti
from voxstack.figures.drawing import MNI_CODE, background_image, drawn, template_for, title_of, within
from voxstack.grid import Grid
from voxstack.inference.evidence import check_result
from voxstack.io.places import Remote, located, place_of
from voxstack.reporting import methods
from voxstack.reporting.findings import Finding, findings_of
from voxstack.reporting.volumes import Window, on_grid
from voxstack.schema import SPACE, SUBJECT, covariate_names, map_names
from voxstack.store.coverage import counts_other_subjects

_KINDS = {"contrast": " (model)", "permutation_test": " (permutation test)", "read_map": " (map)"}
"""What tells sections of several results apart, by the function that gave them."""


@dataclass(frozen=True)
class Table:
    """Rows of text, the first cell of each being its name."""

    rows: list[list[str]]
    columns: list[str] = field(default_factory=list)
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure as PNG."""

    png: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Code:
    """Text to be copied."""

    heading: str
    text: str


@dataclass
class Section:
    """A part of the page; `viewer` is the name of its slices that move, if it has any."""

    id: str
    heading: str
    texts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    codes: list[Code] = field(default_factory=list)
    viewer: str = ""
    shape: Sequence[int] = ()
    largest: float = 0.0
    level: float = 0.0
    range: tuple[str, str] = ("", "")
    unit: str = ""


def report(
    results: xr.Dataset | Sequence[xr.Dataset],
    path: str | Path | Remote,
    *,
    cohort: xr.Dataset | None = None,
    title: str | None = None,
    background: Any = None,
    atlas: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Write one HTML file about results: it needs no network and no other file.

    Parameters
    ----------
    results
        Of `contrast`, `permutation_test`, `threshold` or `read_map`, one or several. What is not thresholded is, at 5%:
        permutation tests by their corrected p-values, others by the false discovery rate.
    path
        Path or URL of the file; one of the same name is replaced.
    cohort
        That was analysed: adds subjects, covariates, coverage and the design.
    title
        Of the page; by default the names of the contrasts.
    background
        Image to draw on, or its path. By default the MNI template for results in MNI space, else nothing.
    atlas
        Adds regions to the tables, as of `clusters_table`.
    storage_options
        Credentials and settings for the URLs of the file, the background and the atlas.

    Returns
    -------
    Path, or str for a URL
        Of the file.

    Raises
    ------
    InputError
        No result, or one that has lost a dimension.
    VoxstackError
        nilearn, matplotlib or jinja2 are not installed (``pip install 'voxstack[report]'``).
    StoreError
        The file cannot be written.

    Notes
    -----
    The page forbids itself all requests (Content-Security-Policy), and escapes all text of users. Slices that move need
    a browser with DecompressionStream (2023 or newer); all else is plain HTML.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise VoxstackError("Reports need jinja2. Install it with: pip install 'voxstack[report]'.") from error
    several = [results] if isinstance(results, xr.Dataset) else list(results)
    if not several:
        raise InputError("There is no result to report.")
    for one in several:
        check_result(one)
    if cohort is not None and not isinstance(cohort, xr.Dataset):
        raise InputError(f"cohort= is what open_cohort gives, not a {type(cohort).__name__}.")
    place = place_of(path, storage_options)
    make_folder(place.parent)
    background, atlas = background_image(background, storage_options), located(atlas, storage_options)
    several = [compute(one) for one in several]
    sections = [] if cohort is None else [_cohort(cohort, background)]
    volumes: dict[str, Any] = {"backgrounds": [], "maps": []}
    for number, one in enumerate(several):
        which = _KINDS[one.attrs["provenance"]["function"]] if len(several) > 1 else ""
        sections.append(_design(one, cohort, f"design-{number + 1}", f"Design and contrasts{which}"))
        sections += _contrasts(one, number + 1, which, background, atlas, volumes)
    sections += [_methods(several), _provenance(several)]
    names = ", ".join(dict.fromkeys(str(name) for one in several for name in one["contrast"].values))
    n_contrasts = sum(one.sizes["contrast"] for one in several)
    page = Environment(autoescape=True, trim_blocks=True).from_string(_text("page.html.j2"))
    from markupsafe import Markup

    html = page.render(
        title=title or f"Group analysis: {names}",
        subtitle=f"{n_contrasts} contrast{'' if n_contrasts == 1 else 's'}; {Grid.from_dataset(several[0])}",
        sections=sections,
        volumes=volumes,
        version=__version__,
        style=Markup(_text("page.css")),  # our own text
        script=Markup(_text("page.js")),
    )
    write_files({place: html.encode()})
    return place.url if isinstance(place, Remote) else place


def _text(name: str) -> str:
    return (files("voxstack.reporting") / name).read_text(encoding="utf-8")


def _cohort(cohort: xr.Dataset, background: Any) -> Section:
    """Subjects, maps, covariates and where data are missing."""
    n, maps = cohort.sizes[SUBJECT], map_names(cohort)
    inside = int(cohort["mask"].sum()) if "mask" in cohort.coords else int(np.prod(Grid.from_dataset(cohort).shape))
    rows = [["subjects", f"{n:,}"], ["maps", ", ".join(maps)], ["grid", str(Grid.from_dataset(cohort))]]
    rows.append(["mask", f"{inside:,} voxels"])
    section = Section("cohort", "Cohort and missing data")
    if "n_valid" in cohort.variables and counts_other_subjects(cohort):
        section.texts.append("Missing data are not shown: they were counted for other subjects than these.")
    elif "n_valid" in cohort.variables:
        valid = cohort["n_valid"].where(cohort["mask"], -1).values
        known = valid[valid >= 0]
        rows.append(["voxels with data of all subjects", f"{int((known == n).sum()):,}"])
        rows.append(["voxels that some subjects lack", f"{int((known < n).sum()):,}"])
        if known.size:
            rows.append(["fewest subjects at a voxel of the mask", f"{int(known.min()):,}"])
        figure = figures.plot_coverage(cohort, background=background)
        section.pictures.append(_picture(figure, "Share of subjects with data, in slices."))
    section.tables.append(Table(rows))
    covariates = [[name, *_covariate(cohort[name])] for name in covariate_names(cohort)]
    if covariates:
        section.tables.append(Table(covariates, ["covariate", "values", "missing"], "Covariates"))
    return section


def _covariate(covariate: xr.DataArray) -> list[str]:
    column = covariate.to_series().reset_index(drop=True)
    known = column.dropna()
    if column.dtype.kind in "iuf":
        told = f"{known.mean():.4g} ± {known.std():.3g} ({known.min():.4g} to {known.max():.4g})" if len(known) else ""
    else:
        counts = known.astype(str).value_counts()
        told = ", ".join(f"{level} ({count})" for level, count in counts.head(6).items())
        told += f" and {len(counts) - 6} more" if len(counts) > 6 else ""
    return [told, str(int(column.isna().sum()))]


def _design(result: xr.Dataset, cohort: xr.Dataset | None, name: str, heading: str) -> Section:
    """Regressors, condition and contrasts."""
    record = result.attrs["provenance"]
    section = Section(name, heading)
    if record["function"] == "read_map":
        section.texts.append("This map was made by another program; its design is not known.")
        return section
    if "formula" in record:
        section.texts.append(f"Formula: {record['formula']}")
    if cohort is not None and "formula" in record:
        matrix = make_design(cohort, record["formula"], drop_missing=bool(record.get("dropped_subjects")))
        condition = f"{float(matrix.attrs['condition_number']):.4g}"
        section.texts.append(f"{matrix.sizes['subject']} subjects, condition number {condition}.")
        inflation = matrix["variance_inflation"].values
        rows = [
            [str(regressor), "-" if np.isnan(value) else f"{value:.4g}"]
            for regressor, value in zip(matrix["regressor"].values, inflation, strict=True)
        ]
        section.tables.append(Table(rows, ["regressor", "variance inflation"]))
        section.pictures.append(_picture(figures.plot_design(matrix), "Design matrix: a row a subject."))
    section.pictures.append(_picture(figures.plot_contrasts(result), "Weights of the contrasts."))
    return section


def _contrasts(
    result: xr.Dataset, run: int, which: str, background: Any, atlas: Any, volumes: dict[str, Any]
) -> list[Section]:
    """A section for each contrast: maps, slices that move, what is significant, and distributions of maxima."""
    found, window = findings_of(result, atlas), Window(result["mask"])
    in_mni = int(result["spatial_ref"].attrs.get("space_code", 0)) == MNI_CODE
    variable = next(name for name in ("z_score", "stat", "p_value") if name in result)
    template = template_for(to_nifti(result["mask"]), background)
    volumes["backgrounds"].append(None if template is None else window.background(on_grid(template, result["mask"])))
    sections = []
    for number, name in enumerate(map(str, result["contrast"].values), 1):
        shown = result[variable].sel(contrast=name)
        if result["stat_type"].sel(contrast=name).item() == "F":
            shown = shown.clip(min=0, keep_attrs=True)  # below 0 there is no evidence
        one = drawn(shown)
        section = Section(f"contrast-{run}-{number}", f"Contrast {name}{which}", findings=found[name])
        section.tables.append(Table(_facts(result, name, shown)))
        if one.notnull().any():
            what = "Significant" if "significant" in result else "All"
            picture = figures.plot_slices(shown, background=background)
            section.pictures.append(_picture(picture, f"{what} values of {title_of(one)}."))
            _add_viewer(section, one, window, found[name][0], variable, volumes)
        for finding in section.findings:
            _add_pictures(finding, name, result, variable, background, in_mni)
        sections.append(section)
    return sections


def _facts(result: xr.Dataset, name: str, shown: xr.DataArray) -> list[list[str]]:
    one = result.sel(contrast=name)
    kind = str(one["stat_type"].item())
    dof = (
        f"{float(one['dof']):g}"
        if one["dof"].ndim == 0
        else f"{float(one['dof'].min()):g} to {float(one['dof'].max()):g}"
    )
    dof = f"{int(one['dof_num'])} and {dof}" if kind == "F" else dof
    told = f"{kind}, {dof} degrees of freedom"
    if result.attrs["provenance"]["function"] == "read_map" and not np.isfinite(float(one["dof"].max())):
        told = result.attrs["provenance"]["kind"]
    rows = [["statistic", told]]
    rows.append(["alternative", result.attrs["alternative"] if kind == "t" else "F has one side"])
    tested = int(one["n_tested"]) if "n_tested" in one else int(shown.notnull().sum())
    rows.append(["voxels tested", f"{tested:,}"])
    if shown.notnull().any():
        of = " of what is significant" if "n_tested" in one else ""
        rows.append(
            [
                f"range of {shown.attrs.get('long_name', shown.name)}{of}",
                f"{float(shown.min()):.4g} to {float(shown.max()):.4g}",
            ]
        )
    if "n_relabellings" in one.coords:
        every = ", all that there are" if bool(one["exhaustive"]) else ""
        rows.append(["relabellings", f"{int(one['n_relabellings']):,} ({one['relabelling'].item()}{every})"])
    return rows


def _add_viewer(
    section: Section, one: xr.DataArray, window: Window, finding: Finding, variable: str, volumes: dict[str, Any]
) -> None:
    values = within(one.transpose(*SPACE).values)
    largest = float(np.nanmax(np.abs(values)))
    signed = bool(np.nanmin(values) < 0)
    peak = np.unravel_index(np.nanargmax(np.abs(values)), values.shape)
    inverse = np.linalg.inv(window.affine)
    place = inverse @ Grid.from_dataset(one).affine @ [*peak, 1.0]
    options = finding.thresholded.attrs["provenance"]["threshold"]
    least = float(finding.thresholded["threshold"]) if options["variable"] == variable else np.nan
    section.viewer, section.shape, section.largest = f"viewer-{section.id}", window.shape, largest
    section.level = largest / 3
    if not bool(finding.thresholded["significant"].any()):
        section.level = largest
    elif abs(least) < largest and variable != "p_value":
        section.level = abs(least)
    section.range = (f"{-largest:.3g}" if signed else "0", f"{largest:.3g}")
    section.unit = str(one.attrs.get("long_name", one.name))
    told = {"id": section.viewer, "shape": window.shape, "affine": window.affine.tolist(), "inverse": inverse.tolist()}
    steps = np.linalg.norm(window.affine[:3, :3], axis=0).tolist()
    told |= {"background": len(volumes["backgrounds"]) - 1, "steps": steps}
    told |= {"largest": largest, "signed": signed, "start": [int(i) for i in np.rint(place[:3])]}
    volumes["maps"].append({**told, "values": window.coded(values, largest)})


def _add_pictures(
    finding: Finding, name: str, result: xr.Dataset, variable: str, background: Any, in_mni: bool
) -> None:
    options = finding.thresholded.attrs["provenance"]["threshold"]
    kept = finding.thresholded[options["variable"] if options["variable"] in finding.thresholded else variable]
    seen = "significant" in result and not in_mni and options["variable"] == variable  # in the section's own picture
    if bool(finding.thresholded["significant"].any()) and not seen:
        draw = figures.plot_glass_brain(kept) if in_mni else figures.plot_slices(kept, background=background)
        finding.pictures.append(_picture(draw, f"What is significant: {kept.attrs.get('long_name', kept.name)}."))
    statistic = "voxel" if options["variable"] == "stat" else options["variable"]
    if options["correction"] == "fwe" and statistic in result["statistic"].values:
        draw = figures.plot_null(result, contrast=name, statistic=statistic, alpha=options["alpha"])
        finding.pictures.append(_picture(draw, f"Largest {statistic.replace('_', ' ')} of each relabelling."))


def _methods(results: Sequence[xr.Dataset]) -> Section:
    section, texts = Section("methods", "Methods paragraph"), []
    for one in results:
        text, references = methods.paragraph(one)
        texts.append(text)
        section.references += [reference for reference in references if reference not in section.references]
    section.texts = texts
    return section


def _provenance(results: Sequence[xr.Dataset]) -> Section:
    section = Section("provenance", "Provenance")
    for one in results:
        lines = methods.commands(one)
        if lines:
            section.codes.append(Code("What repeats it on the command line", "\n".join(lines)))
        told = json.dumps(one.attrs["provenance"], indent=2, ensure_ascii=False)
        section.codes.append(Code("What was recorded", told))
    return section


def _picture(figure: Any, caption: str) -> Picture:
    """As PNG; the figure is closed."""
    from matplotlib import pyplot as plt

    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    plt.close(figure)
    return Picture(base64.b64encode(content.getvalue()).decode(), caption, caption)
