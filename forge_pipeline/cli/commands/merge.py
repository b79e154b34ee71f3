"""Merge models: those of a recipe's merge section, or an adapter into its base model. Merging releases nothing."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.line_log import add_log_option, logger_of
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import open_registry, recipe_for
from forge_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from forge_pipeline.models import ModelDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="RECIPE|MODEL", help="a recipe with a merge section, or an adapter directory")
    parser.add_argument("output", nargs="?", help="the new directory; of a recipe, merge.output_dir unless given")
    parser.add_argument("--recipe", help="the recipe that an adapter was trained with")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights written; computed in float32"
    )
    add_log_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    merged = _adapter(args) if Path(args.source).is_dir() else _recipe(args)
    record = merged.record
    lines = [f"{merged.path}  {merged.digest}"]
    lines += [f"  {each.weight:.1%} {each.name}  {each.digest}" for each in record.merged_from]
    parents = [{"name": each.name, "digest": each.digest, "weight": each.weight} for each in record.merged_from]
    emit(args, {"path": str(merged.path), "digest": merged.digest, "merged_from": parents}, lines)
    return SUCCESS


def _adapter(args: argparse.Namespace) -> "ModelDirectory":
    from forge_pipeline.models import ModelDirectory, merge

    if args.output is None:
        raise ConfigError("name the new directory after the adapter's")
    model = ModelDirectory.open(args.source)
    config = recipe_for(model, args.recipe)
    log = logger_of(config.name if args.recipe else _line_of(model), args.log)
    merged = merge(config, model, Path(args.output), dtype=args.dtype or "float32")
    if log:
        log.log_event("model.merged", subject=merged.digest, method="adapter", parents=[model.digest])
    return merged


def _line_of(model: "ModelDirectory") -> str | None:
    registry = open_registry()
    try:
        row = registry.find_model(model.digest)
    finally:
        registry.close()
    return row.line if row else None


def _recipe(args: argparse.Namespace) -> "ModelDirectory":
    from forge_pipeline.config import load_config
    from forge_pipeline.models import find_released, merge_models

    config = load_config(args.source)
    if config.merge is None:
        raise ConfigError(f"{args.source}: there is no merge section; add one with two models or more")
    output = Path(args.output or config.merge.output_dir)
    if args.dtype:
        config = config.model_copy(update={"merge": config.merge.model_copy(update={"dtype": args.dtype})})
    log = logger_of(config.name, args.log)
    merged = merge_models(config, output, find_line=find_released())
    if log:
        record = merged.record
        parents = [each.digest for each in record.merged_from]
        log.log_event("model.merged", subject=merged.digest, method=str(record.merge_method), parents=parents)
    return merged
