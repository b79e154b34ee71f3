"""`ModelDirectory`: a finished model on disk, an adapter or all weights, with its record.

Files: safetensors, the tokenizer, `forge_model.json` (the record), and whatever the
stage that made it adds (`training_report.json`). Never a pickle, never a path or time
of the machine that wrote it: equal recipes and data give equal bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forge_pipeline.errors import ModelError
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, DirectoryArtifact, read_report, write_report
from forge_pipeline.models.base import BaseModelRecord
from forge_pipeline.models.quantization import QuantizationRecord

RECORD_FILE = "forge_model.json"


@dataclass(frozen=True)
class StageRecord:
    """A stage of `pipeline:` that a model was trained by before its last one.

    Attributes:
        name: As the recipe names it.
        model_digest: Of the whole model that came out of it.
        config_digest: Of the stage's own recipe.
        gates: What was decided about its rows and its model when the chain went on.
    """

    name: str
    trainer_type: str
    model_digest: Digest
    config_digest: Digest
    dataset_digest: Digest
    tokenized_digest: Digest
    seed: int
    gates: tuple[GateDecision, ...]


@dataclass(frozen=True)
class ParentRecord:
    """One of the models that a model was merged from.

    Attributes:
        name: The line it came from, or its directory's name.
        digest: Of its directory.
        weight: Its share of the merge, of 1 in all.
        density: Share of its changes that were kept; None: all.
        config_digest: Digest of its own recipe; None where it has no record.
        dataset_digests: What its weights have seen, as far as its record says.
    """

    name: str
    digest: Digest
    weight: float
    density: float | None
    config_digest: Digest | None
    dataset_digests: tuple[Digest, ...]


@dataclass(frozen=True)
class ModelRecord:
    """What was trained, on what, from what.

    Attributes:
        kind: ``adapter`` (needs its base model) or ``full``.
        base_model: The published model that training started from, before `earlier`.
        config_digest: Digest of the resolved recipe.
        dataset_digest, tokenized_digest: Digests of the raw and of the tokenized dataset.
        chat_template_digest: Digest of the template that rendered the rows; None where none did.
        seed: Of every random choice in the fine-tune.
        earlier: The stages before this fine-tune, oldest first; empty unless the recipe has a `pipeline`.
        head: What stands on the last layer (`heads.HEADS`): how the model is loaded, and whether it writes text.
        task: As `model.task` in the recipe.
        quantization: How the base weights under an adapter were rounded; None: not at all.
        architecture: What the recipe changed in the base model's configuration: attribute -> value; None: nothing.
        merged_from: The models whose weights were merged into these; the rest of the record is the first one's that
            has one. Empty: none.
        merge_method: How they were merged.
    """

    kind: Literal["adapter", "full"]
    base_model: BaseModelRecord
    trainer_type: str
    config_digest: Digest
    dataset_digest: Digest
    tokenized_digest: Digest
    chat_template_digest: Digest | None
    seed: int
    earlier: tuple[StageRecord, ...] = ()
    head: Literal["causal-lm", "sequence-classification", "question-answering", "seq2seq-lm"] = "causal-lm"
    task: str = "text-generation"
    quantization: QuantizationRecord | None = None
    architecture: dict[str, Any] | None = None
    merged_from: tuple[ParentRecord, ...] = ()
    merge_method: str | None = None

    @property
    def dataset_digests(self) -> tuple[Digest, ...]:
        """Every dataset that the weights have seen, oldest first."""
        own = (*(stage.dataset_digest for stage in self.earlier), self.dataset_digest)
        others = (digest for parent in self.merged_from for digest in parent.dataset_digests)
        return tuple(dict.fromkeys((*own, *others)))


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
