"""The `pipeline:` section: several fine-tunes in a row, each from the model of the one before."""

from pydantic import Field, field_validator, model_validator

from forge_pipeline.config._base import Section
from forge_pipeline.config.data import DataSection
from forge_pipeline.config.evaluation import EvaluationSection
from forge_pipeline.config.model import LoraSection, ModelSection
from forge_pipeline.config.training import TrainingSection

_TAKEN = ("recipe", "synthetic_dataset", "raw_dataset", "clean_dataset", "dataset_audit_report", "tokenized_dataset")


class PipelineStageSection(Section):
    """One fine-tune of the chain. A section named here replaces the root's, whole."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,32}$")
    model: ModelSection | None = None
    lora: LoraSection | None = None
    training: TrainingSection | None = None
    data: DataSection | None = None
    evaluation: EvaluationSection | None = None
    """Gates of this stage; the next one starts only from a model that they let pass. None: its loss is finite."""

    @field_validator("name")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in _TAKEN:
            raise ValueError(f"{value} is the name of an asset; name the stage after what it does: sft, dpo")
        return value

    @model_validator(mode="after")
    def _says_which_trainer(self) -> "PipelineStageSection":
        if self.training is not None and "trainer_type" not in self.training.model_fields_set:
            raise ValueError("training: write trainer_type; which trainer a stage runs is never a default")
        return self


class PipelineSection(Section):
    """A chain of fine-tunes: SFT, then DPO."""

    output_dir: str = "./pipeline_run"
    """Where the library path (`ForgeTrainer`) writes, in place of `training.output_dir`."""
    stages: list[PipelineStageSection] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> "PipelineSection":
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"stages: {', '.join(twice)} stands there more than once; each stage needs its own name")
        return self
