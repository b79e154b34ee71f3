"""Find a person's data (GDPR 15): corpora, artefacts, runs, vaults, registry. The answer does not repeat the name."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import add_place_options, add_subject_options, given_places, given_subject

if TYPE_CHECKING:
    from forge_pipeline.erasure import SubjectReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_subject_options(parser)
    parser.add_argument(
        "--corpus", action="append", default=[], metavar="FILE", help="a data file or folder to look in"
    )
    add_place_options(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="write the report there, readable by you only, instead of here"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.erasure import find_subject
    from forge_pipeline.integrity import report_to_json

    if args.output is not None and Path(args.output).exists():
        raise FileExistsError(f"{args.output} exists and is not overwritten; choose another name")
    report = find_subject(given_subject(args), places=given_places(args))
    document: dict[str, Any] = {"match_count": report.match_count, **report_to_json(report)}
    if args.output is not None:
        _write(Path(args.output), document)
        document = {"match_count": report.match_count, "output": args.output}
        emit(args, document, [f"{report.match_count} matches; the report is in {args.output}"])
    else:
        emit(args, document, _lines(report))
    return SUCCESS


def _write(path: Path, document: dict[str, Any]) -> None:
    import json
    import os

    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _lines(report: "SubjectReport") -> list[str]:
    lines = [f"{report.match_count} matches of the {report.kind} in {report.files} files ({report.bytes} bytes)"]
    for hit in report.hits:
        where = [hit.asset_key, f"row {hit.row}" if hit.row is not None else None, hit.column]
        lines.append(f"{hit.place:<9} {hit.path}  {', '.join(filter(None, where))}  {hit.count}x")
    if report.not_searched:
        lines.append(f"not searched: {len(report.not_searched)}")
        lines += [f"  {path}: {reason}" for path, reason in report.not_searched]
    return lines
