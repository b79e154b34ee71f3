"""Upload a released model with its model card to the Hugging Face Hub, as one commit."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.line_log import add_log_option, logger_of
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import line_log, open_registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model directory")
    parser.add_argument("repository", metavar="OWNER/NAME", help="made, and private, where it is not there")
    parser.add_argument("--card", metavar="FILE", help="the model card; else that of the bundle it was released with")
    parser.add_argument("--public", action="store_true", help="make the repository public, where it is made")
    parser.add_argument("--unreleased", action="store_true", help="push a model that is not released")
    add_log_option(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.audit_log import LOG_FILE
    from forge_pipeline.deploy.hub_push import check_released, push_to_hub
    from forge_pipeline.deploy.released_card import find_released_card
    from forge_pipeline.errors import ConfigError
    from forge_pipeline.models import ModelDirectory

    registry = open_registry()
    try:
        model = ModelDirectory.open(args.model)
        row = registry.find_model(model.digest)
        if not args.unreleased:
            check_released(model, registry)
        if args.card:
            card = Path(args.card)
        elif row is None:
            raise ConfigError(f"{args.model} is not in the registry, so no bundle is known; name its card with --card")
        else:
            card = find_released_card(row, line_log(row.line, args.log) / LOG_FILE)
        log = logger_of(row.line if row else None, args.log)
        done = push_to_hub(
            model,
            args.repository,
            card=card,
            registry=registry,
            token=os.environ.get("HF_TOKEN") or os.environ.get("HUGGINGFACE_TOKEN"),
            private=not args.public,
            unreleased=args.unreleased,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
        if log:
            log.log_event("model.pushed", subject=done.digest, repository=done.repo_id, hub_commit=done.commit)
    finally:
        registry.close()
    emit(args, asdict(done), [f"{done.url}  {done.commit}", *(f"  {file}" for file in done.files)])
    return SUCCESS
