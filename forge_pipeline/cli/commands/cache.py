"""Show and clear what can be made again under FORGE_HOME/cache. What a running process uses is never deleted."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING, Any

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.quantities import parse_size, parse_span, size_text

if TYPE_CHECKING:
    from forge_pipeline.cache import CacheEntry, Cleared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="what is there, how large, and what uses it")
    pruned = actions.add_parser("prune", help="delete what was not used for long, or what is too much")
    pruned.add_argument("--older-than", type=parse_span, metavar="SPAN", help="not used for so long: 30d, 12h")
    pruned.add_argument("--max-size", type=parse_size, metavar="SIZE", help="delete the longest unused down to: 10GB")
    cleared = actions.add_parser("clear", help="delete everything of one kind")
    cleared.add_argument("kind", help="base_models, tokenized, benchmarks, unfinished, kept_tables; or all")
    for action in (pruned, cleared):
        action.add_argument("--dry-run", action="store_true", help="only say what would go")
    for action in (listed, pruned, cleared):
        add_json_option(action)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline import cache
    from forge_pipeline.models import forge_home

    home = forge_home()
    if args.action == "list":
        entries = cache.list_cache(home)
        size = sum(entry.size for entry in entries)
        document = {"entries": [_plain(entry) for entry in entries], "bytes": size}
        emit(args, document, [*_table(entries), f"{size_text(size)} in {home / 'cache'} and kept tables"])
        return SUCCESS
    if args.action == "prune":
        done = cache.prune(home, older_than=args.older_than, max_size=args.max_size, dry_run=args.dry_run)
    else:
        done = cache.clear(home, args.kind, dry_run=args.dry_run)
    emit(args, _document(done, args.dry_run), _said(done, args.dry_run))
    return SUCCESS


def _table(entries: "Sequence[CacheEntry]") -> Iterator[str]:
    for kind, group in groupby(entries, key=lambda entry: entry.kind):
        found = list(group)
        yield f"{kind}  {size_text(sum(entry.size for entry in found))}, {len(found)} entries"
        for entry in found if kind in ("base_models", "tokenized", "unfinished") else ():
            users = ", ".join([*(["in use now"] if entry.in_use else []), *entry.used_by])
            yield f"  {size_text(entry.size):>9}  {entry.last_used:%Y-%m-%d %H:%M}  {entry.path.name}  {users}".rstrip()


def _said(done: "Cleared", dry_run: bool) -> Iterator[str]:
    for entry in done.freed:
        yield f"{'would delete' if dry_run else 'deleted'} {entry.kind} {entry.path.name}  {size_text(entry.size)}"
    for entry in done.kept:
        yield f"kept {entry.kind} {entry.path.name}  {size_text(entry.size)}: in use now"
    yield f"{size_text(done.bytes_freed)} {'would be freed' if dry_run else 'freed'}, {len(done.freed)} entries"


def _document(done: "Cleared", dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "bytes_freed": done.bytes_freed,
        "freed": [_plain(entry) for entry in done.freed],
        "kept_in_use": [_plain(entry) for entry in done.kept],
    }


def _plain(entry: "CacheEntry") -> dict[str, Any]:
    return asdict(entry) | {"path": str(entry.path), "last_used": entry.last_used.isoformat(timespec="seconds")}
