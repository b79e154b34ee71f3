"""List releases that wait for people, with what is needed and until when."""

import argparse
from typing import TYPE_CHECKING, Any

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import open_registry

if TYPE_CHECKING:
    from forge_pipeline.release import PendingApproval


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also those that are granted, rejected or expired")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.release import all_approvals, pending_approvals

    registry = open_registry()
    found = all_approvals(registry) if args.all else pending_approvals(registry)
    lines = [line for each in found for line in _lines(each)] or ["nothing waits for approval"]
    emit(args, {"requests": [_document(each) for each in found]}, lines)
    return SUCCESS


def _state(each: "PendingApproval") -> str:
    if each.rejected:
        return "rejected"
    if not each.still_needed:
        return "granted"
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
        lines.append(f"  {approval.decision}  by {approval.approver}{signed}: {approval.reason}")
    return lines
