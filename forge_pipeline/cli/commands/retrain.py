"""Ask for a line to be trained again, also where a run for its data failed. Its retraining sensor starts the run."""

import argparse

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import line_log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("line", help="the line, as its recipe names it; automation: in the recipe must be on")
    parser.add_argument("--reason", required=True, metavar="WORDS", help="why; it stands in the line's audit log")
    parser.add_argument("--log", metavar="DIR", help="the line's audit log (default: the one under FORGE_HOME)")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.audit_log import LOG_FILE, AuditLogger
    from forge_pipeline.errors import ConfigError

    directory = line_log(args.line, args.log)
    if not (directory / LOG_FILE).is_file():
        raise ConfigError(
            f"{directory}: there is no audit log, so the line {args.line!r} never ran here; start it the first time "
            f"with: dagster asset materialize -m assets.definitions --select 'group:{args.line}'"
        )
    logger = AuditLogger(str(directory), run_id="forge-retrain")
    logger.log_event("retraining.requested", reason=args.reason)
    anchor = logger.anchor()
    document = {"line": args.line, "log_id": anchor.log_id, "size": anchor.size}
    emit(args, document, [f"asked; the sensor {args.line}_retraining starts the run at its next look"])
    return SUCCESS
