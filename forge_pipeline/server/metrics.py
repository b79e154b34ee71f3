"""GET /metrics: what an operator watches, in Prometheus' text format.

Requests are counted by route template, so that ids in paths make no new series, and by status. What is not a
request (jobs, watchers, the loaded models, how far the training is) is read at the moment of the scrape.
"""

import time
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest
from prometheus_client.registry import Collector
from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forge_pipeline import __version__
from forge_pipeline.server.jobs import JobTable

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)  # seconds
_STATUSES = ("queued", "starting", "training", "completed", "failed", "stopped")


class Metrics:
    """The series of one application.

    Args:
        state: The application's state, read at each scrape.
    """

    def __init__(self, state: State) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "forge_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "forge_request_seconds",
            "Time from a request's headers to its reply's.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Present(state))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def answered(self, scope: Scope, status: int, seconds: float) -> None:
        """Count one reply."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        # Set by the router; a request that was refused before it, or that fits no route, has none.
        route = getattr(scope.get("route"), "path", "none")
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        """Every series now."""
        return generate_latest(self.registry)


class Measured:
    """ASGI middleware that times every request until its reply begins."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.answered(scope, message["status"], time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if status is None:  # it failed, and the 500 is made further out
                self._metrics.answered(scope, 500, time.perf_counter() - began)


class _Present(Collector):
    """The gauges; empty before the application has started and after it has ended."""

    def __init__(self, state: State) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return []  # known at each scrape only; asking would need a started application

    def collect(self) -> Iterable[Metric]:
        state = self._state
        yield _gauge("forge_build_info", "The version that runs.", 1, {"version": __version__})
        if not hasattr(state, "jobs"):
            return
        jobs: JobTable = state.jobs
        counts = jobs.counts()
        by_status = GaugeMetricFamily("forge_jobs", "Jobs by status.", labels=["status"])
        for status in _STATUSES:
            by_status.add_metric([status], counts.get(status, 0))
        yield by_status
        yield _gauge("forge_websocket_clients", "Clients that watch the training.", len(state.audience))
        yield _gauge("forge_loaded_models", "Models in memory for generation.", state.playground.models.count)
        yield _gauge("forge_loaded_model_bytes", "Bytes of their weights.", state.playground.models.size)
        yield _gauge("forge_launcher_ready", "Whether training can start.", state.launcher_state == "ready")
        yield from _training(state)


def _training(state: State) -> Iterable[Metric]:
    status: Any = state.control.status()
    yield _gauge("forge_training_active", "Whether a job holds the slot.", status.status in _STATUSES[:3])
    yield _gauge("forge_training_step", "Optimizer updates of the present or last job.", status.current_step)
    yield _gauge("forge_training_steps", "Optimizer updates that this job plans.", status.total_steps)
    if status.loss is not None:
        yield _gauge("forge_training_loss", "The last loss of this job.", status.loss)


def _gauge(name: str, words: str, value: float, labels: dict[str, str] | None = None) -> Metric:
    family = GaugeMetricFamily(name, words, labels=list(labels or {}))
    family.add_metric(list((labels or {}).values()), float(value))
    return family
