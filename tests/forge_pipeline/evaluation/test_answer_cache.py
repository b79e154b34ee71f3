"""Answers kept by digest, and made again when their file is not what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.evaluation import AnswerCache
from forge_pipeline.evaluation.remembering import remembering_lm
from forge_pipeline.integrity import Digest

KEY, OTHER = Digest.of(b"key"), Digest.of(b"other")
VALUE = {"answers": [[-1.5, True], [-0.1 - 0.2, False]]}


def test_what_was_kept_comes_back_exactly(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "cache")
    assert cache.get(KEY) is None
    cache.keep(KEY, VALUE)
    assert cache.get(KEY) == VALUE
    assert cache.get(OTHER) is None


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut short"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data.replace(b"-1.5", b"-9.5"), id="another value"),
        pytest.param(lambda data: data.replace(KEY.hex.encode(), OTHER.hex.encode()), id="another key"),
        pytest.param(lambda data: b"[1]", id="not an entry"),
        pytest.param(lambda data: b"\xff\xfe", id="not text"),
    ],
)
def test_an_entry_that_was_changed_is_absent_and_can_be_kept_again(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    cache = AnswerCache(tmp_path)
    cache.keep(KEY, VALUE)
    path = cache.path(KEY)
    path.write_bytes(spoil(path.read_bytes()))
    assert cache.get(KEY) is None
    cache.keep(KEY, VALUE)
    assert cache.get(KEY) == VALUE


def test_an_entry_under_another_name_is_absent(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.keep(KEY, VALUE)
    cache.path(OTHER).parent.mkdir(parents=True, exist_ok=True)
    cache.path(OTHER).write_bytes(cache.path(KEY).read_bytes())
    assert cache.get(OTHER) is None


# --- the model that is loaded only when it is asked something new -----------------------


def _asked(*texts: str, task: str = "t", kind: str = "loglikelihood", settings: Any = " Paris") -> list[Any]:
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=(text, settings), idx=0, metadata=(task, 0, 1)) for text in texts
    ]


class Loads:
    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.pair, self.times = (model, tokenizer), 0

    def __call__(self) -> Any:
        self.times += 1
        return self.pair


@pytest.fixture
def loads(base_model: Any, tokenizer: Any) -> Loads:
    return Loads(base_model, tokenizer)


def remembering(loads: Loads, tmp_path: Path, weights: str | None = "w") -> Any:
    identity = {"weights": weights} if weights else None
    return remembering_lm(loads, identity=identity, answers=AnswerCache(tmp_path))


def test_the_same_requests_are_answered_without_loading_the_model(loads: Loads, tmp_path: Path) -> None:
    first = remembering(loads, tmp_path)
    answers = first.loglikelihood(_asked("one", "two"))
    again = remembering(loads, tmp_path)
    assert again.loglikelihood(_asked("one", "two")) == answers
    assert (loads.times, first.from_cache, again.from_cache) == (1, False, True)


@pytest.mark.parametrize(
    ("requests", "weights"),
    [
        pytest.param({"texts": ("one", "three")}, "w", id="other items"),
        pytest.param({"texts": ("one",)}, "w", id="fewer items"),
        pytest.param({"texts": ("one", "two"), "settings": " Rome"}, "w", id="another continuation"),
        pytest.param({"texts": ("one", "two")}, "v", id="other weights"),
        pytest.param({"texts": ("one", "two")}, None, id="unknown weights"),
    ],
)
def test_anything_else_is_asked_anew(loads: Loads, tmp_path: Path, requests: dict[str, Any], weights: Any) -> None:
    remembering(loads, tmp_path).loglikelihood(_asked("one", "two"))
    texts = requests.pop("texts")
    lm = remembering(loads, tmp_path, weights)
    lm.loglikelihood(_asked(*texts, **requests))
    assert (loads.times, lm.from_cache) == (2, False)


def test_a_task_that_was_measured_is_remembered_beside_one_that_was_not(loads: Loads, tmp_path: Path) -> None:
    alone = remembering(loads, tmp_path).loglikelihood(_asked("one", task="a"))
    both = remembering(loads, tmp_path)
    found = both.loglikelihood(_asked("one", task="a") + _asked("two", task="b"))
    assert found[:1] == alone
    assert not both.from_cache
    assert loads.times == 2


def test_sampled_answers_are_never_remembered(loads: Loads, tmp_path: Path) -> None:
    settings = {"until": ["."], "max_gen_toks": 3, "do_sample": True, "temperature": 1.0}
    for _ in range(2):
        remembering(loads, tmp_path).generate_until(_asked("one", kind="generate_until", settings=settings))
    assert loads.times == 2
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_no_entry_costs_no_result(loads: Loads, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (answer,) = remembering(loads, tmp_path / "file").loglikelihood(_asked("one"))
    assert answer[0] < 0


def test_a_changed_entry_is_measured_again(loads: Loads, tmp_path: Path) -> None:
    answers = remembering(loads, tmp_path).loglikelihood(_asked("one"))
    (path,) = tmp_path.rglob("*.json")
    entry = json.loads(path.read_text())
    entry["value"]["answers"][0][0] = 0.0
    path.write_text(json.dumps(entry))
    assert remembering(loads, tmp_path).loglikelihood(_asked("one")) == answers
    assert loads.times == 2
