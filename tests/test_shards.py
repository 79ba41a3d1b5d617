"""Cohorts in shards: any Zarr reader finds the values that plain chunks hold, under few keys."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import FsspecStore, MemoryStore

import voxstack as vx
from small_cohorts import MAPS, content, in_memory, noise, saved
from voxstack.cli import cli
from voxstack.errors import InputError, StoreError
from voxstack.plan import StackWork
from voxstack.store.describe import describe

pytestmark = pytest.mark.usefixtures("small_chunks")  # of 3 subjects

SHAPE = (40, 33, 70)  # 2 x 2 x 3 chunks
N = 8


def volumes(n: int = N, seed: int = 0) -> NDArray[np.float32]:
    """With a chunk and a whole slab where nobody has data, and another chunk where one batch has none."""
    values = noise(n, SHAPE, seed)
    values[:, 32:, :32, :32] = np.nan
    values[:, :, :, 64:] = np.nan
    values[3:6, :32, 32:, :32] = np.nan
    return values


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cohort in plain chunks and in shards."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("voxstack.plan.SUBJECTS_PER_CHUNK", 3)
        for name, shard in (("plain", False), ("sharded", True)):
            vx.stack(in_memory(volumes()), folder / name, maps=MAPS, mask=0.5, shard=shard)
    return folder


def chunk_keys(store: Path) -> set[str]:
    return {key for key in content(store) if key.startswith("effect/c/")}


def test_the_cohort_is_the_same_and_has_a_key_for_each_batch_and_slab(stores: Path) -> None:
    plain, sharded = (vx.open_cohort(stores / name) for name in ("plain", "sharded"))
    assert sharded["effect"].chunks == plain["effect"].chunks == ((3, 3, 2), (32, 8), (32, 1), (32, 32, 6))
    np.testing.assert_array_equal(sharded["effect"].values, volumes())
    xr.testing.assert_identical(sharded.compute(), plain.compute())
    assert chunk_keys(stores / "sharded") == {f"effect/c/{row}/0/0/{z}" for row in range(3) for z in range(2)}
    # Of 3 rows of 12 chunks, those of a slab without data and of an empty column, and one more in the second row.
    assert len(chunk_keys(stores / "plain")) == 3 * (12 - 4 - 1) - 1
    roots = [json.loads((stores / name / "zarr.json").read_text()) for name in ("plain", "sharded")]
    assert roots[0]["attributes"] == roots[1]["attributes"]


def test_other_readers_of_zarr_read_it(stores: Path) -> None:
    np.testing.assert_array_equal(zarr.open_group(stores / "sharded", mode="r")["effect"][:], volumes())
    opened = xr.open_zarr(stores / "sharded", chunks=None)
    np.testing.assert_array_equal(opened["effect"].values, volumes())
    np.testing.assert_array_equal(opened["effect"][4, 3:35, 31:, 30:34].values, volumes()[4, 3:35, 31:, 30:34])


def test_the_codecs_are_those_that_zarr_has_for_shards(stores: Path) -> None:
    array = zarr.open_group(stores / "sharded", mode="r")["effect"]
    plain = zarr.open_group(stores / "plain", mode="r")["effect"]
    assert isinstance(array, zarr.Array)
    assert isinstance(plain, zarr.Array)
    assert (array.chunks, array.shards) == ((3, 32, 32, 32), (3, 64, 64, 32))
    made = zarr.create_array(
        MemoryStore(),
        shape=array.shape,
        chunks=array.chunks,
        shards=(3, 64, 64, 32),
        dtype="float32",
        filters=plain.filters,
        compressors=plain.compressors,
        zarr_format=3,
    )
    assert array.metadata.to_dict()["codecs"] == made.metadata.to_dict()["codecs"]


def test_shards_that_zarr_has_written_are_read(stores: Path, tmp_path: Path) -> None:
    """It lays the chunks of a shard in another order."""
    shutil.copytree(stores / "sharded", tmp_path / "c")
    before, others = content(tmp_path / "c"), volumes(seed=1)
    array = zarr.open_group(tmp_path / "c", mode="r+", use_consolidated=False)["effect"]
    assert isinstance(array, zarr.Array)
    array[:] = others
    assert before["effect/c/0/0/0/1"] != content(tmp_path / "c")["effect/c/0/0/0/1"]
    np.testing.assert_array_equal(vx.open_cohort(tmp_path / "c")["effect"].values, others)


class TestReading:
    @pytest.fixture
    def url(self, stores: Path, tmp_path: Path) -> str:
        """In an object store."""
        vx.stack(in_memory(volumes()), f"memory://{tmp_path.name}/c", maps=MAPS, mask=0.5)
        return f"memory://{tmp_path.name}/c"

    @pytest.fixture
    def requests(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
        """Keys of chunks that are asked for, and what part of them."""
        get, told = FsspecStore.get, []

        async def recording(store: Any, key: str, prototype: Any, byte_range: Any = None) -> Any:
            if key.startswith("effect/c"):
                told.append((key, byte_range))
            return await get(store, key, prototype, byte_range)

        monkeypatch.setattr(FsspecStore, "get", recording)
        return told

    def test_a_chunk_is_one_request_and_an_index_is_read_once(self, url: str, requests: list[tuple[str, Any]]) -> None:
        cohort = vx.open_cohort(url)
        np.testing.assert_array_equal(cohort["effect"][:3].values, volumes()[:3])
        # 4 chunks of the second slab, 3 of the first one; the third slab is not stored.
        ranges = [(key, part) for key, part in requests if isinstance(part, RangeByteRequest)]
        assert sorted(key for key, _ in ranges) == ["effect/c/0/0/0/0"] * 3 + ["effect/c/0/0/0/1"] * 4
        indexes = [(key, part) for key, part in requests if isinstance(part, SuffixByteRequest)]
        assert sorted(key for key, _ in indexes) == [f"effect/c/0/0/0/{z}" for z in range(3)]
        assert {part.suffix for _, part in indexes} == {4 * 16 + 4}
        requests.clear()
        np.testing.assert_array_equal(cohort["effect"][0, 0, 0, :].values, volumes()[0, 0, 0])
        assert [type(part) for _, part in requests] == [RangeByteRequest] * 2

    def test_the_last_row_may_be_filled_up_while_it_is_read(
        self, url: str, requests: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its index is known, its shard is another one meanwhile, and nothing is published yet."""
        cohort = vx.open_cohort(url)
        np.testing.assert_array_equal(cohort["effect"][6:].values, volumes()[6:])
        seen: list[NDArray[np.float32]] = []

        def looking(*_: Any, **__: Any) -> None:
            seen.append(cohort["effect"][6:].values)
            raise KeyboardInterrupt

        more = np.round(volumes(3, seed=5)) + np.float32(0.5)  # small chunks, so all lie elsewhere
        more[:, 32:, :32, :32] = 0.5  # also where there was none
        with monkeypatch.context() as patch:
            patch.setattr("voxstack.store.building.layout.publish", looking)
            with pytest.raises(KeyboardInterrupt):
                vx.stack(in_memory(more, first=N), url, maps=MAPS, mask=0.5, append=True)
        np.testing.assert_array_equal(seen[0], volumes()[6:])
        grown = vx.stack(in_memory(more, first=N), url, maps=MAPS, mask=0.5, append=True)
        np.testing.assert_array_equal(cohort["effect"].values, volumes())
        np.testing.assert_array_equal(grown["effect"].values, np.concatenate([volumes(), more]))

    def test_written_anew_meanwhile_it_is_said_to_be_replaced(self, url: str) -> None:
        """Twice, so that the keys, and what is known of their indexes, are those of the first one."""
        cohort = vx.open_cohort(url)
        cohort["effect"].load()
        cohort = vx.open_cohort(url)
        cohort["effect"][:3].compute()
        for seed in (1, 2):
            again = vx.stack(in_memory(volumes(seed=seed)), url, maps=MAPS, mask=0.5, overwrite=True)
            with pytest.raises(StoreError, match="was replaced after it was opened"):
                cohort["effect"][:3].compute()
            np.testing.assert_array_equal(again["effect"].values, volumes(seed=seed))


class TestDamaged:
    key = "effect/c/0/0/0/1"

    def damaged(self, stores: Path, folder: Path, held: bytes) -> xr.Dataset:
        shutil.copytree(stores / "sharded", folder / "c")
        (folder / "c" / self.key).write_bytes(held)
        return vx.open_cohort(folder / "c")

    @pytest.fixture
    def shard(self, stores: Path) -> bytes:
        return (stores / "sharded" / self.key).read_bytes()

    def damages(self, shard: bytes) -> Iterator[bytes]:
        index = len(shard) - (4 * 16 + 4)
        yield shard[:index] + bytes([shard[index] ^ 1]) + shard[index + 1 :]  # an offset
        yield shard[:-1] + bytes([shard[-1] ^ 1])  # the checksum
        yield shard[:-5]
        yield shard[:10]
        yield b""
        yield bytes(4) + shard[4:]  # a chunk
        yield shard[-(4 * 16 + 4) :]  # the index alone

    @pytest.mark.parametrize("number", range(7))
    def test_it_is_said_where(self, stores: Path, shard: bytes, tmp_path: Path, number: int) -> None:
        cohort = self.damaged(stores, tmp_path, list(self.damages(shard))[number])
        with pytest.raises(
            StoreError, match=r"c: 'effect' cannot be read from \(0, \d+, \d+, 32\) on: .*(damaged|short)"
        ):
            cohort["effect"][:3].compute()
        np.testing.assert_array_equal(cohort["effect"][3:].values, volumes()[3:])


class TestWhichStoresHaveThem:
    def test_object_stores_unless_asked_and_folders_if_asked(self, tmp_path: Path) -> None:
        table, url = in_memory(noise(4)), f"memory://{tmp_path.name}"
        for number, (place, shard, expected) in enumerate(
            [(tmp_path, None, False), (tmp_path, True, True), (url, None, True), (url, False, False)]
        ):
            vx.stack(table, f"{place}/{number}", maps=MAPS, shard=shard)
            told = describe(f"{place}/{number}")
            assert told["chunks"] == [3, 4, 5, 3]
            assert told["shards"] == ([3, 4, 5, 3] if expected else None)

    @pytest.mark.parametrize("sharded", [False, True])
    def test_what_is_appended_is_cut_as_what_is_there(self, tmp_path: Path, sharded: bool) -> None:
        parts = [in_memory(part, first=first) for first, part in ((0, volumes()[:4]), (4, volumes()[4:]))]
        vx.stack(parts[0], tmp_path / "c", maps=MAPS, mask=0.5, shard=sharded)
        before = content(tmp_path / "c")
        says = rf"c has {'shards' if sharded else 'no shards'}.*Leave shard out"
        with pytest.raises(InputError, match=says):
            vx.stack(parts[1], tmp_path / "c", maps=MAPS, mask=0.5, shard=not sharded, append=True)
        assert content(tmp_path / "c") == before
        cohort = vx.stack(parts[1], tmp_path / "c", maps=MAPS, mask=0.5, append=True)
        np.testing.assert_array_equal(cohort["effect"].values, volumes())
        vx.stack(in_memory(volumes()), tmp_path / "whole", maps=MAPS, mask=0.5, shard=sharded)
        assert {key: content(tmp_path / "c")[key] for key in chunk_keys(tmp_path / "c")} == {
            key: content(tmp_path / "whole")[key] for key in chunk_keys(tmp_path / "whole")
        }

    def test_replacing_may_cut_in_another_way(self, tmp_path: Path) -> None:
        for number, shard in enumerate((False, True, False)):
            table = in_memory(volumes(seed=number))
            cohort = vx.stack(table, tmp_path / "c", maps=MAPS, mask=0.5, shard=shard, overwrite=number > 0)
            np.testing.assert_array_equal(cohort["effect"].values, volumes(seed=number))
            assert (describe(tmp_path / "c")["shards"] is not None) == shard
        vx.stack(table, tmp_path / "undisturbed", maps=MAPS, mask=0.5)
        assert {key: content(tmp_path / "c")[key] for key in chunk_keys(tmp_path / "c")} == {
            key: content(tmp_path / "undisturbed")[key] for key in chunk_keys(tmp_path / "undisturbed")
        }

    def test_the_command_line(self, tmp_path: Path) -> None:
        table = saved(tmp_path / "m", noise(4))
        table.to_csv(tmp_path / "all.tsv", sep="\t", index=False)
        for name, options, shards in (("a", ["--shard"], True), ("b", ["--no-shard"], False), ("c", [], False)):
            words = ["stack", str(tmp_path / "all.tsv"), str(tmp_path / name), "--map", "effect=path", *options]
            done = CliRunner().invoke(cli, words)
            assert done.exit_code == 0, done.output
            assert ("in shards of 3 x 4 x 5 x 3" in " ".join(done.output.split())) == shards


def test_the_plan_counts_two_slabs() -> None:
    """One that is compressed while the one before is sent; noise is as large as before."""
    plain, sharded = (StackWork((91, 109, 91), 4, 1, False, shard) for shard in (False, True))
    slab = 64 * 96 * 128 * 32 * 4
    rows = 3 * slab
    assert sharded.needs(64, threads=1) >= rows + 2 * slab
    assert sharded.needs(64, threads=1) - plain.needs(64, threads=1) <= 2 * slab + 64 * 32**3 * 10
