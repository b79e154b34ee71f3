"""Recipes: YAML in, frozen typed sections out."""

from typing import TYPE_CHECKING

from forge_pipeline._lazy import attributes

if TYPE_CHECKING:
    from forge_pipeline.config.loading import config_digest, load_config, policy_digest, resolved
    from forge_pipeline.config.root import ForgeConfig

_EXPORTS = {
    "ForgeConfig": "root",
    "config_digest": "loading",
    "load_config": "loading",
    "policy_digest": "loading",
    "resolved": "loading",
}

__all__ = ["ForgeConfig", "config_digest", "load_config", "policy_digest", "resolved"]

if not TYPE_CHECKING:
    __getattr__ = attributes(__name__, _EXPORTS)
