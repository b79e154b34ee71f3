"""`pipeline:`: going on from the model of the stage before.

A stage's model is whole (its adapter is merged), so the next stage loads it as it would load a
published one. What is recorded as the base model stays the published one, with the stages since.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from forge_pipeline.errors import ModelError
from forge_pipeline.gates import GateDecision, check_gates
from forge_pipeline.models.base import BaseModel
from forge_pipeline.models.directory import ModelDirectory, ModelRecord, StageRecord


@dataclass(frozen=True)
class PreviousStage:
    """The model to go on from, and what the record of the next one says about it."""

    model: ModelDirectory
    stage: StageRecord

    @property
    def base(self) -> BaseModel:
        """What transformers loads: this stage's weights, known by the published model's name."""
        origin = self.model.record.base_model
        return BaseModel(
            name_or_path=origin.name_or_path,
            path=str(self.model.path),
            revision_requested=origin.revision_requested,
            revision_resolved=None,
            source="local",
            digest=origin.digest,
            license=origin.license,
        )

    def continued(self, record: ModelRecord) -> ModelRecord:
        """`record`, of a model trained from this one, with where it comes from."""
        own = self.model.record
        return replace(record, base_model=own.base_model, earlier=(*own.earlier, self.stage))


def go_on_from(
    name: str,
    model: ModelDirectory,
    *,
    about_rows: Iterable[GateDecision],
    about_model: Iterable[GateDecision],
) -> PreviousStage:
    """Take `model`, of the stage `name`, as the start of the next stage.

    Args:
        about_rows: Decisions about the rows it was trained on.
        about_model: Decisions about the model.

    Raises:
        GateFailedError: A gate failed, or one that guards export has no answer: what may not be exported is
            not built upon either.
        ModelError: `model` is an adapter.
    """
    record, rows, decided = model.record, tuple(about_rows), tuple(about_model)
    if record.kind != "full":
        raise ModelError(f"{model.path} holds an adapter; the stage {name!r} of a pipeline hands on a merged model")
    check_gates("training", rows, subject=record.dataset_digest)
    check_gates("export", decided, subject=model.digest, required=("loss_is_finite",))
    stage = StageRecord(
        name=name,
        trainer_type=record.trainer_type,
        model_digest=model.digest,
        config_digest=record.config_digest,
        dataset_digest=record.dataset_digest,
        tokenized_digest=record.tokenized_digest,
        seed=record.seed,
        gates=(*rows, *decided),
    )
    return PreviousStage(model, stage)


def check_earlier_stages(record: ModelRecord) -> None:
    """Refuse a release unless every gate of every earlier stage that guards one passed.

    Raises:
        GateFailedError: Naming the gates.
    """
    for stage in record.earlier:
        for subject in (stage.dataset_digest, stage.model_digest):
            decisions = [decision for decision in stage.gates if decision.subject == subject]
            check_gates("release", decisions, subject=subject)
