"""Benchmarks: base and tuned model on the very same items, and the gate on the outcome.

lm-eval defines the tasks and scores them; what is added is the pairing. A mean alone
says little about a fine-tune: the same items are asked of both models, so each item
gives a difference, and the interval of its mean is what the regression gate reads.

lm-eval's `evaluate` is called rather than `simple_evaluate`, which does the same and
then spends seconds on `git`, `pip list` and host facts that have no place in a report.

The gate, named ``benchmark``:
  min_score       passes when the tuned model's mean score reaches it, fails otherwise.
  max_regression  passes only when the whole interval of (tuned - base) lies at or above
                  its negative, for every task; fails when a task's whole interval lies
                  below; anything else is insufficient evidence.
Both thresholds set: both must pass. None set: not run, because nothing was asked.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import BenchmarkSection
from forge_pipeline.errors import ConfigError, EvaluationError
from forge_pipeline.evaluation.generation import with_loaded
from forge_pipeline.evaluation.statistics import (
    mcnemar_exact,
    paired_interval,
    paired_proportion_interval,
    wilson_interval,
)
from forge_pipeline.evaluation.tasks import HELD_OUT, HeldOut, NamedTask, held_out, load_tasks, write_held_out
from forge_pipeline.gates import GateDecision, Outcome
from forge_pipeline.integrity import Digest, json_digest, write_report
from forge_pipeline.models import ModelDirectory, load_base, load_tokenizer, load_tuned
from forge_pipeline.models.quiet import quiet_libraries
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from forge_pipeline.data import RawDataset

STAGE = "benchmark"
RESULT_FILE = "benchmark_results.json"

# The first of these that a task reports is its score; all lie in [0, 1], higher is better.
_METRICS = ("acc_norm", "acc", "exact_match", "em", "f1")
_CPU_BATCH_SIZE = 8  # "auto" would probe batches of 64 full contexts, which on a CPU takes minutes
_FEWSHOT_SEED = 1234  # lm-eval's default
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


@dataclass(frozen=True)
class TaskScore:
    """One task, one model.

    Attributes:
        name, metric, score: What was measured.
        n: Items asked.
        values: Each item's own value, keyed by what identifies the item; empty where the metric has none.
        digest: Of exactly what was asked.
    """

    name: str
    metric: str
    score: float
    n: int
    values: Mapping[str, float]
    digest: Digest

    @property
    def is_binary(self) -> bool:
        return bool(self.values) and all(value in (0.0, 1.0) for value in self.values.values())

    @property
    def stderr(self) -> float | None:
        """Standard error of the mean over items; None below two."""
        values = list(self.values.values())
        return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class Measurement:
    """All tasks, one model; `raw` is what lm-eval reported, reduced to numbers."""

    tasks: tuple[TaskScore, ...]
    raw: dict[str, Any]

    @property
    def scores(self) -> dict[str, float]:
        return {task.name: task.score for task in self.tasks}

    @property
    def average(self) -> float:
        return fmean(self.scores.values())


OnRequests = Callable[[int, int], None]


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


def measure(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    named: Sequence[NamedTask],
    *,
    num_fewshot: int | None = None,
    batch_size: str = "auto",
    limit: int | None = None,
    on_requests: OnRequests = lambda done, total: None,
) -> Measurement:
    """Run lm-eval on a model object.

    Args:
        named: Tasks from `load_tasks`.
        on_requests: Called with (scored, all) requests after each batch.
        model, tokenizer, num_fewshot, batch_size, limit: As in `run_benchmark`.
    """
    evaluator = require("lm_eval.evaluator", extra="eval", purpose="Benchmarks")
    was_training = model.training
    leaves = {name: leaf for task in named for name, leaf in task.leaves.items()}
    for leaf in leaves.values():
        _set_fewshot(leaf, num_fewshot)
    try:
        with _less_noise():
            adapter = _adapter(model, tokenizer, _batch_size(batch_size, model), on_requests)
            results = evaluator.evaluate(lm=adapter, task_dict={"tasks": leaves}, limit=limit, bootstrap_iters=0)
    finally:
        model.train(was_training)
    raw = _reduced(results, adapter.truncated)
    return Measurement(tuple(_task_score(task, results) for task in named), raw)


def _set_fewshot(leaf: Any, num_fewshot: int | None) -> None:
    """lm-eval's own rule: a task that fixes 0 keeps 0."""
    own = leaf.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        leaf.set_config(key="num_fewshot", value=num_fewshot or 0)
    leaf.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _batch_size(asked: str, model: "PreTrainedModel") -> str | int:
    text = str(asked)
    if text.startswith("auto"):
        return text if model.device.type == "cuda" else _CPU_BATCH_SIZE
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"batch_size: found {asked!r}; expected a number of 1 or more, or auto")
    return int(text)


def _adapter(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_size: str | int, on_requests: OnRequests
) -> Any:
    """lm-eval's view of the model, which also counts what was scored and what had to be truncated."""
    from copy import deepcopy

    huggingface = require("lm_eval.models.huggingface", extra="eval", purpose="Benchmarks")
    base: Any = huggingface.HFLM

    class Adapter(base):  # type: ignore[misc]
        done = 0
        total = 0
        truncated = 0

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.total += len(requests)
            return super().loglikelihood(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            self.total += len(requests)
            return super().generate_until(requests, disable_tqdm=True)

        def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> Any:
            room = self.max_length + 1
            self.truncated += sum(len(context) + len(answer) > room for _, context, answer in requests)
            return super()._loglikelihood_tokens(requests, *args, **kwargs)

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            logits = super()._model_call(inps, *args, **kwargs)
            self._count(inps)
            return logits

        def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            tokens = super()._model_generate(context, *args, **kwargs)
            self._count(context)
            return tokens

        def _count(self, batch: Any) -> None:  # batch: (B, T)
            self.done = min(self.done + int(batch.shape[0]), self.total)
            on_requests(self.done, self.total)

    # A copy, because lm-eval sets the padding token on the tokenizer that it is given.
    return Adapter(pretrained=model, tokenizer=deepcopy(tokenizer), batch_size=batch_size)


def _task_score(task: NamedTask, results: Mapping[str, Any]) -> TaskScore:
    """The task's score, pooled over its leaves by number of items where it is a group."""
    metrics: list[str] = []
    values: dict[str, float] = {}
    asked: list[list[str]] = []
    weighted, n = 0.0, 0
    for leaf in sorted(task.leaves):
        metric, key, score = _metric_of(leaf, results)
        samples = [sample for sample in results["samples"][leaf] if sample["filter"] == key]
        _check_finite(leaf, samples, score)
        for sample in samples:
            item = f"{leaf}/{sample['doc_id']}/{sample['doc_hash']}"
            asked.append([item, sample["prompt_hash"], sample["target_hash"]])
            if isinstance(sample.get(metric), Real):
                values[item] = float(sample[metric])
        metrics.append(f"{metric},{key}")
        weighted += score * len(samples)
        n += len(samples)
    if len(values) != n:
        values = {}
    digest = json_digest({"metrics": metrics, "items": sorted(asked)})
    return TaskScore(task.name, "+".join(sorted({m.split(",")[0] for m in metrics})), weighted / n, n, values, digest)


def _metric_of(leaf: str, results: Mapping[str, Any]) -> tuple[str, str, float]:
    """Which metric, through which filter, is this task's score; and the score."""
    reported = results["results"][leaf]
    for metric in _METRICS:
        for key, value in reported.items():
            name, _, filter_name = key.partition(",")
            if name == metric and isinstance(value, Real):
                return metric, filter_name, float(value)
    names = sorted({key.partition(",")[0] for key in reported if "," in key and "_stderr" not in key})
    raise EvaluationError(
        f"the task {leaf!r} reports {', '.join(names) or 'nothing'}, none of which is a score from 0 to 1 "
        f"({', '.join(_METRICS)}); remove it from evaluation.benchmark.tasks"
    )


def _check_finite(leaf: str, samples: Sequence[Mapping[str, Any]], score: float) -> None:
    """A model that computes NaN would still be credited with the first choice of every item."""
    for sample in samples:
        for response in sample["filtered_resps"]:
            first = response[0] if isinstance(response, (list, tuple)) and response else response
            if isinstance(first, Real) and not math.isfinite(first):
                raise EvaluationError(f"the model's log-likelihoods on {leaf!r} are not finite; its weights are broken")
    if not samples or not math.isfinite(score):
        raise EvaluationError(f"the task {leaf!r} gave no finite score over {len(samples)} items")


def _reduced(results: Mapping[str, Any], truncated: int) -> dict[str, Any]:
    """lm-eval's report without samples, paths, code and host facts; finite numbers only."""
    numbers = {
        task: {
            key: float(value)
            for key, value in reported.items()
            if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        }
        for task, reported in results["results"].items()
    }
    return {
        "results": numbers,
        "versions": {task: str(version) for task, version in results["versions"].items()},
        "n-shot": {task: int(shots) for task, shots in results["n-shot"].items()},
        "n-samples": {task: dict(count) for task, count in results["n-samples"].items()},
        "truncated_requests": truncated,
    }


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


@contextmanager
def _less_noise() -> Iterator[None]:
    """Keep lm-eval's advice about its own command line out of the caller's log; errors still come through."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_libraries():
            yield
    finally:
        logger.setLevel(level)
