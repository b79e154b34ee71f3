"""Which items a benchmark asks: lm-eval tasks by name, task files, and ``held_out``.

A task file is read here before lm-eval sees it, because lm-eval skips a YAML that does
not parse without a word, and the mistake surfaces later as an unknown task.

``held_out`` is built from the rows kept out of training: multiple choice, the true
answer among answers of other rows of the same split. The split, the distractors, the
order of choices and of items all follow from digests of the texts, so equal rows give
an equal task wherever it is built.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from forge_pipeline._optional import require
from forge_pipeline.data import conversation_of
from forge_pipeline.errors import ConfigError, EvaluationError, OptionalDependencyError
from forge_pipeline.evaluation.generation import Conversation, render
from forge_pipeline.integrity import Digest, json_digest
from forge_pipeline.models.quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from forge_pipeline.data import RawDataset

HELD_OUT = "held_out"
LOCAL_TASKS = ("reasoning_gym", "verifiable_instructions")
"""Tasks that this package ships (`local_tasks`); they come before lm-eval's of the same name."""
CHOICES = 4


@dataclass(frozen=True)
class NamedTask:
    """One task of the recipe.

    Attributes:
        name: As the recipe says it; of a task file, the name inside.
        leaves: lm-eval's task objects by name: itself, or the members of a group or tag.
    """

    name: str
    leaves: Mapping[str, Any]


@dataclass(frozen=True)
class HeldOutItem:
    """One multiple-choice question: `context` is continued by each of `choices`; `target` indexes the true one.

    `plain` is the row without chat template, by which it is looked for among the training rows.
    """

    context: str
    choices: tuple[str, ...]
    target: int
    plain: str = ""


@dataclass(frozen=True)
class HeldOut:
    """The held-out items, sorted by digest, or the reason why there are none."""

    split: str | None
    items: tuple[HeldOutItem, ...]
    reason: str | None = None


def held_out(dataset: "RawDataset", tokenizer: "PreTrainedTokenizerBase") -> HeldOut:
    """Multiple-choice items from the dataset's test split, or its validation split where there is no test split."""
    split = next((name for name in ("test", "validation") if name in dataset.splits), None)
    if split is None:
        return HeldOut(
            None, (), "the dataset has no test or validation split; set data.split.test or data.split.validation"
        )
    conversational = dataset.provenance.dataset_format == "conversational"
    questions = _questions(dataset.rows(split), tokenizer if conversational else None)
    if not questions:
        return HeldOut(split, (), f"no row of the {split} split ends with an assistant's answer")
    items = _items(questions)
    if not items:
        return HeldOut(
            split, (), f"the {split} split's rows all give the same answer, so there is no wrong one to choose"
        )
    return HeldOut(split, tuple(items))


def write_held_out(items: Sequence[HeldOutItem], folder: Path) -> Path:
    """Write the items as JSONL and the lm-eval task that reads them; return the task file.

    The context ends with the generation prompt and choices are whole answers, so the
    delimiter is empty: lm-eval's default of one space would be scored as part of each answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f"{HELD_OUT}.jsonl"
    rows.write_text("".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    task = {
        "task": HELD_OUT,
        "dataset_path": "json",
        # Its own cache: the shared one would keep a copy of every run's items for ever.
        "dataset_kwargs": {"data_files": {"test": str(rows.resolve())}, "cache_dir": str((folder / "cache").resolve())},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "target",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": metrics,
        "metadata": {"version": 1},
    }
    path = folder / f"{HELD_OUT}.yaml"
    path.write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    return path


def load_tasks(specs: Sequence[str]) -> list[NamedTask]:
    """Load each task: the path of a task file, a name that this package ships, or one that lm-eval registers.

    lm-eval's own tasks are indexed only when a name asks for them (it takes seconds).

    Raises:
        ConfigError: A task file is missing or wrong, a name is unknown, or one is named twice.
        EvaluationError: A task's data could not be loaded.
        OptionalDependencyError: lm-eval is not installed.
    """
    lm_eval_tasks = require("lm_eval.tasks", extra="eval", purpose="Benchmarks")
    if not specs:
        raise ConfigError("evaluation.benchmark.tasks is empty; name lm-eval tasks, task files, or held_out")
    defaults: Any = None
    named: list[NamedTask] = []
    for spec in specs:
        if spec in LOCAL_TASKS:
            spec = str(Path(__file__).parent / "local_tasks" / f"{spec}.yaml")
        if _is_path(spec):
            path = Path(spec)
            config = check_task_file(path)
            folder = _checked_siblings(path) if "group" in config else None
            manager = lm_eval_tasks.TaskManager(include_path=folder, include_defaults=False)
            name = str(config.get("group") or config["task"])
            spec = name if folder else spec  # lm-eval finds a group by its name only
        else:
            defaults = manager = defaults or lm_eval_tasks.TaskManager()
            _check_known(spec, manager.all_tasks)
            name = spec
        named.append(NamedTask(name, _load(manager, spec)))
    _check_distinct(named)
    return named


def check_task_file(path: Path) -> dict[str, Any]:
    """Parse a task YAML and those it includes; return its keys with the included ones beneath.

    Raises:
        ConfigError: Missing, not YAML (file, line and column are named), or not a task.
    """
    config = _task_yaml(path, ())
    if not any(key in config for key in ("task", "group")):
        raise ConfigError(f"{path}: found the keys {', '.join(map(str, config))}; a task file needs task: or group:")
    return config


class _TaskLoader(yaml.SafeLoader):
    """Reads ``!function`` as text; lm-eval resolves it."""


_TaskLoader.add_constructor("!function", lambda loader, node: str(node.value))


def _task_yaml(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in above:
        raise ConfigError(f"{path}: includes itself through {above[-1]}")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_TaskLoader)  # a SafeLoader
    except FileNotFoundError as error:
        where = f" (included by {above[-1]})" if above else ""
        raise ConfigError(f"{path}: there is no such task file{where}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: found {type(config).__name__}; expected a mapping that describes a task")
    includes = config.get("include", [])
    merged: dict[str, Any] = {}
    for include in includes if isinstance(includes, list) else [includes]:
        merged.update(_task_yaml(path.parent / str(include), (*above, path.resolve())))
    return {**merged, **config}


def _is_path(spec: str) -> bool:
    return spec.endswith((".yaml", ".yml")) or Path(spec).is_file()


def _checked_siblings(path: Path) -> Path:
    """The folder of a group's file; every task file in it must parse, as its members are found by name."""
    for sibling in sorted(path.parent.rglob("*.yaml")):
        _task_yaml(sibling, ())
    return path.parent


def _check_known(name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; did you mean {', '.join(close)}?" if close else ""
    raise ConfigError(
        f"evaluation.benchmark.tasks: {name!r} is not an lm-eval task, group or tag{hint} "
        "For a task of your own give the path of its YAML file"
    )


def _check_distinct(named: Sequence[NamedTask]) -> None:
    seen: dict[str, str] = {}
    for task in named:
        for leaf in task.leaves:
            if leaf in seen:
                raise ConfigError(
                    f"evaluation.benchmark.tasks: {leaf!r} is in both {seen[leaf]!r} and {task.name!r}; name it once"
                )
            seen[leaf] = task.name


def _load(manager: Any, spec: str) -> Mapping[str, Any]:
    try:
        with _quiet_lm_eval(), redirect_stdout(StringIO()):  # some tasks print while they load
            leaves: Mapping[str, Any] = manager.load([spec])["tasks"]
    except OptionalDependencyError:
        raise
    except Exception as error:  # a task is a plugin: it may fetch data and run code of its own
        if _is_offline(error):
            raise EvaluationError(
                f"the task {spec!r} needs data from the Hub, which is not in this machine's cache and could not be "
                f"fetched ({type(error).__name__}); fetch it once where there is a network, or name a task that needs "
                f"none: {HELD_OUT}, {', '.join(LOCAL_TASKS)}, or a task file of your own"
            ) from error
        raise EvaluationError(f"the task {spec!r} could not be loaded: {type(error).__name__}: {error}") from error
    if not leaves:
        raise EvaluationError(f"the group {spec!r} holds no tasks")
    return leaves


@contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    """Without its advice about its own command line; errors still come through."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_libraries():
            yield
    finally:
        logger.setLevel(level)


def _is_offline(error: BaseException | None) -> bool:
    """Whether the network, or the wish to do without it, is behind an error."""
    while error is not None:
        # The Hub's client, datasets and requests each have their own; what they share is the name.
        if type(error).__name__ in ("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "MaxRetryError"):
            return True
        if isinstance(error, ConnectionError):
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class _Question:
    context: str
    answer: str
    digest: Digest
    plain: str


def _questions(rows: Iterable[Mapping[str, Any]], tokenizer: "PreTrainedTokenizerBase | None") -> list[_Question]:
    """What each row asks and answers, without repeats, sorted by digest.

    Rendered as training renders it: conversations through the chat template of
    `tokenizer`; rows in standard format (None) as one text, prompt then completion.
    """
    found: dict[Digest, _Question] = {}
    for row in rows:
        conversation = None if row.get("label") is False else conversation_of(row)  # label False: a wrong answer
        last = _last_answer(conversation or [])
        if not conversation or last is None:
            continue
        answer = conversation[last]["content"].strip()
        if tokenizer is None:
            text = "".join(message["content"] for message in conversation[: last + 1])
            context = text[: text.rindex(answer)]  # with the space that the completion starts with
        else:
            context = _rendered_context(tokenizer, conversation[:last], conversation[last], answer)
        digest = json_digest([context, answer])
        plain = "\n".join(turn["content"] for turn in conversation[: last + 1] if turn.get("role") != "system")
        found[digest] = _Question(context, answer, digest, plain)
    return [found[digest] for digest in sorted(found)]


def _last_answer(conversation: Conversation) -> int | None:
    for index in range(len(conversation) - 1, 0, -1):
        message = conversation[index]
        if message.get("role") == "assistant" and (message.get("content") or "").strip():
            return index
    return None


def _rendered_context(
    tokenizer: "PreTrainedTokenizerBase", before: Conversation, last: Mapping[str, str], answer: str
) -> str:
    """The rendered text up to where the answer starts.

    Templates may write something between the generation prompt and the answer (a
    space, an empty reasoning block); it belongs to the context of every choice.
    """
    prompt = render(tokenizer, before)
    whole = str(tokenizer.apply_chat_template([*before, dict(last)], tokenize=False))
    if whole.startswith(prompt) and answer in whole[len(prompt) :]:
        return whole[: whole.index(answer, len(prompt))]
    return prompt


def _items(questions: Sequence[_Question]) -> list[HeldOutItem]:
    answers = sorted({question.answer for question in questions}, key=lambda text: json_digest(text))
    right: dict[str, set[str]] = {}
    for question in questions:
        right.setdefault(question.context, set()).add(question.answer)
    return [
        item for question in questions if len((item := _item(question, answers, right[question.context])).choices) > 1
    ]


def _item(question: _Question, answers: Sequence[str], right: set[str]) -> HeldOutItem:
    """The true answer and up to three that no row gives to this question."""
    start = int(question.digest.hex, 16) % len(answers)
    wrong: list[str] = []
    for step in range(len(answers)):
        candidate = answers[(start + step) % len(answers)]
        if candidate not in right:
            wrong.append(candidate)
        if len(wrong) == CHOICES - 1:
            break
    choices = sorted([question.answer, *wrong], key=lambda text: json_digest([question.digest, text]))
    return HeldOutItem(question.context, tuple(choices), choices.index(question.answer), question.plain)
