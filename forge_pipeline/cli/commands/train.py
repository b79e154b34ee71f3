"""Run a recipe without Dagster: fine-tune, evaluate, hold the results against the recipe's gates."""

import argparse
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import AWAITING_APPROVAL, GATE_FAILED, SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.progress import showing_progress

if TYPE_CHECKING:
    from forge_pipeline.trainer import TrainResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="the recipe, a YAML file")
    parser.add_argument(
        "--resume", nargs="?", const=True, metavar="CHECKPOINT", help="go on from a checkpoint, by default the newest"
    )
    parser.add_argument("--dry-run", action="store_true", help="validate the recipe and stop")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.config import config_digest, load_config

    config = load_config(args.recipe)
    if args.dry_run:
        digest = config_digest(config)
        lines = [f"{args.recipe} is a valid recipe of line {config.name!r}, {digest}"]
        emit(args, {"valid": True, "line": config.name, "digest": digest}, lines)
        return SUCCESS
    from forge_pipeline.trainer import ForgeTrainer

    with showing_progress(quiet=args.quiet) as report:
        result = ForgeTrainer(config).train(resume_from_checkpoint=args.resume, progress=report)
    emit(args, result, _lines(result))
    return _code(result)


def _code(result: "TrainResult") -> int:
    """A run that ends without an exception and without success was stopped by its gates."""
    if not result.success:
        return GATE_FAILED
    return AWAITING_APPROVAL if result.awaiting_approval else SUCCESS


def _lines(result: "TrainResult") -> list[str]:
    lines = ["fine-tuned" if result.success else f"not successful: {result.error or 'see the gates'}"]
    lines += [f"model      {result.final_model_path or result.staging_path or 'none'}"]
    lines += [f"{name:<10} {value:.4g}" for name, value in sorted(result.metrics.items())]
    for task, score in (result.benchmark_scores or {}).items():
        lines.append(f"benchmark  {task} {score:.3f}")
    lines += [f"gate       {each.gate}: {each.verdict.value.replace('_', ' ')}: {each.reason}" for each in result.gates]
    if result.awaiting_approval:
        lines.append("the model waits for approval; nothing is released")
    return lines
