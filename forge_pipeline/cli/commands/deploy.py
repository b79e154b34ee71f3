"""Write the files with which Ollama, vLLM, TGI, llama.cpp or Hugging Face Endpoints serve a model. Starts nothing."""

import argparse
from dataclasses import asdict
from pathlib import Path

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.surroundings import recipe_for

TARGETS = ("ollama", "vllm", "tgi", "llama-cpp", "hf-endpoints")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model directory (adapter or whole), or a GGUF file")
    parser.add_argument("output", help="the new directory")
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--recipe", help="the recipe it was trained with")
    parser.add_argument("--name", help="what clients ask for; else the recipe's name")
    parser.add_argument("--context", type=int, metavar="TOKENS", help="longest conversation; else 4096, or the model's")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="hf-endpoints: where the model lies on the Hub")
    parser.add_argument("--revision", metavar="COMMIT", help="hf-endpoints: the commit to serve")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.config import ForgeConfig, load_config
    from forge_pipeline.deploy import deploy
    from forge_pipeline.models import ModelDirectory

    path = Path(args.model)
    model: ModelDirectory | Path = path if path.suffix == ".gguf" else ModelDirectory.open(path)
    if isinstance(model, ModelDirectory):
        config = recipe_for(model, args.recipe)
    elif args.recipe:
        config = load_config(args.recipe)
    else:
        unread = {"dataset_name_or_path": "(not read)"}
        config = ForgeConfig(name="model", model={"name_or_path": "(not read)"}, lora={}, training={}, data=unread)
    done = deploy(
        config,
        model,
        Path(args.output),
        args.target,
        name=args.name,
        repository=args.repository,
        revision=args.revision,
        context=args.context,
    )
    lines = [*(str(done.path / file) for file in done.files), f"start it there with: {done.command}"]
    emit(args, asdict(done), lines)
    return SUCCESS
