"""YAML file -> `ForgeConfig`, and the digest that identifies a resolved recipe."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from forge_pipeline.config._base import config_error
from forge_pipeline.config.root import ForgeConfig
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import Digest, json_digest

_SECRETS = (("auth", "hf_token"), ("synthetic", "api_key"))


def load_config(path: str) -> ForgeConfig:
    """Parse a recipe file into a validated `ForgeConfig`.

    The line's name is the file's stem unless the recipe sets `name`.

    Raises:
        ConfigError: The file is missing, unreadable, not YAML, or does not describe a valid recipe.
    """
    values = _read_mapping(Path(path))
    values.setdefault("name", Path(path).stem)
    try:
        return ForgeConfig(**values)
    except ConfigError as error:
        findings = error.__cause__
        assert isinstance(findings, ValidationError)
        raise config_error(findings, file=str(path), root=ForgeConfig) from findings


def resolved(config: ForgeConfig) -> dict[str, Any]:
    """The whole recipe, defaults included, as JSON values. Secrets are replaced by their presence."""
    values = config.model_dump(mode="json")
    for section, key in _SECRETS:
        if values.get(section) and values[section].get(key) is not None:
            values[section][key] = "<set>"
    return values


def config_digest(config: ForgeConfig) -> Digest:
    """Digest of the resolved recipe's canonical JSON."""
    return json_digest(resolved(config))


def policy_digest(config: ForgeConfig) -> Digest:
    """Digest of what the recipe fixes about its gates: thresholds, test sets, and who must agree to a release."""
    values = resolved(config)
    stages = [
        {"name": stage["name"], "data.audit": stage["data"]["audit"], "evaluation": stage["evaluation"]}
        for stage in (values["pipeline"] or {}).get("stages", [])
    ]
    return json_digest(
        ({"pipeline": stages} if stages else {})
        | {
            "data.audit": values["data"]["audit"],
            "evaluation": values["evaluation"],
            "export.fidelity": values["export"]["fidelity"],
            "release": values["release"],
        }
    )


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no such recipe; check the path, or copy configs/quickstart.yaml"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply to be a recipe") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: found {type(values).__name__}; expected a mapping with model:, lora:, data:, training:"
        )
    unnamed = [key for key in values if not isinstance(key, str)]
    if unnamed:
        raise ConfigError(f"{path}: the key {unnamed[0]!r} is not text; section names are words")
    return values
