"""The `lora:` section -> PEFT's configuration."""

from typing import TYPE_CHECKING

from forge_pipeline.config import ForgeConfig

if TYPE_CHECKING:
    from peft import LoraConfig


def lora_config(config: ForgeConfig) -> "LoraConfig | None":
    """What PEFT is told; None where every weight is trained."""
    section = config.lora
    if section.effective_method == "none":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        bias=section.bias,
        target_modules="all-linear" if section.target_modules == ["all-linear"] else list(section.target_modules),
        modules_to_save=list(section.modules_to_save) if section.modules_to_save else None,
        rank_pattern=dict(section.rank_pattern),
        task_type=section.task_type,
        use_dora=section.effective_method == "dora",
        use_rslora=section.effective_method == "rslora",
        init_lora_weights="pissa" if section.effective_method == "pissa" else True,
    )
