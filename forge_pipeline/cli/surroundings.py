"""What commands take from the environment: read here, once, and handed down."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.models import ModelDirectory
    from forge_pipeline.registry import Registry


def open_registry(environ: Mapping[str, str] = os.environ) -> "Registry":
    """The registry of FORGE_REGISTRY_URL, else the one under FORGE_HOME."""
    from forge_pipeline.models import forge_home
    from forge_pipeline.registry import Registry

    return Registry(environ.get("FORGE_REGISTRY_URL") or f"sqlite:///{forge_home() / 'registry.sqlite'}")


def approver_key(given: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The PEM file that decisions are signed with: the option, then FORGE_APPROVER_KEY."""
    name = given or environ.get("FORGE_APPROVER_KEY")
    return Path(name) if name else None


def recipe_for(model: "ModelDirectory", path: str | None) -> "ForgeConfig":
    """The recipe at `path`, or as much of one as the model's record holds: enough to load it."""
    from forge_pipeline.config import ForgeConfig, load_config

    if path is not None:
        return load_config(path)
    base = model.record.base_model
    return ForgeConfig(
        name="model",
        model={"name_or_path": base.name_or_path, "revision": base.revision_resolved, "load_in_4bit": False},
        lora={},
        training={"trainer_type": model.record.trainer_type},
        data={"dataset_name_or_path": "(not read)"},
    )
