"""`ForgeConfig`: a whole recipe, and the rules that span its sections."""

import re
from typing import Any

from pydantic import ValidationError, field_validator, model_validator

from forge_pipeline.config._base import Section, config_error
from forge_pipeline.config.automation import AutomationSection
from forge_pipeline.config.compliance import (
    ComplianceSection,
    MonitoringSection,
    RetentionSection,
    RiskAssessmentSection,
)
from forge_pipeline.config.data import DataSection
from forge_pipeline.config.evaluation import EvaluationSection
from forge_pipeline.config.model import LoraSection, ModelSection
from forge_pipeline.config.operation import (
    AuthSection,
    DistributedSection,
    ExportSection,
    MergeSection,
    ReleaseSection,
    SyntheticSection,
    WebhookSection,
)
from forge_pipeline.config.pipeline import PipelineSection, PipelineStageSection
from forge_pipeline.config.training import TrainingSection
from forge_pipeline.errors import ConfigError

_NAME = re.compile(r"[a-z0-9_]{1,32}")
_TAKEN = {"studio": "the line of the studio's jobs", "api": "the name of the REST API's audit log"}

# Accepted so that a recipe written for a peer loads, refused where a value would be silently ignored.
_NOT_BUILT_YET = {
    "model.multimodal.enabled": False,
    "monitoring.enabled": False,
}


class ForgeConfig(Section):
    """A recipe: one model line, declared.

    Raises:
        ConfigError: On construction, with every finding on its own line: key path, value, expectation, fix.
    """

    name: str = "forge"
    """The model line's name; a recipe file's own name unless it says otherwise."""
    description: str = ""
    owners: list[str] = []
    """``team:<name>`` or an e-mail address each."""
    model: ModelSection
    lora: LoraSection
    training: TrainingSection
    data: DataSection
    auth: AuthSection | None = None
    evaluation: EvaluationSection = EvaluationSection()
    webhook: WebhookSection | None = None
    distributed: DistributedSection | None = None
    merge: MergeSection | None = None
    compliance: ComplianceSection | None = None
    risk_assessment: RiskAssessmentSection | None = None
    monitoring: MonitoringSection | None = None
    synthetic: SyntheticSection | None = None
    retention: RetentionSection | None = None
    pipeline: PipelineSection | None = None
    """A chain of fine-tunes. The last stage's sections are the recipe's own, whatever the root says."""
    export: ExportSection = ExportSection()
    release: ReleaseSection = ReleaseSection()
    automation: AutomationSection = AutomationSection()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise config_error(error, file="ForgeConfig", root=ForgeConfig) from error

    @field_validator("evaluation", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("expected 1 to 32 of a-z, 0-9 and _, because it names assets, folders and partitions")
        if value in _TAKEN:
            raise ValueError(f"{value} is {_TAKEN[value]}; choose another name")
        return value

    @field_validator("owners")
    @classmethod
    def _are_owners(cls, value: list[str]) -> list[str]:
        for owner in value:
            if not (owner.startswith("team:") and len(owner) > 5) and "@" not in owner:
                raise ValueError(f"{owner!r} is not an owner; expected team:<name> or an e-mail address")
        return value

    @model_validator(mode="after")
    def _stages_are_whole(self) -> "ForgeConfig":
        """Each stage gets the root's section where it has none, and the last one's become the root's.

        So a recipe describes the model that comes out at the end, and a resolved recipe reads back as itself.
        """
        if self.pipeline is None:
            return self
        stages = []
        for stage in self.pipeline.stages:
            model, lora = stage.model or self.model, stage.lora or self.lora
            training, data = stage.training or self.training, stage.data or self.data
            if model.name_or_path != self.model.name_or_path:
                raise ValueError(
                    f"pipeline.stages: {stage.name} names the base model {model.name_or_path!r}, but a stage goes on "
                    f"from the one before it, and the first from {self.model.name_or_path!r}; use that name"
                )
            if len(self.pipeline.stages) > 1 and lora.effective_method != "none":
                # The next stage starts from whole weights, and so does whoever loads the last one's.
                training = training.model_copy(update={"merge_adapters": True})
            update = {"model": model, "lora": lora, "training": training, "data": data}
            stages.append(stage.model_copy(update=update))
        last = stages[-1]
        whole = {"pipeline": self.pipeline.model_copy(update={"stages": stages})}
        self.__dict__.update(
            whole, model=last.model, lora=last.lora, training=last.training, data=last.data,
            evaluation=last.evaluation or self.evaluation,
        )  # fmt: skip
        return self

    @model_validator(mode="after")
    def _goes_on_from_another_line(self) -> "ForgeConfig":
        """What is trained from another line's model is delivered whole: nobody needs that line to load it."""
        other = self.model.base_line
        if other is None:
            return self
        if other.line == self.name:
            raise ValueError(
                f"model.name_or_path: {other} is this line itself; name the published model, or another line"
            )
        if self.lora.effective_method != "none" and not self.training.merge_adapters:
            self.__dict__.update(training=self.training.model_copy(update={"merge_adapters": True}))
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> "ForgeConfig":
        for path, allowed in _NOT_BUILT_YET.items():
            value = _at(self, path)
            if value is not None and value != allowed:
                raise ValueError(f"{path}: {value!r} is not supported by this version; remove it or set {allowed!r}")
        tiers = {
            self.compliance.risk_classification if self.compliance else None,
            self.risk_assessment.risk_category if self.risk_assessment else None,
        }
        safety = self.evaluation.safety
        if tiers & {"high-risk", "unacceptable"} and not (safety and safety.enabled):
            raise ValueError("a high-risk line needs evaluation.safety.enabled: true")
        if self.model.task != "text-generation" and self.training.trainer_type != "sft":
            raise ValueError(
                f"model.task: {self.model.task} is learnt with training.trainer_type sft, not "
                f"{self.training.trainer_type}; write sft, or task: text-generation"
            )
        if self.model.task != "text-generation" and self.training.uses_packing:
            raise ValueError(f"training.packing: rows of model.task {self.model.task} are not packed; remove it")
        if self.model.backend != "transformers" and self.distributed is not None:
            raise ValueError(
                f"model.backend: {self.model.backend} trains in one process of its own; remove the distributed "
                "section, or write backend: transformers"
            )
        if self.merges_models and self.merge and self.name not in [each.line for each in self.merge.models]:
            raise ValueError(
                f"merge.models: merge.enabled ends the training of {self.name} in a merge, of which it is no part; add "
                f"{{line: {self.name}}}, or set merge.enabled: false and run forge merge"
            )
        if self.automation.falling_metric and not (self.evaluation.benchmark and self.evaluation.benchmark.enabled):
            raise ValueError("automation.falling_metric compares benchmarks; set evaluation.benchmark.enabled: true")
        if self.model.load_in_4bit is True and self.lora.effective_method == "none":
            raise ValueError(
                "lora.method: none trains every weight, which 4-bit weights do not allow; set model.load_in_4bit: false"
            )
        return self

    @property
    def earlier_stages(self) -> tuple[PipelineStageSection, ...]:
        """The stages of `pipeline` before its last one, which the recipe's own sections describe."""
        return tuple(self.pipeline.stages[:-1]) if self.pipeline else ()

    def stage_config(self, name: str) -> "ForgeConfig":
        """The recipe of one stage of `pipeline` alone: its own evaluation, or none; nothing to export or release.

        Raises:
            ConfigError: There is no such stage.
        """
        stages = {stage.name: stage for stage in self.pipeline.stages} if self.pipeline else {}
        if name not in stages:
            raise ConfigError(f"pipeline.stages: there is no {name!r}; there are {', '.join(stages) or 'none'}")
        stage = stages[name]
        return self.model_copy(
            update={
                "model": stage.model, "lora": stage.lora, "training": stage.training, "data": stage.data,
                "evaluation": stage.evaluation or EvaluationSection(), "pipeline": None, "synthetic": None,
                "merge": None,
            }
        )  # fmt: skip

    @property
    def merges_models(self) -> bool:
        """Whether the model that is judged and delivered is the trained one merged with others."""
        return self.merge is not None and self.merge.enabled

    @property
    def exports_gguf(self) -> bool:
        """Whether files for llama.cpp are made: not of models that write no text."""
        writes = self.training.trainer_type != "reward" and self.model.task != "extractive-question-answering"
        return self.export.enabled and writes

    @property
    def merges_adapter(self) -> bool:
        """Whether the model that is judged and delivered is the adapter folded into its base."""
        return self.training.merge_adapters and self.lora.effective_method != "none"

    @property
    def delivers_merged(self) -> bool:
        """Whether what is delivered is made from the trained model by a merge of either kind."""
        return self.merges_adapter or self.merges_models

    @property
    def is_high_risk(self) -> bool:
        """Whether the recipe declares the line to be of the high-risk tier, or worse."""
        declared = {
            self.compliance.risk_classification if self.compliance else None,
            self.risk_assessment.risk_category if self.risk_assessment else None,
        }
        return bool(declared & {"high-risk", "unacceptable"})

    @property
    def needs_four_eyes(self) -> bool:
        """Whether approvals must be signed, and be by others than whoever trained the model."""
        return self.release.four_eyes or self.is_high_risk

    @property
    def approvals_needed(self) -> int:
        """Distinct people who must approve a release."""
        asked = max(self.release.approvals, int(self.evaluation.require_human_approval), bool(self.release.roles))
        return max(asked, 2) if self.needs_four_eyes else asked


def _at(section: Any, path: str) -> Any:
    for part in path.split("."):
        section = getattr(section, part, None)
        if section is None:
            return None
    return section
