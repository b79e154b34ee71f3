"""Base models, adapters and their tokenizers: found, loaded, merged, stored."""

from forge_pipeline.models.adapters import lora_config
from forge_pipeline.models.base import BaseModel, BaseModelRecord, resolve_base_model
from forge_pipeline.models.base_line import digests_when_pinned, pin_base_line, start_from_line
from forge_pipeline.models.chain import PreviousStage, check_earlier_stages, go_on_from
from forge_pipeline.models.combining import deliver, find_released, merge_models
from forge_pipeline.models.directory import ModelDirectory, ModelRecord, ParentRecord, StageRecord
from forge_pipeline.models.home import forge_home
from forge_pipeline.models.hub import setup_authentication
from forge_pipeline.models.loading import get_model_and_tokenizer, load_base, load_tokenizer, load_tuned, token_counter
from forge_pipeline.models.merging import merge

__all__ = [
    "BaseModel",
    "BaseModelRecord",
    "ModelDirectory",
    "ModelRecord",
    "ParentRecord",
    "PreviousStage",
    "StageRecord",
    "check_earlier_stages",
    "deliver",
    "digests_when_pinned",
    "find_released",
    "forge_home",
    "get_model_and_tokenizer",
    "go_on_from",
    "load_base",
    "load_tokenizer",
    "load_tuned",
    "lora_config",
    "merge",
    "merge_models",
    "pin_base_line",
    "resolve_base_model",
    "setup_authentication",
    "start_from_line",
    "token_counter",
]
