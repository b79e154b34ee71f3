"""One HTTP connection to a server: requests, repeated where that is safe, and errors in the API's words."""

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from forge_pipeline._optional import require
from forge_pipeline.client.errors import ForgeApiError, ForgeUnreachableError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_AGAIN_AFTER = 0.2  # seconds before the first repetition; doubled before each further one
IDEMPOTENCY_KEY = "Idempotency-Key"


class Connection:
    """A client of one server.

    Args:
        url: Where the server is, for example ``http://localhost:8000``.
        api_key: Sent as a Bearer token, if given.
        timeout: Seconds without a byte after which a call is given up.
        retries: Repetitions of a request whose connection broke, where repeating is safe: one that reads, or one
            that carries an idempotency key.
    """

    def __init__(self, url: str, api_key: str | None, *, timeout: float, retries: int) -> None:
        self._httpx = require("httpx", extra="client", purpose="Clients of the REST API")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # No proxy from the environment: the key goes to the server that was named and to nobody else.
        self.http: httpx.Client = self._httpx.Client(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout, trust_env=False
        )
        self._retries = retries

    def close(self) -> None:
        self.http.close()

    def ask(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        """A JSON reply as `kind`.

        Raises:
            ForgeApiError: The server refused, failed, or answered something else.
        """
        reply = self.send(method, path, **options)
        try:
            found: T = _adapter(cast(Any, kind)).validate_json(reply.content)
            return found
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ForgeApiError(
                reply.status_code,
                "Unexpected reply",
                f"{method} {path} answered something that this client does not understand: {where}: {first['msg']}. "
                "Is the client of the server's version?",
                reply.headers.get("x-request-id"),
            ) from error

    def send(self, method: str, path: str, **options: Any) -> "httpx.Response":
        """A whole reply below 300; repeated as the class says.

        Raises:
            ForgeApiError: The server refused or failed.
            ForgeUnreachableError: There was no answer.
        """
        safe = method == "GET" or IDEMPOTENCY_KEY in (options.get("headers") or {})
        attempt = 0
        while True:
            try:
                reply = self.http.request(method, path, **options)
                break
            except self._httpx.TransportError as error:
                if not safe or attempt >= self._retries or isinstance(error, self._httpx.ReadTimeout):
                    raise _unreachable(self.http.base_url, error) from error
                time.sleep(_AGAIN_AFTER * 2**attempt)
                attempt += 1
        _check(reply)
        return reply

    @contextlib.contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator["httpx.Response"]:
        """A reply whose body is read as it comes.

        Raises:
            ForgeApiError: The server refused or failed.
            ForgeUnreachableError: There was no answer, or it broke off.
        """
        try:
            with self.http.stream(method, path, **options) as reply:
                if not reply.is_success:
                    reply.read()
                    _check(reply)
                yield reply
        except self._httpx.TransportError as error:
            raise _unreachable(self.http.base_url, error) from error


def once(key: str | None) -> dict[str, str]:
    """The header that makes a repetition harmless."""
    return {IDEMPOTENCY_KEY: key or uuid.uuid4().hex}


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def _check(reply: "httpx.Response") -> None:
    if reply.is_success:
        return
    error, detail = reply.reason_phrase, reply.text[:500]
    with contextlib.suppress(ValueError, KeyError, TypeError):
        body = reply.json()
        # Under /v1 `error` is an object in OpenAI's shape, whose message is the detail.
        error, detail = body["error"] if isinstance(body["error"], str) else error, str(body["detail"])
    wait = reply.headers.get("retry-after", "")
    raise ForgeApiError(
        reply.status_code,
        error,
        detail,
        reply.headers.get("x-request-id"),
        float(wait) if wait.isdigit() else None,
    )


def _unreachable(url: object, error: Exception) -> ForgeUnreachableError:
    words = str(error) or type(error).__name__
    return ForgeUnreachableError(0, "Unreachable", f"{url} does not answer: {words}. Is `forge serve` running there?")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
