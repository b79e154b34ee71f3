"""Python's search for reference cycles, put off while an audit runs.

An audit makes very many objects and hardly a cycle, and each search goes through all that was
ever imported: a tenth of the time. So the young objects alone are searched, after each shard.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collected_by_shard() -> Iterator[None]:
    """Leave the search to `collect_young`; at the end it goes on as before."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[2] > gc.get_threshold()[2]:
            gc.collect(1)  # or the next object to be made would have all objects searched
        gc.enable()


def collect_young() -> None:
    """Search what was made since the last search, if nobody else does."""
    if not gc.isenabled():
        gc.collect(1)
