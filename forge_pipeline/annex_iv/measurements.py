"""What was measured of the model, as tables: each number with how many items it rests on and how sure it is."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.evaluation import PairedComparison
from forge_pipeline.evaluation.statistics import wilson_interval


@dataclass(frozen=True)
class Measurement:
    """One row of the table of test results (Annex IV 2(g)).

    Attributes:
        what: Task, or category of probes.
        metric: What was measured.
        n: Items behind `value`.
        value: From 0 to 1.
        interval: 95 % interval of `value`; None where it cannot be told. For safety the upper end is the gate's bound.
        base: The base model on the same items.
        difference, difference_interval: `value` - `base`, and the 95 % interval of that, paired by item.
    """

    what: str
    metric: str
    n: int
    value: float
    interval: tuple[float, float] | None
    base: float | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None


def measurements(evidence: Evidence) -> tuple[Measurement, ...]:
    """Every score with its interval: the benchmark's tasks, then the safety probes, all and by category."""
    return (*_benchmark_rows(evidence), *_safety_rows(evidence))


def _benchmark_rows(evidence: Evidence) -> list[Measurement]:
    result = evidence.benchmark
    if result is None:
        return []
    paired = {each.task: each for each in result.comparisons}
    rows = []
    for task, score in sorted(result.scores.items()):
        each = paired.get(task)
        if each is None:
            rows.append(Measurement(task, "score", result.items if len(result.scores) == 1 else 0, score, None))
            continue
        rows.append(
            Measurement(
                task,
                each.metric,
                each.n,
                each.tuned_score,
                _interval(each),
                each.base_score,
                each.difference,
                each.interval,
            )
        )
    return rows


def _interval(each: PairedComparison) -> tuple[float, float] | None:
    """Wilson's for shares of right answers, else the normal approximation from the standard error."""
    if each.only_tuned_correct is not None and each.n:
        return wilson_interval(round(each.tuned_score * each.n), each.n)
    if each.tuned_stderr is None:
        return None
    reach = 1.959963984540054 * each.tuned_stderr
    most = 1.0 if each.higher_is_better and each.tuned_score <= 1.0 else math.inf  # a perplexity has no upper end
    return max(0.0, each.tuned_score - reach), min(most, each.tuned_score + reach)


def _safety_rows(evidence: Evidence) -> list[Measurement]:
    report = evidence.safety
    if report is None or not report.n or report.unsafe_rate is None:
        return []
    base = report.base_unsafe / report.n if report.base_unsafe is not None else None
    rows = [
        Measurement(
            "safety probes",
            "unsafe answers",
            report.n,
            report.unsafe_rate,
            (0.0, report.upper_bound) if report.upper_bound is not None else None,
            base,
            report.unsafe_rate - base if base is not None else None,
        )
    ]
    for name, each in sorted(report.categories.items()):
        if each.n:
            rows.append(
                Measurement(f"safety: {name}", "unsafe answers", each.n, each.unsafe / each.n, (0.0, each.upper_bound))
            )
    return rows


def measurement_facts(evidence: Evidence) -> list[dict[str, Any]]:
    """The table as JSON values."""
    return [asdict(row) for row in measurements(evidence)]


def memory_facts(evidence: Evidence) -> dict[str, Any]:
    """What the model takes: sizes of its forms, and the memory and device of the fine-tune where they were measured."""
    facts: dict[str, Any] = {
        "model_size_bytes": evidence.manifests["fine_tuned_model"].size,
        "context_length_tokens": evidence.tokenization.max_length,
    }
    if evidence.export is not None:
        facts["exported_size_bytes"] = {file.name: file.size for file in evidence.export.files}
    if evidence.usage is not None:
        facts["training_device"] = evidence.usage.device_name
        facts["training_peak_memory_bytes"] = evidence.usage.peak_memory_bytes
    return facts


def size_lines(facts: Mapping[str, Any]) -> list[str]:
    """`memory_facts` as sentences."""
    lines = [f"the model as it was trained: {_bytes(facts['model_size_bytes'])}"]
    lines += [f"{name}: {_bytes(size)}" for name, size in facts.get("exported_size_bytes", {}).items()]
    if facts.get("training_peak_memory_bytes"):
        lines.append(
            f"measured while it was fine-tuned on {facts['training_device']}: "
            f"{_bytes(facts['training_peak_memory_bytes'])} of memory"
        )
    lines.append(f"context: {facts['context_length_tokens']} tokens, as it was trained")
    return lines


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
