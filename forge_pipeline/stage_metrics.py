"""What stages used and decided, as text files for Prometheus.

One file a line and stage, ``forge_<line>_<stage>.prom``, in the folder that node_exporter's textfile collector
reads. It holds the stage's last success and is replaced whole. What was not measured has no series.
"""

from datetime import datetime
from pathlib import Path

from forge_pipeline._optional import require
from forge_pipeline.gates import Verdict
from forge_pipeline.integrity.atomic import write_file
from forge_pipeline.observation import StageFacts

_LABELS = ("line", "stage")
_USAGE = {
    "duration_seconds": ("forge_stage_duration_seconds", "Wall clock of the stage."),
    "cpu_seconds": ("forge_stage_cpu_seconds", "User and system time of the stage's processes."),
    "gpu_seconds": ("forge_stage_gpu_seconds", "Duration times the number of GPUs."),
    "peak_memory_bytes": ("forge_stage_peak_memory_bytes", "Most memory that a process of the stage held."),
    "energy_kwh": ("forge_stage_energy_kwh", "Energy by the machine's own counters."),
    "tokens_per_second": ("forge_stage_tokens_per_second", "Tokens trained a second."),
}


def write_metrics(directory: Path, facts: StageFacts) -> Path:
    """Replace the stage's file; made with its folder if need be.

    Raises:
        OptionalDependencyError: prometheus_client is not installed.
        OSError: It could not be written; the file from before is whole.
    """
    client = require("prometheus_client", extra="server", purpose="Metrics for Prometheus")
    registry = client.CollectorRegistry()

    def gauge(name: str, words: str, value: float, **labels: str) -> None:
        names = (*_LABELS, *labels)
        made = client.Gauge(name, words, names, registry=registry)
        made.labels(facts.line, facts.stage, *labels.values()).set(value)

    for name, (series, words) in _USAGE.items():
        if isinstance(value := facts.usage.get(name), int | float):
            gauge(series, words, value)
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
    ended = datetime.fromisoformat(facts.ended_at).timestamp()
    gauge("forge_stage_last_success_timestamp_seconds", "When the stage last stored its artefact.", ended)
    if facts.gates:
        words = "1 for the verdict that the gate gave last, 0 for the others."
        verdicts = client.Gauge("forge_gate_verdict", words, (*_LABELS, "gate", "verdict"), registry=registry)
        for decision in facts.gates:
            for verdict in Verdict:
                series = verdicts.labels(facts.line, facts.stage, decision.gate, verdict.value)
                series.set(1 if decision.verdict is verdict else 0)
    file = directory / f"forge_{facts.line}_{facts.stage.replace('/', '_')}.prom"
    write_file(file, client.generate_latest(registry))
    return file
