"""`ModelDirectory`: a finished model on disk, an adapter or all weights, with its record.

Files: safetensors, the tokenizer, `forge_model.json` (the record), and whatever the
stage that made it adds (`training_report.json`). Never a pickle, never a path or time
of the machine that wrote it: equal recipes and data give equal bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forge_pipeline.errors import ModelError
from forge_pipeline.integrity import Digest, DirectoryArtifact, read_report, write_report
from forge_pipeline.models.base import BaseModelRecord

RECORD_FILE = "forge_model.json"


@dataclass(frozen=True)
class ModelRecord:
    """What was trained, on what, from what.

    Attributes:
        kind: ``adapter`` (needs its base model) or ``full``.
        base_model: The model that training started from.
        config_digest: Digest of the resolved recipe.
        dataset_digest, tokenized_digest: Digests of the raw and of the tokenized dataset.
        chat_template_digest: Digest of the template that rendered the rows; None where none did.
        seed: Of every random choice in the fine-tune.
    """

    kind: Literal["adapter", "full"]
    base_model: BaseModelRecord
    trainer_type: str
    config_digest: Digest
    dataset_digest: Digest
    tokenized_digest: Digest
    chat_template_digest: Digest | None
    seed: int


@dataclass(frozen=True)
class ModelDirectory(DirectoryArtifact):
    """A fine-tuned adapter, or a full model, as a finished directory."""

    @property
    def record(self) -> ModelRecord:
        """Read from the directory.

        Raises:
            ModelError: The directory has no record, so it was not made by this library.
            IntegrityError: The record cannot be read.
        """
        path = self.path / RECORD_FILE
        if not path.is_file():
            raise ModelError(
                f"{self.path} has no {RECORD_FILE}; expected a directory that `fine_tune` or `merge` wrote"
            )
        return read_report(path, ModelRecord)


def write_record(directory: Path, record: ModelRecord) -> None:
    """Write the record, and let everybody read what the libraries wrote for their user alone."""
    write_report(directory / RECORD_FILE, record)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
