"""Talk to a fine-tuned model, a registered one or a GGUF file; one prompt, or a conversation until end of input."""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.surroundings import open_registry, recipe_for
from forge_pipeline.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    from forge_pipeline.models import ModelDirectory

Messages = list[dict[str, str]]
Speaker = Callable[[Messages, Callable[[str], None]], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="a model directory, a directory with a GGUF file, a GGUF file, or a model of the registry: its "
        "number, its digest, or line:alias as in support:production"
    )  # fmt: skip
    parser.add_argument("--recipe", help="the recipe it was trained with")
    parser.add_argument("--prompt", help="answer this and stop")
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--base", action="store_true", help="let its base model answer as well, first")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most likely token each time")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    with ExitStack() as loaded:
        speakers = _speakers(args, loaded)
        # Each goes on from its own answers.
        talks: list[Messages] = [[{"role": "system", "content": args.system}] if args.system else [] for _ in speakers]
        while (text := args.prompt if args.prompt is not None else _read()) is not None:
            for (name, answer), messages in zip(speakers.items(), talks, strict=True):
                if len(speakers) > 1:
                    print(f"{name}: ", end="", flush=True)
                messages.append({"role": "user", "content": text})
                messages.append({"role": "assistant", "content": answer(messages, _show)})
                print(flush=True)
            if args.prompt is not None:
                break
    return SUCCESS


def _whole_files(directory: Path) -> list[Path]:
    """GGUF files that can answer by themselves; an adapter's cannot."""
    return [file for file in sorted(directory.glob("*.gguf")) if not file.name.endswith(".lora.gguf")]


def _show(text: str) -> None:
    print(text, end="", flush=True)


def _read() -> str | None:
    """The next line that says something; None at the end of input."""
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return None
        if text.strip():
            return text


def _speakers(args: argparse.Namespace, loaded: ExitStack) -> dict[str, Speaker]:
    """Who answers, by name, in the order of their answers."""
    path = _path_of(args.model)
    found = [path] if path.suffix == ".gguf" else _whole_files(path)
    if not found:
        return _model_directory(args, path)
    if args.base:
        raise ConfigError(f"--base: {found[0]} does not say where its base model lies; name the model directory")
    from forge_pipeline.deploy.gguf_chat import GgufChat

    chat = loaded.enter_context(GgufChat(found[0]))
    settings = {"max_new_tokens": args.max_new_tokens, "temperature": args.temperature, "seed": args.seed}
    return {found[0].name: lambda messages, show: chat.answer(messages, show, **settings)}


def _path_of(name: str) -> Path:
    """Where the model lies: a path that is there, else what the registry says."""
    path = Path(name)
    line, _, alias = name.partition(":")
    if path.exists() or not (name.isdigit() or alias):
        return path
    from forge_pipeline.integrity import Digest

    registry = open_registry()
    try:
        if name.isdigit():
            row = registry.get_model(int(name))
        elif line == "sha256":
            row = registry.find_model(Digest(name))
        else:
            row = registry.resolve_alias(line, alias)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from error
    finally:
        registry.close()
    if row is None:
        raise ConfigError(f"{name} is neither a path nor a model of the registry at {registry.url}")
    if (opened := _opened(Path(row.path))).digest != row.uid:
        raise IntegrityError(f"model {name} at {row.path}: expected {row.uid}, found {opened.digest}")
    return Path(row.path)


def _opened(path: Path) -> "ModelDirectory":
    from forge_pipeline.models import ModelDirectory

    return ModelDirectory.open(path)


def _model_directory(args: argparse.Namespace, path: Path) -> dict[str, Speaker]:
    from forge_pipeline.evaluation.streaming import generate_streaming
    from forge_pipeline.models import load_base, load_tuned

    directory = _opened(path)
    config = recipe_for(directory, args.recipe)
    loaded = {"base": load_base(config)} if args.base else {}
    loaded["tuned"] = load_tuned(config, directory)

    def speaker(name: str) -> Speaker:
        model, tokenizer = loaded[name]
        # The base model is asked through the template that the tuned one learnt with, or they could not be compared.
        tokenizer.chat_template = loaded["tuned"][1].chat_template
        return lambda messages, show: generate_streaming(
            model, tokenizer, messages, show,
            max_new_tokens=args.max_new_tokens, temperature=args.temperature, seed=args.seed,
        )  # fmt: skip

    return {name: speaker(name) for name in loaded}
