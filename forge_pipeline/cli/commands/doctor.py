"""Check this machine: what works, what is missing, what to type. Exit code 1 if something needed cannot work."""

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from forge_pipeline.cli.exit_codes import SUCCESS, WRONG_INPUT
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.probes import Finding

_CHECKOUT = Path(__file__).parents[3]  # where constraints.txt lies, when this is one
_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="leave out what imports torch and its kin")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    findings = [finding for probe in _probes(quick=args.quick) for finding in probe()]
    counts = {state: sum(each.state == state for each in findings) for state in _MARKS}
    lines = [line for each in findings for line in _lines(each)]
    lines += ["", f"{counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} that must be put right"]
    emit(args, {"ok": not counts["fail"], "counts": counts, "findings": [asdict(each) for each in findings]}, lines)
    return WRONG_INPUT if counts["fail"] else SUCCESS


def _lines(finding: Finding) -> list[str]:
    lines = [f"{_MARKS[finding.state]}  {finding.what:<22} {finding.words}"]
    return lines + ([f"      -> {finding.fix}"] if finding.fix else [])


def _probes(*, quick: bool) -> list[Callable[[], list[Finding]]]:
    """What is looked at, in the order in which it is shown."""
    from forge_pipeline.cli.probes import identity, machine, packages, places
    from forge_pipeline.models import forge_home

    home, environ = forge_home(), os.environ
    rest_port = environ.get("FORGE_PORT", "")
    listeners = [(3000, "the Dagster UI"), (int(rest_port) if rest_port.isdigit() else 8000, "the REST API")]
    return [
        machine.python,
        machine.hardware,
        lambda: machine.disk(home),
        lambda: machine.clock(places.log_files(home)),
        packages.bounds,
        lambda: packages.pins(_CHECKOUT / "constraints.txt"),
        *([] if quick else [packages.training_libraries]),
        packages.extras,
        lambda: places.forge_home(home),
        lambda: places.store(home, environ),
        lambda: places.dagster_home(environ),
        lambda: identity.keys(environ),
        lambda: identity.api(environ),
        lambda: identity.offline(environ),
        lambda: machine.ports(listeners),
    ]
