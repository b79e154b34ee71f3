"""One model, some tasks, lm-eval: each task's score and each item's own value.

lm-eval defines the tasks and scores the answers that `remembering` or `shared_prefix` get
from the model. Its `evaluate` is called rather than `simple_evaluate`, which does the same
and then spends seconds on `git`, `pip list` and host facts that have no place in a report.
What it reports is reduced to finite numbers; a model that computes NaN, which lm-eval would
credit with the first choice of every item, is refused.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.errors import ConfigError, EvaluationError
from forge_pipeline.evaluation.answer_cache import AnswerCache
from forge_pipeline.evaluation.remembering import Load, remembering_lm
from forge_pipeline.evaluation.shared_prefix import OnRequests, shared_prefix_lm
from forge_pipeline.evaluation.tasks import NamedTask
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The first of these that a task reports is its score, unless the recipe names another; all are shares from 0 to 1.
_METRICS = ("acc_norm", "acc", "exact_match", "em", "f1")
_RATIOS = ("perplexity", "weighted_perplexity", "bits_per_byte")  # lm-eval's aggregations of a ratio of two sums
_FEWSHOT_SEED = 1234  # lm-eval's default


@dataclass(frozen=True)
class TaskScore:
    """One task, one model.

    Attributes:
        name, metric, score: What was measured.
        n: Items asked.
        values: Each item's own value, keyed by what identifies the item; empty where the score is no function of them.
        digest: Of exactly what was asked.
        higher_is_better: False for perplexity and the like.
        aggregation: How `values` become the score: ``mean``, or one of lm-eval's ratios (``weighted_perplexity``, ...).
        weights: Of each item in a ratio (words, bytes); empty where all weigh the same.
    """

    name: str
    metric: str
    score: float
    n: int
    values: Mapping[str, float]
    digest: Digest
    higher_is_better: bool = True
    aggregation: str = "mean"
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_binary(self) -> bool:
        return self.aggregation == "mean" and bool(self.values) and all(v in (0.0, 1.0) for v in self.values.values())

    @property
    def is_share(self) -> bool:
        """Whether the score lies in [0, 1], where 1 is best, so that it may be averaged with other such scores."""
        if not self.higher_is_better:
            return False
        known = all(name in _METRICS for name in self.metric.split("+"))
        bounded = self.aggregation == "mean" and bool(self.values) and all(0 <= v <= 1 for v in self.values.values())
        return 0.0 <= self.score <= 1.0 and (known or bounded)

    @property
    def stderr(self) -> float | None:
        """Standard error of a mean over items; None below two."""
        values = list(self.values.values())
        if self.aggregation != "mean" or len(values) < 2:
            return None
        return stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Measurement:
    """All tasks, one model.

    Attributes:
        raw: What lm-eval reported, reduced to numbers.
        ordinary: Why lm-eval's own, slower path was taken; None where it was not.
        from_cache: Whether every answer was remembered.
    """

    tasks: tuple[TaskScore, ...]
    raw: dict[str, Any]
    ordinary: str | None = None
    from_cache: bool = False

    @property
    def scores(self) -> dict[str, float]:
        return {task.name: task.score for task in self.tasks}

    @property
    def average(self) -> float | None:
        """Mean of the scores that lie in [0, 1]; None where there are none."""
        shares = [task.score for task in self.tasks if task.is_share]
        return fmean(shares) if shares else None


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
    rows = _rows(batch_size)
    was_training = model.training
    try:
        with _less_noise():
            lm = shared_prefix_lm(model, tokenizer, batch_size=rows, on_requests=on_requests)
            return _measured(lm, named, num_fewshot, limit, {})
    finally:
        model.train(was_training)


def measure_remembered(
    load: Load,
    named: Sequence[NamedTask],
    *,
    identity: Mapping[str, Any] | None,
    answers: AnswerCache | None,
    num_fewshot: int | None = None,
    batch_size: str = "auto",
    limit: int | None = None,
    metrics: Mapping[str, str] | None = None,
    on_requests: OnRequests = lambda done, total: None,
) -> Measurement:
    """Run lm-eval on a model that is loaded only for what it has not answered before, and let go at the end.

    Args:
        load: Gives model and tokenizer.
        identity, answers: As in `remembering_lm`.
        metrics: By task: the metric that is its score (``exact_match``, or with lm-eval's filter
            ``exact_match,flexible-extract``), where the first known one is not wanted.
        named, num_fewshot, batch_size, limit, on_requests: As in `measure`.

    Raises:
        ConfigError: A task has no such metric, which is known before the model is loaded where the task says which.
    """
    rows = _rows(batch_size)
    with _less_noise():
        lm = remembering_lm(
            load,
            identity=None if identity is None else {**identity, "batch_size": batch_size},
            answers=answers,
            batch_size=rows,
            on_requests=on_requests,
        )
        try:
            return _measured(lm, named, num_fewshot, limit, metrics or {})
        finally:
            lm.close()


def _measured(
    lm: Any, named: Sequence[NamedTask], num_fewshot: int | None, limit: int | None, metrics: Mapping[str, str]
) -> Measurement:
    evaluator = require("lm_eval.evaluator", extra="eval", purpose="Benchmarks")
    leaves = {name: leaf for task in named for name, leaf in task.leaves.items()}
    for leaf in leaves.values():
        _set_fewshot(leaf, num_fewshot)
    results = evaluator.evaluate(lm=lm, task_dict={"tasks": leaves}, limit=limit, bootstrap_iters=0)
    scores = tuple(_task_score(task, results, metrics.get(task.name)) for task in named)
    return Measurement(scores, _reduced(results, lm.truncated), lm.ordinary, getattr(lm, "from_cache", False))


def _set_fewshot(leaf: Any, num_fewshot: int | None) -> None:
    """lm-eval's own rule: a task that fixes 0 keeps 0."""
    own = leaf.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        leaf.set_config(key="num_fewshot", value=num_fewshot or 0)
    leaf.set_fewshot_seed(seed=_FEWSHOT_SEED)


def _rows(batch_size: str) -> int | None:
    text = str(batch_size)
    if text == "auto":
        return None
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"batch_size: found {batch_size!r}; expected a number of 1 or more, or auto")
    return int(text)


def _task_score(task: NamedTask, results: Mapping[str, Any], wanted: str | None) -> TaskScore:
    """The task's score, pooled over its leaves by number of items where it is a group."""
    metrics: list[str] = []
    values: dict[str, float] = {}
    weights: dict[str, float] = {}
    asked: list[list[str]] = []
    weighted, n, better = 0.0, 0, True
    for leaf in sorted(task.leaves):
        metric, key, score = _metric_of(leaf, results, wanted)
        better = better and bool(task.leaves[leaf].higher_is_better().get(metric, True))
        samples = [sample for sample in results["samples"][leaf] if sample["filter"] == key]
        _check_finite(leaf, samples, score)
        for sample in samples:
            item = f"{leaf}/{sample['doc_id']}/{sample['doc_hash']}"
            asked.append([item, sample["prompt_hash"], sample["target_hash"]])
            value = sample.get(metric)
            if isinstance(value, Real):
                values[item] = float(value)
            elif isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(part, Real) for part in value):
                values[item], weights[item] = map(float, value)
        metrics.append(f"{metric},{key}")
        weighted += score * len(samples)
        n += len(samples)
    aggregation = _aggregation(task, {metric.split(",")[0] for metric in metrics}, values, weights, weighted / n)
    if len(values) != n or aggregation is None:
        values, weights = {}, {}
    digest = json_digest({"metrics": metrics, "items": sorted(asked)})
    name = "+".join(sorted({metric.split(",")[0] for metric in metrics}))
    return TaskScore(
        task.name, name, weighted / n, n, values, digest, better, aggregation or "mean", weights if values else {}
    )


def _aggregation(
    task: NamedTask, metrics: set[str], values: Mapping[str, float], weights: Mapping[str, float], score: float
) -> str | None:
    """How the items' values become the score; None where they alone do not."""
    found = {
        getattr(leaf.aggregation().get(metric), "__name__", "") for leaf in task.leaves.values() for metric in metrics
    }
    if len(task.leaves) == 1 and len(found) == 1 and (name := found.pop()) in _RATIOS:
        return name
    # A mean by another name counts as one: it is what the values say.
    if values and not weights and math.isclose(fmean(values.values()), score, rel_tol=1e-9, abs_tol=1e-12):
        return "mean"
    return None


def _metric_of(leaf: str, results: Mapping[str, Any], wanted: str | None) -> tuple[str, str, float]:
    """Which metric, through which filter, is this task's score; and the score."""
    reported = {
        key: float(value)
        for key, value in results["results"][leaf].items()
        if "," in key and "_stderr" not in key and isinstance(value, Real) and not isinstance(value, bool)
    }
    names = list(dict.fromkeys(key.partition(",")[0] for key in reported))
    for metric in [wanted] if wanted is not None else [*_METRICS, *names]:
        for key, value in reported.items():
            name, _, filter_name = key.partition(",")
            if metric in (name, key):
                return name, filter_name, value
    if wanted is not None:
        raise ConfigError(
            f"evaluation.benchmark.task_limits: the metric {wanted!r} is not one that {leaf!r} reports; "
            f"it reports {', '.join(reported) or 'nothing'}"
        )
    raise EvaluationError(f"the task {leaf!r} reports no number; remove it from evaluation.benchmark.tasks")


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


@contextmanager
def _less_noise() -> Iterator[None]:
    """Keep lm-eval's bars and its advice about its own command line to itself; errors still come through."""
    from functools import partial

    import lm_eval.api.task as lm_eval_task

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval_task.tqdm
    logger.setLevel(logging.ERROR)
    lm_eval_task.tqdm = partial(bar, disable=True)  # it has no setting for the bar that it draws per task
    try:
        with quiet_libraries():
            yield
    finally:
        lm_eval_task.tqdm = bar
        logger.setLevel(level)
