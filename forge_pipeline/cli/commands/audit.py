"""Look over a dataset before a model learns it. Exit code 3 if it holds secrets or critical personal data."""

import argparse
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import GATE_FAILED, SUCCESS
from forge_pipeline.cli.output import add_json_option

if TYPE_CHECKING:
    from forge_pipeline.dataset_audit import AuditReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a file (JSONL, JSON, CSV, Parquet) or a directory of them")
    parser.add_argument("--output-dir", help="where data_audit_report.json is written")
    parser.add_argument("--dedup-method", choices=["simhash", "minhash"], default="simhash")
    parser.add_argument("--near-dup-threshold", type=int, default=3, metavar="BITS", help="SimHash distance, 0 to 64")
    parser.add_argument("--minhash-jaccard", type=float, default=0.85, metavar="J", help="similarity, 0 to 1")
    parser.add_argument("--quality", action="store_true", help="count rows that are doubtful prose")
    parser.add_argument("--pii-ml", action="store_true", help="look for names too (extra pii-ml; slow)")
    parser.add_argument("--croissant", action="store_true", help="put a Croissant card into the report")
    parser.add_argument("--workers", type=int, default=1, help="processes that scan")
    parser.add_argument("--allow-secrets", action="store_true", help="secrets do not fail the command")
    parser.add_argument("--allow-pii", action="store_true", help="critical personal data does not fail the command")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.dataset_audit import audit_dataset
    from forge_pipeline.errors import ConfigError, OptionalDependencyError
    from forge_pipeline.integrity import report_to_json

    try:
        report = audit_dataset(
            args.source,
            output_dir=args.output_dir,
            near_dup_threshold=args.near_dup_threshold,
            dedup_method=args.dedup_method,
            minhash_jaccard=args.minhash_jaccard,
            enable_quality_filter=args.quality,
            enable_pii_ml=args.pii_ml,
            emit_croissant=args.croissant,
            workers=args.workers,
        )
    except OptionalDependencyError:
        raise
    except ValueError as error:  # the seed's contract for arguments out of range and unreadable data
        raise ConfigError(str(error)) from error
    problems = _problems(report, args)
    if args.json:
        import json

        print(json.dumps({"passed": not problems, "problems": problems, **report_to_json(report)}, indent=2))
    else:
        print("\n".join([*_lines(report), *(f"FAILED  {each}" for each in problems)]))
    return GATE_FAILED if problems else SUCCESS


def _problems(report: "AuditReport", args: argparse.Namespace) -> list[str]:
    secrets = sum(report.secrets_summary.values())
    critical = int(report.pii_severity.get("by_tier", {}).get("critical", 0))
    problems = []
    if secrets and not args.allow_secrets:
        problems.append(f"{secrets} secrets; rotate and remove them, or pass --allow-secrets")
    if critical and not args.allow_pii:
        problems.append(f"{critical} findings of critical personal data; mask or remove them, or pass --allow-pii")
    return problems


def _lines(report: "AuditReport") -> list[str]:
    lines = [f"rows        {report.total_samples}  {report.dataset_digest or ''}"]
    lines += [f"split       {name}: {split['sample_count']} rows" for name, split in report.splits.items()]
    lines.append(f"duplicates  {report.duplicate_count}")
    for what, summary in (("personal", report.pii_summary), ("secrets", report.secrets_summary)):
        found = ", ".join(f"{name} {count}" for name, count in summary.items() if count) or "none found"
        lines.append(f"{what:<11} {found}")
    return lines + [f"note        {note}" for note in report.notes]
