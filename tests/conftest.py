"""Fixtures that several test files share."""

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import settings

# Developers draw new examples at every run; CI draws the same ones, so that it fails for a change and not by chance.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

ROOT = Path(__file__).parents[1]


def _outside(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT / default))
    if not folder.is_dir():
        pytest.skip(f"the data folder {folder.name} is not here; {variable} names it")
    return folder


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Real cohorts with known results."""
    return _outside("VOXSTACK_DATA", "../shared/data")


@pytest.fixture(scope="session")
def wager_table(data_folder: Path) -> pd.DataFrame:
    """Covariates X and Y of the 30 subjects of Wager et al. 2008, and the paths of their maps."""
    folder = data_folder / "wager2008"
    table = pd.read_csv(folder / "X_Y_data.txt", sep="\t").set_axis(["X", "Y"], axis=1)
    images = sorted((folder / "maps").glob("*.img"))
    table["path"] = [str(image.resolve()) for image in images]
    return table.assign(participant_id=[f"sub-{i + 1:02d}" for i in range(len(table))])


@pytest.fixture(scope="session")
def models() -> list[Any]:
    """Fitted first-level models of five people."""
    from first_level import five_models

    return five_models()


@pytest.fixture(scope="session")
def people() -> pd.DataFrame:
    """Their covariates."""
    from first_level import five_people

    return five_people()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 3 subjects."""
    monkeypatch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", 3)


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """Storage options for a bucket called "bucket", of an S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
    yield {
        "aws_access_key_id": "an-access-key",
        "aws_secret_access_key": "a-secret-key",
        "endpoint": endpoint,
        "region": "us-east-1",
        "client_options": {"allow_http": True},
        "virtual_hosted_style_request": False,
    }
    server.stop()


@pytest.fixture(scope="session")
def kernel_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Jupyter's files go into a folder of their own."""
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            monkeypatch.setenv(variable, str(folder / variable.lower()))
        yield


@pytest.fixture(params=["s3", "memory"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """A place of its own, by obstore and by fsspec, and the options that it needs."""
    if request.param == "s3":
        yield f"s3://bucket/{tmp_path.name}", request.getfixturevalue("s3")
    else:
        yield f"memory://{tmp_path.name}", {}
