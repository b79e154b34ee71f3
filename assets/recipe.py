"""`recipe`: the validated, fully resolved config, materialized before anything is trained."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.checks import report_checks
from assets.line import Line
from forge_pipeline import config as config_package
from forge_pipeline import erasure, evaluation, models
from forge_pipeline.config import ForgeConfig, config_digest, load_config, policy_digest, resolved
from forge_pipeline.errors import ConfigError
from forge_pipeline.integrity import report_to_json
from resources.evidence import AuditLogResource
from resources.settings import DeploymentResource


def build_recipe(line: Line) -> dg.AssetsDefinition:
    @line.stage(
        io_manager="report_io", kinds={"yaml", "json"}, sections=tuple(ForgeConfig.model_fields), code=[config_package]
    )
    def recipe(
        context: dg.AssetExecutionContext, deployment: DeploymentResource, audit_log: AuditLogResource
    ) -> ForgeConfig:
        """The recipe as it was resolved for this run, defaults included, with its digest.

        Every later stage takes it as an input, so the configuration is part of the lineage,
        and the policy of the gates is on record before anything is trained or measured.
        """
        file = line.recipe_file or deployment.home.studio_recipe(context.partition_key)
        config = load_config(str(file))
        check_loaded_recipe(line, config, file)
        config = models.pin_base_line(config)
        check_no_inline_secrets(config, file)
        check_every_section_runs(line, config, file)
        deployment.check_persistent(context.instance)
        deployment.check_disk()
        check_kept_no_longer_than_said(context, config, deployment)
        audit_log.log(
            line.name,
            context.run_id,
            "recipe.resolved",
            line=line.name,
            config_digest=config_digest(config),
            policy_digest=policy_digest(config),
        )
        log_safety_policies(context, audit_log, line, config)
        return config

    return recipe


def log_safety_policies(
    context: dg.AssetExecutionContext, audit_log: AuditLogResource, line: Line, config: ForgeConfig
) -> None:
    """Put the terms of each safety gate on record: what the recipe's files and models are now, before training."""
    parts = [config.stage_config(stage.name) for stage in config.earlier_stages]
    for part in (*parts, config):
        policy = evaluation.safety_policy(part)
        if policy is not None:
            audit_log.log(
                line.name,
                context.run_id,
                "safety.policy_fixed",
                config_digest=config_digest(part),
                safety_policy_digest=policy.digest,
                policy=report_to_json(policy),
            )


def build_recipe_checks(line: Line) -> dg.AssetChecksDefinition:
    @line.checks("recipe", {"schema_valid": "The stored recipe still validates and resolves to the same digest."})
    def recipe_checks(
        context: dg.AssetCheckExecutionContext, recipe: ForgeConfig, audit_log: AuditLogResource
    ) -> Iterator[dg.AssetCheckResult]:
        again = ForgeConfig(**resolved(recipe))
        yield from report_checks(
            context, audit_log, line, "recipe",
            {"schema_valid": (again == recipe, f"{len(ForgeConfig.model_fields)} sections, {config_digest(recipe)}")},
            subject=config_digest(recipe),
        )  # fmt: skip

    return recipe_checks


def check_kept_no_longer_than_said(
    context: dg.AssetExecutionContext, config: ForgeConfig, deployment: DeploymentResource
) -> None:
    """Act on `retention.enforce`: a warning, or no run, while data lies here for longer than the recipe allows.

    Raises:
        GateFailedError: Where the recipe says ``block_on_excess``; `forge retention --apply` clears the way.
    """
    if config.retention is None or config.retention.enforce == "log_only":
        return
    report = erasure.review(config, erasure.Places.of(deployment.home.root, recipes=(config,)))
    if report.due:
        context.log.warning(f"{len(report.due)} things are kept for longer than retention: allows; see forge retention")
    erasure.check_retention(report)


def check_loaded_recipe(line: Line, config: ForgeConfig, file: Path) -> None:
    """The graph and code versions were made from the recipe as it was at load time.

    Raises:
        ConfigError: The file has changed since, or was broken then.
    """
    if line.recipe_file and line.config_digest != config_digest(config):
        raise ConfigError(
            f"{file} was changed after this code location was loaded; reload the code location "
            "(UI: Deployment > Reload) so that the graph and the code versions fit the recipe"
        )


def check_every_section_runs(line: Line, config: ForgeConfig, file: Path) -> None:
    """A section that asks for work which no asset does would be a promise nobody keeps.

    Raises:
        ConfigError: Naming the key and where that work is done.
    """
    if config.data.clean.enabled and line.dataset_stage != "clean_dataset":
        raise ConfigError(
            f"{file}: data.clean.enabled: jobs of the studio have no cleaning stage; declare the recipe as a line of "
            "its own (a file in configs/), or clean the dataset before"
        )
    judge = config.evaluation.llm_judge
    if judge and judge.enabled and not line.has_judge:
        raise ConfigError(
            f"{file}: evaluation.llm_judge.enabled: jobs of the studio have no stage for a judge; declare the recipe "
            "as a line of its own (a file in configs/), or set it to false"
        )
    if config.synthetic and config.synthetic.enabled and not line.has_teacher:
        raise ConfigError(
            f"{file}: synthetic.enabled: jobs of the studio have no stage for a teacher; declare the recipe as a line "
            "of its own (a file in configs/), or run `forge synthesize`, point data.dataset_name_or_path at its "
            "output, and set it to false"
        )


def check_no_inline_secrets(config: ForgeConfig, file: Path) -> None:
    """A stored recipe is read by many; a secret in it would be there for good.

    Raises:
        ConfigError: The recipe holds a token or key.
    """
    if config.auth and config.auth.hf_token:
        raise ConfigError(f"{file}: auth.hf_token holds a secret; remove it and set the environment variable HF_TOKEN")
    if config.synthetic and config.synthetic.api_key:
        raise ConfigError(f"{file}: synthetic.api_key holds a secret; set synthetic.api_key_env to a variable's name")
