"""Make, list, rotate and revoke the API keys of `forge serve`. A running server takes a change up at once."""

import argparse
import os
from datetime import timedelta
from pathlib import Path
from types import ModuleType

_SCOPES = ("read", "train", "approve", "admin")
_OVERLAP = 24.0  # hours


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("name", help="who or what holds it; stands in the audit log")
    create.add_argument("--scope", choices=_SCOPES, default="read", help="default read; train and approve include read")
    create.add_argument("--days", type=float, help="refuse it after so many days (default: never)")
    actions.add_parser("list", help="names, scopes, dates and last use")
    rotate = actions.add_parser("rotate", help="make a successor; the present key is accepted for a while longer")
    rotate.add_argument("name")
    rotate.add_argument("--overlap-hours", type=float, default=_OVERLAP, help=f"default {_OVERLAP:g}")
    revoke = actions.add_parser("revoke", help="refuse every key of a name from now on")
    revoke.add_argument("name")
    for action in actions.choices.values():
        action.add_argument("--data-dir", type=Path, help="the server's data directory (default FORGE_HOME, or .forge)")


def run(args: argparse.Namespace) -> int:
    from forge_pipeline._optional import require

    # By name: cli and server are siblings that do not import each other.
    keys = require("forge_pipeline.server.api_keys", extra="server", purpose="API keys")
    data_dir = (args.data_dir or Path(os.environ.get("FORGE_HOME") or ".forge")).expanduser().resolve()
    file = keys.KeyFile(data_dir)
    if args.action == "list":
        _list(keys, data_dir)
        return 0
    log = require("forge_pipeline.server.api_log", extra="server", purpose="API keys")
    # The change first: a key that could not be logged is still revoked, and the failure is this command's exit status.
    if args.action == "revoke":
        count = file.revoke(args.name)
        revoked = [key for key in file.read() if key.name == args.name][-1]
        log.log_key_change(data_dir, "revoked", args.name, revoked.scope, revoked.id)
        print(f"{count} key{'s' if count > 1 else ''} of {args.name} refused from now on")
        return 0
    if args.action == "create":
        secret, key = file.create(args.name, args.scope, lasts=_span(args.days, "days", "--days"))
    else:
        overlap = _span(args.overlap_hours, "hours", "--overlap-hours") or timedelta()
        secret, key = file.rotate(args.name, overlap=overlap)
    log.log_key_change(data_dir, "created" if args.action == "create" else "rotated", key.name, key.scope, key.id)
    print(secret)
    return 0


def _span(value: float | None, unit: str, option: str) -> timedelta | None:
    from forge_pipeline.errors import ConfigError

    if value is None:
        return None
    if not 0 <= value <= 36_500 or (unit == "days" and not value):
        raise ConfigError(f"{option}: found {value:g}; expected more than 0 and at most 36500")
    return timedelta(**{unit: value})


def _list(keys: ModuleType, data_dir: Path) -> None:
    file = keys.KeyFile(data_dir)
    stored, used = file.read(), file.last_used()
    if not stored:
        print(f"There are no keys in {data_dir}; make one with: forge api-key create NAME --scope read")
        return
    rows = [("name", "scope", "id", "created", "state", "last used")]
    rows += [
        (key.name, key.scope, key.id, key.created_at, keys.state_of(key), used.get(key.id, "never")) for key in stored
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
