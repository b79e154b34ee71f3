"""Who did what over the API: the server's own audit log, under ``audit_log/api`` in the data directory.

Each act leaves two entries: `api.requested` before it is carried out, and `api.answered` with the status and what
it was about. An act that cannot be logged is refused (503) before anything happens. Where the process ends
between the two, the log says that an act was begun; the job table says what became of it.

Named are the key (`api_key`; empty where no key is needed), the request id and the target. The key itself, the
body and the reply are not logged.
"""

import asyncio
import json
import logging
import re
import threading
import uuid
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_pipeline.audit_log import AuditLogger
from forge_pipeline.errors import EvidenceError
from forge_pipeline.server.errors import UnavailableError, refusal

_log = logging.getLogger(__name__)

DIRECTORY = Path("audit_log", "api")
_REPLY_LIMIT = 2**16  # bytes of a reply that are looked into for a job's id

_ACTS: tuple[tuple[str, re.Pattern[str], str], ...] = tuple(
    (method, re.compile(pattern), act)
    for method, pattern, act in (
        ("POST", r"/api/start_training", "start_training"),
        ("POST", r"/api/stop_training", "stop_training"),
        ("POST", r"/api/jobs", "queue_job"),
        ("POST", r"/api/jobs/([^/]+)/cancel", "cancel_job"),
        ("POST", r"/api/jobs/([^/]+)/retry", "retry_job"),
        ("POST", r"/api/upload_dataset", "upload_dataset"),
        ("DELETE", r"/api/datasets/([^/]+)", "delete_dataset"),
        ("DELETE", r"/api/models/([^/]+)", "delete_model"),
        ("POST", r"/api/models/([^/]+)/push", "push_model"),
        ("POST", r"/api/models/([^/]+)/export", "export_model"),
        ("POST", r"/api/models/([^/]+)/rollback", "roll_back"),
        ("POST", r"/api/approvals/([^/]+)", "decide"),
    )
)


def act_of(method: str, path: str) -> tuple[str, str] | None:
    """What a request does that is logged, and what it names; None for one that only reads or only generates."""
    for wanted, pattern, act in _ACTS:
        found = pattern.fullmatch(path) if method == wanted else None
        if found:
            return act, found[1][:200] if found.groups() else ""
    return None


class ApiLog:
    """Appends to the log; opened at the first act, so that a server nobody acts on writes none."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / DIRECTORY
        self._logger: AuditLogger | None = None
        self._opening = threading.Lock()

    def append(self, event: str, **fields: Any) -> None:
        """Append an entry; on return it is on the disk.

        Raises:
            EvidenceError: It could not be written.
        """
        with self._opening:
            if self._logger is None:
                self._logger = AuditLogger(self._directory, f"server-{uuid.uuid4().hex[:12]}")
        self._logger.log_event(event, **fields)


def log_key_change(data_dir: Path, operation: str, name: str, scope: str, key_id: str) -> None:
    """Note that a key was made, rotated or revoked: its name, scope and the first eight digits of its digest.

    Raises:
        EvidenceError: It could not be written.
    """
    fields = {"operation": operation, "api_key": name, "scope": scope, "key_id": key_id}
    ApiLog(data_dir).append("api.key_changed", **fields)


class ActLog:
    """ASGI middleware that notes every act, before and after."""

    def __init__(self, app: ASGIApp, log: ApiLog) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        act = act_of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if act is None:
            await self._app(scope, receive, send)
            return
        name, target = act
        state = scope.get("state", {})
        fields = {"action": name, "target": target, "api_key": state.get("api_key", "")}
        fields["request_id"] = state.get("request_id", "")
        try:
            await asyncio.to_thread(self._log.append, "api.requested", **fields)
        except EvidenceError as error:
            _log.error("%s was refused, because it could not be logged: %s", name, error)
            unlogged = UnavailableError("This could not be written to the audit log, so it was not done; the server's "
                                        "log has the reason")  # fmt: skip
            await refusal(unlogged)(scope, receive, send)
            return
        status, body = 500, bytearray()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
            elif message["type"] == "http.response.body" and len(body) <= _REPLY_LIMIT:
                body.extend(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            fields["target"] = target or _named(bytes(body))
            await self._answered(fields, status)

    async def _answered(self, fields: dict[str, str], status: int) -> None:
        try:
            await asyncio.to_thread(self._log.append, "api.answered", **fields, status=status)
        except EvidenceError:  # the act is done and replied to, and its beginning is in the log
            _log.exception("the end of %s could not be logged", fields["action"])


def _named(body: bytes) -> str:
    """The job or file that a reply names."""
    try:
        found = json.loads(body)
        return str(found.get("job_id") or found.get("filename") or "")[:200]
    except (ValueError, AttributeError, RecursionError):
        return ""
