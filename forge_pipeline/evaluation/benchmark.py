"""Benchmarks: base and tuned model on the very same items, and the gate on the outcome.

lm-eval defines the tasks and scores them; what is added is the pairing. A mean alone
says little about a fine-tune: the same items are asked of both models, so each item
gives a difference, and the interval of its mean is what the regression gate reads.

The gate, named ``benchmark``:
  min_score       passes when the tuned model's mean score reaches it, fails otherwise.
  max_regression  passes only when the whole interval of (tuned - base) lies at or above
                  its negative, for every task; fails when a task's whole interval lies
                  below; anything else is insufficient evidence.
Both thresholds set: both must pass. None set: not run, because nothing was asked.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import BenchmarkSection
from forge_pipeline.errors import ConfigError, EvaluationError
from forge_pipeline.evaluation.generation import with_loaded
from forge_pipeline.evaluation.measurement import Measurement, OnRequests, TaskScore, measure
from forge_pipeline.evaluation.statistics import (
    mcnemar_exact,
    paired_interval,
    paired_proportion_interval,
    wilson_interval,
)
from forge_pipeline.evaluation.tasks import HELD_OUT, HeldOut, NamedTask, held_out, load_tasks, write_held_out
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.integrity import Digest, write_report
from forge_pipeline.models import ModelDirectory, load_base, load_tokenizer, load_tuned
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from forge_pipeline.data import RawDataset

STAGE = "benchmark"
RESULT_FILE = "benchmark_results.json"

_ORDER: tuple[Outcome, ...] = ("fail", "not_run", "insufficient_evidence", "pass")  # the worst first


@dataclass(frozen=True)
class PairedComparison:
    """Base and tuned model on the same items of one task.

    Attributes:
        task, metric: What was measured.
        n: Items scored by both.
        base_score, tuned_score: Means over the items, from 0 to 1.
        difference: tuned - base.
        interval: 95 % interval of the difference; for 0/1 metrics Tango's score interval. None where the items
            cannot tell.
        base_stderr, tuned_stderr: Standard error of each mean; None below two items.
        only_base_correct, only_tuned_correct: Discordant items of a 0/1 metric.
        p_value: Exact McNemar, two-sided, of a 0/1 metric.
    """

    task: str
    metric: str
    n: int
    base_score: float
    tuned_score: float
    difference: float
    interval: tuple[float, float] | None
    base_stderr: float | None = None
    tuned_stderr: float | None = None
    only_base_correct: int | None = None
    only_tuned_correct: int | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class BenchmarkResult:
    """What the benchmark measured.

    Attributes:
        scores: The tuned model's score by task, from 0 to 1.
        average_score: Unweighted mean of `scores`; 0.0 with `items` 0 when nothing was measured.
        passed: True only when a threshold was given and met. Without one there is nothing to pass.
        failure_reason: Why `passed` is False.
        raw_results: lm-eval's own numbers by lm-eval task, without host facts.
        base_scores, comparisons: The base model on the same items; empty when one model was measured alone.
        gates: The gate ``benchmark``; empty when a model object was measured, which has no digest.
        subject, dataset_digest: What was judged, and the dataset that ``held_out`` was built from.
        task_digests: Digest of exactly what each task asked: its items, prompts, targets and metric.
        items: Items asked, over all tasks.
    """

    scores: dict[str, float]
    average_score: float
    passed: bool
    failure_reason: str | None
    raw_results: dict[str, Any]
    base_scores: dict[str, float] = field(default_factory=dict)
    comparisons: tuple[PairedComparison, ...] = ()
    gates: tuple[GateDecision, ...] = ()
    subject: Digest | None = None
    dataset_digest: Digest | None = None
    task_digests: dict[str, Digest] = field(default_factory=dict)
    items: int = 0


def run_benchmark(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    tasks: list[str],
    num_fewshot: int | None = None,
    batch_size: str = "auto",
    limit: int | None = None,
    output_dir: str | None = None,
    min_score: float | None = None,
) -> BenchmarkResult:
    """Score one model object on lm-eval tasks.

    Args:
        model: A causal language model; its mode and device are left as they are.
        tokenizer: Its tokenizer.
        tasks: lm-eval task names, or paths of task YAML files.
        num_fewshot: Examples before each item; None takes each task's own number. A task that fixes 0 keeps it.
        batch_size: A number, or ``auto``: the largest that fits on CUDA, 8 elsewhere.
        limit: At most this many items of each task.
        output_dir: Where to write ``benchmark_results.json``.
        min_score: Lowest mean score, from 0 to 1, that passes. Without it `passed` is False, with that reason.

    Raises:
        ConfigError: A task is unknown or its file is wrong, named with file and line.
        EvaluationError: A task's data could not be loaded, or it has no score in [0, 1].
        OptionalDependencyError: lm-eval is not installed.
    """
    if HELD_OUT in tasks:
        raise ConfigError("held_out is built from a dataset; call evaluation.benchmark(config, model, dataset)")
    measured = measure(model, tokenizer, load_tasks(tasks), num_fewshot=num_fewshot, batch_size=batch_size, limit=limit)
    reason = None
    if min_score is None:
        reason = "no min_score was given, so there was nothing to pass"
    elif measured.average < min_score:
        reason = f"mean score {measured.average:.4f} is below min_score {min_score}"
    result = BenchmarkResult(
        scores=measured.scores,
        average_score=measured.average,
        passed=reason is None,
        failure_reason=reason,
        raw_results=measured.raw,
        task_digests={task.name: task.digest for task in measured.tasks},
        items=sum(task.n for task in measured.tasks),
    )
    if output_dir is not None:
        write_report(Path(output_dir) / RESULT_FILE, result)
    return result


def benchmark(
    config: ForgeConfig, model: ModelDirectory, dataset: "RawDataset", *, progress: Report = silent
) -> BenchmarkResult:
    """Score base and tuned model on the recipe's tasks and hold the outcome against its thresholds.

    Args:
        config: `evaluation.benchmark` says which tasks and thresholds.
        model: The tuned model.
        dataset: What it was trained on; ``held_out`` is built from its test or validation split.
        progress: Told after each batch.

    Raises:
        ConfigError, EvaluationError, OptionalDependencyError: As in `run_benchmark`.
        ModelError: The base or the tuned model could not be loaded.
    """
    section = config.evaluation.benchmark
    if section is None or not section.enabled:
        return _not_run(model.digest, dataset.digest, section, "evaluation.benchmark is not enabled in the recipe")
    questions = held_out(dataset, load_tokenizer(config)) if HELD_OUT in section.tasks else None
    if questions is not None and questions.reason is not None:
        return _not_run(model.digest, dataset.digest, section, f"held_out cannot be built: {questions.reason}")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        named = _load_section(section, questions, Path(folder))
        report = _Stepper(progress)
        base = _measure_loaded(lambda: load_base(config), named, section, report.of("base model"))
        tuned = _measure_loaded(lambda: load_tuned(config, model), named, section, report.of("tuned model"))
    result = compare(base, tuned, section, model.digest, dataset.digest)
    if section.output_dir is not None:
        write_report(Path(section.output_dir) / RESULT_FILE, result)
    return result


def compare(
    base: Measurement, tuned: Measurement, section: BenchmarkSection, subject: Digest, dataset_digest: Digest
) -> BenchmarkResult:
    """Pair two measurements of the same tasks and decide the gate.

    Raises:
        EvaluationError: The two models were not asked the same items.
    """
    comparisons = tuple(_paired(b, t) for b, t in zip(base.tasks, tuned.tasks, strict=True))
    gate = _decide(section, subject, tuned, comparisons)
    return BenchmarkResult(
        scores=tuned.scores,
        average_score=tuned.average,
        passed=gate.outcome == "pass",
        failure_reason=None if gate.outcome == "pass" else gate.reason,
        raw_results={"base": base.raw, "tuned": tuned.raw},
        base_scores=base.scores,
        comparisons=comparisons,
        gates=(gate,),
        subject=subject,
        dataset_digest=dataset_digest,
        task_digests={task.name: task.digest for task in tuned.tasks},
        items=sum(task.n for task in tuned.tasks),
    )


def _paired(base: TaskScore, tuned: TaskScore) -> PairedComparison:
    if base.digest != tuned.digest:
        raise EvaluationError(f"the two models were not asked the same items of {tuned.name!r}; benchmark both again")
    comparison = PairedComparison(
        task=tuned.name,
        metric=tuned.metric,
        n=tuned.n,
        base_score=base.score,
        tuned_score=tuned.score,
        difference=tuned.score - base.score,
        interval=None,
        base_stderr=base.stderr,
        tuned_stderr=tuned.stderr,
    )
    if not (base.values and tuned.values):
        return comparison
    pairs = [(base.values[item], tuned.values[item]) for item in tuned.values]
    if not (base.is_binary and tuned.is_binary):
        return replace(comparison, interval=paired_interval([t - b for b, t in pairs]))
    only_base = sum(b > t for b, t in pairs)
    only_tuned = sum(t > b for b, t in pairs)
    return replace(
        comparison,
        interval=paired_proportion_interval(only_tuned, only_base, len(pairs)),
        only_base_correct=only_base,
        only_tuned_correct=only_tuned,
        p_value=mcnemar_exact(only_base, only_tuned),
    )


@dataclass(frozen=True)
class _Finding:
    outcome: Outcome
    reason: str
    metric: str | None = None
    observed: float | None = None
    threshold: float | None = None
    interval: tuple[float, float] | None = None
    n: int | None = None


def _decide(
    section: BenchmarkSection, subject: Digest, tuned: Measurement, comparisons: Sequence[PairedComparison]
) -> GateDecision:
    findings: list[_Finding] = []
    if section.min_score is not None:
        findings.append(_score_finding(section.min_score, tuned))
    if section.max_regression is not None:
        findings += [_regression_finding(section.max_regression, comparison) for comparison in comparisons]
    if not findings:
        findings = [
            _Finding("not_run", "the recipe sets no threshold (evaluation.benchmark.min_score, max_regression)")
        ]
    worst = min(findings, key=lambda finding: _ORDER.index(finding.outcome))
    telling = [finding.reason for finding in findings if finding.outcome == worst.outcome]
    return GateDecision(
        gate="benchmark",
        outcome=worst.outcome,
        reason="; ".join(telling),
        subject=subject,
        guards=section.guards,
        metric=worst.metric,
        observed=worst.observed,
        threshold=worst.threshold,
        interval=worst.interval,
        n=worst.n,
    )


def _score_finding(min_score: float, tuned: Measurement) -> _Finding:
    n = sum(task.n for task in tuned.tasks)
    interval = None
    if len(tuned.tasks) == 1 and tuned.tasks[0].is_binary:
        interval = wilson_interval(round(tuned.average * n), n)
    reached = tuned.average >= min_score
    words = (
        f"mean score {tuned.average:.4f} over {n} items {'reaches' if reached else 'is below'} min_score {min_score}"
    )
    return _Finding("pass" if reached else "fail", words, "mean_score", tuned.average, min_score, interval, n)


def _regression_finding(allowed: float, comparison: PairedComparison) -> _Finding:
    numbers = f"{comparison.task}: tuned - base is {comparison.difference:+.4f} over {comparison.n} items"
    outcome: Outcome
    if comparison.interval is None:
        outcome, words = "insufficient_evidence", f"{numbers}, without an interval to hold against max_regression"
    else:
        low, high = comparison.interval
        numbers += f", 95 % interval [{low:+.4f}, {high:+.4f}]"
        if low >= -allowed:
            outcome, words = "pass", f"{numbers}, no loss beyond {allowed}"
        elif high < -allowed:
            outcome, words = "fail", f"{numbers}, a loss beyond max_regression {allowed}"
        else:
            outcome, words = "insufficient_evidence", f"{numbers}, which does not rule out a loss beyond {allowed}"
    return _Finding(outcome, words, "difference", comparison.difference, -allowed, comparison.interval, comparison.n)


def _not_run(subject: Digest, dataset_digest: Digest, section: BenchmarkSection | None, reason: str) -> BenchmarkResult:
    guards = (section or BenchmarkSection()).guards
    gate = GateDecision(gate="benchmark", outcome="not_run", reason=reason, subject=subject, guards=guards)
    return BenchmarkResult({}, 0.0, False, reason, {}, gates=(gate,), subject=subject, dataset_digest=dataset_digest)


def _load_section(section: BenchmarkSection, questions: HeldOut | None, folder: Path) -> list[NamedTask]:
    specs = list(section.tasks)
    if questions is not None:
        path = write_held_out(questions.items, folder)
        specs = [str(path) if spec == HELD_OUT else spec for spec in specs]
    return load_tasks(specs)


def _measure_loaded(
    load: Callable[[], tuple["PreTrainedModel", "PreTrainedTokenizerBase"]],
    named: Sequence[NamedTask],
    section: BenchmarkSection,
    on_requests: OnRequests,
) -> Measurement:
    return with_loaded(
        load,
        lambda model, tokenizer: measure(
            model,
            tokenizer,
            named,
            num_fewshot=section.num_fewshot,
            batch_size=section.batch_size,
            limit=section.limit,
            on_requests=on_requests,
        ),
    )


class _Stepper:
    """Turns two models' request counts into one row of steps."""

    def __init__(self, progress: Report) -> None:
        self._progress = progress
        self._before = 0

    def of(self, who: str) -> OnRequests:
        def report(done: int, total: int) -> None:
            if who.startswith("base"):
                self._before = total
            before = 0 if who.startswith("base") else self._before
            self._progress(Progress(STAGE, before + done, 2 * total, f"{who}: {done} of {total} requests scored"))

        return report
