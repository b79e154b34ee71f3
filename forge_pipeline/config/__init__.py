"""Recipes: YAML in, frozen typed sections out."""

from forge_pipeline.config.loading import config_digest, load_config, resolved
from forge_pipeline.config.root import ForgeConfig

__all__ = ["ForgeConfig", "config_digest", "load_config", "resolved"]
