"""Benchmarks: base and tuned model on the very same items, and the gate on the outcome.

lm-eval defines the tasks and scores them; what is added is the pairing. A mean alone
says little about a fine-tune: the same items are asked of both models, so each item
gives a difference, and the interval of its mean is what the regression gate reads.

The gate, named ``benchmark``, is decided in `benchmark_gate`. What a base model answered is
kept by digest of its weights and of the requests, and not asked again (`remembering`).

Items that stand in the training rows measure memory. Where the caller can say which these
are, each task's score is given with and without them.
"""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import BenchmarkSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.evaluation.answer_cache import AnswerCache
from forge_pipeline.evaluation.benchmark_gate import check_limits, decide, metrics_of
from forge_pipeline.evaluation.comparison import PairedComparison, paired, score_of
from forge_pipeline.evaluation.items import asked_texts
from forge_pipeline.evaluation.measurement import Measurement, TaskScore, measure, measure_remembered
from forge_pipeline.evaluation.model_identity import base_identity, tuned_identity
from forge_pipeline.evaluation.shared_prefix import OnRequests
from forge_pipeline.evaluation.tasks import HELD_OUT, HeldOut, NamedTask, held_out, load_tasks, write_held_out
from forge_pipeline.gates import GateDecision
from forge_pipeline.integrity import Digest, write_report
from forge_pipeline.models import ModelDirectory, forge_home, load_base, load_tokenizer, load_tuned
from forge_pipeline.models.allocator import keeping_freed_memory
from forge_pipeline.models.devices import pick_device
from forge_pipeline.models.heads import HEADS
from forge_pipeline.progress import Progress, Report, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from forge_pipeline.data import RawDataset

STAGE = "benchmark"
RESULT_FILE = "benchmark_results.json"

FindSeen = Callable[[Mapping[str, Sequence[str]]], Mapping[str, Collection[int]]]
"""Given the texts of each task's items, the numbers of those that stand in the training rows."""


@dataclass(frozen=True)
class SeenItems:
    """The items of one task that stand in the training rows.

    Attributes:
        task: Its name.
        items: Which: lm-eval's task, the item's number in it, and the hash of its row.
        n: All items of the task.
        score, base_score: Over all items.
        score_without, base_score_without: Over the items that were not seen; None where there are none, or the metric
            is no function of single items.
    """

    task: str
    items: tuple[str, ...]
    n: int
    score: float
    base_score: float
    score_without: float | None
    base_score_without: float | None


@dataclass(frozen=True)
class BenchmarkResult:
    """What the benchmark measured.

    Attributes:
        scores: The tuned model's score by task, in the metric's unit: shares from 0 to 1, perplexities from 1.
        average_score: Unweighted mean of those of `scores` that lie between 0 and 1; 0.0 where there are none.
        passed: True only when a threshold was given and met. Without one there is nothing to pass.
        failure_reason: Why `passed` is False.
        raw_results: lm-eval's own numbers by lm-eval task, without host facts.
        base_scores, comparisons: The base model on the same items; empty when one model was measured alone.
        gates: The gate ``benchmark``; empty when a model object was measured, which has no digest.
        subject, dataset_digest: What was judged, and the dataset that ``held_out`` was built from.
        task_digests: Digest of exactly what each task asked: its items, prompts, targets and metric.
        items: Items asked, over all tasks.
        base_from_cache: Whether the base model's answers were remembered from an earlier run.
        seen: Of each task with items that stand in the training rows; empty where none do. None: nobody looked.
        notes: What a reader of the scores should know: requests that were cut, models scored in another way.
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
    base_from_cache: bool = False
    seen: tuple[SeenItems, ...] | None = None
    notes: tuple[str, ...] = ()


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
        batch_size: Rows of a forward pass, a number or ``auto`` (16 on CUDA, 2 on a CPU); a row holds all that begins
            alike, or up to 512 tokens of the rest.
        limit: At most this many items of each task.
        output_dir: Where to write ``benchmark_results.json``.
        min_score: Lowest mean score, from 0 to 1, that passes. Without it `passed` is False, with that reason.

    Raises:
        ConfigError: A task is unknown or its file is wrong, named with file and line.
        EvaluationError: A task's data could not be loaded, it reports no number, or the model's log-likelihoods are
            not finite.
        OptionalDependencyError: lm-eval is not installed.
    """
    if HELD_OUT in tasks:
        raise ConfigError("held_out is built from a dataset; call evaluation.benchmark(config, model, dataset)")
    measured = measure(model, tokenizer, load_tasks(tasks), num_fewshot=num_fewshot, batch_size=batch_size, limit=limit)
    reason = None
    if min_score is None:
        reason = "no min_score was given, so there was nothing to pass"
    elif measured.average is None:
        reason = "no task has a score between 0 and 1 to hold against min_score"
    elif measured.average < min_score:
        reason = f"mean score {measured.average:.4f} is below min_score {min_score}"
    result = BenchmarkResult(
        scores=measured.scores,
        average_score=measured.average or 0.0,
        passed=reason is None,
        failure_reason=reason,
        raw_results=measured.raw,
        task_digests={task.name: task.digest for task in measured.tasks},
        items=sum(task.n for task in measured.tasks),
        notes=_notes([("the model", measured)]),
    )
    if output_dir is not None:
        write_report(Path(output_dir) / RESULT_FILE, result)
    return result


def benchmark(
    config: ForgeConfig,
    model: ModelDirectory,
    dataset: "RawDataset",
    *,
    find_seen: FindSeen | None = None,
    progress: Report = silent,
) -> BenchmarkResult:
    """Score base and tuned model on the recipe's tasks and hold the outcome against its thresholds.

    Args:
        config: `evaluation.benchmark` says which tasks and thresholds.
        model: The tuned model. One that writes no text (a reward model, for example) is not measured.
        dataset: What it was trained on; ``held_out`` is built from its test or validation split.
        find_seen: Says which items stand in the training rows; None: nobody looks.
        progress: Told after each batch.

    Raises:
        ConfigError, EvaluationError, OptionalDependencyError: As in `run_benchmark`.
        ConfigError: A limit is for a task that is not measured, or for another kind of metric.
        ModelError: The base or the tuned model could not be loaded.
    """
    section = config.evaluation.benchmark
    if section is None or not section.enabled:
        return _not_run(model.digest, dataset.digest, section, "evaluation.benchmark is not enabled in the recipe")
    head = model.record.head
    if not HEADS[head].generates:
        reason = f"the model has a {head} head and writes no text, which is what benchmarks measure"
        return _not_run(model.digest, dataset.digest, section, reason)
    questions = held_out(dataset, load_tokenizer(config)) if HELD_OUT in section.tasks else None
    if questions is not None and questions.reason is not None:
        return _not_run(model.digest, dataset.digest, section, f"held_out cannot be built: {questions.reason}")
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder, keeping_freed_memory(pick_device()):
        named = _load_section(section, questions, Path(folder))
        check_limits(section, named)
        report = _Stepper(progress)
        base = _remembered(lambda: load_base(config), base_identity(config), named, section, report.of("base model"))
        tuned = _remembered(
            lambda: load_tuned(config, model), tuned_identity(config, model), named, section, report.of("tuned model")
        )
        result = compare(base, tuned, section, model.digest, dataset.digest)
        if find_seen is not None:
            result = replace(result, seen=_seen(asked_texts(named, section.limit), find_seen, base, tuned))
    if section.output_dir is not None:
        write_report(Path(section.output_dir) / RESULT_FILE, result)
    return result


def compare(
    base: Measurement, tuned: Measurement, section: BenchmarkSection, subject: Digest, dataset_digest: Digest
) -> BenchmarkResult:
    """Pair two measurements of the same tasks and decide the gate.

    Raises:
        EvaluationError: The two models were not asked the same items.
        ConfigError: A limit is for another kind of metric.
    """
    comparisons = tuple(paired(b, t) for b, t in zip(base.tasks, tuned.tasks, strict=True))
    gate = decide(section, subject, tuned, comparisons)
    return BenchmarkResult(
        scores=tuned.scores,
        average_score=tuned.average or 0.0,
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
        base_from_cache=base.from_cache,
        notes=_notes([("the base model", base), ("the tuned model", tuned)]),
    )


def _seen(
    texts: Mapping[str, Mapping[str, str]], find_seen: FindSeen, base: Measurement, tuned: Measurement
) -> tuple[SeenItems, ...]:
    """Which items stand in the training rows, and what the scores are without them.

    `texts`: by task, then by lm-eval's task and the number of the item.
    """
    found = find_seen({task: list(of_task.values()) for task, of_task in texts.items()})
    seen = []
    for theirs, ours in zip(base.tasks, tuned.tasks, strict=True):
        places = list(texts.get(ours.name, {}))
        held = {places[number] for number in found.get(ours.name, ())}
        if held:
            items = sorted(item for item in ours.values if _place(item) in held) if ours.values else sorted(held)
            without = [_score_without(task, held) for task in (ours, theirs)]
            seen.append(SeenItems(ours.name, tuple(items), ours.n, ours.score, theirs.score, *without))
    return tuple(seen)


def _place(item: str) -> str:
    return item.rpartition("/")[0]  # without the hash of the row


def _score_without(task: TaskScore, held: Collection[str]) -> float | None:
    return score_of(task, {item: value for item, value in task.values.items() if _place(item) not in held})


def _notes(measured: Sequence[tuple[str, Measurement]]) -> tuple[str, ...]:
    notes = []
    for who, measurement in measured:
        cut = measurement.raw.get("truncated_requests", 0)
        if cut:
            notes.append(f"{who}: {cut} requests are longer than its context and were cut on the left")
        if measurement.ordinary:
            notes.append(f"{who}: scored by lm-eval's own path, which is slower, because {measurement.ordinary}")
    return tuple(notes)


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


def _remembered(
    load: Callable[[], tuple["PreTrainedModel", "PreTrainedTokenizerBase"]],
    identity: Mapping[str, Any] | None,
    named: Sequence[NamedTask],
    section: BenchmarkSection,
    on_requests: OnRequests,
) -> Measurement:
    return measure_remembered(
        load,
        named,
        identity=identity,
        answers=AnswerCache(forge_home() / "cache" / "benchmarks"),
        num_fewshot=section.num_fewshot,
        batch_size=section.batch_size,
        limit=section.limit,
        metrics=metrics_of(section),
        on_requests=on_requests,
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
