"""Who runs a job: the protocol, and Dagster over GraphQL.

The address of the code location and the asset keys below are the contract with
`assets/`; this package never imports it, and never imports dagster.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import httpx

from forge_pipeline.errors import ForgeError
from forge_pipeline.server.dagster_queries import (
    ADD_PARTITION,
    FIND,
    LAUNCH,
    LOG,
    REASON,
    STATUS,
    TERMINATE,
    reason_of,
)
from forge_pipeline.server.errors import UnavailableError

LOCATION, REPOSITORY = "forge", "__repository__"
PARTITIONS = "studio_jobs"
LINE = "studio"
TRAINING_ASSETS = ("recipe", "raw_dataset", "dataset_audit_report", "tokenized_dataset", "fine_tuned_model")
EXPORT_ASSETS = ("benchmark_report", "safety_report", "gguf_model", "annex_iv_bundle")
"""What lies between a trained model and its GGUF files and bundle, in the `studio` line."""
JOB_TAG = "forge/job_id"
_LOG_PAGE, _LOG_PAGES = 1000, 20  # events a query, and queries at most
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)  # seconds; a launch loads the code location's plan


class RunState(StrEnum):
    """Where a run is. `GONE` means that the launcher knows no such run."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    GONE = "gone"


@dataclass(frozen=True)
class RunStatus:
    state: RunState
    reason: str | None = None
    """Why a failed run failed, in its own words."""


@dataclass(frozen=True)
class LogLine:
    """One line of a run's log. `time` is in Unix seconds, `stage` the last part of its step's name."""

    time: float
    level: str
    stage: str | None
    message: str


class LaunchError(ForgeError, RuntimeError):
    """The launcher answered, and refused to start or end the run."""


class RunLauncher(Protocol):
    """Starts, ends and looks up the run of a job. Methods block; callers hand them to a thread."""

    def state(self) -> str:
        """``ready``, or what the launcher is waiting for."""
        ...

    def launch(self, job_id: str, *, partition: str | None = None, assets: Sequence[str] = TRAINING_ASSETS) -> str:
        """Start the job's run and return the run's id.

        Args:
            partition: The partition of the line that it works on; None: the job's own.
            assets: The line's assets that it makes.

        Raises:
            UnavailableError: The launcher cannot be reached.
            LaunchError: It refused.
        """
        ...

    def find(self, job_id: str) -> str | None:
        """The id of the run that was started for a job, if any."""
        ...

    def status(self, run_id: str) -> RunStatus: ...

    def log(self, run_id: str) -> list[LogLine]:
        """What was logged about a run, oldest first; empty where the launcher knows no such run."""
        ...

    def run_url(self, run_id: str) -> str | None:
        """The run's page in the launcher's own UI, if there is one now."""
        ...

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        """Ask a run to end. `at_once` marks it ended without waiting, for a run whose process is known to be gone."""
        ...


_STATES = {
    "NOT_STARTED": RunState.WAITING,
    "QUEUED": RunState.WAITING,
    "MANAGED": RunState.WAITING,
    "STARTING": RunState.STARTING,
    "STARTED": RunState.RUNNING,
    "CANCELING": RunState.STOPPING,
    "SUCCESS": RunState.SUCCEEDED,
    "FAILURE": RunState.FAILED,
    "CANCELED": RunState.STOPPED,
}


class DagsterRunLauncher:
    """Runs of the line `studio`, through a dagster-webserver.

    Args:
        url: Gives the webserver's address, or None while there is none yet.
        state: Says why there is none.
        wait: Waits, within reason, until there is one; a launch calls it first.
    """

    def __init__(
        self,
        url: Callable[[], str | None],
        state: Callable[[], str] = lambda: "ready",
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._url, self._state, self._wait = url, state, wait
        self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False)

    def state(self) -> str:
        if self._url() is None:
            return self._state()
        try:
            self._ask("query { version }", {})
        except UnavailableError as error:
            return str(error)
        return "ready"

    def launch(self, job_id: str, *, partition: str | None = None, assets: Sequence[str] = TRAINING_ASSETS) -> str:
        self._wait()
        partition = partition or job_id
        selector = {"repositoryLocationName": LOCATION, "repositoryName": REPOSITORY}
        added = self._ask(ADD_PARTITION, {"selector": selector, "name": PARTITIONS, "key": partition})
        _expect(added, "AddDynamicPartitionSuccess", "DuplicateDynamicPartitionError")
        # A job is one run: a retry by the daemon would train on behind a job that has ended as failed.
        tags = {"dagster/partition": partition, JOB_TAG: job_id, "dagster/max_retries": "0"}
        params = {
            # No assetCheckSelection: left out, every check of the assets runs; a list would choose among them.
            "selector": selector
            | {
                "pipelineName": "__ASSET_JOB",
                "assetSelection": [{"path": [LINE, name]} for name in assets],
            },
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self._ask(LAUNCH, {"params": params})
        _expect(launched, "LaunchRunSuccess")
        return str(launched["run"]["runId"])

    def find(self, job_id: str) -> str | None:
        found = self._ask(FIND, {"filter": {"tags": [{"key": JOB_TAG, "value": job_id}]}})
        _expect(found, "Runs")
        return str(found["results"][0]["runId"]) if found["results"] else None

    def status(self, run_id: str) -> RunStatus:
        answer = self._ask(STATUS, {"run": run_id})
        if answer["__typename"] == "RunNotFoundError":
            return RunStatus(RunState.GONE)
        _expect(answer, "Run")
        state = _STATES[answer["status"]]
        return RunStatus(state, self._reason(run_id) if state is RunState.FAILED else None)

    def log(self, run_id: str) -> list[LogLine]:
        lines: list[LogLine] = []
        after = None
        for _ in range(_LOG_PAGES):
            page = self._ask(LOG, {"run": run_id, "after": after, "limit": _LOG_PAGE})
            if page["__typename"] == "RunNotFoundError":
                return []
            _expect(page, "EventConnection")
            lines += [_log_line(event) for event in page["events"] if event.get("message")]
            after = page["cursor"]
            if not page["hasMore"]:
                break
        return lines

    def run_url(self, run_id: str) -> str | None:
        url = self._url()
        return None if url is None else f"{url.rstrip('/')}/runs/{run_id}"

    def terminate(self, run_id: str, *, at_once: bool = False) -> None:
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if at_once else "SAFE_TERMINATE"
        _expect(self._ask(TERMINATE, {"run": run_id, "policy": policy}), "TerminateRunSuccess")

    def close(self) -> None:
        self._http.close()

    def _reason(self, run_id: str) -> str | None:
        log = self._ask(REASON, {"run": run_id})
        return reason_of(log.get("events", [])) if log["__typename"] == "EventConnection" else None

    def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The one top-level field of a GraphQL answer."""
        url = self._url()
        if url is None:
            raise UnavailableError(f"Dagster is not ready: {self._state()}. Try again in a few seconds")
        try:
            reply = self._http.post(f"{url.rstrip('/')}/graphql", json={"query": query, "variables": dict(variables)})
            body = reply.raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise UnavailableError(
                f"Dagster does not answer: {type(error).__name__}. Is its webserver running?"
            ) from error
        if body.get("errors"):
            raise LaunchError(f"Dagster refused the query: {body['errors'][0]['message']}")
        value = next(iter(body["data"].values()))
        return value if isinstance(value, dict) else {"value": value}


def _log_line(event: Mapping[str, Any]) -> LogLine:
    step = str(event["stepKey"]).split("__")[-1] if event.get("stepKey") else None
    return LogLine(float(event["timestamp"]) / 1000, str(event["level"]).lower(), step, str(event["message"]))


def _expect(answer: Mapping[str, Any], *kinds: str) -> None:
    if answer["__typename"] in kinds:
        return
    words = answer.get("message") or "; ".join(error["message"] for error in answer.get("errors", []))
    raise LaunchError(
        f"Dagster answered {answer['__typename']}: {words.splitlines()[0] if words else 'no further words'}"
    )
