"""Task files read strictly, and multiple choice built from the rows kept out of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset
from forge_pipeline.errors import ConfigError, EvaluationError
from forge_pipeline.evaluation.tasks import check_task_file, held_out, load_tasks, write_held_out

Recipe = Callable[..., ForgeConfig]
Ingest = Callable[[ForgeConfig], RawDataset]


def test_each_item_asks_with_the_rendered_prompt_and_holds_the_true_answer(
    recipe: Recipe, dataset: Ingest, tokenizer: Any
) -> None:
    raw = dataset(recipe())
    found = held_out(raw, tokenizer)
    truth = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in raw.rows("test")}
    assert (found.split, found.reason, len(found.items)) == ("test", None, len(truth))
    for item in found.items:
        country = item.context.partition("capital of ")[2].partition("?")[0]
        assert item.context == (
            f"<|im_start|>user\nWhat is the capital of {country}?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert len(set(item.choices)) == 4
        assert item.choices[item.target] == truth[f"What is the capital of {country}?"]
        assert set(item.choices) <= set(truth.values())
    positions = {item.target for item in found.items}
    assert len(positions) > 1, "the true answer must not always stand in the same place"


def test_the_same_rows_give_the_same_items_in_any_order(recipe: Recipe, dataset: Ingest, tokenizer: Any) -> None:
    raw = dataset(recipe())

    class Reversed:
        splits, provenance = raw.splits, raw.provenance

        def rows(self, split: str) -> Any:
            return reversed(list(raw.rows(split)))

    assert held_out(Reversed(), tokenizer) == held_out(raw, tokenizer)  # type: ignore[arg-type]


def test_an_answer_that_another_row_gives_to_the_same_question_is_never_a_wrong_choice(
    recipe: Recipe, dataset: Ingest, tokenizer: Any
) -> None:
    rows = [{"prompt": "Say a color.", "completion": word} for word in ("Red.", "Blue.", "Green.")]
    rows += [{"prompt": f"Count {n}.", "completion": f"{n}!"} for n in range(20)]
    for row in rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
        row["completion"] = [{"role": "assistant", "content": row["completion"]}]
    items = held_out(dataset(recipe(rows, split=0.9)), tokenizer).items
    colors = [item for item in items if "color" in item.context]
    assert colors
    for item in colors:
        assert sum(choice in ("Red.", "Blue.", "Green.") for choice in item.choices) == 1


def test_plain_prompt_completion_rows_are_asked_as_they_are_trained(
    recipe: Recipe, dataset: Ingest, tokenizer: Any
) -> None:
    rows = [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(12)]
    item = held_out(dataset(recipe(rows)), tokenizer).items[0]
    assert item.context.endswith("+ 1 = ")
    assert "<|im_start|>" not in item.context
    assert item.choices[item.target] == str(int(item.context.split()[0]) + 1)


def test_what_a_template_writes_before_the_answer_belongs_to_the_context(
    recipe: Recipe, dataset: Ingest, tokenizer: Any
) -> None:
    from copy import deepcopy

    thinking = deepcopy(tokenizer)
    thinking.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}<think></think> {% endif %}"
        "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    item = held_out(dataset(recipe()), thinking).items[0]
    assert item.context.endswith("[assistant]<think></think> ")


@pytest.mark.parametrize(
    ("rows", "split", "reason"),
    [
        pytest.param(None, 0.0, "has no test or validation split", id="no split"),
        pytest.param(
            [{"text": f"Story {n}."} for n in range(8)], 0.5, "no row of the test split ends", id="plain text"
        ),
        pytest.param(
            [{"prompt": f"Is {n} even?", "completion": "Yes."} for n in range(8)],
            0.5,
            "all give the same answer",
            id="one answer",
        ),
    ],
)
def test_rows_that_cannot_be_asked_give_the_reason(
    recipe: Recipe, dataset: Ingest, tokenizer: Any, rows: Any, split: float, reason: str
) -> None:
    found = held_out(dataset(recipe(rows, split=split)), tokenizer)
    assert found.items == ()
    assert reason in (found.reason or "")


def test_the_written_task_scores_choices_without_a_delimiter(
    recipe: Recipe, dataset: Ingest, tokenizer: Any, tmp_path: Path
) -> None:
    items = held_out(dataset(recipe()), tokenizer).items
    path = write_held_out(items, tmp_path / "task")
    (named,) = load_tasks([str(path)])
    task = named.leaves["held_out"]
    assert named.name == "held_out"
    assert len(task.eval_docs) == len(items)
    task.build_all_requests(limit=1)
    assert [request.args for request in task.instances] == [(items[0].context, choice) for choice in items[0].choices]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("task: mine\n  broken: [1\n", r"mine\.yaml:2:9: not valid YAML", id="not YAML"),
        pytest.param("- a\n- b\n", r"found list; expected a mapping", id="a list"),
        pytest.param("output_type: multiple_choice\n", r"needs task: or group:", id="no name"),
        pytest.param("include: other.yaml\ntask: mine\n", r"other\.yaml: there is no such task file", id="no include"),
        pytest.param("include: mine.yaml\ntask: mine\n", r"includes itself", id="include cycle"),
    ],
)
def test_a_wrong_task_file_is_an_error_that_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_tasks([str(path)])


def test_a_task_file_with_python_functions_is_left_to_lm_eval(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: mine\nprocess_docs: !function mine.prepare\n")
    assert check_task_file(path)["process_docs"] == "mine.prepare"


def test_a_task_whose_rows_are_missing_says_which(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    config = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "absent.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "q",
        "doc_to_choice": "c",
        "doc_to_target": "t",
    }
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(EvaluationError, match=r"mine\.yaml' could not be loaded.*absent\.jsonl"):
        load_tasks([str(path)])


def test_a_broken_member_of_a_group_is_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "group.yaml").write_text("group: ours\ntask: [one]\n")
    (tmp_path / "one.yaml").write_text("task: one\n output_type: [\n")
    with pytest.raises(ConfigError, match=r"one\.yaml:2"):
        load_tasks([str(tmp_path / "group.yaml")])


def test_no_tasks_are_an_error() -> None:
    with pytest.raises(ConfigError, match="tasks is empty"):
        load_tasks([])


@pytest.mark.slow
def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"'hellaswagg' is not an lm-eval task.*did you mean.*hellaswag"):
        load_tasks(["hellaswagg"])
