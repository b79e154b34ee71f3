"""WebhookNotifier: tells people, over Slack, Teams or any JSON endpoint, what a run did.

A notification never stops a run: what went wrong with it is returned and logged. The
URL is a secret (whoever has it can post), so only its host appears anywhere.

Every delivery carries ``X-Forge-Delivery`` (the same for its retries) and, if
FORGE_WEBHOOK_SECRET is set, ``X-Forge-Signature: t=<Unix seconds>,v1=<hex>``, where
v1 is HMAC-SHA256 of ``<t>.<body>``; `signature_holds` is the receiver's side. Slack and Teams check no
signature: there the URL is the secret.

Teams gets an Adaptive Card in the message that a Workflow of "When a Teams webhook request is
received" posts; the connectors of Microsoft 365, which took MessageCards, are retired.
"""

import hmac
import http.client
import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from forge_pipeline import _http
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import WebhookError
from forge_pipeline.integrity import Digest

SECRET_VARIABLE = "FORGE_WEBHOOK_SECRET"
SIGNATURE_HEADER = "X-Forge-Signature"
DELIVERY_HEADER = "X-Forge-Delivery"

_RETRY_DELAYS = (0.5, 2.0)  # seconds before the second and the third attempt
_MAX_RETRY_AFTER = 5.0  # seconds; a run does not wait longer because a peer says so
_MAX_REASON = 2048  # characters
_SLACK_HOSTS = ("hooks.slack.com", "hooks.slack-gov.com")
_TEAMS_HOSTS = (
    "webhook.office.com", "logic.azure.com", "logic.azure.us", "api.powerplatform.com", "api.powerautomate.com",
    "flow.microsoft.com",
)  # fmt: skip
_MAX_FACTS = 30  # in one card: Teams takes no message above 28 KB
_COLOURS = {"success": "good", "failure": "danger", "reverted": "danger", "awaiting_approval": "warning"}

_logger = logging.getLogger(__name__)

Style = Literal["slack", "teams", "generic"]


@dataclass(frozen=True)
class Notification:
    """What is told. A generic endpoint gets exactly these fields, with `version` 1.

    Attributes:
        event: ``training.start``, ``training.success``, ``training.failure``, ``training.reverted``
            or ``approval.required``.
        run_name: The run, as the caller calls it.
        status: ``started``, ``success``, ``failure``, ``reverted`` or ``awaiting_approval``.
        metrics: Numbers of the run.
        reason: Why it failed or was reverted; cut at 2048 characters.
        model_path: Where the model waits for approval.
    """

    event: str
    run_name: str
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    model_path: str | None = None


@dataclass(frozen=True)
class Delivery:
    """What became of a notification.

    Attributes:
        delivered: Whether the endpoint answered with a 2xx status.
        attempts: Requests made; 0 if none was wanted or the destination was refused.
        status: The last HTTP status, if there was an answer.
        reason: Why it was not delivered.
        event: What was told.
        payload_digest: Of the body that was, or would have been, sent; None if none was wanted.
    """

    delivered: bool
    attempts: int = 0
    status: int | None = None
    reason: str | None = None
    event: str = field(default="", compare=False)
    payload_digest: Digest | None = field(default=None, compare=False)

    @property
    def was_wanted(self) -> bool:
        """Whether the recipe asks for this notification and names where it goes."""
        return self.payload_digest is not None


class WebhookNotifier:
    """Sends lifecycle notifications as the recipe's ``webhook`` section says.

    The URL comes from the environment variable that ``url_env`` names, else from ``url``.
    Without either, every method does nothing. Threads and processes may share an instance.
    """

    def __init__(self, config: ForgeConfig) -> None:
        self._section = config.webhook
        self._url = ""
        if self._section is not None:
            self._url = (self._section.url_env and os.environ.get(self._section.url_env)) or self._section.url or ""
        self._secret = os.environ.get(SECRET_VARIABLE, "").encode()

    def notify_start(self, run_name: str) -> Delivery:
        wanted = self._section is not None and self._section.notify_on_start
        return self._notify(wanted, Notification("training.start", run_name, "started"))

    def notify_success(self, run_name: str, metrics: Mapping[str, float]) -> Delivery:
        wanted = self._section is not None and self._section.notify_on_success
        return self._notify(wanted, Notification("training.success", run_name, "success", _finite(metrics)))

    def notify_failure(self, run_name: str, reason: str) -> Delivery:
        wanted = self._section is not None and self._section.notify_on_failure
        return self._notify(wanted, Notification("training.failure", run_name, "failure", reason=reason[:_MAX_REASON]))

    def notify_reverted(self, run_name: str, reason: str) -> Delivery:
        wanted = self._section is not None and self._section.notify_on_failure
        return self._notify(
            wanted, Notification("training.reverted", run_name, "reverted", reason=reason[:_MAX_REASON])
        )

    def notify_awaiting_approval(self, run_name: str, model_path: str) -> Delivery:
        notification = Notification("approval.required", run_name, "awaiting_approval", model_path=str(model_path))
        return self._notify(self._section is not None, notification)

    def _notify(self, wanted: bool, notification: Notification) -> Delivery:
        if not wanted or not self._url:
            return Delivery(False, reason="no webhook is configured for this event", event=notification.event)
        delivery = self._deliver(notification)
        if not delivery.delivered:
            _logger.warning(
                "webhook to %s: %s of run %s not delivered after %d attempt(s): %s",
                _host(self._url),
                notification.event,
                notification.run_name,
                delivery.attempts,
                delivery.reason,
            )
        return delivery

    def _deliver(self, notification: Notification) -> Delivery:
        body = json.dumps(payload_for(style_of(self._url), notification), allow_nan=False).encode()
        delivery_id = str(uuid.uuid4())
        outcome, wait = Delivery(False), 0.0
        for attempt, delay in enumerate((0.0, *_RETRY_DELAYS), start=1):
            time.sleep(max(delay, wait))
            outcome, retry_after = self._attempt(body, delivery_id, attempt)
            if retry_after is None:
                break
            wait = min(retry_after, _MAX_RETRY_AFTER)
        return replace(outcome, event=notification.event, payload_digest=Digest.of(body))

    def _attempt(self, body: bytes, delivery_id: str, attempt: int) -> tuple[Delivery, float | None]:
        """One request: what became of it, and after how many seconds at least to try again (None: never)."""
        assert self._section is not None
        try:
            response = _http.post_json(
                self._url,
                body,
                timeout=self._section.timeout,
                headers={DELIVERY_HEADER: delivery_id, **self._signature(body)},
                allow_private=self._section.allow_private_destinations,
                require_https=self._section.require_https,
                ca_bundle=self._section.tls_ca_bundle,
            )
        except WebhookError as error:
            return Delivery(False, attempt - 1, reason=str(error)), None
        except (OSError, http.client.HTTPException) as error:
            return Delivery(False, attempt, reason=f"{type(error).__name__}: {error}"), 0.0
        if 200 <= response.status < 300:
            return Delivery(True, attempt, response.status), None
        reason = f"the endpoint answered {response.status}"
        if 300 <= response.status < 400:
            reason += ", a redirect, which is not followed; configure the address that it leads to"
        passing = response.status in (408, 425, 429) or response.status >= 500
        return Delivery(False, attempt, response.status, reason), (response.retry_after or 0.0) if passing else None

    def _signature(self, body: bytes) -> dict[str, str]:
        if not self._secret:
            return {}
        moment = str(int(time.time()))
        tag = hmac.digest(self._secret, moment.encode() + b"." + body, "sha256").hex()
        return {SIGNATURE_HEADER: f"t={moment},v1={tag}"}


def signature_holds(secret: bytes, header: str, body: bytes, *, now: float, tolerance: float = 300.0) -> bool:
    """Whether a request is by somebody who holds `secret`, and recent: what a receiver asks.

    Args:
        header: The value of ``X-Forge-Signature``.
        body: The request's body, byte for byte.
        now: Unix seconds.
        tolerance: Seconds that the request may be old, or ahead.
    """
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    moment, tag = fields.get("t", ""), fields.get("v1", "")
    if not (moment.isascii() and moment.isdigit() and len(moment) < 16 and tag.isascii()):
        return False
    expected = hmac.digest(secret, moment.encode() + b"." + body, "sha256").hex()
    return hmac.compare_digest(tag, expected) and abs(now - int(moment)) <= tolerance


def style_of(url: str) -> Style:
    """The payload's shape, from the URL's host; nothing else in the URL counts."""
    host = _host(url)
    if host in _SLACK_HOSTS:
        return "slack"
    if any(host == known or host.endswith("." + known) for known in _TEAMS_HOSTS):
        return "teams"
    return "generic"


def payload_for(style: Style, notification: Notification) -> dict[str, Any]:
    """The JSON that `style` understands."""
    if style == "slack":
        return _slack(notification)
    if style == "teams":
        return _teams(notification)
    return {"version": 1, **asdict(notification)}


def _slack(notification: Notification) -> dict[str, Any]:
    fields = [{"title": _escape(k), "value": _escape(v), "short": len(v) < 40} for k, v in _facts(notification)]
    attachment: dict[str, Any] = {"fallback": _escape(_headline(notification)), "fields": fields}
    if notification.status in _COLOURS:
        attachment["color"] = _COLOURS[notification.status]
    return {"text": _escape(_headline(notification)), "attachments": [attachment]}


def _teams(notification: Notification) -> dict[str, Any]:
    """An Adaptive Card in a message, as Teams' workflow webhooks take it."""
    # Teams renders Markdown: a reason or a run's name must not become a link.
    facts = [{"title": _unlinked(name), "value": _unlinked(value)} for name, value in _facts(notification)]
    headline = {"type": "TextBlock", "text": _unlinked(_headline(notification)), "weight": "Bolder", "wrap": True}
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [headline, {"type": "FactSet", "facts": facts}],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _headline(notification: Notification) -> str:
    return f"{notification.run_name[:200]}: {notification.status.replace('_', ' ')}"


def _facts(notification: Notification) -> list[tuple[str, str]]:
    facts = [("event", notification.event)]
    facts += [(name[:200], f"{value:.6g}") for name, value in list(notification.metrics.items())[:_MAX_FACTS]]
    facts += [("reason", notification.reason)] if notification.reason else []
    facts += [("model", notification.model_path)] if notification.model_path else []
    return facts


def _escape(text: str) -> str:
    """Slack's three control characters; unescaped they would let a run's name mention a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _unlinked(text: str) -> str:
    return text.replace("](", "] (")


def _finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers; JSON has no others."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: value for name, value in numbers.items() if value - value == 0}


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
