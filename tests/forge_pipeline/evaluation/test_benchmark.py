"""Base and tuned model on the same items, and what the gate makes of it."""

import json
import sys
from collections.abc import Callable
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


def test_a_task_without_a_score_is_refused_by_name(base_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "It is Paris."}\n' * 2)
    config = {
        "task": "surprise",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
    }
    (tmp_path / "surprise.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(EvaluationError, match="'surprise' reports word_perplexity, none of which is a score"):
        run_benchmark(base_model, tokenizer, [str(tmp_path / "surprise.yaml")])


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
    assert report_digest(benchmark(config, tuned, raw)) == report_digest(result), "a repeat gives the same bytes"


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


# --- the gate, on made-up measurements -------------------------------------------------


def measured(values: list[float], name: str = "t", metric: str = "acc") -> Measurement:
    by_item = {str(index): value for index, value in enumerate(values)}
    score = sum(values) / len(values)
    return Measurement((TaskScore(name, metric, score, len(values), by_item, json_digest([name, len(values)])),), {})


def decided(base: list[float], tuned: list[float], **thresholds: Any) -> tuple[str, BenchmarkResult]:
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
