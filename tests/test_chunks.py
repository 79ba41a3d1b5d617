"""Images cut into chunks, what chunks hold, and voxels taken out of them and put back, against NumPy's indexing."""

from typing import Any

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from voxstack.kernels.chunks import count, cut, gather, scatter, turned
from voxstack.store.chunks import CODECS, decode_chunk, encode_chunk, is_plain

SIDES = st.tuples(*[st.integers(1, 9)] * 3)


def laid_out(array: NDArray[Any], data: st.DataObject) -> NDArray[Any]:
    """The same values with other strides: axes in some order of memory, some of them backwards, padded."""
    order = data.draw(st.permutations(range(array.ndim)))
    backwards = tuple(slice(None, None, data.draw(st.sampled_from([1, -1]))) for _ in order)
    padded = np.zeros([n + data.draw(st.integers(0, 2)) for n in array.transpose(order).shape], dtype=array.dtype)
    view = padded[tuple(slice(0, n) for n in array.transpose(order).shape)][backwards].transpose(np.argsort(order))
    view[...] = array
    return view


def with_gaps(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    special = rng.choice([0, np.nan, np.inf, -np.inf], shape)
    return np.where(rng.random(shape) < 0.4, special, rng.normal(size=shape)).astype(dtype)


@settings(deadline=None)
@given(
    shape=SIDES,
    sides=SIDES,
    dtypes=st.tuples(*[st.sampled_from(["f4", "f8"])] * 2),
    data=st.data(),
    seed=st.integers(0, 999),
)
def test_cut(
    shape: tuple[int, ...], sides: tuple[int, ...], dtypes: tuple[str, str], data: st.DataObject, seed: int
) -> None:
    volume = with_gaps(shape, dtypes[0], seed)
    numbers = [-(-n // side) for n, side in zip(shape, sides, strict=True)]
    chunks = np.full((*numbers, 3, *sides[::-1]), 7, dtype=dtypes[1])
    cut(laid_out(volume, data), chunks, 1)
    whole = np.full([n * side for n, side in zip(numbers, sides, strict=True)], np.nan)
    whole[tuple(slice(0, n) for n in shape)] = volume
    for a, b, c in np.ndindex(*numbers):
        part = whole[a * sides[0] :, b * sides[1] :, c * sides[2] :][: sides[0], : sides[1], : sides[2]]
        np.testing.assert_array_equal(chunks[a, b, c, 1], part.T.astype(dtypes[1]))
        assert (chunks[a, b, c, [0, 2]] == 7).all(), "of other subjects nothing is written"


@settings(deadline=None)
@given(shape=st.tuples(*[st.integers(1, 9)] * 4), dtype=st.sampled_from(["f4", "f8"]), seed=st.integers(0, 999))
def test_count(shape: tuple[int, int, int, int], dtype: str, seed: int) -> None:
    chunk = with_gaps(shape, dtype, seed)
    found = count(chunk)
    np.testing.assert_array_equal(found.zero, (chunk == 0).sum(axis=0))
    np.testing.assert_array_equal(found.nonzero, ((chunk != 0) & ~np.isnan(chunk)).sum(axis=0))
    np.testing.assert_array_equal(found.present, (~np.isnan(chunk)).sum(axis=(1, 2, 3)))
    np.testing.assert_array_equal(found.infinite, np.isinf(chunk).sum(axis=(1, 2, 3)))


@settings(deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 4),
    dtype=st.sampled_from(["f4", "f8"]),
    share=st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    data=st.data(),
    seed=st.integers(0, 999),
)
def test_gather_and_scatter(
    shape: tuple[int, int, int, int], dtype: str, share: float, data: st.DataObject, seed: int
) -> None:
    chunk = with_gaps(shape, dtype, seed)
    inside = np.random.default_rng(seed + 1).random(shape[1:]) < share
    values = gather(laid_out(chunk, data), inside)
    np.testing.assert_array_equal(values, chunk[:, inside])
    np.testing.assert_array_equal(scatter(values, inside), np.where(inside, chunk, np.nan).astype("f8"))
    turned_values = gather(turned(laid_out(chunk, data)), turned(inside))
    np.testing.assert_array_equal(turned_values, chunk.transpose(0, 3, 2, 1)[:, inside.T])


def test_zarr_reads_and_writes_the_same_chunks() -> None:
    chunk = np.random.default_rng(1).normal(size=(4, 3, 2, 5)).astype("f4")
    store = MemoryStore()
    kind: Any = {"dtype": "f4", "chunks": chunk.shape, "fill_value": np.nan, **CODECS}
    array = zarr.create_array(store, shape=chunk.shape, **kind)
    assert is_plain(array.metadata.to_dict())
    array[:] = chunk
    content = store._store_dict["c/0/0/0/0"].to_bytes()
    np.testing.assert_array_equal(decode_chunk(content, chunk.shape, chunk.dtype), chunk)
    assert encode_chunk(np.ascontiguousarray(chunk.transpose(0, 3, 2, 1))) == content
    assert np.isnan(decode_chunk(None, chunk.shape, chunk.dtype)).all()


def test_other_chunks_are_left_to_zarr() -> None:
    kind: Any = {"dtype": "f4", "chunks": (2, 2, 2, 2), "fill_value": np.nan}
    other = zarr.create_array(MemoryStore(), shape=(2, 2, 2, 2), **kind)
    assert not is_plain(other.metadata.to_dict())
