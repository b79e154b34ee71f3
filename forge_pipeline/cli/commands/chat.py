"""Talk to a fine-tuned model directory or a GGUF file; one prompt, or a conversation until end of input."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.surroundings import recipe_for

Messages = list[dict[str, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model directory, a directory with a GGUF file, or a GGUF file")
    parser.add_argument("--recipe", help="the recipe it was trained with")
    parser.add_argument("--prompt", help="answer this and stop")
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token each time")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    answer = _gguf(args) or _model_directory(args)
    messages: Messages = [{"role": "system", "content": args.system}] if args.system else []
    if args.prompt is not None:
        print(answer([*messages, {"role": "user", "content": args.prompt}]))
        return SUCCESS
    while (text := _read()) is not None:
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": answer(messages)})
        print(messages[-1]["content"], flush=True)
    return SUCCESS


def _read() -> str | None:
    """The next line that says something; None at the end of input."""
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return None
        if text.strip():
            return text


def _gguf(args: argparse.Namespace) -> Callable[[Messages], str] | None:
    path = Path(args.model)
    found = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf")) if path.is_dir() else []
    if not found:
        return None
    from forge_pipeline.export import run_gguf

    return lambda messages: run_gguf(
        found[0], messages, args.max_new_tokens, temperature=args.temperature, seed=args.seed
    )


def _model_directory(args: argparse.Namespace) -> Callable[[Messages], str]:
    from forge_pipeline.evaluation import generate
    from forge_pipeline.models import ModelDirectory, load_tuned

    directory = ModelDirectory.open(args.model)
    model, tokenizer = load_tuned(recipe_for(directory, args.recipe), directory)
    return lambda messages: generate(
        model,
        tokenizer,
        [messages],
        max_new_tokens=args.max_new_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )[0]
