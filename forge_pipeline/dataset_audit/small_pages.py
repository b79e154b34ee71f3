"""Large arrays in pages of the usual size.

NumPy asks for huge pages for what is larger than 4 MB. The system fills a huge page with zeros when its first byte is
touched, and where it is a guest that gave free memory back to its host (free page reporting), that takes 3 ms a MB:
six times as long as usual pages, and longer than to scan the rows that lie in them. Huge pages save some hundredths
of that time where memory is at hand.
"""

import mmap
import sys
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

# Unless asked otherwise, POSIX systems share such memory with processes that are forked later.
_OWN: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if sys.platform != "win32" else {}
_Scalar = TypeVar("_Scalar", bound=np.generic)


def zeros(count: int, dtype: type[_Scalar]) -> npt.NDArray[_Scalar]:
    """An array of zeros, writable; shape (count,). What is never touched of it takes no memory."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, max(size, 1), **_OWN), dtype=dtype, count=count)
