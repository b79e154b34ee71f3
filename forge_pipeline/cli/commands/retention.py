"""List what is past its retention period, and delete it with --apply. Exit code 3 if the recipe says excess blocks."""

import argparse
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import GATE_FAILED, SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import add_place_options, given_places, registered_releases

if TYPE_CHECKING:
    from forge_pipeline.erasure import RetentionReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="the recipe whose `retention` section counts, a YAML file")
    parser.add_argument("--apply", action="store_true", help="delete what is due")
    parser.add_argument(
        "--placed-on",
        metavar="DATE",
        help="the day (YYYY-MM-DD) on which this line's models were placed on the market: their documentation is kept "
        "for ten years from it, and without end if it is not given",
    )
    add_place_options(parser, with_recipes=False)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from datetime import date

    from forge_pipeline.config import load_config
    from forge_pipeline.erasure import purge, review
    from forge_pipeline.errors import ConfigError
    from forge_pipeline.integrity import report_to_json

    try:
        placed_on = date.fromisoformat(args.placed_on) if args.placed_on else None
    except ValueError as error:
        raise ConfigError(f"--placed-on: {args.placed_on!r} is no day; expected YYYY-MM-DD") from error
    config = load_config(args.recipe)
    places = given_places(args, recipes=[config], corpora=())
    report = review(config, places, placed_on=placed_on, released=registered_releases(places.home))
    if args.apply and report.due:
        report = purge(report, places)
    emit(args, {"blocks": report.blocks, **report_to_json(report)}, _lines(report))
    return GATE_FAILED if report.blocks else SUCCESS


def _lines(report: "RetentionReport") -> list[str]:
    verb = "deleted" if report.purged else "due"
    lines = []
    for item in report.due:
        lines.append(
            f"{verb:<8}{item.kind:<9}{item.path}  {item.age_days} days, limit {item.limit_days}  {item.size} bytes"
        )
    lines += [f"kept    {item.kind:<9}{item.path}  {item.age_days} days: {item.kept_because}" for item in report.kept]
    if report.due and not report.purged and report.enforce == "warn_on_excess":
        lines.append(f"WARNING  {len(report.due)} things are past their retention period; --apply deletes them")
    return lines or ["nothing is past its retention period"]
