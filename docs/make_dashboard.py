"""Draw ``_static/dashboard.png``: Dask's dashboard while a permutation test runs on two workers.

``python docs/make_dashboard.py [--quick] [PNG]``, with the extra ``test`` installed and Chromium on the path. The page
is drawn by scripts of its own over a web socket, so that ``chromium --screenshot`` gives an empty one.
"""

import argparse
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from distributed import Client, LocalCluster
from playwright.sync_api import sync_playwright

import voxstack as vx

PICTURE = Path(__file__).parent / "_static" / "dashboard.png"
TASKS_DRAWN = "Bokeh.documents[0]?.get_model_by_name('task_stream')?.renderers[0].data_source.get_length() ?? 0"


def chromium() -> str | None:
    """The system's Chromium."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def draw(picture: Path, browser: str, *, n_subjects: int, resolution: float, n_permutations: int, tasks: int) -> None:
    """Draw the dashboard once so many tasks of a permutation test are in its stream."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=2, threads_per_worker=2, memory_limit="2GiB", dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
        sync_playwright() as playwright,
        ThreadPoolExecutor(1) as pool,
    ):
        vx.simulate_cohort(folder, n_subjects=n_subjects, resolution=resolution)
        table, store = Path(folder) / "participants.tsv", Path(folder) / "cohort.zarr"
        cohort = vx.stack(table, store, maps={"effect": "effect_path"})
        test = partial(vx.permutation_test, cohort, "~ age + sex", "age", statistics=["voxel", "tfce"])
        test(n_permutations=8)  # workers import and compile what they need before anybody looks
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        chrome = playwright.chromium.launch(executable_path=browser, args=arguments)
        page = chrome.new_page(viewport={"width": 1200, "height": 760})
        page.set_default_timeout(120_000)
        page.goto(client.dashboard_link)
        page.wait_for_function("Bokeh.documents.length > 0")
        running = pool.submit(test, n_permutations=n_permutations)
        page.wait_for_function(f"({TASKS_DRAWN}) >= {tasks}")
        page.screenshot(path=picture)
        chrome.close()
        running.result()


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, default=PICTURE, metavar="PNG")
    parser.add_argument("--quick", action="store_true", help="A small cohort and few relabellings.")
    options = parser.parse_args()
    browser = chromium()
    if browser is None:
        sys.exit("There is no Chromium on this machine.")
    if options.quick:
        draw(options.picture, browser, n_subjects=12, resolution=6, n_permutations=200, tasks=15)
    else:
        draw(options.picture, browser, n_subjects=100, resolution=4, n_permutations=5000, tasks=150)


if __name__ == "__main__":
    main()
