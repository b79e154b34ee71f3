"""Upload a released model with its model card to the Hugging Face Hub, as one commit."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import open_registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model directory")
    parser.add_argument("repository", metavar="OWNER/NAME", help="made, and private, where it is not there")
    parser.add_argument("--card", required=True, metavar="FILE", help="the model card, as the bundle's model_card.md")
    parser.add_argument("--public", action="store_true", help="make the repository public, where it is made")
    parser.add_argument("--unreleased", action="store_true", help="push a model that is not released")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.deploy.hub_push import push_to_hub
    from forge_pipeline.models import ModelDirectory

    registry = open_registry()
    try:
        done = push_to_hub(
            ModelDirectory.open(args.model),
            args.repository,
            card=Path(args.card),
            registry=registry,
            token=os.environ.get("HF_TOKEN") or os.environ.get("HUGGINGFACE_TOKEN"),
            private=not args.public,
            unreleased=args.unreleased,
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    finally:
        registry.close()
    emit(args, asdict(done), [f"{done.url}  {done.commit}", *(f"  {file}" for file in done.files)])
    return SUCCESS
