"""`ForgeConfig`: a whole recipe, and the rules that span its sections."""

import re
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from forge_pipeline.config._base import Section, config_error
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
    AutomationSection,
    DistributedSection,
    ExportSection,
    MergeSection,
    ReleaseSection,
    SyntheticSection,
    WebhookSection,
)
from forge_pipeline.config.training import TrainingSection

_NAME = re.compile(r"[a-z0-9_]{1,32}")

# Accepted so that a recipe written for a peer loads, refused where a value would be silently ignored.
_NOT_BUILT_YET = {
    "model.backend": "transformers",
    "model.moe": None,
    "model.multimodal.enabled": False,
    "training.galore_enabled": False,
    "training.rope_scaling": None,
    "training.sliding_window_attention": None,
    "training.oom_recovery": False,
    "distributed.strategy": None,
    "merge.enabled": False,
    "pipeline": None,
    "monitoring.enabled": False,
}


class PipelineStageSection(Section):
    """One stage of a multi-stage recipe; sections named here replace the root's."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,32}$")
    model: ModelSection | None = None
    lora: LoraSection | None = None
    training: TrainingSection | None = None
    data: DataSection | None = None
    evaluation: EvaluationSection | None = None


class PipelineSection(Section):
    """A chain of fine-tunes: SFT, then DPO."""

    output_dir: str = "./pipeline_run"
    stages: list[PipelineStageSection] = Field(min_length=1)


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
        return value

    @field_validator("owners")
    @classmethod
    def _are_owners(cls, value: list[str]) -> list[str]:
        for owner in value:
            if not (owner.startswith("team:") and len(owner) > 5) and "@" not in owner:
                raise ValueError(f"{owner!r} is not an owner; expected team:<name> or an e-mail address")
        return value

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
        if self.model.load_in_4bit and self.lora.effective_method == "none":
            raise ValueError(
                "lora.method: none trains every weight, which 4-bit weights do not allow; set model.load_in_4bit: false"
            )
        return self

    @property
    def merges_adapter(self) -> bool:
        """Whether the model that is judged and delivered is the adapter folded into its base."""
        return self.training.merge_adapters and self.lora.effective_method != "none"

    @property
    def approvals_needed(self) -> int:
        """Distinct people who must approve a release."""
        return max(self.release.approvals, int(self.evaluation.require_human_approval))


def _at(section: Any, path: str) -> Any:
    for part in path.split("."):
        section = getattr(section, part, None)
        if section is None:
            return None
    return section
