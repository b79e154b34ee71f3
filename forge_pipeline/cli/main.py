"""`forge`: parser, command table, logging, and the one place where an error becomes an exit code.

A command is a module of `cli.commands` with `add_arguments(parser)` and `run(args) -> int`.
Those modules import nothing heavy at their top, so that ``forge --help`` answers at once.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from forge_pipeline import __version__
from forge_pipeline.cli.exit_codes import CANCELLED, SUCCESS, WRONG_INPUT, exit_code_of
from forge_pipeline.logs import setup_logging, writes_json

COMMANDS: dict[str, str] = {
    "quickstart": "write a recipe to begin with: the quickstart line or a template",
    "doctor": "check this machine: Python, packages, keys, storage, ports",
    "fit-check": "say whether a recipe fits in memory, before anything is loaded",
    "train": "run a recipe: fine-tune, evaluate, gate",
    "synthesize": "have a teacher model write training rows",
    "audit": "look over a dataset: personal data, secrets, duplicates, overlap",
    "export": "write a fine-tuned model as GGUF files",
    "merge": "merge models, or an adapter into its base model",
    "deploy": "write the files that serve a model: Ollama, vLLM, TGI, llama.cpp, Hugging Face Endpoints",
    "push": "upload a released model to the Hugging Face Hub",
    "chat": "talk to a fine-tuned model or a GGUF file",
    "verify": "verify an audit log, a bundle, a model or a GGUF file",
    "approvals": "list releases that wait for people",
    "approve": "approve a release",
    "reject": "reject a release",
    "revoke": "take back your own decision about a release",
    "models": "list models, move and roll back aliases",
    "find-subject": "find a person's data",
    "erase": "erase a person's data, and name the models trained on it",
    "retention": "list, and delete, what is past its retention period",
    "usage": "time, energy and cost of a line, added up over its runs",
    "cache": "list and clear what can be made again: expanded base models, tokenized datasets, answers",
    "retrain": "ask for a line to be trained again",
    "serve": "serve the REST API and the web studio",
    "api-key": "make, list, rotate and revoke the server's API keys",
}


class _Parser(argparse.ArgumentParser):
    """An argument that is wrong is wrong input (1), not a failure while running (2)."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(WRONG_INPUT, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="forge",
        description="Fine-tune language models with a record of what was trained on what and tested how.",
        epilog="Exit codes: 0 success, 1 wrong input, 2 failed while running, 3 gate failed, 4 awaiting approval, "
        "5 cancelled, 6 integrity mismatch.",
    )
    parser.add_argument("--version", action="version", version=f"forge-pipeline {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.add_argument(
        "--log-level", choices=["debug", "info", "warning", "error"], help="default: FORGE_LOG_LEVEL, else warning"
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words in COMMANDS.items():
        module = import_module(f"forge_pipeline.cli.commands.{name.replace('-', '_')}")
        command = subparsers.add_parser(name, help=words, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough, as in `forge approvals | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
        return SUCCESS
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # --help, --version, or an argument that is wrong
        return stop.code if isinstance(stop.code, int) else SUCCESS
    try:
        if args.log_level:  # also for the processes that the command starts
            os.environ["FORGE_LOG_LEVEL"] = args.log_level
        setup_logging(os.environ)
        code: int = args.run(args)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return _report(error, show_traceback=args.traceback)
    return code


def _report(error: BaseException, *, show_traceback: bool) -> int:
    """Say what went wrong, in one message on stderr."""
    code = exit_code_of(error)
    if show_traceback:
        traceback.print_exception(error)
        return code
    message = str(error) or type(error).__name__
    if code == CANCELLED:
        message = "cancelled"
    elif not _is_written_for_people(error):
        message = f"{type(error).__name__}: {message} (forge --traceback {' '.join(sys.argv[1:])} shows where)"
    if writes_json():
        logging.getLogger("forge").error("%s", "\n".join([message, *getattr(error, "__notes__", [])]))
        return code
    print("\n".join([f"forge: {message}", *getattr(error, "__notes__", [])]), file=sys.stderr)
    return code


def _is_written_for_people(error: BaseException) -> bool:
    from forge_pipeline.errors import ForgeError

    return isinstance(error, ForgeError | OSError)


if __name__ == "__main__":
    sys.exit(main())
