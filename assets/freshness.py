"""How old a line's model may be, and which cheap documents follow the recipe by themselves.

Nothing here trains: what trains is the retraining sensor, which counts its attempts.
"""

from datetime import timedelta
from typing import Any

import dagster as dg

from forge_pipeline.config import ForgeConfig

_REFRESHED = ("recipe", "annex_iv_bundle")
_WARN_AT = 0.9  # of the age at which a model is stale


def freshness_policy(config: ForgeConfig | None, stage: str) -> dg.FreshnessPolicy | None:
    """`automation.max_age_days` as Dagster's policy on the fine-tuned model, shown and evaluated by its daemon."""
    if config is None or stage != "fine_tuned_model" or config.automation.max_age_days is None:
        return None
    fail = config.automation.max_age_days
    warn = config.automation.warn_age_days or _WARN_AT * fail
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=fail), warn_window=timedelta(days=warn))


def refresh_condition(config: ForgeConfig | None, stage: str) -> dg.AutomationCondition[Any] | None:
    """When `recipe` and `annex_iv_bundle` are made again: with other code, or after what they are made from.

    Only what was made before is made again, only from what is all there and at rest, and never past a blocking check
    that failed: `AutomationCondition.eager` alone would go past one.
    """
    if config is None or not config.automation.refresh_documents or stage not in _REFRESHED:
        return None
    condition = dg.AutomationCondition
    changed: dg.AutomationCondition[Any] = condition.any_deps_updated() | condition.code_version_changed()
    at_rest = ~condition.any_deps_missing() & ~condition.any_deps_in_progress() & ~condition.in_progress()
    return changed.since_last_handled() & ~condition.missing() & at_rest & condition.all_deps_blocking_checks_passed()


def build_refresh_sensor(line: str, config: ForgeConfig | None) -> dg.AutomationConditionSensorDefinition | None:
    """Evaluates those conditions for one line; None for a line that has none."""
    if config is None or not config.automation.refresh_documents:
        return None
    return dg.AutomationConditionSensorDefinition(
        f"{line}_documents",
        target=dg.AssetSelection.assets(*[[line, stage] for stage in _REFRESHED]),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=config.automation.check_interval_seconds,
        description=f"Makes the bundle of {line} again when what it says of recipe or code has changed.",
    )
