"""Workers and drivers that are killed: the results hold the same bits, and nothing is left behind."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import psutil
import xarray as xr
from measure import Number
from workers import Killer, workers

import voxstack as vx

SUBJECTS = 1500
_KILLS = 20  # of workers, in all
_DRIVERS = 10
_EVERY = {"stack": 2.5, "fit": 2.5, "max-T": 2.5, "TFCE": 6.0}
"""Seconds, on average, from one kill to the next. A worker takes some three to start, and a batch of whole maps needs
what both of them have made."""
_DESIGN = "~ age + sex + C(site)"

_DRIVER = """
import sys
import voxstack as vx
from distributed import Client, LocalCluster
if __name__ == "__main__":
    table, store, checkpoint, result = sys.argv[1:]
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="1.5GiB", dashboard_address=None) as cluster:
        with Client(cluster):
            try:
                cohort = vx.open_cohort(store)
            except vx.errors.StoreError:
                cohort = vx.stack(table, store, maps={"effect": "effect_path"})
            tests = vx.permutation_test(cohort, "~ age + sex + C(site)", "age", n_permutations=256,
                                        statistics=["voxel", "tfce"], checkpoint=checkpoint)
    vx.save_results(tests, result)
"""


def measure(folder: Path, repeated: Callable[[Path, int], Path]) -> tuple[dict[str, object], list[Number]]:
    """How often what was killed, and how many results differ."""
    participants = repeated(folder, SUBJECTS)
    calls = _calls(participants, folder / "calm.zarr")
    with workers(2):
        calm = {name: call() for name, call in calls.items()}
    kills, seconds, differ = _killed_workers(participants, folder, calm)
    drivers = _killed_drivers(participants, folder, calm)
    left = _orphans(folder)
    numbers = [
        Number("workers killed during stack, fit, max-T and TFCE", float(sum(kills.values())), _KILLS, "workers"),
        Number("results that differ by a bit", float(differ + drivers["differ"]), 0, "results", at_most=True),
        Number("drivers killed and resumed", float(drivers["killed"]), _DRIVERS, "drivers"),
        Number("files and processes left behind", float(len(left) + drivers["processes"]), 0, "files", at_most=True),
    ]
    return {"kills": kills, "seconds": seconds, "drivers": drivers, "left": left}, numbers


def _calls(participants: Path, store: Path) -> dict[str, Callable[[], str]]:
    def stack() -> str:
        vx.stack(participants, store, maps={"effect": "effect_path"}, overwrite=True)
        return digest_of_folder(store)

    def fit() -> str:
        return digest(vx.compute(vx.contrast(vx.fit_glm(vx.open_cohort(store), _DESIGN), ["age", "sex[T.M]"])))

    def permute(*statistics: str) -> str:
        cohort = vx.open_cohort(store)
        return digest(vx.permutation_test(cohort, _DESIGN, "age", n_permutations=256, statistics=statistics))

    return {"stack": stack, "fit": fit, "max-T": lambda: permute("voxel"), "TFCE": lambda: permute("voxel", "tfce")}


def _killed_workers(
    participants: Path, folder: Path, calm: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, float], int]:
    """Each step is repeated until five workers were killed during it."""
    kills, seconds, differ = dict.fromkeys(calm, 0), dict.fromkeys(calm, 0.0), 0
    chance, store = random.Random(0), folder / "killed.zarr"
    for name in calm:
        while kills[name] < _KILLS // len(calm):
            with workers(2) as client:
                start = perf_counter()
                with Killer(client, _EVERY[name], chance) as killer:
                    found = _calls(participants, store)[name]()
            kills[name] += killer.kills
            seconds[name] += perf_counter() - start
            differ += found != calm[name]
            told = "the same" if found == calm[name] else "another result"
            print(f"{name}: {kills[name]} kills, {told}", flush=True)
    return kills, seconds, differ


def _killed_drivers(participants: Path, folder: Path, calm: Mapping[str, str]) -> dict[str, int]:
    """A process that stacks and permutes is killed at random moments, and started again until it is done."""
    store, checkpoint, result = (folder / f"resumed.{ending}" for ending in ("zarr", "checkpoint", "result.zarr"))
    command = [sys.executable, "-c", _DRIVER, *map(str, (participants, store, checkpoint, result))]
    chance, killed, left = random.Random(1), 0, 0
    while True:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(None if killed == _DRIVERS else chance.uniform(4, 16))
            break
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
            time.sleep(3)
            left += sum(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    differ = (digest_of_folder(store) != calm["stack"]) + (digest(vx.open_results(result).compute()) != calm["TFCE"])
    partial = sum(1 for path in folder.rglob("*.partial") if "checkpoint" in str(path))
    return {"killed": killed, "differ": int(differ), "processes": left, "partial": partial}


def _orphans(folder: Path) -> list[str]:
    """Temporary files, locks and plans of any store."""
    names = ("*.partial", "*.lock", "*.replaced")
    return sorted(str(path.relative_to(folder)) for name in names for path in folder.rglob(name))


def digest(dataset: xr.Dataset) -> str:
    """Of all values, bit by bit."""
    found = hashlib.blake2b()
    for name in sorted(map(str, dataset.variables)):
        values = np.asarray(dataset[name].values)
        found.update(f"{name}{values.shape}{values.dtype.kind}".encode())
        found.update(values.tobytes() if values.dtype.kind in "biuf" else str(values.tolist()).encode())
    return found.hexdigest()


def digest_of_folder(folder: Path) -> str:
    """Of labels, mask and counts, and of all chunk files, whatever edition their names are of."""
    cohort = vx.open_cohort(folder)
    chunks = {
        str(path.relative_to(folder)).replace(".", "/"): hashlib.blake2b(path.read_bytes()).hexdigest()
        for path in (folder / "effect").rglob("*")
        if path.is_file() and path.name != "zarr.json"
    }
    told = [digest(cohort.drop_vars("effect")), *map(str, sorted(chunks.items()))]
    return hashlib.blake2b("".join(told).encode()).hexdigest()
