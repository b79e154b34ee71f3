"""Names of a package that are imported when they are first used (PEP 562).

A package whose parts cost different amounts to import lists its names in a table; who
asks for one part does not pay for the others.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def attributes(package: str, exports: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__`.

    Args:
        package: The package's ``__name__``.
        exports: Public name -> the submodule that defines it.
    """

    def get(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{exports[name]}"), name)

    return get
