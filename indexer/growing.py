"""Arrays that grow at their end while others read their beginning."""

from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)

#: By how much more than needed an array grows.
_GROWTH = 1.25


class GrowingArray(Generic[Scalar]):
    """A one-dimensional array to append to; one thread writes.

    What was handed out stays as it is: rows behind its end are written, or all move elsewhere.
    """

    def __init__(self, dtype: type[Scalar]) -> None:
        self._buffer: npt.NDArray[Scalar] = np.empty(0, dtype)
        self._length = 0

    def append(self, values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Append values [N] and return the array so far, which must not be written to."""
        length = self._length + len(values)
        if length > len(self._buffer):
            # Room that was never written to takes no memory: a first load leaves some, too, or the
            # next rows would move all of it.
            grown = np.empty(int(length * _GROWTH), self._buffer.dtype)
            grown[: self._length] = self._buffer[: self._length]
            self._buffer = grown
        self._buffer[self._length : length] = values
        self._length = length
        return self._buffer[:length]
