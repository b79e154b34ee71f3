"""Tasks that need no network, and what is said where a task does."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.errors import EvaluationError, OptionalDependencyError
from forge_pipeline.evaluation import run_benchmark, tasks
from forge_pipeline.evaluation.local_tasks import instruction_checks
from forge_pipeline.evaluation.tasks import LOCAL_TASKS, load_tasks

FOLDER = Path(tasks.__file__).parent / "local_tasks"


def test_every_shipped_task_says_its_origin_and_license() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.yaml")) == sorted(LOCAL_TASKS)
    for name in LOCAL_TASKS:
        about = json.loads((FOLDER / f"{name}.about.json").read_text())
        assert {"license", "origin", "rows", "scope", "metrics", "version"} <= set(about)


@pytest.mark.parametrize(
    ("rule", "answer", "expected"),
    [
        (("sentences", 2), "One. Two!", True),
        (("sentences", 2), "It costs 3.5 coins. Two.", True),
        (("sentences", 2), "One. Two. Three", False),
        (("bullets", 2), "- one\n- two", True),
        (("bullets", 2), "Here:\n- one\n- two", False),
        (("most_words", 3), "one two three", True),
        (("most_words", 3), "one two three four", False),
        (("no_commas", None), "one two", True),
        (("no_commas", None), "one, two", False),
        (("no_commas", None), "  ", False),
        (("lower_case", None), "all low é", True),
        (("lower_case", None), "Not so", False),
        (("word_count", ["bread", 2]), "Bread is bread, not breadth.", True),
        (("word_count", ["bread", 2]), "bread", False),
        (("ends_with", "That is all."), "Well. That is all.", True),
        (("ends_with", "That is all."), "That is all. Well.", False),
        (("starts_with", "In short,"), "In short, yes.", True),
        (("json_keys", ["title", "text"]), '{"title": "a", "text": "b"}', True),
        (("json_keys", ["title", "text"]), '{"title": "a"}', False),
        (("json_keys", ["title", "text"]), 'Sure: {"title": "a", "text": "b"}', False),
    ],
)
def test_a_rule_is_checked(rule: Any, answer: str, expected: bool) -> None:
    assert instruction_checks.holds(rule, answer) is expected


def test_no_two_prompts_are_alike_and_every_rule_is_told_and_can_be_kept_or_broken() -> None:
    rows = instruction_checks.rows()
    assert len({row["prompt"] for row in rows}) == len(rows) == 96
    for row in rows:
        scores = instruction_checks.process_results(row, ["NO, not at all,"])
        assert scores["prompt_strict"] == 0.0
        assert 0.0 <= scores["rule_share"] < 1.0


def test_instructions_are_scored_without_a_network(base_model: Any, tokenizer: Any, capfd: Any) -> None:
    result = run_benchmark(base_model, tokenizer, ["verifiable_instructions"], limit=4)
    assert result.items == 4
    assert 0.0 <= result.scores["verifiable_instructions"] <= 1.0
    assert "rule_share,none" in result.raw_results["results"]["verifiable_instructions"]
    assert capfd.readouterr() == ("", "")


def test_without_its_package_the_pip_line_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(OptionalDependencyError, match=r"forge-pipeline\[rewards\]"):
        load_tasks(["reasoning_gym"])


def test_procedural_questions_are_scored_by_their_package() -> None:
    pytest.importorskip("reasoning_gym")
    (named,) = load_tasks(["reasoning_gym"])
    (task,) = named.leaves.values()
    documents = list(task.test_docs())
    assert len({document["kind"] for document in documents[:6]}) == 6
    for document in documents[:12]:
        assert task.process_results(document, [f" {document['answer']}\nmore"])["reasoning_score"] == 1.0
        assert task.process_results(document, ["no"])["reasoning_score"] < 1.0


def test_a_task_whose_rows_are_on_the_hub_says_so_and_names_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    path = tmp_path / "far.yaml"
    path.write_text(
        "task: far\ndataset_path: someone/something\ntest_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: q\ndoc_to_choice: c\ndoc_to_target: t\n"
    )
    with pytest.raises(EvaluationError, match=r"needs data from the Hub.*held_out, reasoning_gym, verifiable_instr"):
        load_tasks([str(path)])
