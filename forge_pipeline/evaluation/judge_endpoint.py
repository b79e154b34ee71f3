"""Who the judge is: an OpenAI-compatible endpoint, or a model loaded here.

A busy or unreachable endpoint is asked again, with growing pauses; whatever cannot be had
becomes a `Reply` without text, never an exception, because one lost grade must not lose
the others. Only a refused key ends the evaluation. The key is sent to the recipe's own
endpoint alone: redirects are not followed.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import JudgeSection
from forge_pipeline.errors import EvaluationError
from forge_pipeline.evaluation.generation import Conversation, generate, with_loaded

DEFAULT_API_BASE = "https://api.openai.com/v1"
DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

_MAX_TOKENS = 200
_LARGEST_REPLY = 1 << 20  # bytes
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0  # seconds
_GIVE_UP_AFTER = 5  # requests in a row that failed on all attempts

OnReply = Callable[[int], None]


@dataclass(frozen=True)
class Reply:
    """What the judge wrote; `text` is None where it could not be had, with the reason why."""

    text: str | None
    reason: str = ""


class JudgeModel(Protocol):
    """Whoever answers conversations."""

    def ask(self, requests: Sequence[Conversation], on_reply: OnReply = ...) -> list[Reply]:
        """One reply to each request, in order; `on_reply` is told the number done so far."""
        ...


class Endpoint:
    """One request an answer, temperature 0."""

    def __init__(self, section: JudgeSection, key: str | None) -> None:
        self._section, self._key = section, key
        self._base = (section.judge_api_base or DEFAULT_API_BASE).rstrip("/")

    def ask(self, requests: Sequence[Conversation], on_reply: OnReply = lambda done: None) -> list[Reply]:
        """See `JudgeModel`.

        Raises:
            EvaluationError: The endpoint refuses the key (401 or 403), so that asking on is pointless.
        """
        replies: list[Reply] = []
        lost = 0
        for request in requests:
            if lost >= _GIVE_UP_AFTER:
                replies.append(Reply(None, f"not asked after {lost} failed requests in a row"))
            else:
                replies.append(self._asked(request))
                lost = lost + 1 if replies[-1].text is None else 0
            on_reply(len(replies))
        return replies

    def _asked(self, request: Conversation) -> Reply:
        reason, pause = "", _FIRST_PAUSE
        for attempt in range(1, self._section.judge_attempts + 1):
            try:
                return Reply(self._post(request))
            except _RefusedError as error:
                reason = str(error)
                if not error.again or attempt == self._section.judge_attempts:
                    break
                time.sleep(min(_LONGEST_PAUSE, max(pause, error.wait)))
                pause *= 2
        return Reply(None, reason)

    def _post(self, request: Conversation) -> str:
        body = {
            "model": self._section.judge_model, "temperature": 0, "max_tokens": _MAX_TOKENS, "messages": request,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        post = urllib.request.Request(
            f"{self._base}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with urllib.request.build_opener(_NoRedirect).open(post, timeout=self._section.judge_timeout) as response:
                text = _read(response, time.monotonic() + self._section.judge_timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _RefusedError(f"the judge's reply could not be had: {type(error).__name__}: {error}") from error
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            found = f"{type(error).__name__}: {error}"
            raise _RefusedError(f"the judge's reply is no chat completion: {found}", again=False) from error
        if not isinstance(content, str):
            raise _RefusedError("the judge's reply holds no text", again=False)
        return content

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in (401, 403):
            return EvaluationError(
                f"the judge's endpoint {self._base} refuses the key (HTTP {error.code}); "
                f"check the environment variable {self._section.judge_api_key_env or DEFAULT_KEY_VARIABLE}"
            )
        header = error.headers.get("Retry-After", "") if error.headers else ""
        wait = float(header) if header.isascii() and header.isdigit() else 0.0
        return _RefusedError(f"the judge's endpoint answered HTTP {error.code}", again=error.code in _BUSY, wait=wait)


@dataclass(frozen=True)
class LocalJudge:
    """A chat model loaded here, greedy."""

    config: ForgeConfig
    section: JudgeSection

    def ask(self, requests: Sequence[Conversation], on_reply: OnReply = lambda done: None) -> list[Reply]:
        """See `JudgeModel`.

        Raises:
            ModelError: The model cannot be loaded.
            EvaluationError: It has no chat template, or a request exceeds its context.
        """
        from forge_pipeline.models import load_base

        wanted = {"name_or_path": self.section.judge_model, "revision": self.section.judge_model_revision}
        model = self.config.model.model_copy(update={**wanted, "chat_template": None})
        config = self.config.model_copy(update={"model": model})
        texts = with_loaded(
            lambda: load_base(config),
            lambda loaded, tokenizer: generate(
                loaded,
                tokenizer,
                requests,
                max_new_tokens=_MAX_TOKENS,
                batch_size=self.section.batch_size,
                on_batch=on_reply,
            ),
        )
        return [Reply(text) for text in texts]


def judge_model(config: ForgeConfig, section: JudgeSection) -> tuple[JudgeModel | None, str | None]:
    """The judge that the recipe names, or what is missing. An endpoint of the operator's own may need no key."""
    if section.judge_backend == "local":
        return LocalJudge(config, section), None
    if section.judge_api_key_env is None and section.judge_api_base is not None:
        return Endpoint(section, None), None
    variable = section.judge_api_key_env or DEFAULT_KEY_VARIABLE
    key = os.environ.get(variable)
    if not key:
        return None, f"the environment variable {variable}, which holds the judge's key, is not set"
    return Endpoint(section, key), None


class _RefusedError(Exception):
    """Why one reply was not delivered. Internal: it becomes a `Reply` without text.

    Attributes:
        again: Whether asking again may help; `wait`: seconds that the endpoint asks for first.
    """

    def __init__(self, words: str, *, again: bool = True, wait: float = 0.0) -> None:
        super().__init__(words)
        self.again, self.wait = again, wait


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _read(response: Any, deadline: float) -> bytes:
    """The body, which must come whole before the deadline: each read alone would let it trickle forever."""
    chunks: list[bytes] = []
    while chunk := response.read1(1 << 16):
        chunks.append(chunk)
        if sum(map(len, chunks)) > _LARGEST_REPLY:
            raise ValueError(f"more than {_LARGEST_REPLY} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the reply took longer than judge_timeout")
    if response.length:  # what Content-Length still promises
        raise ValueError(f"the reply was cut off {response.length} bytes before its end")
    return b"".join(chunks)
