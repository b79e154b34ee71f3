"""Have the recipe's teacher write training rows: the synthetic section, without Dagster. Run again to go on."""

import argparse
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import RUNTIME, SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.progress import showing_progress

if TYPE_CHECKING:
    from forge_pipeline.synthetic import SyntheticResult

_MOST_ERRORS = 20  # lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="the recipe, a YAML file")
    parser.add_argument(
        "--output", metavar="FILE", help="the JSONL file; by default synthetic.output_file of the recipe"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.config import load_config
    from forge_pipeline.synthetic import SyntheticDataGenerator

    generator = SyntheticDataGenerator(load_config(args.recipe))
    with showing_progress(quiet=args.quiet) as report:
        result = generator.generate(args.output, progress=report)
    emit(args, result, _lines(result))
    return SUCCESS if result.successful or result.rows else RUNTIME


def _lines(result: "SyntheticResult") -> list[str]:
    lines = [
        f"{result.output_file}  {result.rows} rows",
        f"{result.successful} of {result.total_prompts} prompts answered in {result.duration_seconds:.1f} s",
    ]
    if result.duplicates:
        lines.append(f"{result.duplicates} answers left out, because an equal one to the same prompt is there")
    if result.truncated:
        lines.append(f"{result.truncated} answers were cut off; raise synthetic.max_new_tokens")
    lines += [f"failed: {error}" for error in result.errors[:_MOST_ERRORS]]
    if len(result.errors) > _MOST_ERRORS:
        lines.append(f"and {len(result.errors) - _MOST_ERRORS} more")
    if result.failed:
        lines.append("run again to ask those that failed")
    return lines
