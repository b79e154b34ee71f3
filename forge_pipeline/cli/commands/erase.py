"""Erase a person's rows (GDPR 17) and name the models trained on them. Exit code 2 if the person is found still."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import RUNTIME, SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import add_place_options, add_subject_options, given_places, given_subject

if TYPE_CHECKING:
    from forge_pipeline.erasure import ErasureResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_options(parser, optional=True)
    parser.add_argument(
        "--corpus", action="append", default=[], metavar="FILE", help="a data file that is rewritten; others are not"
    )
    parser.add_argument(
        "--row-id", action="append", default=[], metavar="ID", help="erase rows by their column id or row_id instead"
    )
    parser.add_argument("--backup", action="append", default=[], metavar="WORDS", help="a copy that waits for somebody")
    parser.add_argument("--justification", metavar="WORDS", help="why; kept in the vault, not in the log")
    parser.add_argument("--deny-days", type=int, metavar="DAYS", help="put the person on the deny-list for so long")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and do nothing")
    parser.add_argument("--resume", action="store_true", help="finish an erasure that was interrupted")
    add_place_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.erasure import DenyList, erase, resume
    from forge_pipeline.errors import ConfigError

    places = given_places(args, corpora=())
    if args.resume:
        if args.identifier or args.row_id or args.corpus:
            raise ConfigError("--resume finishes what was begun; name no person, row or corpus with it")
        results = resume(places.home)
        emit(args, {"resumed": [_document(each) for each in results]}, [f"{len(results)} erasures finished"])
        return SUCCESS
    if args.deny_days is not None and args.row_id:
        raise ConfigError("--deny-days needs a person; rows have no identifier to recognize them by")
    subject = None if args.row_id and not args.identifier else given_subject(args)
    if args.deny_days is not None and subject is not None and not args.dry_run:
        # Before the rows go: a person who is erased and not on the list could come back in between.
        DenyList.of_home(places.home).add(subject, days=args.deny_days)
    result = erase(
        subject,
        places=places,
        corpora=[Path(name) for name in args.corpus],
        row_ids=args.row_id,
        backups_pending=args.backup,
        justification=args.justification,
        dry_run=args.dry_run,
    )
    emit(args, _document(result), _lines(result))
    return SUCCESS if result.complete else RUNTIME


def _document(result: "ErasureResult") -> dict[str, object]:
    from forge_pipeline.integrity import report_to_json

    return {"complete": result.complete, **report_to_json(result)}


def _lines(result: "ErasureResult") -> list[str]:
    verb = "would be" if result.dry_run else "were"
    lines = [f"request {result.request}"] if not result.dry_run else []
    lines.append(f"{result.rows} rows {verb} erased, {result.openings_shredded} openings {verb} shredded")
    lines += [
        f"corpus    {each.path}  {each.rows} rows  {each.before} -> {each.after or '?'}" for each in result.corpora
    ]
    for each in result.removed:
        after = f"  successor {each.successor}" if each.successor else ""
        lines.append(f"removed   {each.asset_key or each.path}  {each.rows} rows{after}")
    for made in result.affected:
        advice = "train it again; it is not released before" if made.is_model else "made from it; make it again"
        lines.append(f"affected  {made.asset_key} {made.digest}: {advice}")
    lines += [f"backup    {words}: pending" for words in result.backups_pending]
    for hit in result.remaining:
        advice = "name it with --corpus" if hit.place == "corpus" else "kept; see docs/erasure.md"
        lines.append(f"REMAINS   {hit.path}  {hit.count}x  ({advice})")
    return lines
