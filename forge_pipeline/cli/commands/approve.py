"""Approve a release. Look at the bundle first: an approval is about exactly these bytes."""

import argparse

from forge_pipeline.cli.commands.decision import add_decision_arguments, run_decision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_decision_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.release import approve

    return run_decision(args, approve)
