"""voxstack demo."""

import click
from rich.table import Table
from scipy.stats import norm

from voxstack.cli.computing import Conditions, computing, running
from voxstack.cli.console import console
from voxstack.demo import Z_THRESHOLD, Demo, run_demo


@click.command("demo")
@click.option("--subjects", type=int, default=40, show_default=True, help="Number of subjects.")
@click.option("--output", "folder", type=click.Path(), default="voxstack-demo", show_default=True)
@computing
def command(subjects: int, folder: str, conditions: Conditions) -> None:
    """Simulate a cohort on the MNI 3 mm grid, stack it, fit age and sex, and hold the maps against the truth."""
    with running(conditions, going_on="The same command begins anew."):
        demo = run_demo(folder, n_subjects=subjects, progress=not conditions.quiet)
    if not conditions.quiet:
        _report(demo, subjects)


def _report(demo: Demo, n_subjects: int) -> None:
    out = console()
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in demo.seconds.items())
    out.print(f"{n_subjects} subjects: {steps}. Everything is in {demo.folder}:", soft_wrap=True)
    for path in demo.files:
        out.print(f"  {path.relative_to(demo.folder)}", highlight=False, soft_wrap=True)
    if demo.picture is None:
        out.print("No picture was drawn: figures need the extra, pip install 'voxstack[report]'.")
    table = Table(
        "effect", "region", "put in", "found", "z", title="Found against what was put in", title_justify="left"
    )
    for found in demo.found:
        estimate = f"{found.estimate:.3f} ± {found.standard_error:.3f}"
        table.add_row(found.contrast, found.region, f"{found.true:.3f}", estimate, f"{found.z:.1f}")
    out.print(table)
    for d in demo.detections:
        out.print(
            f"{d.contrast}: |z| > {Z_THRESHOLD} in {d.n_found / d.n_true:.0%} of the {d.n_true:,} voxels with at least "
            f"half of the peak effect, and in {d.n_false / d.n_null:.2%} of the {d.n_null:,} without any effect "
            f"({2 * norm.sf(Z_THRESHOLD):.2%} expected).",
            soft_wrap=True,
        )
