"""The two version strings.

`__version__` is the release, read from package metadata (`pyproject.toml` is its
only source). `__api_version__` is the version of the *library surface*: MAJOR
when a stable symbol is removed or its signature changes, MINOR when a stable
symbol is added, PATCH when only the implementation behind one changes.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("forge-pipeline")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0.0.0+checkout"

__api_version__ = "1.0.0"
