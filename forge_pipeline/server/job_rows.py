"""The rows of the job table: its columns, and what a row means to everybody else."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Column, Float, Integer, MetaData, RowMapping, String, Table, Text

from forge_pipeline.server.schemas import JobStatus

JobKind = Literal["train", "push", "export"]
ACTIVE: tuple[JobStatus, ...] = ("queued", "starting", "training")
"""A training job that waits or runs."""
ENDED: tuple[JobStatus, ...] = ("completed", "failed", "stopped")

METADATA = MetaData()
JOBS = Table(
    "jobs",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(64), nullable=False, unique=True),
    Column("slot", Integer, unique=True, nullable=True, doc="1 while the job is active, else NULL"),
    Column("status", String(16), nullable=False),
    Column("request", Text, nullable=False, doc="the start body, JSON"),
    Column("run_id", String(64), nullable=True),
    Column("stop_asked_at", String(32), nullable=True),
    Column("created_at", String(32), nullable=False),
    Column("ended_at", String(32), nullable=True),
    Column("error", Text, nullable=True),
    Column("step", Integer, nullable=False, default=0),
    Column("total_steps", Integer, nullable=False, default=0),
    Column("epoch", Integer, nullable=False, default=1),
    Column("loss", Float, nullable=True),
    Column("learning_rate", Float, nullable=True),
    # What came with the queue; nullable, so that an older table takes them.
    Column("queued_at", String(32), nullable=True, doc="when it joined the queue; NULL: started at once"),
    Column("priority", Integer, nullable=True, default=0),
    Column("retry_of", String(64), nullable=True),
    Column("started_at", String(32), nullable=True, doc="when it got the slot"),
    Column("turn", Integer, nullable=True, doc="counts who got the slot, in order"),
    Column("kind", String(8), nullable=True, default="train", doc="JobKind; NULL in older rows: train"),
    sqlite_autoincrement=True,
)
EVENTS = Table(
    "job_events",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(64), nullable=False, index=True),
    Column("at", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("message", Text, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class Job:
    """One row of the table. Times are ISO 8601 in UTC, ending in Z.

    Attributes:
        kind: ``train``; ``push`` and ``export`` never have the slot.
        slot: 1 while it is the active job.
        queued_at: When it joined the queue; None for one that was started at once.
        priority: Higher goes first; equal ones in the order they came.
        retry_of: The job that this one does again.
        started_at: When it got the slot; of one that never has it, when it began.
    """

    id: str
    status: JobStatus
    request: Mapping[str, Any]
    run_id: str | None
    stop_asked_at: str | None
    created_at: str
    ended_at: str | None
    error: str | None
    step: int
    total_steps: int
    epoch: int
    loss: float | None
    learning_rate: float | None
    slot: int | None = None
    queued_at: str | None = None
    priority: int | None = 0
    retry_of: str | None = None
    started_at: str | None = None
    kind: JobKind = "train"

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def waiting(self) -> bool:
        """Whether it stands in the queue."""
        return self.status == "queued" and self.slot is None


@dataclass(frozen=True)
class JobEvent:
    """One change of a job. `number` grows over all jobs."""

    number: int
    at: str
    status: JobStatus
    message: str


def new_job_id(kind: JobKind = "train") -> str:
    """The kind, ``_`` and 12 hexadecimal digits: fit for a file name, a partition key and a recipe's name."""
    return f"{kind}_{secrets.token_hex(6)}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def job_of(row: RowMapping) -> Job:
    values = {name: row[name] for name in Job.__dataclass_fields__}
    return Job(**(values | {"request": json.loads(row["request"]), "kind": row["kind"] or "train"}))
