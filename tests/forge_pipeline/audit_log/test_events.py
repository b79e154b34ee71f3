"""The event catalogue: what may be appended, and the table that documents it."""

from typing import Any

import pytest

from forge_pipeline.audit_log import CATALOGUE, catalogue_markdown
from forge_pipeline.audit_log.entry import RESERVED_NAMES, is_event_name
from forge_pipeline.audit_log.events import check_event

DIGEST = "sha256:" + "0" * 64


def test_every_event_of_the_pipeline_is_in_the_catalogue() -> None:
    promised = {
        "recipe.resolved",
        "artifact.materialized",
        "gate.decided",
        "asset_check.evaluated",
        "training.started",
        "training.completed",
        "model.released",
        "release.refused",
        "human_approval.required",
        "human_approval.granted",
        "human_approval.rejected",
        "pipeline.completed",
        "pipeline.failed",
        "audit.recovered",
        "run.closed",
        "data.erasure_requested",
        "data.erasure_completed",
        "data.erasure_failed",
        "data.access_request_query",
        "model.trained_on_erased_data",
        "retention.purged",
        "history.reconciled",
        "bundle.attested",
        "webhook.delivered",
        "webhook.failed",
    }
    assert promised <= CATALOGUE.keys()
    assert all(is_event_name(name) for name in CATALOGUE)


def test_no_event_asks_for_a_field_that_the_envelope_has() -> None:
    assert not [name for name, row in CATALOGUE.items() if RESERVED_NAMES & row.required.keys()]


def test_an_event_of_ones_own_needs_only_a_dotted_name() -> None:
    check_event("acme.reviewed", {"by": "bob"})


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no dot": ("reviewed", {}, "not an event name"),
    "white space": ("acme reviewed.now", {}, "not an event name"),
    "a name of the log's own": ("audit.recovered", {}, "appended by the log itself"),
    "another under its prefix": ("audit.cleaned", {}, "appended by the log itself"),
    "a missing field": ("training.started", {"trainer_type": "sft", "model": "m"}, "'dataset' is missing"),
    "a path where a digest belongs": ("model.released", {"subject": "models/7"}, "'subject' is not a digest"),
    "a string where a boolean belongs": ("pipeline.completed", {"success": "yes"}, "'success' is not a boolean"),
    "true where an integer belongs": ("data.access_request_query", {"match_count": True}, "not an integer"),
    **{
        f"the envelope's {name}": ("acme.reviewed", {name: "x"}, "belong to the entry's envelope")
        for name in ("operator", "run_id", "timestamp", "ts", "seq", "prev_hash", "hmac", "sig", "data", "v", "log_id")
    },
}


@pytest.mark.parametrize(("event", "fields", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(event: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_event(event, fields)


def test_an_asset_check_may_be_about_nothing_stored() -> None:
    fields = {"asset_key": "a/b", "check": "c", "passed": True, "severity": "ERROR"}
    check_event("asset_check.evaluated", {**fields, "subject": None})
    check_event("asset_check.evaluated", {**fields, "subject": DIGEST})
    with pytest.raises(ValueError, match="'subject' is missing"):
        check_event("asset_check.evaluated", fields)


def test_the_documented_catalogue_has_a_row_for_every_event() -> None:
    rows = catalogue_markdown().splitlines()[2:]
    assert len(rows) == len(CATALOGUE)
    assert all(row.count(" | ") == 4 and f"| `{name}` |" in row for row, name in zip(rows, CATALOGUE, strict=True))
