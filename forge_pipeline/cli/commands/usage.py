"""Time, energy and cost of a line over its runs, failed stages too, from its records and audit log; never estimated."""

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from forge_pipeline.cli.exit_codes import SUCCESS
from forge_pipeline.cli.output import add_json_option, emit
from forge_pipeline.cli.quantities import parse_span, size_text

if TYPE_CHECKING:
    from forge_pipeline.usage import Figure, LineUsage, StageUsage

_SHOWN = {
    "duration_seconds": ("wall clock", "s"),
    "cpu_seconds": ("CPU", "s"),
    "gpu_seconds": ("GPU", "s"),
    "energy_kwh": ("energy", "kWh"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("line", help="the model line")
    parser.add_argument("--since", type=_since, metavar="DATE|SPAN", help="only later records: 2026-01-31, or 30d")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from forge_pipeline.audit_log import LOG_FILE
    from forge_pipeline.errors import ConfigError
    from forge_pipeline.models import forge_home
    from forge_pipeline.usage import line_usage

    place = os.environ.get("FORGE_STORE") or str(forge_home() / "store")
    if "://" in place:
        place = str(forge_home() / "store")  # the local copy; what this machine made or fetched
    if "/" in args.line or args.line in (".", ".."):
        raise ConfigError(f"{args.line!r} is no line's name")
    log = forge_home() / "audit_log" / args.line / LOG_FILE
    found = line_usage(Path(place), args.line, since=args.since, audit_log=log)
    emit(args, asdict(found), _said(found))
    return SUCCESS


def _said(found: "LineUsage") -> Iterator[str]:
    span = f", {found.first} to {found.last}" if found.first else ""
    failures = f", failed or stopped stages: {found.total.failures}" if found.total.failures else ""
    yield f"{found.line}: {found.runs} runs, {found.total.artifacts} artefacts{failures}{span}"
    for stage in (*found.stages, found.total):
        yield f"  {stage.stage:<22} {stage.artifacts:>4}  {'; '.join(_figures(stage)) or 'nothing was measured'}"
        if stage.failures:
            lost = "; ".join(_sums(stage.of_failures, stage.failures)) or "nothing was measured"
            yield f"  {'':<22} {'':>4}  of this, {stage.failures} failed or stopped: {lost}"
    yield "Stages that failed or were stopped are in the sums. A run whose own process was killed left no figures."


def _figures(stage: "StageUsage") -> Iterator[str]:
    stages = stage.artifacts + stage.failures
    yield from _sums(stage.figures, stages)
    if stage.figures["energy_kwh"].value is None and stage.figures["duration_seconds"].known:
        yield "energy not measured"
    if stage.peak_memory_bytes is not None:
        yield f"peak memory {size_text(int(stage.peak_memory_bytes))}"
    for currency, figure in stage.costs.items():
        yield f"cost {figure.value:.4g} {currency or '(no currency named)'}{_of(figure.known, stages)}"


def _sums(figures: "Mapping[str, Figure]", stages: int) -> Iterator[str]:
    for name, (words, unit) in _SHOWN.items():
        figure = figures[name]
        if figure.value is not None:
            yield f"{words} {figure.value:.4g} {unit}{_of(figure.known, stages)}"


def _of(known: int, stages: int) -> str:
    return "" if known == stages else f" (known of {known} of {stages})"


def _since(text: str) -> datetime:
    """A date, a moment, or a span of time before now; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - parse_span(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a date such as 2026-01-31 nor a span such as 30d"
            ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
