"""The event catalogue: name, fields that must be there, who emits it, which article it serves.

A field's kind is checked before anything is written. Events beyond the catalogue are
welcome from callers' own pipelines under a dotted name (``acme.reviewed``), except
under ``audit.``, which belongs to the log itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from forge_pipeline.audit_log.entry import RESERVED_NAMES, is_event_name
from forge_pipeline.integrity import Digest

Kind = Literal["string", "digest", "digest or null", "integer", "number", "boolean", "object", "any"]

GENESIS = "audit.genesis"
RECOVERED = "audit.recovered"
KEYS_ADDED = "audit.keys_added"
RUN_CLOSED = "run.closed"
OWN_PREFIX = "audit."
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class EventType:
    """One row of the catalogue.

    Attributes:
        name: The event's dotted name.
        required: Field -> kind of its value; further fields are free.
        emitted_by: The stage or component that appends it.
        article: Where in Regulation (EU) 2024/1689 (or the GDPR) evidence of this kind is asked for.
        description: When it is appended and what it says, in one sentence.
        personal: Fields about a person, which may stand in the vault only (``log_event(personal=...)``).
    """

    name: str
    required: Mapping[str, Kind]
    emitted_by: str
    article: str
    description: str = field(compare=False)
    personal: tuple[str, ...] = ()


_ROWS: tuple[EventType, ...] = (
    EventType(
        GENESIS,
        {"format": "string", "code_version": "string", "keys": "object", "binds": "object"},
        "audit log",
        "12(1)",
        "The log began; names the code version and the fingerprints of its keys.",
    ),
    EventType(
        KEYS_ADDED,
        {"keys": "object"},
        "audit log",
        "12(1)",
        "From this entry on the log carries the tags or signatures of these keys.",
    ),
    EventType(
        RECOVERED,
        {"torn_bytes": "integer", "torn_digest": "digest", "torn_file": "string"},
        "audit log",
        "12(1)",
        "Bytes of an append that was never acknowledged were moved aside; their digest is kept.",
    ),
    EventType(
        RUN_CLOSED,
        {},
        "whoever ends a run",
        "12(1)",
        "Nothing more belongs to this run; a later entry under its run id is a finding.",
    ),
    EventType(
        "recipe.resolved",
        {"config_digest": "digest", "policy_digest": "digest", "line": "string"},
        "recipe",
        "9(8)",
        "The resolved recipe and its gate policy, before anything was trained.",
    ),
    EventType(
        "artifact.materialized",
        {
            "asset_key": "string",
            "digest": "digest",
            "files": "any",
            "inputs": "object",
            "code_version": "string",
            "kind": "string",
        },
        "every stage",
        "11(1), Annex IV 2(a), 2(d)",
        "An artefact was stored: its digest, the digests it was made from, by which code.",
    ),
    EventType(
        "gate.decided",
        {
            "asset_key": "string",
            "gate": "string",
            "verdict": "string",
            "outcome": "string",
            "subject": "digest",
            "policy_digest": "digest",
            "reason": "string",
        },
        "every stage with gates",
        "9(6)-(8), Annex IV 2(g)",
        "A gate answered about exactly these bytes.",
    ),
    EventType(
        "asset_check.evaluated",
        {
            "asset_key": "string",
            "check": "string",
            "passed": "boolean",
            "severity": "string",
            "subject": "digest or null",
        },
        "the orchestrator",
        "17(1)(d)",
        "An asset check was evaluated.",
    ),
    EventType(
        "stage.failed",
        {"asset_key": "string", "error": "string", "stopped": "boolean", "usage": "object"},
        "every stage",
        "12(2)(a), 15(4)",
        "A stage ended without an artefact; names the error's class and what was used until then.",
    ),
    EventType(
        "training.started",
        {"trainer_type": "string", "model": "string", "dataset": "string"},
        "fine_tuned_model",
        "12(2)(a)",
        "Fine-tuning began on this base model and dataset.",
    ),
    EventType("training.completed", {}, "fine_tuned_model", "12(2)(a)", "Fine-tuning ended and its model was stored."),
    EventType(
        "training.resumed",
        {"step": "integer", "checkpoint": "string"},
        "fine_tuned_model",
        "12(2)(a), 15",
        "Fine-tuning went on from a checkpoint of the same recipe, rows and base model.",
    ),
    EventType(
        "training.oom_recovery",
        {"old_batch_size": "integer", "new_batch_size": "integer", "new_grad_accum": "integer"},
        "fine_tuned_model",
        "12(2)(a), 15",
        "Memory ran out; the batch was made smaller and the step repeated.",
    ),
    EventType(
        "evaluation.loss_gate_completed",
        {"passed": "boolean"},
        "fine_tuned_model",
        "15(1)",
        "The loss gate was decided in a run outside the orchestrator.",
    ),
    EventType(
        "benchmark.evaluation_completed",
        {"passed": "boolean"},
        "benchmark_report",
        "15(1), Annex IV 2(g)",
        "The benchmark ran.",
    ),
    EventType(
        "safety.policy_fixed",
        {"config_digest": "digest", "safety_policy_digest": "digest", "policy": "object"},
        "recipe",
        "9(8)",
        "The terms of the safety gate before training: digests of probes and labels, decoding, scorer, every bound.",
    ),
    EventType(
        "safety.evaluation_completed",
        {"passed": "boolean"},
        "safety_report",
        "9(8), Annex IV 2(g)",
        "The safety evaluation ran.",
    ),
    EventType(
        "safety.classifier_load_failed",
        {"classifier": "string", "reason": "string"},
        "safety_report",
        "15(4)",
        "A safety classifier could not be loaded, so nothing was scored.",
    ),
    EventType("judge.evaluation_completed", {"passed": "boolean"}, "judge", "15(1)", "The judge ran."),
    EventType(
        "model.reverted",
        {"reason": "string"},
        "trainer",
        "15(1)",
        "A gate failed; the model stays where it is, unreleased.",
    ),
    EventType(
        "model.released", {"subject": "digest"}, "released_model", "17(1)(d), 18(1)", "These bytes were released."
    ),
    EventType(
        "model.pushed",
        {"subject": "digest", "repository": "string", "hub_commit": "string"},
        "published_model, forge push",
        "13(1)",
        "A model and its card were pushed to a repository.",
    ),
    EventType(
        "model.merged",
        {"subject": "digest", "method": "string", "parents": "any"},
        "forge merge",
        "12(1), Annex IV 2(a)",
        "A model was made, outside a line's own stages, from the models with these digests; nothing was released.",
    ),
    EventType(
        "release.started",
        {"subject": "digest", "alias": "string"},
        "released_model",
        "17(1)(d)",
        "A release of these bytes is about to be made; model.released or release.abandoned names this entry.",
    ),
    EventType(
        "release.abandoned",
        {"subject": "digest", "alias": "string", "intent": "digest"},
        "recovery",
        "17(1)(d), 15(4)",
        "A release that was begun did not happen.",
    ),
    EventType(
        "alias.started",
        {"line": "string", "alias": "string", "subject": "digest", "operation": "string", "reason": "string"},
        "registry",
        "17(1)(d)",
        "An alias is about to be set or rolled back; alias.moved or alias.abandoned names this entry.",
    ),
    EventType(
        "alias.moved",
        {"line": "string", "alias": "string", "subject": "digest", "operation": "string", "intent": "digest"},
        "registry",
        "17(1)(d), 18(1)",
        "An alias means another model from now on.",
    ),
    EventType(
        "alias.abandoned",
        {"line": "string", "alias": "string", "subject": "digest", "intent": "digest"},
        "recovery",
        "17(1)(d), 15(4)",
        "A change of an alias that was begun did not happen.",
    ),
    EventType(
        "model.quarantined",
        {"subject": "digest", "reason": "string"},
        "registry",
        "15(1), 20(1)",
        "A model failed; its files stay and no alias is moved to it.",
    ),
    EventType(
        "model.archived",
        {"subject": "digest", "reason": "string"},
        "registry",
        "17(1)(d), 18(1)",
        "A model is to be used no more; its files and its evidence stay.",
    ),
    EventType(
        "release.refused",
        {"subject": "digest", "reason": "string"},
        "released_model",
        "17(1)(d)",
        "A release was asked for and refused.",
    ),
    EventType(
        "human_approval.required",
        {"subject": "digest"},
        "released_model",
        "9(6)-(8), 17(1)(m)",
        "People must decide about exactly these bytes.",
    ),
    EventType(
        "human_approval.granted", {"subject": "digest"}, "approvals", "17(1)(m), Annex IV 2(g)", "A person approved."
    ),
    EventType(
        "human_approval.rejected", {"subject": "digest"}, "approvals", "17(1)(m), Annex IV 2(g)", "A person rejected."
    ),
    EventType(
        "human_approval.revoked",
        {"subject": "digest", "revocation": "object"},
        "approvals",
        "17(1)(m), Annex IV 2(g)",
        "A person took their own decision back.",
    ),
    EventType(
        "human_approval.expired",
        {"subject": "digest", "request_id": "string"},
        "approvals",
        "17(1)(m)",
        "The time to decide about a request ran out, and with it every decision about it.",
    ),
    EventType("pipeline.started", {}, "trainer", "12(1)", "A run of the pipeline began."),
    EventType(
        "pipeline.stage_started",
        {"stage": "string", "trainer_type": "string"},
        "trainer",
        "12(1)",
        "A stage of a chain of fine-tunes began.",
    ),
    EventType(
        "pipeline.stage_completed",
        {"stage": "string", "subject": "digest"},
        "trainer",
        "12(1)",
        "A stage of a chain ended, and its gates let the next one go on from its model.",
    ),
    EventType(
        "pipeline.stage_reused",
        {"stage": "string", "subject": "digest"},
        "trainer",
        "12(1)",
        "A resumed chain took over a stage's model from an earlier run, made by the same recipe from the same rows.",
    ),
    EventType("pipeline.completed", {"success": "boolean"}, "trainer", "12(1)", "A run of the pipeline ended."),
    EventType("pipeline.failed", {"error": "string"}, "trainer", "12(1)", "A run of the pipeline ended in an error."),
    EventType(
        "compliance.bundle_written", {"digest": "digest"}, "annex_iv_bundle", "11(1), Annex IV", "A bundle was written."
    ),
    EventType(
        "integrity.verified",
        {"subject": "digest", "valid": "boolean"},
        "verifiers",
        "15(5)",
        "Stored bytes were compared with the digest recorded for them.",
    ),
    EventType(
        "data.erasure_requested",
        {"target_kind": "string"},
        "erasure",
        "GDPR 17",
        "Erasure of a person's data was asked for.",
        personal=("target_id", "justification"),
    ),
    EventType(
        "data.erasure_completed",
        {"target_kind": "string"},
        "erasure",
        "GDPR 17",
        "The erasure was carried out.",
        personal=("target_id", "justification"),
    ),
    EventType(
        "data.erasure_failed",
        {"error": "string"},
        "erasure",
        "GDPR 17",
        "The erasure could not be carried out.",
        personal=("target_id", "justification"),
    ),
    EventType(
        "data.erasure_warning_memorisation",
        {},
        "erasure",
        "GDPR 17",
        "Models were trained on the erased data and may have memorised it.",
    ),
    EventType(
        "data.access_request_query",
        {"match_count": "integer"},
        "find-subject",
        "GDPR 15",
        "A person's data was searched for; only digests and counts are logged.",
        personal=("query", "identifier"),
    ),
    EventType(
        "model.trained_on_erased_data",
        {"subject": "digest", "asset_key": "string"},
        "erasure",
        "GDPR 17, 10(2)",
        "This model was made from data that was erased since; it is not released again before it is retrained.",
    ),
    EventType(
        "retention.purged",
        {"target_kind": "string", "count": "integer"},
        "retention",
        "18(1), 19(1), GDPR 5(1)(e)",
        "What was older than its retention period was deleted; digests of it are kept.",
    ),
    EventType(
        "history.reconciled",
        {"passed": "boolean", "anchor": "object"},
        "reconciliation",
        "12(1), 15(5)",
        "The log was compared with the orchestrator's history, up to this log id, size and root.",
    ),
    EventType(
        "bundle.attested",
        {"subject": "digest", "predicate_type": "string", "envelope_digest": "digest"},
        "attestation",
        "11(1), 18(1)",
        "A statement about exactly these bytes was signed; the envelope is in the bundle.",
    ),
    EventType(
        "retraining.requested",
        {"reason": "string"},
        "forge retrain",
        "12(1), 14(4)",
        "A person asked for the line to be trained again; its retraining sensor starts one run for this entry.",
    ),
    EventType(
        "drift.measured",
        {"recent": "digest", "reference": "digest", "drifted": "boolean", "reasons": "any"},
        "retraining sensor",
        "9(2)(c), 72(2)",
        "Recent data was compared with the data that the newest model was trained on.",
    ),
    EventType(
        "benchmark.fell",
        {
            "subject": "digest",
            "reference": "digest",
            "recent": "digest",
            "metric": "string",
            "drop": "number",
            "max_drop": "number",
        },
        "retraining sensor",
        "15(1), 72(2)",
        "The newest model did worse in its newest benchmark than in its first, by more than the recipe allows.",
    ),
    EventType(
        "api.requested",
        {"action": "string", "target": "string", "api_key": "string", "request_id": "string"},
        "REST API",
        "12(1), 17(1)(m)",
        "Somebody asked over the API for this act; api_key names the key, and is empty where none is needed.",
    ),
    EventType(
        "api.answered",
        {
            "action": "string",
            "target": "string",
            "api_key": "string",
            "request_id": "string",
            "status": "integer",
        },
        "REST API",
        "12(1), 17(1)(m)",
        "How that act was answered; a status below 300 means that it was done.",
    ),
    EventType(
        "api.key_changed",
        {"operation": "string", "api_key": "string", "scope": "string", "key_id": "string"},
        "forge api-key",
        "12(1), 17(1)(m)",
        "An API key was created, rotated or revoked; the log holds its name and never the key.",
    ),
    EventType(
        "webhook.delivered",
        {"notified_event": "string", "payload_digest": "digest"},
        "webhook",
        "17(1)(m)",
        "A notification was taken by the receiver; the log does not hold its address, which may be a secret.",
    ),
    EventType(
        "webhook.failed",
        {"notified_event": "string", "payload_digest": "digest", "reason": "string"},
        "webhook",
        "17(1)(m)",
        "A notification was given up after its last attempt.",
    ),
)

CATALOGUE: Mapping[str, EventType] = {row.name: row for row in _ROWS}


def check_event(event: str, fields: Mapping[str, Any], personal: Mapping[str, str] = NO_FIELDS) -> None:
    """Refuse an event that may not be appended by a caller.

    Raises:
        ValueError: The name is not dotted or belongs to the log, a field takes an envelope
            member's name, a field that the catalogue requires is missing or of another kind, one
            that it calls personal is given in clear, or a personal field is given twice or is not text.
    """
    if not isinstance(event, str) or not is_event_name(event):
        raise ValueError(f"{event!r} is not an event name; expected dotted words such as 'training.started'")
    if event.startswith(OWN_PREFIX):
        raise ValueError(f"event {event!r}: names under {OWN_PREFIX!r} are appended by the log itself")
    taken = sorted(RESERVED_NAMES & (fields.keys() | personal.keys()))
    if taken:
        raise ValueError(f"event {event!r}: {', '.join(taken)} belong to the entry's envelope; rename the field")
    known = CATALOGUE.get(event)
    problems = [
        f"field {name!r} is missing"
        if name not in fields
        else f"field {name!r} is not {_article(kind)}: {fields[name]!r}"
        for name, kind in (known.required if known else {}).items()
        if name not in fields or not _is_kind(fields[name], kind)
    ]
    in_clear = sorted(fields.keys() & (known.personal if known else ()))
    problems += [f"field {name!r} is about a person; pass it as personal={{{name!r}: ...}}" for name in in_clear]
    problems += [
        f"personal field {name!r} is not a name for a string, or is a field too"
        for name, value in personal.items()
        if not isinstance(name, str) or not name or not isinstance(value, str) or name in fields
    ]
    if problems:
        raise ValueError(f"event {event!r}: {'; '.join(problems)}")


def _is_kind(value: object, kind: Kind) -> bool:
    match kind:
        case "any":
            return True
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "object":
            return isinstance(value, Mapping)
        case "digest or null":
            return value is None or _is_digest(value)
        case "digest":
            return _is_digest(value)


def _is_digest(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(Digest(value))
    except ValueError:
        return False


def _article(kind: Kind) -> str:
    return ("an " if kind[0] in "aio" else "a ") + kind


def catalogue_markdown() -> str:
    """The catalogue as a Markdown table, for the documentation."""
    lines = ["| event | required fields | emitted by | article | what it says |", "|---|---|---|---|---|"]
    for row in _ROWS:
        named = [f"`{name}` ({kind})" for name, kind in row.required.items()]
        named += [f"`{name}` (personal: in the vault only, not required)" for name in row.personal]
        fields = ", ".join(named) or "none"
        lines.append(f"| `{row.name}` | {fields} | {row.emitted_by} | {row.article} | {row.description} |")
    return "\n".join(lines) + "\n"
