"""Credentials stay where users put them: nothing that is stored, logged, raised or shown holds them."""

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import voxstack as vx
from remote_stores import Remote
from small_cohorts import AFFINE, MAPS, content, noise, save, saved
from voxstack.cli.options import named
from voxstack.errors import InputError, VoxstackError
from voxstack.io.places import local_folder
from voxstack.io.sources import resolve_maps
from voxstack.store.location import Location
from voxstack.store.writer import write_batch

KEY, SECRET, TOKEN = "KEYID-5d0c", "SECRET-7f3a/+=", "TOKEN-9b1e"
QUICK = {"max_retries": 1, "backoff": {"init_backoff": timedelta(milliseconds=1)}}


@pytest.fixture
def options(s3: dict[str, Any]) -> dict[str, Any]:
    return {**s3, "aws_access_key_id": KEY, "aws_secret_access_key": SECRET, "aws_session_token": TOKEN}


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG)
    return caplog


def absent(text: str | bytes) -> None:
    told = text if isinstance(text, bytes) else text.encode()
    for secret in (SECRET, TOKEN, KEY, SECRET[:11]):
        assert secret.encode() not in told, told


def refusals(call: Callable[[], object], says: str) -> None:
    """An error of voxstack's own, and neither it nor its traceback, nor what lies behind it, tells a secret."""
    with pytest.raises(VoxstackError, match=says) as raised:
        call()
    absent("".join(traceback.format_exception(raised.value)))
    absent(repr(raised.value))


def test_nothing_that_is_stored_logged_or_shown_holds_them(
    s3: dict[str, Any],
    options: dict[str, Any],
    tmp_path: Path,
    logged: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = f"s3://bucket/{tmp_path.name}"
    table = save(tmp_path / "m", noise(8)).assign(age=[float(i**2) for i in range(8)])
    table.to_csv(tmp_path / "m" / "participants.tsv", sep="\t", index=False)
    batches: list[Any] = []
    monkeypatch.setattr(
        "voxstack.store.building.write_batch", lambda batch: (batches.append(batch), write_batch(batch))
    )
    kept: dict[str, Any] = {"storage_options": options}
    cohort = vx.stack(tmp_path / "m" / "participants.tsv", f"{root}/c", maps=MAPS, progress=True, **kept)
    result = vx.contrast(vx.fit_glm(cohort, "~ age"), "age")
    vx.save_results(result, f"{root}/r", **kept)
    opened = vx.open_results(f"{root}/r", **kept)
    permuted = vx.permutation_test(
        cohort, "~ age", "age", n_permutations=30, checkpoint=f"{root}/p", progress=True, **kept
    )

    content = Remote("", s3).content(root)
    assert {key.partition("/")[0] for key in content} == {"c", "r", "p"}
    for key, held in content.items():
        absent(key)
        absent(held)
    absent(logged.text)
    absent(repr([record.__dict__ for record in logged.records if record.name.startswith("voxstack")]))
    absent("".join(capfd.readouterr()))
    location = Location.of(f"{root}/c", options)
    for shown in (location, location.open(read_only=True), *batches):
        absent(repr(shown) + str(shown))
    for dataset in (cohort, result, opened, permuted):
        absent(repr(dataset) + dataset._repr_html_() + repr(dataset.attrs))
        for variable in dataset.variables.values():
            absent(repr(variable.encoding) + repr(variable.attrs))
            if variable.chunks is not None:
                graph = variable.data.dask
                absent(repr(graph) + graph._repr_html_() + repr(dict(graph)) + repr(list(dict(graph))))
    assert batches
    # They do travel, or else workers could read nothing.
    assert SECRET.encode() in pickle.dumps(batches[0].location)


def test_errors_do_not_tell_them(options: dict[str, Any], tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "m", noise(4))
    table = tmp_path / "m" / "participants.tsv"
    result = vx.contrast(vx.fit_glm(vx.from_arrays({"effect": noise(4)}, affine=AFFINE), "~ 1"), "Intercept")

    def calls(url: str, options: dict[str, Any]) -> list[Callable[[], object]]:
        kept: dict[str, Any] = {"storage_options": options}
        return [
            lambda: vx.stack(table, f"{url}/c", maps=MAPS, **kept),
            lambda: vx.open_cohort(f"{url}/c", **kept),
            lambda: vx.save_results(result, f"{url}/r", **kept),
            lambda: vx.open_results(f"{url}/r", **kept),
        ]

    # A bucket that is not there: reading finds nothing, and writing is refused.
    stack, open_cohort, save_results, open_results = calls("s3://no-such-bucket", {**options, "retry_config": QUICK})
    refusals(stack, "no-such-bucket/c cannot be (read|written): .*(404|not found|no bucket)")
    refusals(open_cohort, "there is no bucket or container no-such-bucket")
    refusals(save_results, "no-such-bucket/r cannot be (read|written): .*(404|not found|no bucket)")
    refusals(open_results, "there is no bucket or container no-such-bucket")
    nowhere = {**options, "endpoint": "http://127.0.0.1:9", "retry_config": QUICK}
    for call in calls("s3://bucket", nowhere):
        refusals(call, r"s3://bucket/[cr] cannot be (read|written): .*127\.0\.0\.1:9.*error sending request")
    # Secrets in the wrong place are quoted by some of the messages.
    for wrong in (
        {"aws_secret_access_keyy": SECRET},
        {"aws_virtual_hosted_style_request": SECRET},
        {"aws_secret_access_key": [SECRET]},
        {"client_options": {"timeout": SECRET}},
        {"client_options": {SECRET: SECRET}},
        {"retry_config": {"max_retries": SECRET}},
        {"timeout": SECRET},
        {"endpoint": f"http://user:{SECRET}@127.0.0.1:9", "retry_config": QUICK},
        {"endpoint": f"http://{TOKEN}@127.0.0.1:9", "retry_config": QUICK},
    ):
        for call in calls("s3://bucket", {**options, **wrong})[:2]:
            refusals(call, r"s3://bucket/c cannot be (opened|read|written): ")
    refusals(calls("memory://bucket", {"no_such": SECRET, "secret": [TOKEN]})[1], "bucket/c")
    absent(logged.text)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        (f"s3://{KEY}:{SECRET}@bucket/c", "a user or a password"),
        (f"ftp://user:{SECRET}@host/c", "a user or a password"),
        (f"simplecache::sftp://user:{SECRET}@host:22/c", "a user or a password"),
        (f"https://{TOKEN}@host/c", "a user or a password"),
        (f"az://container/c?sv=2024&sig={SECRET}", "a query"),
        (f"https://host/c?X-Amz-Signature={TOKEN}", "a query"),
        (f"https://host/c#sig={TOKEN}", "a fragment"),
        (f"s3://bucket/c#{TOKEN}", "a fragment"),
        (f"simplecache::https://{TOKEN}@host/c", "a user or a password"),
        (f"sftp://user:123/{SECRET}@host/c", "a user or a password"),
        (f"s3://{KEY}:4{SECRET}@bucket/c", "a user or a password"),
    ],
)
def test_urls_that_hold_them_are_refused(url: str, what: str, tmp_path: Path) -> None:
    save(tmp_path / "m", noise(3))
    for call in (
        lambda: vx.stack(tmp_path / "m" / "participants.tsv", url, maps=MAPS),
        lambda: vx.open_cohort(url),
        lambda: vx.open_results(url),
    ):
        with pytest.raises(InputError, match=f"holds {what}.*storage_options") as refused:
            call()
        absent("".join(traceback.format_exception(refused.value)).replace(f'"{url}"', ""))


@pytest.mark.parametrize(
    "url",
    [
        "abfs://container@account/c",
        "s3://bucket/subject@site:1/c",
        "sftp://host:22/c",
        "http://host:8080/a@b/c",
        "sftp://user@host/c",
        "s3://bucket/c",
    ],
)
def test_urls_that_hold_none_are_not(url: str) -> None:
    assert Location.of(url).url == url


class TestUrlsThatNameImages:
    """Whatever they are taken for, and whatever is wrong with them, they are not quoted."""

    URLS = (
        f"https://host/m.nii.gz?sig={TOKEN}",
        f"https://host/m.nii.gz#sig={TOKEN}",
        f"s3://{KEY}:{SECRET}@bucket/m.nii.gz",
        f"s3://{KEY}:{SECRET}@bucket/m",
    )

    def refused(self, call: Callable[[], object]) -> None:
        with pytest.raises(InputError, match=r"holds a .*storage_options") as refused:
            call()
        absent(str(refused.value))

    @pytest.mark.parametrize("url", URLS)
    def test_masks(self, url: str, tmp_path: Path) -> None:
        table = save(tmp_path, noise(3))
        self.refused(lambda: vx.stack(table, tmp_path / "c", maps=MAPS, mask=url))

    @pytest.mark.parametrize(
        "spec",
        [
            *URLS,
            f"s3://{KEY}:{SECRET}@bucket/{{nope}}.nii.gz",
            f"https://host/{{nope}}.nii.gz?sig={TOKEN}",
            f"s3://{KEY}:{SECRET}@bucket/{{participant_id.nii.gz",
            f"s3://{KEY}:{SECRET}@bucket/{{participant_id:d}}.nii.gz",
            [f"https://host/m.nii.gz?sig={TOKEN}"],
        ],
    )
    def test_maps(self, spec: Any) -> None:
        table = pd.DataFrame({"age": [20]}, index=pd.Index(["a"], name="participant_id"))
        self.refused(lambda: resolve_maps(table, Path(), {"effect": spec}))
        self.refused(lambda: resolve_maps(table, Path(), spec))

    @pytest.mark.parametrize("allow", [False, True])
    @pytest.mark.parametrize("pattern", ["{file}", "{file}.nii", "maps/{file}"])
    @pytest.mark.parametrize("url", URLS)
    def test_cells_of_a_pattern(self, url: str, pattern: str, allow: bool) -> None:
        table = pd.DataFrame({"file": [url]}, index=pd.Index(["a"], name="participant_id"))
        self.refused(lambda: resolve_maps(table, Path(), {"effect": pattern}, allow_outside=allow))

    @pytest.mark.parametrize("url", URLS)
    def test_folders_of_this_machine(self, url: str) -> None:
        self.refused(lambda: local_folder(url, "The demo"))

    @pytest.mark.parametrize("url", [f"s3://{KEY}:{TOKEN}@bucket/m", *URLS])
    def test_a_map_of_the_command_line_without_a_name(self, url: str) -> None:
        self.refused(lambda: named((url,), "--map"))

    @pytest.mark.parametrize("behind", [f"?sig={TOKEN}", f"#{TOKEN}"])
    def test_a_column_that_no_map_names_is_no_covariate(self, behind: str, tmp_path: Path) -> None:
        table = saved(tmp_path / "m", noise(3), age=[20, 30, 40])
        table["signed"] = [f"https://host/{i}.nii.gz{behind}" for i in range(3)]
        cohort = vx.stack(table, tmp_path / "c", maps=MAPS)
        assert "age" in cohort.coords
        assert "signed" not in cohort.coords
        for held in content(tmp_path / "c").values():
            absent(held)


def test_a_token_of_azure_is_not_told() -> None:
    """It is part of the addresses of all requests."""
    kept = {
        "azure_storage_account_name": "account",
        "azure_storage_sas_key": f"sv=2024-01-01&sig={TOKEN}",
        "endpoint": "http://127.0.0.1:9/account",
        "client_options": {"allow_http": True},
        "retry_config": QUICK,
    }
    refusals(lambda: vx.open_cohort("az://container/c", storage_options=kept), "az://container/c cannot be read: ")
