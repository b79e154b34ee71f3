"""What `forge approve`, `forge reject` and `forge revoke` share."""

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import approver_key, open_registry

if TYPE_CHECKING:
    from forge_pipeline.release import Approval


def add_person_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("request", help="the request's id, or its beginning; see: forge approvals")
    parser.add_argument("--reason", required=True, help="why, in words")
    parser.add_argument("--as", dest="approver", metavar="NAME", help="who decides (default: FORGE_OPERATOR)")
    parser.add_argument("--key", metavar="PEM", help="sign with this Ed25519 key (default: FORGE_APPROVER_KEY)")


def add_decision_arguments(parser: argparse.ArgumentParser) -> None:
    add_person_arguments(parser)
    parser.add_argument("--role", help="what you speak for, as the recipe's release.roles names it")
    parser.add_argument(
        "--model",
        metavar="DIGEST",
        help="the model that you looked at, 8 characters or more; another is refused",
    )
    add_json_option(parser)


def run_decision(args: argparse.Namespace, decide: "Callable[..., Approval]") -> int:
    from forge_pipeline.audit_log.identity import operator_name

    approval = decide(
        open_registry(),
        args.request,
        approver=args.approver or operator_name(os.environ),
        reason=args.reason,
        key=approver_key(args.key),
        role=args.role,
        subject=args.model,
    )
    signed = f"signed with key {approval.key.short}" if approval.key else "not signed"
    lines = [f"{approval.decision} by {approval.approver} ({signed}): model {approval.subject}"]
    if approval.key:
        lines.append(f"  the key's fingerprint, as release.approvers names it: {approval.key}")
    emit(args, approval, lines)
    return SUCCESS
