"""What comes piece by piece: server-sent events of an answer, and the training's status over a WebSocket."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from forge_pipeline._optional import require
from forge_pipeline.client.errors import ForgeApiError, ForgeUnreachableError
from forge_pipeline.client.replies import TrainingStatus

if TYPE_CHECKING:
    import httpx

_PROTOCOL, _KEY_PROTOCOL = "forge", "forge-key."


@dataclass(frozen=True)
class Event:
    """One server-sent event. `name` is ``message`` where the server gives none."""

    name: str
    data: str

    def json(self) -> Any:
        return json.loads(self.data)


def events(reply: "httpx.Response") -> Iterator[Event]:
    """The events of a streamed reply.

    Raises:
        ForgeApiError: An ``error`` event came: what went wrong after the answer had begun.
    """
    name, data = "message", list[str]()
    for line in reply.iter_lines():
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif not line and data:
            event = Event(name, "\n".join(data))
            if event.name == "error":
                body = event.json()
                status = HTTPStatus(body["status_code"])  # under /v1 `error` is no name but OpenAI's object
                raise ForgeApiError(int(status), status.phrase, body["detail"], reply.headers.get("x-request-id"))
            yield event
            name, data = "message", []


def statuses(url: str, api_key: str | None, timeout: float | None) -> Iterator[TrainingStatus]:
    """The training's status on connecting and at every change, until the caller stops or the server goes.

    Args:
        url: The server's, with http or https.
        api_key: Presented as a subprotocol, as a browser has to.
        timeout: Seconds without a message after which to give up; None waits for ever.

    Raises:
        ForgeUnreachableError: Nobody listens, the server went, or nothing came in time.
        ForgeApiError: The server refused.
    """
    sync = require("websockets.sync.client", extra="client", purpose="Clients of the REST API")
    exceptions = require("websockets.exceptions", extra="client", purpose="Clients of the REST API")
    protocols = [_PROTOCOL, *([_KEY_PROTOCOL + api_key] if api_key else [])]
    address = f"ws{url.removeprefix('http')}/ws/training"
    status = TypeAdapter(TrainingStatus)
    try:
        with sync.connect(address, subprotocols=protocols, proxy=None) as socket:
            while True:
                yield status.validate_json(socket.recv(timeout=timeout))
    except exceptions.InvalidStatus as error:
        code = error.response.status_code
        raise ForgeApiError(code, error.response.reason_phrase, f"{address} refused the connection") from error
    except (OSError, TimeoutError, exceptions.WebSocketException) as error:
        raise ForgeUnreachableError(0, "Unreachable", f"{address}: {error or 'nothing came in time'}") from error
