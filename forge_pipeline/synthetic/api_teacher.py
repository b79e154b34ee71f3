"""An endpoint that speaks OpenAI's chat completions: POST ``{api_base}/chat/completions``.

`concurrency` requests run at a time over one pool of connections, on an event loop in a
thread of its own, so that a deadline covers a whole exchange (a peer that trickles is cut
off) and Ctrl-C ends it at once, in a notebook as well. A request that times out, is cut
off, refused for the moment (429) or meets a server error is sent again up to three
times. Redirects are not followed: they would carry the key to another host.

The key stands in the request's header and nowhere else: not in a message, and an answer
that repeats it is not used. Of what an endpoint says about an error only its code is
passed on, because its words may quote the prompt.
"""

import asyncio
import json
import logging
import re
import threading
from collections.abc import Coroutine, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from forge_pipeline._optional import require
from forge_pipeline.config.operation import SyntheticSection
from forge_pipeline.errors import ConfigError
from forge_pipeline.synthetic.pace import ATTEMPTS, LONGEST_ASKED_WAIT, Pace, asked_wait, backoff
from forge_pipeline.synthetic.requests import Request, conversation
from forge_pipeline.synthetic.teachers import Outcome, TeacherError, TeacherIdentity, usable_text

if TYPE_CHECKING:
    import httpx

DEFAULT_API_BASE = "https://api.openai.com/v1"
_MOST_BYTES = 16 << 20
_WORTH_RETRYING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_HOPELESS: dict[int | str, str] = {
    401: "the key was refused; check synthetic.api_key_env",
    402: "the account has no credit; add some, and run again to go on",
    403: "the key may not use this model; choose another key or teacher_model",
    404: "there is no such model or path; check synthetic.api_base and teacher_model",
    "insufficient_quota": "the account's quota is used up; raise it, and run again to go on",
}
_TRANSPORT_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

T = TypeVar("T")


class ApiTeacher:
    """See the module.

    Args:
        key: Sent as a bearer token; None sends none.

    Raises:
        ConfigError: The URL or the key cannot be used.
        OptionalDependencyError: httpx is not installed.
    """

    def __init__(self, section: SyntheticSection, key: str | None) -> None:
        self._httpx: Any = require("httpx", extra="synthetic", purpose="Teachers behind an endpoint")
        self._section, self._key = section, _checked_key(key)
        base = _checked_base(section.api_base or DEFAULT_API_BASE)
        self._url = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
        self._host = urlsplit(base).netloc

    @property
    def identity(self) -> TeacherIdentity:
        return TeacherIdentity(self._section.teacher_model, "api", endpoint=self._host)

    def answers(self, requests: Iterable[Request]) -> Generator[list[Outcome], None, None]:
        source, pending = iter(requests), set[Future[Outcome]]()
        with _hidden_from_logs(self._key), _event_loop() as loop, self._client(loop) as client:
            pace = Pace(self._section.api_delay)
            while True:
                # Topped up only after the caller has dealt with the last outcomes, so that it can stop in time.
                free = self._section.concurrency - len(pending)
                pending |= {_start(loop, self._ask(client, pace, request)) for request in islice(source, free)}
                if not pending:
                    return
                done = set[Future[Outcome]]()
                while not done:  # with a timeout, because Windows does not interrupt an endless wait
                    done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                errors = [error for future in done if (error := future.exception())]
                yield [future.result() for future in done if not future.exception()]
                if errors:
                    raise errors[0]

    @contextmanager
    def _client(self, loop: asyncio.AbstractEventLoop) -> Iterator["httpx.AsyncClient"]:
        section, httpx = self._section, self._httpx
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=section.concurrency, max_keepalive_connections=section.concurrency)
        try:
            client = httpx.AsyncClient(headers=headers, limits=limits, timeout=section.api_timeout)
        except (ImportError, ValueError, OSError) as error:  # a proxy or certificate file that the environment names
            raise ConfigError(
                f"the proxy or certificates that the environment names cannot be used: {error}"
            ) from error
        try:
            yield client
        finally:
            _start(loop, _end_tasks()).result()
            _start(loop, client.aclose()).result()

    async def _ask(self, client: "httpx.AsyncClient", pace: Pace, request: Request) -> Outcome:
        body = {
            "model": self._section.teacher_model,
            "messages": conversation(self._section, request.prompt),
            "max_tokens": self._section.max_new_tokens,
            "temperature": self._section.temperature,
        }
        seed = request.seed(self._section)
        data = json.dumps(body if seed is None else {**body, "seed": seed}).encode()
        try:
            return self._outcome(request, await self._exchange(client, pace, data))
        except TeacherError as error:
            return Outcome(request, error=self._without_key(str(error)))

    async def _exchange(self, client: "httpx.AsyncClient", pace: Pace, data: bytes) -> bytes:
        """The body of a good answer, after up to `ATTEMPTS` attempts."""
        httpx, reason = self._httpx, ""
        for attempt in range(ATTEMPTS):
            await pace.turn()
            asked = None
            try:
                async with asyncio.timeout(self._section.api_timeout):
                    answer, content = await self._post(client, data)
            except (TimeoutError, httpx.TimeoutException):
                reason = f"the endpoint did not answer in {self._section.api_timeout} s"
            except httpx.TransportError as error:
                reason = f"the endpoint could not be reached, or cut the connection ({error or type(error).__name__})"
            except httpx.RequestError as error:  # an answer that cannot be decoded, for one
                raise TeacherError(f"the endpoint's answer cannot be read: {type(error).__name__}") from error
            else:
                if answer.is_success:
                    return content
                asked = asked_wait(answer.headers)
                reason = self._refusal(answer, content)
            if attempt + 1 < ATTEMPTS:
                await self._wait(pace, attempt, asked, reason)
        raise TeacherError(f"{reason}, {ATTEMPTS} times; see to the endpoint, and run again to ask once more")

    async def _wait(self, pace: Pace, attempt: int, asked: float | None, reason: str) -> None:
        if asked is not None and asked > LONGEST_ASKED_WAIT:
            raise TeacherError(f"{reason} and asks to wait {asked:.0f} s; run again after that")
        if asked is not None:
            pace.hold(asked)
        await asyncio.sleep(max(asked or 0.0, backoff(attempt)))

    async def _post(self, client: "httpx.AsyncClient", data: bytes) -> tuple["httpx.Response", bytes]:
        headers = {"Content-Type": "application/json"}
        async with client.stream("POST", self._url, content=data, headers=headers) as answer:
            content = bytearray()
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > _MOST_BYTES:
                    raise TeacherError(
                        f"the answer is longer than {_MOST_BYTES >> 20} MiB; lower synthetic.max_new_tokens"
                    )
        return answer, bytes(content)

    def _refusal(self, answer: "httpx.Response", content: bytes) -> str:
        """In words, for a status that is worth another attempt; raises for the others."""
        code = _error_code(content)
        status = f"{answer.status_code} {answer.reason_phrase}".strip() + (f" ({code})" if code else "")
        hopeless = _HOPELESS.get(code or "") or _HOPELESS.get(answer.status_code)
        if hopeless:
            raise ConfigError(self._without_key(f"synthetic.api_base: {self._url} answered {status}: {hopeless}"))
        if answer.status_code not in _WORTH_RETRYING:
            advice = "it redirects, which is not followed; set synthetic.api_base to where it leads"
            if not answer.has_redirect_location:
                advice = "it refuses this request; check teacher_model, max_new_tokens and the prompt's length"
            raise TeacherError(f"the endpoint answered {status}: {advice}")
        return f"the endpoint answered {status}"

    def _outcome(self, request: Request, data: bytes) -> Outcome:
        try:
            body = json.loads(data)
            choice = body["choices"][0]
            content, reason, model = choice["message"]["content"], choice.get("finish_reason"), body.get("model")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TeacherError(
                "the endpoint's answer is not a chat completion: no choices[0].message.content; see synthetic.api_base"
            ) from error
        reason = reason if isinstance(reason, str) else None
        text = usable_text(content, reason)
        said = [text, reason or "", model if isinstance(model, str) else ""]
        if self._key and any(self._key in words for words in said):
            raise TeacherError(
                "the answer repeats the API key, so it is not used; see to the endpoint, and change the key"
            )
        return Outcome(request, text, None, reason, said[2] or None)

    def _without_key(self, words: str) -> str:
        return words.replace(self._key, "[API key]") if self._key else words


def _checked_base(url: str) -> str:
    base = url.strip().rstrip("/")
    try:
        parts = urlsplit(base)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"synthetic.api_base: not a URL: {error}") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ConfigError(
            "synthetic.api_base: holds a user name, a password, a query or a fragment; give the address alone, and the "
            "key by synthetic.api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"synthetic.api_base: found {base!r}; expected a URL that begins with https:// or http://")
    return base


def _checked_key(key: str | None) -> str | None:
    """The key, if it fits into a header. Otherwise the transport would say so, quoting it."""
    key = key.strip() if key else None
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(
            "synthetic.api_key: the key holds characters that no key has, a line break perhaps; set it anew"
        )
    return key or None


def _error_code(content: bytes) -> str | None:
    """The endpoint's own name of an error, such as ``rate_limit_exceeded``."""
    try:
        error = json.loads(content)["error"]
        codes = [error.get("code"), error.get("type")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return next((code for code in codes if isinstance(code, str) and _CODE.fullmatch(code)), None)


@contextmanager
def _hidden_from_logs(key: str | None) -> Iterator[None]:
    """Drop what the transport logs about an endpoint that sends the key back, in a header for one."""

    def harmless(record: logging.LogRecord) -> bool:
        return key is None or key not in record.getMessage()

    loggers = [logging.getLogger(name) for name in _TRANSPORT_LOGGERS]
    for logger in loggers:
        logger.addFilter(harmless)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(harmless)


@contextmanager
def _event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own for the time of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="teacher", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _start(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> "Future[T]":
    return asyncio.run_coroutine_threadsafe(work, loop)


async def _end_tasks() -> None:
    """Cancel every other task of this loop and wait until it has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
