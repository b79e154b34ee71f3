"""What a line does between the decision of the last approver and its release, without a person.

One sensor for each line: it finishes or takes back what a crash left, quarantines models whose gates failed,
says which requests expired, and asks for `released_model` alone once a request is approved. The asset checks
gates, digests and approvals again; the sensor decides nothing.
"""

import dagster as dg

from assets.line import Line
from assets.notifications import tell_of_expired, tell_of_reverted
from forge_pipeline import models, release
from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ForgeError
from forge_pipeline.integrity import Digest
from forge_pipeline.registry import Registry
from forge_pipeline.release import Request
from resources.evidence import AuditLogResource, RegistryResource

_SECONDS = 30  # between two looks
_SHOWN = {"fine_tuned_model": "subject", "annex_iv_bundle": "bundle"}


def build_release_sensor(line: Line) -> dg.SensorDefinition | None:
    """The sensor of a line with a recipe; the studio line has none."""
    config = line.config
    if config is None:
        return None

    @dg.sensor(
        name=f"{line.name}_release",
        asset_selection=[line.key("released_model")],
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Releases a model of {line.name} once enough people approved it, and quarantines one that failed.",
    )
    def release_when_approved(
        context: dg.SensorEvaluationContext, audit_log: AuditLogResource, registry: RegistryResource
    ) -> dg.SensorResult | dg.SkipReason:
        """Asks for one run for each approved request; the run key holds the model's digest and the request's id."""
        if not audit_log.path(line.name).exists():
            return dg.SkipReason(f"{line.name} has no audit log yet")
        try:
            log = audit_log.logger(line.name, "release-sensor")
            words = _put_right(line, config, registry.registry, log, audit_log)
            requests, waiting = _approved(context.instance, line, config, registry.registry)
        except (ForgeError, OSError) as error:
            return dg.SkipReason(f"{line.name}: {error}")
        skipped = None if requests else "; ".join([*words, *waiting]) or "nothing waits for a release"
        return dg.SensorResult(run_requests=requests, skip_reason=skipped)

    return release_when_approved


def _put_right(
    line: Line, config: ForgeConfig, registry: Registry, log: AuditLogger, audit_log: AuditLogResource
) -> list[str]:
    words = [f"{each.what} after a crash: {each.event} of {each.subject}" for each in release.recover(registry, log)]
    for reverted in release.revert_failed(registry, line.name, log, auto_revert=config.evaluation.auto_revert):
        words.append(f"{reverted.subject} quarantined: {reverted.reason}")
        words += [f"{alias} means {uid or 'it still'}" for alias, uid in reverted.aliases.items()]
        if config.webhook:
            tell_of_reverted(line, config, reverted.subject, reverted.reason, audit_log=audit_log)
    for request in release.announce_expired(registry, log, line.name):
        words.append(f"request {request} expired undecided")
        if config.webhook:
            tell_of_expired(line, config, request, audit_log=audit_log)
    return words


def _approved(
    instance: dg.DagsterInstance, line: Line, config: ForgeConfig, registry: Registry
) -> tuple[list[dg.RunRequest], list[str]]:
    """Runs to ask for, and why others are not asked for."""
    wanted: list[dg.RunRequest] = []
    waiting: list[str] = []
    digests = models.digests_when_pinned(config, registry)
    for row in registry.approval_requests(line=line.name):
        found = release.standing(registry, row.request_id)
        if found.state == "open":
            waiting.append(f"request {row.request_id} needs {found.still_needed} more approvals")
        if found.state != "approved":
            continue
        if reason := _outdated(instance, line, digests, found.request):
            waiting.append(f"request {row.request_id} is approved, but {reason}")
            continue
        wanted.append(
            dg.RunRequest(
                run_key=f"{line.name}:release:{found.request.subject}:{row.request_id}",
                asset_selection=[line.key("released_model")],
                tags={"forge/line": line.name, "forge/trigger": "approved", "forge/request": row.request_id},
            )
        )
    return wanted, waiting


def _outdated(instance: dg.DagsterInstance, line: Line, digests: frozenset[Digest], request: Request) -> str | None:
    """Why a run would release something else than what was approved; None if it would not."""
    if request.policy_digest not in digests:
        return "the recipe changed since"
    for stage, name in _SHOWN.items():
        event = instance.get_latest_materialization_event(line.key(stage))
        made = event.asset_materialization if event else None
        if made is None or (made.tags or {}).get("dagster/data_version") != getattr(request, name):
            return f"{stage} is another by now"
    return None
