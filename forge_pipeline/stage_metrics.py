"""What stages used and decided, for Prometheus: as text files, or pushed to a Pushgateway.

One file a line and stage, ``forge_<line>_<stage>.prom``, in the folder that node_exporter's textfile collector
reads. It holds the stage's last success and is replaced whole; ``forge_<line>_<stage>_failure.prom`` holds its last
failure. A Pushgateway gets the same series under the group ``job="forge", line, stage``, with ``outcome="failure"`` for
failures, so that a failure does not take the figures of the last success away. What was not measured has no series.
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from forge_pipeline._optional import require
from forge_pipeline.gates import Verdict
from forge_pipeline.integrity.atomic import write_file
from forge_pipeline.observation import FailedStage, StageFacts

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_LABELS = ("line", "stage")
_TIMEOUT = 5.0  # seconds a Pushgateway may take
_USAGE = {
    "duration_seconds": ("forge_stage_duration_seconds", "Wall clock of the stage."),
    "cpu_seconds": ("forge_stage_cpu_seconds", "User and system time of the stage's processes."),
    "gpu_seconds": ("forge_stage_gpu_seconds", "Duration times the number of GPUs."),
    "peak_memory_bytes": ("forge_stage_peak_memory_bytes", "Most memory that a process of the stage held."),
    "energy_kwh": ("forge_stage_energy_kwh", "Energy by the machine's own counters."),
    "tokens_per_second": ("forge_stage_tokens_per_second", "Tokens trained a second."),
}
_FAILURE = {
    "duration_seconds": ("forge_stage_last_failure_duration_seconds", "Wall clock until the stage failed."),
    "cpu_seconds": ("forge_stage_last_failure_cpu_seconds", "CPU time until the stage failed."),
    "gpu_seconds": ("forge_stage_last_failure_gpu_seconds", "GPU time until the stage failed."),
    "energy_kwh": ("forge_stage_last_failure_energy_kwh", "Energy until the stage failed."),
}


def write_metrics(directory: Path, facts: StageFacts | FailedStage) -> Path:
    """Replace the stage's file; made with its folder if need be.

    Raises:
        OptionalDependencyError: prometheus_client is not installed.
        OSError: It could not be written; the file from before is whole.
    """
    client = _client()
    kind = "_failure" if isinstance(facts, FailedStage) else ""
    file = directory / f"forge_{facts.line}_{facts.stage.replace('/', '_')}{kind}.prom"
    write_file(file, client.generate_latest(stage_registry(facts)))
    return file


def push_metrics(address: str, facts: StageFacts | FailedStage) -> None:
    """Replace the stage's group on a Pushgateway.

    Args:
        address: ``http://HOST:PORT`` or ``https://USER:PASSWORD@HOST``.

    Raises:
        OptionalDependencyError: prometheus_client is not installed.
        OSError: The Pushgateway was not reached, or refused (`urllib.error.HTTPError`).
    """
    client = _client()
    parts = urlsplit(address)
    handler = client.exposition.default_handler
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

        def handler(url: str, method: str, timeout: float | None, headers: Any, data: bytes) -> Any:
            return client.exposition.basic_auth_handler(url, method, timeout, headers, data, user, password)

    group = {"line": facts.line, "stage": facts.stage}
    if isinstance(facts, FailedStage):
        group["outcome"] = "failure"
    client.push_to_gateway(
        address, job="forge", registry=stage_registry(facts), grouping_key=group, timeout=_TIMEOUT, handler=handler
    )


def stage_registry(facts: StageFacts | FailedStage) -> "CollectorRegistry":
    """The series of one stage that ended.

    Raises:
        OptionalDependencyError: prometheus_client is not installed.
    """
    client = _client()
    registry: CollectorRegistry = client.CollectorRegistry()

    def gauge(name: str, words: str, value: float, **labels: str) -> None:
        names = (*_LABELS, *labels)
        made = client.Gauge(name, words, names, registry=registry)
        made.labels(facts.line, facts.stage, *labels.values()).set(value)

    failed = isinstance(facts, FailedStage)
    for name, (series, words) in (_FAILURE if failed else _USAGE).items():
        if isinstance(value := facts.usage.get(name), int | float):
            gauge(series, words, value)
    ended = datetime.fromisoformat(facts.ended_at).timestamp()
    if isinstance(facts, FailedStage):
        gauge("forge_stage_last_failure_timestamp_seconds", "When the stage failed last, or was stopped.", ended)
        return registry
    if isinstance(cost := facts.usage.get("estimated_cost"), int | float):
        currency = str(facts.usage.get("cost_currency", ""))
        gauge("forge_stage_cost", "Hours times the recipe's price of one.", cost, currency=currency)
    for series, words, count in (
        ("forge_stage_rows", "Rows of the artefact.", facts.rows),
        ("forge_stage_tokens", "Tokens of the artefact, or trained on.", facts.tokens),
        ("forge_stage_artifact_bytes", "Size of the artefact.", facts.size),
    ):
        if count is not None:
            gauge(series, words, count)
    gauge("forge_stage_last_success_timestamp_seconds", "When the stage last stored its artefact.", ended)
    if facts.gates:
        words = "1 for the verdict that the gate gave last, 0 for the others."
        verdicts = client.Gauge("forge_gate_verdict", words, (*_LABELS, "gate", "verdict"), registry=registry)
        for decision in facts.gates:
            for verdict in Verdict:
                series = verdicts.labels(facts.line, facts.stage, decision.gate, verdict.value)
                series.set(1 if decision.verdict is verdict else 0)
    return registry


def _client() -> Any:
    return require("prometheus_client", extra="server", purpose="Metrics for Prometheus")
