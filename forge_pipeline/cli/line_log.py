"""The audit log in which a command run by hand leaves its event."""

import sys
from typing import TYPE_CHECKING

from forge_pipeline.cli.surroundings import line_log

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from forge_pipeline.audit_log import AuditLogger

HELP = "the audit log to write to; else that of the model's line under FORGE_HOME"


def add_log_option(parser: "ArgumentParser") -> None:
    parser.add_argument("--log", metavar="DIR", help=HELP)


def logger_of(line: str | None, given: str | None) -> "AuditLogger | None":
    """The log named on the command line, else the line's; None, said on stderr, where there is neither.

    Raises what opening a log raises: call it before doing what is to be logged.
    """
    from forge_pipeline.audit_log import AuditLogger

    if not (line or given):
        print("forge: not logged, because the model is of no line; --log DIR names an audit log", file=sys.stderr)
        return None
    return AuditLogger(str(line_log(line or "", given)))
