"""What tasks need to know of their data, packed for the way: a scheduler passes it on and never looks into it."""

import pickle
import zlib
from typing import Any, Generic, TypeVar

import cloudpickle

T = TypeVar("T")


class Packed(Generic[T]):
    """A value that travels as few bytes, and is unpacked by whoever uses it.

    The place of each chunk that a task reads is known to it, and which voxels it wants: thousands of small objects at
    100,000 subjects, that a scheduler would take apart and put together again for every task. It is packed once,
    however many tasks share it; in the process that made it, it stays what it is.

    Parameters
    ----------
    value
        Picklable.
    """

    def __init__(self, value: T) -> None:
        self._value: T | None = value
        self._packed: bytes | None = None

    def unpack(self) -> T:
        """The value."""
        if self._value is not None:
            return self._value
        assert self._packed is not None
        value: T = pickle.loads(zlib.decompress(self._packed))
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        if self._packed is None:
            self._packed = zlib.compress(_pickled(self._value), level=1)
        return _arrived, (self._packed,)


def _arrived(packed: bytes) -> Packed[Any]:
    there: Packed[Any] = Packed(None)
    there._packed = packed
    return there


def _pickled(value: Any) -> bytes:
    """As distributed pickles tasks: functions of a user's notebook, which no worker can import, travel whole."""
    try:
        plain = pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        plain = b"__main__"
    return plain if b"__main__" not in plain else bytes(cloudpickle.dumps(value, protocol=5))
