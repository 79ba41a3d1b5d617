"""Stacking and fitting against nilearn, and against decoding and compressing the same data alone."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import dask
import nibabel as nib
import numpy as np
import pandas as pd
import zarr
from measure import Number, in_turn, medians
from nilearn.glm.second_level import SecondLevelModel
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zlib_ng import zlib_ng

import voxstack as vx
from voxstack.run import thread_count


def measure(folder: Path, repeats: int) -> tuple[dict[str, object], list[Number]]:
    """Times of all contenders on the cohort in a folder, and the ratios that count."""
    table, store = folder / "participants.tsv", folder / "cohort.zarr"
    files = [folder / path for path in pd.read_csv(table, sep="\t")["effect_path"]]

    def stack() -> object:
        return vx.stack(table, store, maps={"effect": "effect_path"}, overwrite=True)

    def fit() -> object:
        return vx.compute(vx.contrast(vx.fit_glm(vx.open_cohort(store), "~ age + sex"), "age"))

    stack()
    fit()  # compiles the kernels
    _check_agreement(store, folder, table)
    chunks, parts = _chunks(store), _read_by_fit(store)
    contenders = {
        "nilearn": lambda: _nilearn(folder, table),
        "stack": stack,
        "decompress and compress": lambda: _decompress_and_compress(files, chunks),
        "fit": fit,
        "decode with zarr-python": lambda: _decode_with_zarr(store, parts),
        "decode with voxstack": lambda: _decode(store, parts),
    }
    times = in_turn(contenders, {name: min(repeats, 3) if name == "nilearn" else repeats for name in contenders})
    t = medians(times)
    numbers = [
        Number("fit and contrast against nilearn", t["nilearn"] / t["fit"], 15, "times"),
        Number("stack, fit and contrast against nilearn", t["nilearn"] / (t["stack"] + t["fit"]), 5, "times"),
        Number(
            "speed of stack against decompress and compress", 100 * t["decompress and compress"] / t["stack"], 70, "%"
        ),
        Number("speed of fit against decode with zarr-python", 100 * t["decode with zarr-python"] / t["fit"], 60, "%"),
        Number("speed of fit against decode with voxstack", 100 * t["decode with voxstack"] / t["fit"], 60, "%"),
    ]
    return {"seconds": times, "median_seconds": t}, numbers


def _nilearn(folder: Path, table: Path) -> nib.Nifti1Image:
    """nilearn's second-level model on the same files, as its users write it."""
    participants = pd.read_csv(table, sep="\t")
    design = pd.DataFrame(
        {"Intercept": 1.0, "age": participants["age"], "sex": (participants["sex"] == "M").astype(float)}
    )
    images = [str(folder / path) for path in participants["effect_path"]]
    model = SecondLevelModel(mask_img=str(folder / "mask.nii.gz"))
    return model.fit(images, design_matrix=design).compute_contrast("age", output_type="stat")


def _chunks(store: Path) -> list[NDArray[np.float32]]:
    """The chunks of the stored maps, whole and in the order in which they are compressed."""
    array = zarr.open_array(store, path="effect", mode="r")
    filled = []
    for part in _parts(array):
        values = array[part]
        chunk = np.full(array.chunks, np.nan, dtype=array.dtype)
        chunk[tuple(slice(0, n) for n in values.shape)] = values
        filled.append(np.ascontiguousarray(chunk.transpose(0, 3, 2, 1)))
    return filled


def _parts(array: zarr.Array) -> list[tuple[slice, ...]]:
    """Where the chunks are."""
    axes = [range(0, n, size) for n, size in zip(array.shape, array.chunks, strict=True)]
    return [tuple(slice(c, c + s) for c, s in zip(corner, array.chunks, strict=True)) for corner in product(*axes)]


def _read_by_fit(store: Path) -> list[tuple[slice, ...]]:
    """Where those chunks are that the fit reads: blocks without any voxel of the mask are not read."""
    mask = vx.open_cohort(store)["mask"].values
    return [part for part in _parts(zarr.open_array(store, path="effect", mode="r")) if mask[part[1:]].any()]


def _decompress_and_compress(files: list[Path], chunks: list[NDArray[np.float32]]) -> None:
    """What stacking cannot be faster than: read and inflate every file, compress every chunk, and drop both."""
    compressor = Zstd(level=1)

    def inflate(path: Path) -> int:
        content = path.read_bytes()
        return len(zlib_ng.decompress(content, wbits=31, bufsize=int.from_bytes(content[-4:], "little")))

    with ThreadPoolExecutor(thread_count()) as pool:
        sum(pool.map(inflate, files))
        sum(pool.map(lambda chunk: len(compressor.encode(chunk)), chunks))


def _decode_with_zarr(store: Path, parts: list[tuple[slice, ...]]) -> None:
    """Read chunks with zarr-python, and drop them."""
    array = zarr.open_array(store, path="effect", mode="r")
    with ThreadPoolExecutor(thread_count()) as pool:
        sum(pool.map(lambda part: array[part].size, parts))


def _decode(store: Path, parts: list[tuple[slice, ...]]) -> None:
    """Read chunks as the fit does, and drop them."""
    maps = vx.open_cohort(store)["effect"].data
    blocks = maps.to_delayed()
    numbers = [tuple(p.start // size for p, size in zip(part, maps.chunksize, strict=True)) for part in parts]
    dask.compute(*[dask.delayed(len, pure=False)(blocks[number]) for number in numbers])


def _check_agreement(store: Path, folder: Path, table: Path) -> None:
    """Speed of a wrong answer is worth nothing: t must be nilearn's."""
    cohort = vx.open_cohort(store)
    ours = vx.compute(vx.contrast(vx.fit_glm(cohort, "~ age + sex"), "age"))["stat"].sel(contrast="age").values
    theirs = _nilearn(folder, table).get_fdata()
    inside = cohort["mask"].values & (theirs != 0)
    worst = np.abs(ours - theirs)[inside].max()
    assert worst < 1e-3, f"t differs from nilearn's by up to {worst}"
