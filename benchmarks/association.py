"""The gallery's association test, from the files to corrected p, beside nilearn's on the same files in the same run.

    python benchmarks/association.py [--repeats 3] [--results DIR] [--quick]

89 simulated people at 3 mm with a score: maps are read, smoothed by 5 mm, and the slope on the score is tested by 1,000
relabellings, two-sided, by max-T and by TFCE of t. Voxstack stacks them into a cohort and tests that; nilearn does the
same by `non_parametric_inference` with two jobs. Both permute the score, take the same mask, and smooth over missing
values alike. t has to be the same, and corrected p of max-T but for the chance of 1,000 relabellings. nilearn sums TFCE
over 100 steps of each map and does not multiply by the step; times that step its values have to be those of the exact
integral, and its p, of maps with steps of their own, are others. Its TFCE is timed once, for it takes minutes. Run
nothing else meanwhile.
"""

import argparse
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from measure import Number, in_turn, medians
from nilearn.glm.second_level import non_parametric_inference
from numpy.typing import NDArray
from run import RESULTS, table

import voxstack as vx
from voxstack.simulate import Region

FWHM, JOBS = 5.0, 2  # mm; processes of nilearn, threads of voxstack
_TARGETS = {"max-T": 3.0, "TFCE": 30.0}
_REGIONS = (
    Region("mean", "right motor cortex", (38, -24, 54), 1.5, 9),
    Region("score", "left temporal cortex", (-51, -36, 6), 0.2, 11),
    Region("score", "right putamen", (27, 3, 3), -0.17, 10),
)

Maps = Mapping[str, NDArray[np.float64]]
"""t, what is tested (t or TFCE) and its corrected p (x, y, z)."""


@dataclass(frozen=True)
class _Study:
    """People with a score, their files, and how many relabellings are made."""

    folder: Path
    n_permutations: int

    @property
    def people(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "participants.tsv", sep="\t")

    @property
    def mask(self) -> Path:
        return self.folder / "mask.nii.gz"

    def voxstack(self, name: str) -> Maps:
        """Stack, and test by max-T or TFCE."""
        cohort = vx.stack(
            self.folder / "participants.tsv",
            self.folder / "cohort.zarr",
            maps={"effect": "effect_path"},
            mask=self.mask,
            smoothing_fwhm=FWHM,
            smoothing_missing="zero",
            overwrite=True,
        )
        statistic = {"max-T": "voxel", "TFCE": "tfce"}[name]
        tests = vx.permutation_test(
            cohort, "~ score", "score", n_permutations=self.n_permutations, statistics=(statistic,), scale="stat"
        )
        tested = tests["tfce" if name == "TFCE" else "stat"]
        return {"t": tests["stat"].values[0], "tested": tested.values[0], "p": tests[f"{statistic}_p_fwe"].values[0]}

    def nilearn(self, name: str) -> Maps:
        """The same by nilearn, which does not count the identity and adds the intercept itself."""
        people = self.people
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions to come
            found = non_parametric_inference(
                [str(self.folder / path) for path in people["effect_path"]],
                design_matrix=people[["score"]],
                second_level_contrast="score",
                model_intercept=True,
                mask=str(self.mask),
                smoothing_fwhm=FWHM,
                n_perm=self.n_permutations - 1,
                two_sided_test=True,
                tfce=name == "TFCE",
                random_state=0,
                n_jobs=JOBS,
            )
        if name == "max-T":
            return {"p": 10 ** -(found["logp_max_t"] if isinstance(found, dict) else found).get_fdata()}
        t = found["t"].get_fdata()
        step = np.abs(t).max() / 100
        return {"t": t, "tested": step * found["tfce"].get_fdata(), "p": 10 ** -found["logp_max_tfce"].get_fdata()}


def main() -> None:
    """Measure, and write a table, a JSON file and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement; medians count [3]")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="only show that everything runs; needs --results")
    options = parser.parse_args()
    if options.quick and options.results == RESULTS:
        parser.error("--quick needs --results, for its numbers must not be taken for real ones")
    with tempfile.TemporaryDirectory() as name:
        study = _simulated(Path(name), options.quick)
        seconds = {test: _compare(study, test, options.repeats) for test in _TARGETS}
    middle = {test: medians(times) for test, times in seconds.items()}
    numbers = [
        Number(f"association, {test}, against nilearn", t["nilearn"] / t["voxstack"], _TARGETS[test], "times")
        for test, t in middle.items()
    ]
    document = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("voxstack", "nilearn", "numpy", "numba")},
        "numbers": [{**asdict(number), "reached": number.reached} for number in numbers],
        "seconds": seconds,
    }
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "association.json").write_text(json.dumps(document, indent=2) + "\n")
    (options.results / "association.md").write_text(table(numbers))
    _plot(middle, options.results / "association.png")
    print(table(numbers))


def _simulated(folder: Path, quick: bool) -> _Study:
    """The people of the example; a quick study has few of them, large voxels and few relabellings."""
    n, resolution, n_permutations = (12, 8.0, 40) if quick else (89, 3.0, 1000)
    score = np.random.default_rng(94).normal(17.7, 3.5, size=n).round()
    people = pd.DataFrame({"participant_id": [f"sub-{i + 1:02d}" for i in range(n)], "score": score})
    vx.simulate_cohort(folder, participants=people, regions=_REGIONS, resolution=resolution, seed=94)
    return _Study(folder, n_permutations)


def _compare(study: _Study, test: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of both, once their answers have been held against each other."""
    found: dict[str, Maps] = {}
    contenders = {
        "voxstack": lambda: found.update(voxstack=study.voxstack(test)),
        "nilearn": lambda: found.update(nilearn=study.nilearn(test)),
    }
    contenders["voxstack"]()  # compiles
    times = in_turn(contenders, {"voxstack": repeats, "nilearn": 1 if test == "TFCE" else repeats})
    _check_agreement(found["voxstack"], found["nilearn"], study, test)
    return times


def _check_agreement(ours: Maps, theirs: Maps, study: _Study, test: str) -> None:
    """Speed of a wrong answer is worth nothing."""
    inside = nib.load(study.mask).get_fdata() > 0
    if test == "TFCE":
        worst = np.abs(ours["t"] - theirs["t"])[inside].max()
        assert worst < 1e-3, f"t differs from nilearn's by up to {worst}"
        worst = np.abs(ours["tested"] - theirs["tested"])[inside].max() / np.abs(ours["tested"][inside]).max()
        assert worst < 0.05, f"TFCE differs from nilearn's sum by up to {worst:.1%} of its largest value"
        return
    p, q = ours["p"][inside], theirs["p"][inside]
    # Two shares of as many independent relabellings each.
    chance = np.sqrt(2 * np.maximum(p, q) * (1 - np.minimum(p, q)) / study.n_permutations)
    worst = float((np.abs(p - q) - 5 * chance).max())
    assert worst < 2 / study.n_permutations, f"corrected p differs from nilearn's by {worst} beyond chance"


def _plot(seconds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Seconds of both programs, on a logarithmic scale."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
    colours = {"voxstack": "#2a6f97", "nilearn": "#adb5bd"}
    rows = [(test, program) for test in seconds for program in colours]
    values = [seconds[test][program] for test, program in rows]
    axes.barh(range(len(rows)), values, color=[colours[program] for _, program in rows], height=0.7)
    axes.set(yticks=range(len(rows)), yticklabels=[f"{test}, {program}" for test, program in rows], xscale="log")
    axes.set_xlabel("seconds from 89 files to corrected p, 1,000 relabellings, two cores")
    axes.invert_yaxis()
    for row, value in enumerate(values):
        axes.text(value * 1.06, row, f"{value:,.1f} s", va="center", fontsize=9)
    axes.set_xlim(min(values) / 2, max(values) * 2)
    axes.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
