"""A language model for lm-eval that is loaded only when it is asked something new.

Answers are kept by digest of the model's identity and of the very requests (contexts,
continuations, decoding settings), task by task: what the requests follow from (items,
limit, examples, prompt) is thereby part of the key, and metrics are computed anew from
the answers each time, so that a changed metric never meets an old score. lm-eval's own
cache has no model in its key.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forge_pipeline._optional import require
from forge_pipeline.evaluation.answer_cache import AnswerCache
from forge_pipeline.evaluation.shared_prefix import OnRequests, shared_prefix_lm
from forge_pipeline.integrity import Digest, canonical_json, json_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)

Load = Callable[[], tuple["PreTrainedModel", "PreTrainedTokenizerBase"]]

_MODULES = ("shared_prefix", "token_trees", "remembering")
_PACKAGES = ("lm-eval", "peft", "tokenizers", "torch", "transformers")


def scorer_code() -> Digest:
    """Digest of the modules that score, and of the versions of what they call."""
    return _code()


def remembering_lm(
    load: Load,
    *,
    identity: Mapping[str, Any] | None,
    answers: AnswerCache | None,
    batch_size: int | None = None,
    on_requests: OnRequests = lambda done, total: None,
) -> Any:
    """An lm-eval `LM` that answers from `answers`, and loads the model for the rest.

    Args:
        load: Gives model and tokenizer; called at most once.
        identity: JSON of all that the answers follow from beside the requests: digests of weights, tokenizer and chat
            template, dtype, device. None: it is not known, so nothing is remembered.
        answers: Where answers are kept; None: nowhere.
        batch_size, on_requests: As in `shared_prefix_lm`.

    Returns:
        The `LM`, with `truncated` and `ordinary` as in `shared_prefix_lm`, `from_cache` (whether there were requests
        and every answer was remembered), and `close`, which lets the model go.

    Raises:
        OptionalDependencyError: lm-eval is not installed.
    """
    api = require("lm_eval.api.model", extra="eval", purpose="Benchmarks")
    base: Any = api.LM

    class RememberingLM(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.truncated = 0
            self.ordinary: str | None = None
            self._inner: Any = None
            self._done = self._total = self._remembered = 0
            self._before = self._share = 0.0

        @property
        def from_cache(self) -> bool:
            return self._total > 0 and self._remembered == self._total

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            return [(value, greedy) for value, greedy in self._answers("loglikelihood", requests)]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
            return self._answers("loglikelihood_rolling", requests)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
            return self._answers("generate_until", requests)

        def close(self) -> None:
            if self._inner is not None:
                self._inner = None
                _free()

        def _answers(self, kind: str, requests: Any) -> list[Any]:
            self._total += len(requests)
            by_task: dict[str, list[int]] = {}
            for index, request in enumerate(requests):
                by_task.setdefault(str(request.task_name), []).append(index)
            found: list[Any] = [None] * len(requests)
            for indices in by_task.values():
                answers_of_task = self._of_task(kind, [requests[index] for index in indices])
                for index, answer in zip(indices, answers_of_task, strict=True):
                    found[index] = answer
                self._done += len(indices)
                on_requests(self._done, self._total)
            return found

        def _of_task(self, kind: str, requests: Sequence[Any]) -> list[Any]:
            key = None
            if identity is not None and answers is not None and _repeats(requests):
                asked = [[request.args[0], *request.args[1:]] for request in requests]
                # As ASCII, because a text may hold half of a surrogate pair, which canonical JSON refuses.
                text = json.dumps([kind, asked], sort_keys=True)
                key = json_digest({"model": dict(identity), "code": scorer_code(), "asked": Digest.of(text.encode())})
            kept = answers.get(key) if key is not None and answers is not None else None
            if isinstance(kept, dict) and len(kept.get("answers", ())) == len(requests):
                self._remembered += len(requests)
                self._noted(kept["truncated"], kept["ordinary"])
                return list(kept["answers"])
            inner = self._model()
            before = inner.truncated
            self._before, self._share = float(inner.done), float(len(requests))
            given = getattr(inner, kind)(list(requests))
            self._noted(inner.truncated - before, inner.ordinary)
            if key is not None and answers is not None and _is_finite(given):
                noted = {"truncated": inner.truncated - before, "ordinary": inner.ordinary}
                try:
                    answers.keep(key, {"answers": [_plain(answer) for answer in given], **noted})
                except OSError as error:  # a full or read-only disk costs the next run time, not this one its result
                    _log.warning("answers could not be kept and will be asked for again: %s", error)
            return list(given)

        def _noted(self, truncated: int, ordinary: str | None) -> None:
            self.truncated += truncated
            self.ordinary = self.ordinary or ordinary

        def _model(self) -> Any:
            if self._inner is None:
                model, tokenizer = load()
                self._inner = shared_prefix_lm(model, tokenizer, batch_size=batch_size, on_requests=self._progress)
            return self._inner

        def _progress(self, done: int, total: int) -> None:
            # A text for its perplexity may be several passes; what counts here are requests.
            passed = (done - self._before) / max(1.0, total - self._before)
            on_requests(self._done + int(passed * self._share), self._total)

    return RememberingLM()


def _repeats(requests: Sequence[Any]) -> bool:
    """Whether the same requests get the same answers: nothing is sampled."""
    return not any(isinstance(part, dict) and part.get("do_sample") for request in requests for part in request.args)


def _is_finite(given: Sequence[Any]) -> bool:
    numbers = [answer[0] if isinstance(answer, tuple) else answer for answer in given]
    return all(isinstance(number, str) or math.isfinite(number) for number in numbers) and _is_json(given)


def _is_json(given: Sequence[Any]) -> bool:
    try:
        canonical_json([_plain(answer) for answer in given])
    except ValueError:  # half of a surrogate pair in a generated text
        return False
    return True


def _plain(answer: Any) -> Any:
    return [float(answer[0]), bool(answer[1])] if isinstance(answer, tuple) else answer


def _free() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@cache
def _code() -> Digest:
    here = Path(__file__).parent
    return json_digest(
        {
            "modules": {name: Digest.of_file(here / f"{name}.py") for name in _MODULES},
            "packages": {name: _version(name) for name in _PACKAGES},
        }
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
