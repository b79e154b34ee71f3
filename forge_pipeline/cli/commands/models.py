"""List models and aliases; move, roll back and archive, each with a reason that goes into the line's audit log."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import line_log, open_registry, recover_lines

if TYPE_CHECKING:
    from forge_pipeline.audit_log import AuditLogger
    from forge_pipeline.registry import AliasRow, ModelRow, Registry

_STAGES = ("candidate", "staging", "released", "archived", "quarantined")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="models, with their stages and what aliases mean")
    listed.add_argument("--line", help="of one line")
    listed.add_argument("--stage", choices=_STAGES)
    shown = actions.add_parser("show", help="one model: numbers, aliases and their history")
    shown.add_argument("model", help="id, or digest or its beginning")
    moved = actions.add_parser("alias", help="make a free alias, or champion, mean a model")
    moved.add_argument("alias")
    moved.add_argument("model", help="id, or digest or its beginning")
    back = actions.add_parser("rollback", help="make an alias mean what it meant before, at once")
    back.add_argument("line")
    back.add_argument("--alias", default="released")
    back.add_argument("--to", metavar="MODEL", help="one of the models that it meant; else the last that may be used")
    back.add_argument("--quarantine", action="store_true", help="quarantine the model that is rolled away from")
    archived = actions.add_parser("archive", help="mark a model as not to be used any more; nothing is deleted")
    archived.add_argument("model", help="id, or digest or its beginning")
    for action in (moved, back, archived):
        action.add_argument("--reason", required=True, help="why, in words")
    for action in (listed, shown, moved, back, archived):
        action.add_argument("--log", metavar="DIR", help="the line's audit log (default: under FORGE_HOME)")
        add_json_option(action)


def run(args: argparse.Namespace) -> int:
    registry = open_registry()
    recover_lines(registry, sorted({row.line for row in registry.list_models()}), args.log)
    actions = {"list": _list, "show": _show, "alias": _alias, "rollback": _rollback, "archive": _archive}
    return actions[args.action](args, registry)


def _list(args: argparse.Namespace, registry: "Registry") -> int:
    rows = registry.list_models(line=args.line, stage=args.stage)
    aliases = registry.aliases(args.line)
    lines = [
        f"{row.id:>5}  {row.uid.short}  {row.line}  {row.stage:<11}  {row.created_at:%Y-%m-%d %H:%M}  "
        + ", ".join(alias.alias for alias in aliases if alias.model_uid == row.uid)
        for row in rows
    ]
    document = {"models": [asdict(row) for row in rows], "aliases": [asdict(alias) for alias in aliases]}
    emit(args, document, [line.rstrip() for line in lines] or ["there is no model"])
    return SUCCESS


def _show(args: argparse.Namespace, registry: "Registry") -> int:
    row = _model(registry, args.model)
    names = sorted({alias.alias for alias in registry.aliases(row.line)})
    history = [entry for name in names for entry in registry.alias_history(row.line, name)]
    own = [entry for entry in history if entry.model_uid == row.uid]
    agreement = {name: _agrees(registry, row.line, name, args.log) for name in names}
    lines = [
        f"{row.id}  {row.name}  {row.stage}" + (f": {row.stage_reason}" if row.stage_reason else ""),
        f"  digest  {row.uid}",
        f"  line    {row.line}, {row.strategy} of {row.base_model}",
        f"  files   {row.path}",
        *(f"  metric  {name} {value:.6g}" for name, value in sorted(row.metrics.items())),
        *(f"  alias   {_history_line(entry)}" for entry in own),
        *(f"  alias {name}: {words}" for name, words in agreement.items() if words),
    ]
    document = {**asdict(row), "aliases": [asdict(entry) for entry in own], "disagreements": agreement}
    emit(args, document, lines)
    return SUCCESS


def _alias(args: argparse.Namespace, registry: "Registry") -> int:
    from forge_pipeline.release import set_alias

    row = _model(registry, args.model)
    log = _logger(row.line, args.log)
    return _moved(args, set_alias(registry, row.line, args.alias, row.uid, reason=args.reason, log=log))


def _rollback(args: argparse.Namespace, registry: "Registry") -> int:
    from forge_pipeline.errors import ConfigError
    from forge_pipeline.release import rollback

    if not registry.alias_history(args.line, args.alias):
        raise ConfigError(f"line {args.line!r} has no alias {args.alias!r}; see: forge models list")
    to = _model(registry, args.to).uid if args.to else None
    log = _logger(args.line, args.log)
    done = rollback(registry, args.line, args.alias, reason=args.reason, log=log, to=to, quarantine=args.quarantine)
    return _moved(args, done)


def _archive(args: argparse.Namespace, registry: "Registry") -> int:
    from forge_pipeline.release import archive

    row = _model(registry, args.model)
    archive(registry, row.line, row.uid, reason=args.reason, log=_logger(row.line, args.log))
    emit(args, {"archived": row.uid}, [f"archived: model {row.id} {row.uid}; its files stay in {row.path}"])
    return SUCCESS


def _moved(args: argparse.Namespace, row: "AliasRow") -> int:
    emit(args, row, [f"{row.line}: {row.alias} means {row.model_uid} from now on ({row.operation} by {row.set_by})"])
    return SUCCESS


def _history_line(entry: "AliasRow") -> str:
    what = f"{entry.operation or 'set'} by {entry.set_by}"
    return f"{entry.alias}  {entry.set_at:%Y-%m-%d %H:%M} UTC  {what}: {entry.reason}"


def _agrees(registry: "Registry", line: str, alias: str, log: str | None) -> str:
    """What is wrong between registry and log about the alias; empty: nothing, or there is no log here."""
    from forge_pipeline.audit_log import LOG_FILE
    from forge_pipeline.errors import IntegrityError
    from forge_pipeline.release import check_alias

    path = line_log(line, log) / LOG_FILE
    if not path.is_file():
        return f"there is no log {path} to hold it against"
    try:
        check_alias(registry, path, line, alias)
    except IntegrityError as error:
        return str(error)
    return ""


def _logger(line: str, given: str | None) -> "AuditLogger":
    from forge_pipeline.audit_log import AuditLogger

    return AuditLogger(str(line_log(line, given)))


def _model(registry: "Registry", named: str) -> "ModelRow":
    """The model of that id or digest.

    Raises:
        ConfigError: There is none, or more than one.
    """
    from forge_pipeline.errors import ConfigError

    wanted = named.removeprefix("sha256:").lower()
    rows: list[Any] = list(registry.list_models())
    found = [row for row in rows if row.uid.removeprefix("sha256:").startswith(wanted)] if len(wanted) >= 8 else []
    if not found and named.isdigit():
        found = [row for row in rows if row.id == int(named)]
    if len(found) != 1:
        raise ConfigError(f"{len(found) or 'no'} models are called {named!r}; see: forge models list")
    model: ModelRow = found[0]
    return model
