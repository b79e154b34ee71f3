"""One model, some tasks, lm-eval: each task's score and each item's own value.

lm-eval defines the tasks and scores them. Its `evaluate` is called rather than
`simple_evaluate`, which does the same and then spends seconds on `git`, `pip list` and
host facts that have no place in a report. What it reports is reduced to finite numbers;
a model that computes NaN, which lm-eval would credit with the first choice of every
item, is refused.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.errors import ConfigError, EvaluationError
from forge_pipeline.evaluation.tasks import NamedTask
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The first of these that a task reports is its score; all lie in [0, 1], higher is better.
_METRICS = ("acc_norm", "acc", "exact_match", "em", "f1")
_CPU_BATCH_SIZE = 8  # "auto" would probe batches of 64 full contexts, which on a CPU takes minutes
_FEWSHOT_SEED = 1234  # lm-eval's default


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
