"""Base and tuned model on the same items, and what the gate makes of it."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import BenchmarkSection
from forge_pipeline.data import RawDataset
from forge_pipeline.errors import ConfigError, EvaluationError, OptionalDependencyError
from forge_pipeline.evaluation import BenchmarkResult, benchmark, generate, run_benchmark
from forge_pipeline.evaluation.benchmark import compare
from forge_pipeline.evaluation.measurement import Measurement, TaskScore
from forge_pipeline.evaluation.tasks import HeldOutItem, write_held_out
from forge_pipeline.integrity import Digest, json_digest, read_report, report_digest
from forge_pipeline.models import ModelDirectory
from forge_pipeline.progress import Progress

Recipe = Callable[..., ForgeConfig]
Ingest = Callable[[ForgeConfig], RawDataset]

SUBJECT, ROWS = Digest.of(b"model"), Digest.of(b"rows")
CHAT = [{"role": "user", "content": "What is the capital of Chile?"}]
CAPITALS = {"France": "Paris", "Spain": "Madrid", "Peru": "Lima", "Japan": "Tokyo"}


@pytest.fixture
def capitals_task(tmp_path: Path) -> str:
    choices = tuple(f"It is {city}." for city in CAPITALS.values())
    items = [
        HeldOutItem(
            f"<|im_start|>user\nWhat is the capital of {country}?<|im_end|>\n<|im_start|>assistant\n", choices, index
        )
        for index, country in enumerate(CAPITALS)
    ]
    return str(write_held_out(items, tmp_path / "task"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Answers of other tests are not remembered."""
    monkeypatch.setenv("FORGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# --- one model -----------------------------------------------------------------------


def test_a_model_object_is_scored_and_left_as_it_was(
    tuned_model: Any, tokenizer: Any, capitals_task: str, tmp_path: Path
) -> None:
    tuned_model.train()
    result = run_benchmark(tuned_model, tokenizer, [capitals_task], output_dir=str(tmp_path / "out"), min_score=0.9)
    assert result.scores == {"held_out": 1.0}
    assert (result.average_score, result.passed, result.failure_reason, result.items) == (1.0, True, None, 4)
    assert result.raw_results["results"]["held_out"]["acc,none"] == 1.0
    assert tuned_model.training
    assert read_report(tmp_path / "out" / "benchmark_results.json", BenchmarkResult) == result


def test_the_score_is_that_of_the_models_own_log_probabilities(
    base_model: Any, tokenizer: Any, capitals_task: str
) -> None:
    import torch

    items = [json.loads(line) for line in Path(capitals_task).with_suffix(".jsonl").read_text().splitlines()]
    right = 0
    for item in items:
        start = len(tokenizer(item["context"].rstrip())["input_ids"])
        logs = []
        for choice in item["choices"]:
            ids = torch.tensor([tokenizer(item["context"] + choice)["input_ids"]])
            with torch.no_grad():
                steps = base_model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            logs.append(float(steps.gather(1, ids[0, 1:, None])[start - 1 :].sum()) / len(choice))
        right += logs.index(max(logs)) == item["target"]
    result = run_benchmark(base_model, tokenizer, [capitals_task])
    assert result.scores["held_out"] == right / len(items)


def test_an_adapter_on_its_base_model_is_scored_too(base_model: Any, tokenizer: Any, capitals_task: str) -> None:
    from copy import deepcopy

    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(deepcopy(base_model), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    plain = run_benchmark(base_model, tokenizer, [capitals_task])
    assert run_benchmark(adapted, tokenizer, [capitals_task]).raw_results == plain.raw_results, "a fresh adapter adds 0"
    assert generate(adapted, tokenizer, [CHAT], max_new_tokens=4) == generate(
        base_model, tokenizer, [CHAT], max_new_tokens=4
    )


def test_nothing_is_printed(
    base_model: Any, tokenizer: Any, capitals_task: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run_benchmark(base_model, tokenizer, [capitals_task])
    assert capfd.readouterr() == ("", "")


def test_without_min_score_nothing_passes(base_model: Any, tokenizer: Any, capitals_task: str) -> None:
    result = run_benchmark(base_model, tokenizer, [capitals_task], limit=2)
    assert result.items == 2
    assert not result.passed
    assert "no min_score was given" in (result.failure_reason or "")


def test_a_score_below_the_minimum_says_both_numbers(base_model: Any, tokenizer: Any, capitals_task: str) -> None:
    result = run_benchmark(base_model, tokenizer, [capitals_task], min_score=1.0)
    assert not result.passed
    assert "is below min_score 1.0" in (result.failure_reason or "")


def test_a_group_is_pooled_over_its_members_items(tuned_model: Any, tokenizer: Any, capitals_task: str) -> None:
    folder = Path(capitals_task).parent
    config = yaml.safe_load(Path(capitals_task).read_text())
    lines = (folder / "held_out.jsonl").read_text().splitlines(keepends=True)
    for name, rows in (("one", lines[:3]), ("two", [lines[3].replace('"target": 3', '"target": 0')])):
        (folder / f"{name}.jsonl").write_text("".join(rows))
        config["dataset_kwargs"]["data_files"]["test"] = str(folder / f"{name}.jsonl")
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**config, "task": name}))
    (folder / "both.yaml").write_text("group: both\ntask: [one, two]\n")
    result = run_benchmark(tuned_model, tokenizer, [str(folder / "both.yaml")])
    assert result.scores == {"both": 0.75}


@pytest.fixture
def surprise_task(tmp_path: Path) -> str:
    texts = [f"It is {city}." for city in CAPITALS.values()]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = {
        "task": "surprise",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "texts.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    }
    path = tmp_path / "surprise.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_a_perplexity_is_reported_and_never_averaged_with_shares(
    base_model: Any, tokenizer: Any, surprise_task: str
) -> None:
    result = run_benchmark(base_model, tokenizer, [surprise_task], min_score=0.5)
    assert result.scores["surprise"] == result.raw_results["results"]["surprise"]["word_perplexity,none"] > 1
    assert (result.average_score, result.passed) == (0.0, False)
    assert "no task has a score between 0 and 1" in (result.failure_reason or "")


def test_a_model_that_computes_nan_has_no_score(base_model: Any, tokenizer: Any, capitals_task: str) -> None:
    from copy import deepcopy

    broken = deepcopy(base_model)
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="not finite"):
        run_benchmark(broken, tokenizer, [capitals_task])


def test_wrong_arguments_are_named(base_model: Any, tokenizer: Any, capitals_task: str) -> None:
    with pytest.raises(ConfigError, match="batch_size: found 'many'"):
        run_benchmark(base_model, tokenizer, [capitals_task], batch_size="many")
    with pytest.raises(ConfigError, match="held_out is built from a dataset"):
        run_benchmark(base_model, tokenizer, ["held_out"])


def test_without_lm_eval_the_pip_line_is_named(
    base_model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'forge-pipeline\[eval\]'"):
        run_benchmark(base_model, tokenizer, ["hellaswag"])


# --- the stage -----------------------------------------------------------------------


def test_the_stage_pairs_base_and_tuned_on_held_out_items(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory
) -> None:
    section = {"enabled": True, "tasks": ["held_out"], "min_score": 0.9, "max_regression": 0.2}
    config = recipe(benchmark=section)
    raw = dataset(config)
    steps: list[Progress] = []
    result = benchmark(config, tuned, raw, progress=steps.append)
    (comparison,) = result.comparisons
    assert result.scores == {"held_out": 1.0}
    assert comparison.n == result.items == len(list(raw.rows("test")))
    assert result.base_scores["held_out"] == comparison.base_score < 1.0
    assert (comparison.only_base_correct, comparison.only_tuned_correct) == (
        0,
        round(comparison.difference * comparison.n),
    )
    assert (result.subject, result.dataset_digest) == (tuned.digest, raw.digest)
    assert [gate.gate for gate in result.gates] == ["benchmark"]
    assert result.gates[0].subject == tuned.digest
    assert [step.step for step in steps] == sorted(step.step for step in steps)
    assert steps[-1].step == steps[-1].total
    assert (result.base_from_cache, result.seen) == (False, None)
    again = benchmark(config, tuned, raw)
    assert again.base_from_cache is True
    assert report_digest(replace(again, base_from_cache=False)) == report_digest(result), "else the same bytes"


@pytest.mark.parametrize(
    ("section", "split", "reason"),
    [
        pytest.param(None, 0.5, "not enabled", id="no section"),
        pytest.param({"enabled": False, "tasks": ["held_out"], "min_score": 0.0}, 0.5, "not enabled", id="disabled"),
        pytest.param(
            {"enabled": True, "tasks": ["held_out"], "min_score": 0.0}, 0.0, "no test or", id="no held-out rows"
        ),
    ],
)
def test_what_was_not_measured_did_not_pass(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory, section: Any, split: float, reason: str
) -> None:
    config = recipe(split=split, benchmark=section)
    result = benchmark(config, tuned, dataset(config))
    assert not result.passed
    assert result.items == 0
    assert reason in (result.failure_reason or "")
    assert [gate.outcome for gate in result.gates] == ["not_run"]


@pytest.mark.parametrize("head", ["sequence-classification", "question-answering"])
def test_a_model_that_writes_no_text_is_not_measured_and_never_loaded(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    stage = import_module("forge_pipeline.evaluation.benchmark")  # the package's attribute of this name is the function
    for name in ("load_base", "load_tuned"):
        monkeypatch.setattr(stage, name, lambda *_: pytest.fail("a model was loaded"))
    path = tuned.path / "forge_model.json"
    path.write_text(path.read_text().replace('"head":"causal-lm"', f'"head":"{head}"'))
    other = ModelDirectory.open(tuned.path)
    config = recipe(benchmark={"enabled": True, "tasks": ["held_out"], "min_score": 0.0})
    result = benchmark(config, other, dataset(config))
    assert [gate.outcome for gate in result.gates] == ["not_run"]
    assert f"the model has a {head} head and writes no text" in (result.failure_reason or "")


def test_a_base_model_is_asked_once_over_runs_and_again_when_its_answers_were_changed(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    stage = import_module("forge_pipeline.evaluation.benchmark")
    loaded: list[str] = []

    def counting(name: str) -> Callable[..., Any]:
        load = getattr(stage, name)

        def call(*given: Any) -> Any:
            loaded.append(name)
            return load(*given)

        return call

    for name in ("load_base", "load_tuned"):
        monkeypatch.setattr(stage, name, counting(name))
    config = recipe(benchmark={"enabled": True, "tasks": ["held_out"], "min_score": 0.5})
    raw = dataset(config)
    first = benchmark(config, tuned, raw)
    assert benchmark(config, tuned, raw).base_scores == first.base_scores
    assert loaded == ["load_base", "load_tuned"]
    for path in (home / "cache" / "benchmarks").rglob("*.json"):
        path.write_text(path.read_text().replace("-", "-1", 1))
    assert benchmark(config, tuned, raw).base_scores == first.base_scores
    assert loaded == ["load_base", "load_tuned"] * 2


def test_perplexities_are_compared_with_limits_of_their_own(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory, surprise_task: str
) -> None:
    limits = {"surprise": {"metric": "bits_per_byte", "max_score": 1000.0, "max_regression": 500.0}}
    config = recipe(benchmark={"enabled": True, "tasks": ["held_out", surprise_task], "task_limits": limits})
    result = benchmark(config, tuned, dataset(config))
    choices, surprise = result.comparisons
    assert (surprise.metric, surprise.higher_is_better) == ("bits_per_byte", False)
    assert surprise.interval is not None
    assert surprise.interval[0] < surprise.difference < surprise.interval[1]
    assert surprise.tuned_stderr is not None
    assert result.average_score == choices.tuned_score
    assert [gate.outcome for gate in result.gates] == ["pass"]
    assert "surprise: bits_per_byte" in result.gates[0].reason
    assert "(bits_per_byte, lower is better)" in result.gates[0].reason


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        pytest.param({"heldout": {"min_score": 0.5}}, "'heldout' is none of the tasks", id="no such task"),
        pytest.param(
            {"held_out": {"metric": "bleu"}}, "'bleu' is not one that 'held_out' reports", id="no such metric"
        ),
        pytest.param({"held_out": {"max_score": 0.5}}, "of acc_norm higher is better; set min_score", id="wrong side"),
    ],
)
def test_a_limit_that_could_never_hold_is_an_error(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory, limits: dict[str, Any], message: str
) -> None:
    config = recipe(benchmark={"enabled": True, "tasks": ["held_out"], "task_limits": limits})
    with pytest.raises(ConfigError, match=message):
        benchmark(config, tuned, dataset(config))


def test_items_that_stand_in_the_training_rows_are_named_and_the_score_given_without_them(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory
) -> None:
    config = recipe(benchmark={"enabled": True, "tasks": ["held_out"], "min_score": 0.5})
    raw = dataset(config)
    looked_for: dict[str, list[str]] = {}

    def find(texts: Any) -> dict[str, set[int]]:
        looked_for.update(texts)
        return {"held_out": {0, 2}}

    result = benchmark(config, tuned, raw, find_seen=find)
    rows = {"\n".join(turn["content"] for turn in row["messages"]) for row in raw.rows("test")}
    assert set(looked_for["held_out"]) == rows, "without the chat template"
    assert result.seen is not None
    (seen,) = result.seen
    assert [item.rpartition("/")[0] for item in seen.items] == ["held_out/0", "held_out/2"]
    assert (seen.task, seen.n, seen.score, seen.score_without) == ("held_out", result.items, 1.0, 1.0)
    assert seen.base_score == result.base_scores["held_out"]
    others = set(range(seen.n)) - {0, 2}
    again = benchmark(config, tuned, raw, find_seen=lambda _: {"held_out": others})
    assert again.seen is not None
    of_seen = again.seen[0].base_score_without
    assert seen.base_score_without is not None
    assert of_seen is not None
    assert seen.base_score_without * (seen.n - 2) + of_seen * 2 == pytest.approx(seen.base_score * seen.n)


def test_planted_items_are_found_by_the_audits_own_search(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory
) -> None:
    from forge_pipeline.dataset_audit.contamination import find_contamination
    from forge_pipeline.dataset_audit.rows import row_texts_of

    def row(country: str, city: str, story: str = "") -> dict[str, Any]:
        question = f"{story}What is the capital of {country}?"
        return {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": f"It is {city}. Sure."},
            ]
        }

    # A long story around the question, because near-copies never stand in two splits.
    stories = {country: "".join(f"{country[:3]}{n} " for n in range(90)) for country in CAPITALS}
    rows = [row(country, city, story) for country, city in CAPITALS.items() for story in ("", stories[country])]
    config = recipe(rows, benchmark={"enabled": True, "tasks": ["held_out"], "min_score": 0.0})
    raw = dataset(config)

    def find(items: Any) -> dict[str, set[int]]:
        hits = find_contamination(items, row_texts_of(raw.path / "train.parquet")).hits
        return {task: {hit.item for hit in hits if hit.task == task} for task in items}

    result = benchmark(config, tuned, raw, find_seen=find)

    short = {turns[0]["content"] for turns in (row["messages"] for row in raw.rows("test"))}
    trained = [row["messages"][0]["content"] for row in raw.rows("train")]
    planted = [question for question in short if any(question in text for text in trained)]
    assert 0 < len(planted) < result.items
    assert result.seen is not None
    assert len(result.seen[0].items) == len(planted)


def test_every_key_has_an_effect(
    recipe: Recipe, dataset: Ingest, tuned: ModelDirectory, capitals_task: str, tmp_path: Path
) -> None:
    task = tmp_path / "capitals.yaml"
    task.write_text(
        Path(capitals_task).read_text().replace("task: held_out", "task: capitals").replace("num_fewshot: 0\n", "")
    )
    rows = Path(capitals_task).with_suffix(".jsonl")
    items = [json.loads(line) for line in rows.read_text().splitlines()]
    for item in items:  # long enough that two do not fit in a row
        item["context"] = f"{item['target']} " * 130 + item["context"]
    rows.write_text("".join(json.dumps(item) + "\n" for item in items))
    raw = dataset(recipe())

    def outcome(section: dict[str, Any]) -> tuple[Any, ...]:
        config = recipe(benchmark={"enabled": True, "tasks": [str(task)], **section})
        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        steps: list[Progress] = []
        result = benchmark(config, tuned, raw, progress=steps.append)
        written = sorted(path.name for path in (tmp_path / "out").glob("*"))
        return report_digest(result), len(steps), written

    plain = outcome({})
    changes: dict[str, Any] = {
        "tasks": [str(task), "held_out"],
        "num_fewshot": 1,
        "batch_size": 1,
        "limit": 2,
        "min_score": 0.99,
        "max_regression": 0.3,
        "task_limits": {"capitals": {"min_score": 0.5}},
        "guards": ["release"],
        "enabled": False,
        "output_dir": str(tmp_path / "out"),
    }
    assert set(changes) == set(BenchmarkSection.model_fields)
    assert [key for key, value in changes.items() if outcome({key: value}) == plain] == []


@pytest.mark.parametrize("size", [0, -1, "many", "", True, 1.5])
def test_a_batch_size_that_is_none_is_refused_by_the_recipe(size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        BenchmarkSection(batch_size=size)


# --- the gate, on made-up measurements -------------------------------------------------


def measured(values: Sequence[float], name: str = "t", metric: str = "acc") -> Measurement:
    by_item = {str(index): value for index, value in enumerate(values)}
    score = sum(values) / len(values)
    return Measurement((TaskScore(name, metric, score, len(values), by_item, json_digest([name, len(values)])),), {})


def decided(base: Sequence[float], tuned: Sequence[float], **thresholds: Any) -> tuple[str, BenchmarkResult]:
    section = BenchmarkSection(enabled=True, tasks=["t"], **thresholds)
    result = compare(measured(base), measured(tuned), section, SUBJECT, ROWS)
    (gate,) = result.gates
    assert result.passed == (gate.outcome == "pass")
    assert (result.failure_reason is None) == result.passed
    return gate.outcome, result


@pytest.mark.parametrize(
    ("base", "tuned", "thresholds", "outcome"),
    [
        pytest.param([1] * 10, [1] * 10, {}, "not_run", id="no threshold"),
        pytest.param([0] * 10, [1] * 9 + [0], {"min_score": 0.9}, "pass", id="score reached"),
        pytest.param([0] * 10, [1] * 8 + [0] * 2, {"min_score": 0.9}, "fail", id="score missed"),
        pytest.param([1] * 10, [1] * 10, {"max_regression": 0.05}, "insufficient_evidence", id="ten equal items"),
        pytest.param([1] * 80, [1] * 80, {"max_regression": 0.05}, "pass", id="eighty equal items"),
        pytest.param([1] * 80, [0] * 40 + [1] * 40, {"max_regression": 0.05}, "fail", id="half forgotten"),
        pytest.param(
            [1] * 80, [0] * 6 + [1] * 74, {"max_regression": 0.05}, "insufficient_evidence", id="some forgotten"
        ),
        pytest.param([0] * 80, [1] * 80, {"max_regression": 0.0}, "pass", id="surely better"),
        pytest.param([1], [1], {"max_regression": 0.5}, "insufficient_evidence", id="one item"),
        pytest.param(
            [0.5] * 90, [0.5] * 90, {"max_regression": 0.5}, "insufficient_evidence", id="no spread to judge by"
        ),
        pytest.param(
            [1] * 10, [1] * 10, {"min_score": 0.5, "max_regression": 0.05}, "insufficient_evidence", id="one of two"
        ),
        pytest.param([1] * 80, [1] * 80, {"min_score": 0.5, "max_regression": 0.05}, "pass", id="both"),
        pytest.param([1] * 80, [0] * 40 + [1] * 40, {"min_score": 0.1, "max_regression": 0.05}, "fail", id="fail wins"),
    ],
)
def test_the_gate(base: list[float], tuned: list[float], thresholds: dict[str, float], outcome: str) -> None:
    assert decided(base, tuned, **thresholds)[0] == outcome


def test_a_comparison_counts_discordant_items() -> None:
    _, result = decided([1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 1, 0], max_regression=0.1)
    (comparison,) = result.comparisons
    assert (comparison.only_base_correct, comparison.only_tuned_correct, comparison.p_value) == (1, 2, 1.0)
    assert comparison.difference == pytest.approx(1 / 6)


def test_a_graded_metric_has_an_interval_but_no_mcnemar() -> None:
    _, result = decided([0.2, 0.4, 0.9, 0.3], [0.3, 0.6, 0.8, 0.7], max_regression=0.9)
    (comparison,) = result.comparisons
    assert comparison.interval is not None
    assert (comparison.p_value, comparison.only_base_correct) == (None, None)


def perplexity(logs: list[float]) -> Measurement:
    import math

    score = math.exp(-sum(logs) / sum(range(1, len(logs) + 1)))
    values = {str(index): value for index, value in enumerate(logs)}
    weights = {str(index): index + 1.0 for index in range(len(logs))}
    digest = json_digest(["p", len(logs)])
    task = TaskScore("p", "word_perplexity", score, len(logs), values, digest, False, "weighted_perplexity", weights)
    return Measurement((task,), {})


@pytest.mark.parametrize(
    ("change", "limits", "outcome"),
    [
        pytest.param(0.5, {"max_score": 10.0}, "pass", id="low enough"),
        pytest.param(0.5, {"max_score": 1.1}, "fail", id="too high"),
        pytest.param(0.5, {"max_regression": 0.0}, "pass", id="better for certain"),
        pytest.param(-0.5, {"max_regression": 0.1}, "fail", id="worse for certain"),
        pytest.param(-0.5, {"max_regression": 50.0}, "pass", id="worse within the limit"),
        pytest.param(0.0, {"max_regression": 0.1}, "insufficient_evidence", id="equal, without spread"),
        pytest.param(0.5, None, "not_run", id="a share for a perplexity"),
    ],
)
def test_the_gate_of_a_perplexity(change: float, limits: dict[str, float] | None, outcome: str) -> None:
    logs = [-1.5 * weight - 0.1 * (weight % 3) for weight in range(1, 41)]
    base, tuned = perplexity(logs), perplexity([log + change * (1 + k % 2) for k, log in enumerate(logs)])
    section = {"task_limits": {"p": limits}} if limits else {"max_regression": 0.1}
    result = compare(base, tuned, BenchmarkSection(enabled=True, tasks=["p"], **section), SUBJECT, ROWS)
    assert result.gates[0].outcome == outcome, result.gates[0].reason


def test_a_task_limit_takes_the_place_of_the_common_one() -> None:
    base, tuned = [1] * 80, [0] + [1] * 79
    assert decided(base, tuned, max_regression=0.01)[0] == "insufficient_evidence"
    assert decided(base, tuned, max_regression=0.01, task_limits={"t": {"max_regression": 0.5}})[0] == "pass"
    assert decided(base, tuned, min_score=0.5, task_limits={"t": {"min_score": 0.99}})[0] == "fail"


def test_the_reason_names_interval_test_and_what_could_have_been_seen() -> None:
    _, result = decided([1] * 70 + [0] * 10, [1] * 60 + [0] * 20, max_regression=0.05)
    (comparison,) = result.comparisons
    assert comparison.interval is not None
    width = comparison.interval[1] - comparison.interval[0]
    assert comparison.minimum_detectable_effect == pytest.approx(width * (1.95996 + 0.84162) / (2 * 1.95996), rel=1e-4)
    for words in ("95 % interval [", "exact McNemar p = 0.00195 (10 to 0)", "detects 0.1"):
        assert words in result.gates[0].reason


def test_different_items_are_never_compared() -> None:
    section = BenchmarkSection(enabled=True, tasks=["t"], max_regression=0.5)
    tuned = measured([1.0] * 5)
    other = Measurement((replace(tuned.tasks[0], digest=Digest.of(b"other items")),), {})
    with pytest.raises(EvaluationError, match="not asked the same items of 't'"):
        compare(other, tuned, section, SUBJECT, ROWS)


def test_the_result_survives_its_file(tmp_path: Path) -> None:
    from forge_pipeline.integrity import write_report

    _, result = decided([1, 0, 1], [1, 1, 1], max_regression=0.1)
    write_report(tmp_path / "report.json", result)
    assert read_report(tmp_path / "report.json", BenchmarkResult) == result
