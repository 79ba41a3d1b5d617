"""voxstack simulate."""

from pathlib import Path

import click

from voxstack.cli.computing import Conditions, computing, running
from voxstack.simulate import simulate_cohort


@click.command("simulate")
@click.argument("folder", type=click.Path())
@click.option("--subjects", type=int, required=True, help="Number of subjects.")
@click.option("--resolution", type=float, default=3, show_default=True, help="Voxel size in mm.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random numbers.")
@computing
def command(folder: str, subjects: int, resolution: float, seed: int, conditions: Conditions) -> None:
    """Write a simulated cohort of NIfTI files, a participants table and the truth into FOLDER."""
    with running(conditions, going_on="The same command begins anew."):
        simulate_cohort(folder, n_subjects=subjects, resolution=resolution, seed=seed, progress=not conditions.quiet)
    if not conditions.quiet:
        click.echo(f"{subjects} subjects in {folder}; their table is {Path(folder) / 'participants.tsv'}.")
