"""What the API answers, as frozen dataclasses. Keys that this version does not know are left aside.

Times are ISO 8601 in UTC, ending in Z.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Info:
    providers: list[str]
    strategies: list[str]
    tasks: list[str]
    version: str
    package_models: list[str] = field(default_factory=list)
    availability: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    status: str
    version: str
    launcher: str


@dataclass(frozen=True)
class Started:
    """`job_id` of the job: a training, a push or an export."""

    status: str
    job_id: str
    message: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingStatus:
    """`progress` in percent; epochs count from 1; `loss` and `learning_rate` are None before the first log line."""

    status: str
    progress: float
    current_epoch: int
    total_epochs: int
    current_step: int
    total_steps: int
    loss: float | None
    learning_rate: float | None
    job_id: str | None = None
    stage: str | None = None
    message: str = ""
    error: str | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ("completed", "failed", "stopped")


@dataclass(frozen=True, kw_only=True)
class Job(TrainingStatus):
    """`position` in the queue from 1; `model_id` of the model that it made, pushes or exports."""

    job_id: str
    position: int | None
    priority: int
    created_at: str
    started_at: str | None
    ended_at: str | None
    run_id: str | None
    retry_of: str | None
    model_id: int | None
    request: dict[str, Any]
    kind: str = "train"
    dagster_url: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class JobPage:
    jobs: list[Job]
    has_more: bool


@dataclass(frozen=True)
class JobEvent:
    number: int
    at: str
    status: str
    message: str


@dataclass(frozen=True)
class JobEvents:
    events: list[JobEvent]


@dataclass(frozen=True)
class LogLine:
    at: str
    source: str
    level: str
    stage: str | None
    message: str
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class JobLogs:
    lines: list[LogLine]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FieldError:
    field: str
    message: str


@dataclass(frozen=True)
class Validated:
    """What stands against a start, and what it would take; nothing was started."""

    valid: bool
    errors: list[FieldError]
    dataset: dict[str, Any] | None
    estimate: dict[str, Any] | None


@dataclass(frozen=True)
class Span:
    start: int
    stop: int


@dataclass(frozen=True)
class Generated:
    generated_text: str
    tokens_generated: int
    generation_time_ms: int
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    span: Span | None = None
    score: float | None = None


@dataclass(frozen=True)
class Chat:
    """One answer of `/v1/chat/completions`."""

    id: str
    model: str
    choices: list[dict[str, Any]]
    usage: dict[str, int]
    system_fingerprint: str = ""

    @property
    def text(self) -> str:
        return str(self.choices[0]["message"]["content"])


@dataclass(frozen=True)
class ServedModel:
    id: str
    created: int
    owned_by: str


@dataclass(frozen=True)
class ServedModels:
    data: list[ServedModel]


@dataclass(frozen=True)
class Approval:
    request_id: str
    line: str
    state: str
    problem: str | None
    model: str
    bundle: str
    recipe: str
    needed: int
    still_needed: int
    four_eyes: bool
    missing_roles: list[str]
    signed_only: bool
    requested_by: str
    created_at: str
    expires_at: str
    gates: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    command: str
    shown: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Approvals:
    approvals: list[Approval]
    may_decide: bool


@dataclass(frozen=True)
class RolledBack:
    line: str
    alias: str
    uid: str
    message: str


@dataclass(frozen=True)
class Done:
    """What was stopped or deleted, in words."""

    status: str
    message: str
    job_id: str | None = None
