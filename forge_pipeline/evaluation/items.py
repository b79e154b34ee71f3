"""The texts of the items that a recipe's benchmarks ask, for whoever must know whether a model has seen them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import conversation_of
from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation.tasks import HELD_OUT, NamedTask, load_tasks

if TYPE_CHECKING:
    from forge_pipeline.data import RawDataset


def benchmark_items(config: ForgeConfig, dataset: "RawDataset") -> Callable[[], Mapping[str, Sequence[str]]] | None:
    """How to get the items by task, or None where the recipe measures nothing. Tasks are loaded when it is called.

    An item is what the task asks, followed by the answer that it counts as right; of ``held_out`` the turns of the row,
    without the chat template.

    The call raises:
        ConfigError, EvaluationError, OptionalDependencyError: As `load_tasks`.
    """
    section = config.evaluation.benchmark
    if section is None or not section.enabled:
        return None
    tasks, limit = section.tasks, section.limit

    def items() -> dict[str, list[str]]:
        found = {}
        if HELD_OUT in tasks:
            found[HELD_OUT] = _held_out_texts(dataset)
        named = [task for task in tasks if task != HELD_OUT]
        for task in load_tasks(named) if named else []:
            found[task.name] = [text for leaf in task.leaves.values() for text in _task_texts(leaf, limit)]
        return found

    return items


def asked_texts(named: Sequence[NamedTask], limit: int | None) -> dict[str, dict[str, str]]:
    """What loaded tasks ask: by task, then by ``<lm-eval's task>/<number of the item>``, question and right answer.

    Of ``held_out`` the turns of the row without the chat template, as `benchmark_items` gives them.
    """
    return {
        task.name: {
            f"{name}/{number}": text
            for name, leaf in sorted(task.leaves.items())
            for number, text in enumerate(_task_texts(leaf, limit))
        }
        for task in named
    }


def _held_out_texts(dataset: "RawDataset") -> list[str]:
    split = next((name for name in ("test", "validation") if name in dataset.splits), None)
    if split is None:
        raise EvaluationError("held_out needs a test or validation split, and the dataset has none")
    conversations = (conversation_of(row) or [] for row in dataset.rows(split))
    return [
        "\n".join(turn["content"] for turn in turns if turn["role"] != "system") for turns in conversations if turns
    ]


def _task_texts(task: Any, limit: int | None) -> list[str]:
    documents = task.test_docs() if task.has_test_docs() else task.validation_docs()
    return [_text(task, document) for document in islice(documents or (), limit)]


def _text(task: Any, document: Any) -> str:
    """Question and right answer, as far as the task names one."""
    if task.config.task == HELD_OUT and document.get("plain"):
        return str(document["plain"])
    question, answer = task.doc_to_text(document), task.doc_to_target(document)
    choices = task.doc_to_choice(document) if task.OUTPUT_TYPE == "multiple_choice" else []
    if isinstance(question, int) and choices:  # the choices are whole sentences, the "text" is an index of one
        question = choices[question] if question < len(choices) else ""
    if isinstance(answer, int):
        answer = choices[answer] if answer < len(choices) else ""
    if isinstance(answer, list):
        answer = " ".join(map(str, answer))
    return f"{question} {answer}".strip()
