"""Take back your own decision about a release. A release that has happened stays; see: forge models rollback."""

import argparse
import os

from forge_pipeline.cli.commands.decision import add_person_arguments
from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import approver_key, open_registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_person_arguments(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.audit_log.identity import operator_name
    from forge_pipeline.release import revoke, standing

    registry = open_registry()
    revocation = revoke(
        registry,
        args.request,
        approver=args.approver or operator_name(os.environ),
        reason=args.reason,
        key=approver_key(args.key),
    )
    lines = [f"revoked by {revocation.approver}: model {revocation.subject}"]
    request = standing(registry, revocation.request_id).request
    if any(row.model_uid == revocation.subject for row in registry.aliases(request.line)):
        lines.append(f'the model is in use; roll back with: forge models rollback {request.line} --reason "..."')
    emit(args, revocation, lines)
    return SUCCESS
