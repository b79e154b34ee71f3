"""Reject a release. One rejection is enough to stop a release."""

import argparse

from forge_pipeline.cli.commands.decision import add_decision_arguments, run_decision


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_decision_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.release import reject

    return run_decision(args, reject)
