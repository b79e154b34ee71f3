"""What a model answered, kept by digest of everything that the answers follow from.

A base model is fine-tuned many times and its answers to the same questions stay the same.
An entry is one file of canonical JSON that holds its own key and a digest of its value;
one that does not read back as it was written is treated as absent and made again. Nothing
here knows what is asked: benchmarks use it for log-likelihoods and texts, and whoever
else asks models the same things again may use it too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forge_pipeline.errors import IntegrityError
from forge_pipeline.integrity import Digest, canonical_json, json_digest, loads_strict
from forge_pipeline.integrity.atomic import write_file


class AnswerCache:
    """Answers under one directory, by key.

    Args:
        directory: Made with the first entry.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def get(self, key: Digest) -> Any | None:
        """The JSON value kept under `key`; None where there is none, or its file was changed or cut short."""
        try:
            entry = loads_strict(self.path(key).read_bytes())
        except (OSError, ValueError, IntegrityError):
            return None
        if not isinstance(entry, Mapping) or entry.get("key") != key:
            return None
        value = entry.get("value")
        return value if value is not None and entry.get("digest") == json_digest(value) else None

    def keep(self, key: Digest, value: Any) -> None:
        """Keep a JSON value, in the place of another under the same key.

        Raises:
            OSError: It could not be written.
            ValueError: It is not JSON: a number that is not finite, for example.
        """
        write_file(self.path(key), canonical_json({"key": key, "digest": json_digest(value), "value": value}))

    def path(self, key: Digest) -> Path:
        """Where the entry of `key` lies, or would."""
        return self._directory / key.hex[:2] / f"{key.hex}.json"
