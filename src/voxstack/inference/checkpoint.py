"""What a permutation test has done so far, so that the same call goes on from there, or a longer one goes further.

Below a folder or URL lie ``run.json``, which says what is being tested, and the results of tasks, each for a range of
relabellings: ``voxels/BLOCK/START-STOP`` and ``maps/START-STOP``. All are written whole, in one step each: a digest of
16 bytes, by which damage is noticed, and the arrays as NumPy's ``.npz``.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import Store

from voxstack.errors import InputError, StoreError, writing
from voxstack.io.places import place_of
from voxstack.store import keys
from voxstack.store.location import Location
from voxstack.store.published import enclosing

_RUN = "run.json"
_PROGRAM = "voxstack permutation test"

_DIGEST = 16  # bytes

Arrays = Mapping[str, NDArray[Any]]


def digest(*arrays: NDArray[Any]) -> str:
    """Of the values, types and shapes of arrays."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


class Checkpoint:
    """A place that results are kept in; or none, where nothing is kept.

    Parameters
    ----------
    location
        Folder or URL; None keeps nothing.
    schedule
        Sizes of tasks.
    """

    def __init__(self, location: Location | None, schedule: Mapping[str, int]) -> None:
        self.schedule = dict(schedule)
        self._location = location
        self._store: Store | None = None if location is None else location.open(read_only=False)
        self._done: dict[str, list[range]] = {}

    @classmethod
    def begin(cls, location: Location | None, identity: Mapping[str, Any], schedule: Mapping[str, int]) -> Self:
        """Take a checkpoint up, or begin one.

        Parameters
        ----------
        location
            Folder or URL; None for no checkpoint.
        identity
            All that the results depend on but for the number of relabellings: plain values, by names for users.
        schedule
            Sizes of tasks. Those of the run that began the checkpoint are kept, so that what is left is computed as it
            would have been.

        Raises
        ------
        InputError
            It belongs to another run, and in what that differs; or it would lie in a store.
        """
        new = cls(location, schedule)
        if new._store is None or new._location is None:
            return new
        with writing(location):
            told = keys.get(new._store, _RUN)
            if told is None:
                there = keys.all_keys(new._store)
                if there:
                    raise InputError(
                        f"{location} holds other files, and no checkpoint. Choose a folder that does not exist yet."
                    )
                if (outer := enclosing(place_of(new._location.url, new._location.storage_options))) is not None:
                    raise InputError(
                        f"The checkpoint {location} would lie in the store {outer}, which removes what is not its own. "
                        "Choose another place."
                    )
                content = {"program": _PROGRAM, "identity": identity, "schedule": schedule}
                keys.put(new._store, {_RUN: json.dumps(content, indent=1).encode()})
            else:
                new.schedule = _taken_up(location, told, identity)
            for key in keys.all_keys(new._store):
                new._remember(key)
        return new

    def _remember(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        start, _, stop = name.partition("-")
        if keys.is_temporary(key):
            assert self._store is not None
            keys.delete(self._store, [key])
        elif folder and start.isdecimal() and stop.isdecimal():
            self._done.setdefault(folder, []).append(range(int(start), int(stop)))

    def divide(self, folder: str, number: int, size: int) -> tuple[list[range], list[range]]:
        """Ranges of the first relabellings that are done, and those that are left, none across a multiple of size."""
        done, left, at = [], [], 0
        while at < number:
            kept = [one for one in self._done.get(folder, []) if one.start == at and one.stop <= number]
            if kept:
                done.append(max(kept, key=len))
                at = done[-1].stop
            else:
                left.append(range(at, min((at // size + 1) * size, number)))
                at = left[-1].stop
        return done, left

    def load(self, folder: str, rows: range) -> dict[str, NDArray[Any]]:
        """What was saved."""
        assert self._store is not None
        name = f"{folder}/{rows.start}-{rows.stop}"
        try:
            content = keys.get(self._store, name) or b""
        except OSError as error:
            raise StoreError(f"The checkpoint {self._location} cannot be read: {error}.") from error
        if content[:_DIGEST] != _digest(content[_DIGEST:]):
            what = "is not what was written" if content else "is gone, or empty"
            raise InputError(
                f"The checkpoint {self._location} is damaged: {name} {what}. Remove that file, and call again."
            )
        try:
            with np.load(BytesIO(content[_DIGEST:]), allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, OSError, EOFError, BadZipFile) as error:  # pickled objects among them: they are code
            raise InputError(
                f"The checkpoint {self._location} is not one of voxstack: {name} holds no plain arrays ({error})."
            ) from error

    def save(self, folder: str, rows: range, arrays: Arrays) -> None:
        """Keep the result of a task."""
        if self._store is None:
            return
        content = BytesIO()
        np.savez(content, allow_pickle=False, **arrays)
        with writing(self._location, kept="What was done is kept."):
            whole = _digest(content.getvalue()) + content.getvalue()
            keys.put(self._store, {f"{folder}/{rows.start}-{rows.stop}": whole})


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _taken_up(location: Location | None, content: bytes, identity: Mapping[str, Any]) -> dict[str, int]:
    """The schedule of a checkpoint, if it is of the same run."""
    try:
        told = json.loads(content)
        known, schedule = told["identity"], {name: int(size) for name, size in told["schedule"].items()}
        if told["program"] != _PROGRAM:
            raise ValueError("it is of another program")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{location} is no checkpoint of a permutation test: its {_RUN} cannot be read.") from error
    asked = json.loads(json.dumps(identity))
    differ = [name for name in {**known, **asked} if known.get(name) != asked.get(name)]
    if differ:
        raise InputError(
            f"The checkpoint {location} is of another run: {'; '.join(_difference(n, known, asked) for n in differ)}. "
            "Choose another place, or repeat the call as it was."
        )
    return schedule


def _difference(name: str, known: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    was, now = known.get(name), asked.get(name)
    if isinstance(was, dict) and "digest" in was:
        return f"{name} changed"
    return f"{name} was {was!r} and is {now!r}"


def pack(rows: Iterable[Arrays]) -> dict[str, NDArray[Any]]:
    """Arrays by name, of several hypotheses, under one name each."""
    return {f"{number}.{name}": array for number, row in enumerate(rows) for name, array in row.items()}


def unpack(arrays: Arrays, number: int) -> Sequence[dict[str, NDArray[Any]]]:
    """What `pack` made, for so many hypotheses."""
    found: list[dict[str, NDArray[Any]]] = [{} for _ in range(number)]
    for key, array in arrays.items():
        row, _, name = key.partition(".")
        found[int(row)][name] = array
    return found
