"""The two version strings.

`__version__` is the release, read from package metadata (`pyproject.toml` is its
only source). `__api_version__` is the version of the *library surface*: MAJOR
when a stable symbol is removed or its signature changes, MINOR when a stable
symbol is added, PATCH when only the implementation behind one changes.
"""

from typing import TYPE_CHECKING

__api_version__ = "1.0.0"

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, read when somebody asks: reading metadata takes as long as auditing some thousand rows."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("forge-pipeline")
        except PackageNotFoundError:  # a checkout that was never installed
            found = "0.0.0+checkout"
        globals()["__version__"] = found
        return found
