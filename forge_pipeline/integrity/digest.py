"""Digests: ``sha256:<64 hex digits>``, the form OCI and in-toto tools read.

`Digest` is a `str`, so it goes into JSON, URLs and Dagster metadata as it is, and
`Digest(str(d)) == d`. Anything that is not a digest is refused at construction.
"""

import hashlib
import re
from pathlib import Path
from typing import Any, Self

_PATTERN = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 20  # bytes


class Digest(str):
    """A SHA-256 digest in the form ``sha256:<hex>``."""

    __slots__ = ()

    def __new__(cls, value: str) -> Self:
        if not _PATTERN.fullmatch(value):
            raise ValueError(f"{value!r} is not a digest; expected sha256: and 64 lower-case hex digits")
        return super().__new__(cls, value)

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(f"sha256:{hashlib.sha256(data).hexdigest()}")

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Digest of a file's bytes, read in chunks of 1 MiB.

        Raises:
            OSError: The file cannot be read.
        """
        hasher = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
        return cls(f"sha256:{hasher.hexdigest()}")

    @property
    def hex(self) -> str:
        """The 64 hex digits without the algorithm's name."""
        return self.removeprefix("sha256:")

    @property
    def short(self) -> str:
        """The first 12 hex digits, for people and file names; never for comparison."""
        return self.hex[:12]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.plain_serializer_function_ser_schema(str)
        )
