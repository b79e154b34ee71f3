"""List releases that wait for people, with what is needed and until when; --show has all there is about one."""

import argparse
from typing import TYPE_CHECKING, Any

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import open_registry, recover_lines

if TYPE_CHECKING:
    from forge_pipeline.release import PendingApproval, Standing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also those that are granted, rejected or expired")
    parser.add_argument("--show", metavar="ID", help="one request: gates, digests, and which decisions count")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.release import all_approvals, pending_approvals, standing

    registry = open_registry()
    recover_lines(registry)
    if args.show:
        one = standing(registry, args.show)
        row = next(row for row in registry.approval_requests() if row.request_id == one.request.request_id)
        details = dict(row.details or {})
        emit(args, {**_standing_document(one), **details}, _standing_lines(one, details))
        return SUCCESS
    found = all_approvals(registry) if args.all else pending_approvals(registry)
    lines = [line for each in found for line in _lines(each)] or ["nothing waits for approval"]
    emit(args, {"requests": [_document(each) for each in found]}, lines)
    return SUCCESS


def _state(each: "PendingApproval") -> str:
    if each.rejected:
        return "rejected"
    if not each.still_needed:
        return "granted"
    if each.superseded:
        return "superseded"
    return "expired" if each.expired else "open"


def _document(each: "PendingApproval") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(each), "state": _state(each), "still_needed": each.still_needed}


def _lines(each: "PendingApproval") -> list[str]:
    request = each.request
    lines = [
        f"{request.request_id}  {request.line}  {_state(each)}  needs {each.still_needed} more of {request.needed}",
        f"  model   {request.subject}",
        f"  bundle  {request.bundle}",
        f"  asked   {request.created_at:%Y-%m-%d %H:%M} UTC by {request.requested_by}, "
        f"until {request.expires_at:%Y-%m-%d %H:%M} UTC",
    ]
    for approval in each.approvals:
        signed = f", key {approval.key.short}" if approval.key else ", not signed"
        revoked = " (revoked)" if approval.digest in each.revoked else ""
        lines.append(f"  {approval.decision}{revoked}  by {approval.approver}{signed}: {approval.reason}")
    return lines


def _standing_document(one: "Standing") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(one), "state": one.state, "still_needed": one.still_needed}


def _standing_lines(one: "Standing", details: dict[str, Any]) -> list[str]:
    request, terms = one.request, one.request.terms
    asked = [f"{terms.needed} approvals", *(["four eyes"] if terms.four_eyes else [])]
    asked += [f"one by {role}" for role in terms.roles]
    lines = [
        f"{request.request_id}  {request.line}  {one.state}  needs {one.still_needed} more",
        f"  asked   {request.created_at} by {request.requested_by}, until {request.expires_at}",
        f"  terms   {', '.join(asked)}; reasons of {terms.min_reason_length} characters or more",
        f"  recipe  {request.policy_digest}",
        "  shown",
    ]
    lines += [f"    {name:<22} {digest}" for name, digest in request.shown.items()]
    if details.get("bundle_path"):
        lines.append(f"    the bundle lies in {details['bundle_path']}")
    lines.append("  gates")
    lines += [f"    {each.verdict.value:<14} {each.gate}: {each.reason}" for each in request.gates]
    lines += [f"  approved by {each.approver} ({each.identity}): {each.reason}" for each in one.granted]
    lines += [f"  rejected by {each.approver} ({each.identity}): {each.reason}" for each in one.rejected]
    lines += [
        f"  not counted: {each.approval.decision} by {each.approval.approver}: {each.why}" for each in one.not_counted
    ]
    if one.state == "open":
        key = " --key KEY.pem" if terms.signed_only else ""
        model = request.subject.removeprefix("sha256:")[:12]
        lines.append(f'  forge approve {request.request_id} --model {model}{key} --reason "..."')
    return lines
