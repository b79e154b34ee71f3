"""Dagster's own reading of an instance file, without opening what it names."""

from typing import Any

from dagster._config import process_config
from dagster._core.instance.config import dagster_instance_config_schema


def instance_errors(config: dict[str, Any]) -> list[str]:
    """What Dagster would say about a dagster.yaml; empty for a valid one."""
    found = process_config(dagster_instance_config_schema(), config)
    return [error.message for error in found.errors or ()]
