"""Large arrays in pages of the usual size.

NumPy asks for huge pages for what is larger than 4 MB. The system fills a huge page with zeros when its first byte is
touched, and where it is a guest that gave free memory back to its host (free page reporting), that takes 3 ms a MB:
six times as long as usual pages, and longer than to scan the rows that lie in them. Huge pages save some hundredths
of that time where memory is at hand.
"""

import contextlib
import mmap
import os
import sys
import threading
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

# Unless asked otherwise, POSIX systems share such memory with processes that are forked later.
_OWN: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if sys.platform != "win32" else {}
_POPULATE_WRITE = 23  # madvise(2)
_Scalar = TypeVar("_Scalar", bound=np.generic)


def zeros(count: int, dtype: type[_Scalar], *, all_used: bool = False) -> npt.NDArray[_Scalar]:
    """An array of zeros, writable; shape (count,). What is never touched of it takes no memory.

    Args:
        count: How many.
        dtype: Of which type.
        all_used: That all of it will be written soon: the system then makes all pages at once, not one by one.
    """
    size = count * np.dtype(dtype).itemsize
    memory = mmap.mmap(-1, max(size, 1), **_OWN)
    if all_used and sys.platform == "linux":
        with contextlib.suppress(OSError):  # Linux before 5.14
            memory.madvise(_POPULATE_WRITE)
    return np.frombuffer(memory, dtype=dtype, count=count)


def of_thread() -> threading.local:
    """Room that each thread has of its own. A forked process begins without it: to write into its parent's pages would
    copy them one by one.
    """
    room = threading.local()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: vars(room).clear())
    return room
