"""What a store's root metadata say: the cohort, or the result, that readers see.

They are written last and in one piece, so whatever they name is there and whole. To write a cohort anew, or to append
to it, while readers still see the old one, two *editions* are counted: one of the chunks of the maps, one of
everything else. An edition of an even number has chunk keys such as ``effect/c/0/0/0/0``, one of an odd number
``effect/c.0.0.0.0``: both are keys of Zarr v3, and the new edition never writes over the old one. What has no
dimensions is at ``spatial_ref/c`` and ``spatial_ref/0``.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from zarr import Array, AsyncArray
from zarr.abc.store import Store
from zarr.storage import StorePath

from voxstack.errors import InputError
from voxstack.io.places import Place
from voxstack.store import keys
from voxstack.store.shards import is_sharded

ROOT = "zarr.json"


@dataclass(frozen=True)
class Editions:
    """Numbers of the editions, and what a cohort has held.

    Attributes
    ----------
    maps
        Edition of the maps' chunks: counts how often the cohort was replaced.
    labels
        Edition of everything else: counts how often it was replaced or appended to.
    history
        For each writing of this edition of the maps, the subjects then held and the digest of their values.
    """

    maps: int = 0
    labels: int = 0
    history: tuple[tuple[int, str], ...] = ()

    def to_attribute(self) -> dict[str, Any]:
        """As the root's attribute "editions"."""
        return {"maps": self.maps, "labels": self.labels, "history": [list(entry) for entry in self.history]}

    @classmethod
    def from_attribute(cls, told: Mapping[str, Any]) -> "Editions":
        """From the root's attribute "editions"."""
        return cls(told["maps"], told["labels"], tuple((int(n), str(digest)) for n, digest in told["history"]))


def key_encoding(edition: int, dimensions: int) -> dict[str, Any]:
    """Zarr's chunk key encoding of an edition, for arrays of so many dimensions."""
    odd = edition % 2 == 1
    # The separator makes no difference to the one key of an array without dimensions.
    name = "v2" if odd and dimensions == 0 else "default"
    return {"name": name, "configuration": {"separator": "." if odd else "/"}}


class Chunking(NamedTuple):
    """How the maps of a cohort are cut.

    Attributes
    ----------
    subjects
        In a chunk.
    sharded
        Whether shards hold the chunks, all of a batch of subjects and a slab of z under one key.
    """

    subjects: int
    sharded: bool


@dataclass(frozen=True)
class Published:
    """The root metadata of a store.

    Attributes
    ----------
    root
        As they are stored.
    """

    root: bytes

    @classmethod
    def read(cls, store: Store) -> "Published | None":
        """What is published now; None where nothing is."""
        root = keys.get(store, ROOT)
        return None if root is None else cls(root)

    @cached_property
    def _document(self) -> dict[str, Any]:
        try:
            document = json.loads(self.root)
            document["consolidated_metadata"]["metadata"], document["attributes"]["kind"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"its {ROOT} is damaged, or of another program.") from error
        whole: dict[str, Any] = document
        return whole

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Of the root group."""
        return dict(self._document["attributes"])

    @cached_property
    def arrays(self) -> dict[str, dict[str, Any]]:
        """Metadata of all arrays, by name."""
        nodes = self._document["consolidated_metadata"]["metadata"]
        return {name: node for name, node in nodes.items() if node.get("node_type") == "array"}

    @cached_property
    def editions(self) -> Editions:
        """Of a cohort."""
        return Editions.from_attribute(self.attributes["editions"])

    @property
    def n_subjects(self) -> int:
        """Of a cohort."""
        return int(self.arrays["subject"]["shape"][0])

    @property
    def chunking(self) -> Chunking:
        """Of a cohort."""
        first = self.arrays[self.attributes["provenance"]["maps"][0]]
        return Chunking(int(self.attributes["subjects_per_chunk"]), is_sharded(first))

    def owns(self, key: str) -> bool:
        """Whether a key belongs to what is published."""
        return key in self._keys

    def owned_before_appending(self, key: str) -> bool:
        """Whether a key is of the labels, mask and counts before the last subjects were appended.

        They stay until the cohort is written again: whoever opened it before, without loading them, finds them.
        """
        return key in self._keys_before_appending

    @cached_property
    def _keys(self) -> frozenset[str]:
        chunks = (f"{name}/{key}" for name, metadata in self.arrays.items() for key in chunk_keys(metadata))
        return frozenset((ROOT, *(f"{name}/{ROOT}" for name in self.arrays), *chunks))

    @cached_property
    def _keys_before_appending(self) -> frozenset[str]:
        if len(self.editions.history) < 2:
            return frozenset()
        labels = self.arrays.keys() - set(self.attributes["provenance"]["maps"])
        keys_of = {}
        for name in labels:
            encoding = key_encoding(self.editions.labels - 1, len(self.arrays[name]["shape"]))
            keys_of[name] = chunk_keys({**self.arrays[name], "chunk_key_encoding": encoding})
        return frozenset(f"{name}/{key}" for name in labels for key in keys_of[name])


def chunk_keys(metadata: Mapping[str, Any]) -> Sequence[str]:
    """Keys of all chunks of an array, or of its shards, below its own."""
    sizes = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    encoding = metadata["chunk_key_encoding"]
    if encoding["name"] == "v2":
        assert not metadata["shape"], metadata
        return ["0"]
    separator = encoding["configuration"]["separator"]
    counts = [-(-n // size) for n, size in zip(metadata["shape"], sizes, strict=True)]
    return [separator.join(("c", *map(str, index))) for index in product(*map(range, counts))]


def open_array(store: Store, name: str, metadata: Mapping[str, Any]) -> Array[Any]:
    """An array by metadata that are already known, whatever the store says of it now."""
    told: Any = dict(metadata)
    array: Any = AsyncArray(told, StorePath(store, name))
    return Array(array)


def enclosing(place: Place, *, itself: bool = True) -> Place | None:
    """The store that a folder lies in, or is `itself`, if any: it removes what is not its own when it is written to."""
    within = Path(os.path.realpath(place)) if isinstance(place, Path) else place
    return next((folder for folder in (*[within] * itself, *within.parents) if _is_ours(folder)), None)


def _is_ours(folder: Place) -> bool:
    """Whether a folder is a store of voxstack, and no array of one, nor a Zarr group of another program."""
    try:
        attributes = json.loads((folder / ROOT).read_bytes()).get("attributes", {})
    except (OSError, ValueError, AttributeError):  # who may not look into a folder may still write below it
        return False
    return "schema_version" in attributes
