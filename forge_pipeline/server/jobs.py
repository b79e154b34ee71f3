"""The table of jobs: what was asked, which run does it, how far it is, how it ended.

One job at a time holds the slot. The slot is a unique column, so the database decides,
for threads, processes and restarts alike, which of several starts gets it; the others
are a 409. A job gives the slot up in the same statement that ends it, and a job that
has ended never changes again.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    create_engine,
    event,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from forge_pipeline.server.errors import ConflictError
from forge_pipeline.server.schemas import JobStatus

ACTIVE: tuple[JobStatus, ...] = ("queued", "starting", "training")
ENDED: tuple[JobStatus, ...] = ("completed", "failed", "stopped")

_metadata = MetaData()
_jobs = Table(
    "jobs",
    _metadata,
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
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class Job:
    """One row of the table. Times are ISO 8601 in UTC, ending in Z."""

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

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


def new_job_id() -> str:
    """``train_`` and 12 hexadecimal digits: fit for a file name, a partition key and a recipe's name."""
    return f"train_{secrets.token_hex(6)}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class JobTable:
    """Jobs in a SQLite file of their own.

    Args:
        path: The file; made when it does not exist.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(self._engine, "connect", _durable)
        _metadata.create_all(self._engine)

    @property
    def engine(self) -> Engine:
        return self._engine

    def claim(self, job_id: str, request: Mapping[str, Any]) -> Job:
        """Add a queued job that holds the slot.

        Raises:
            ConflictError: Another job holds it.
        """
        values = {"id": job_id, "slot": 1, "status": "queued", "request": json.dumps(request), "created_at": now()}
        try:
            with self._engine.begin() as connection:
                connection.execute(_jobs.insert().values(**values))
        except IntegrityError as error:
            holder = self.active()
            name = f"job {holder.id} is {holder.status}" if holder else "another job is being started"
            raise ConflictError(
                f"One training runs at a time and {name}. Wait for it, or stop it with POST /api/stop_training"
            ) from error
        return self.get(job_id)

    def launched(self, job_id: str, run_id: str) -> Job:
        """Note which run does the job. It stays queued until that run is seen to start."""
        self._change(job_id, run_id=run_id)
        return self.get(job_id)

    def ask_to_stop(self, job_id: str) -> Job:
        """Note that somebody asked this job to stop, unless it has ended."""
        self._change(job_id, stop_asked_at=now())
        return self.get(job_id)

    def advance(self, job_id: str, **values: Any) -> None:
        """Note status and figures of an active job; does nothing to one that has ended."""
        self._change(job_id, **values)

    def end(self, job_id: str, status: JobStatus, error: str | None = None) -> bool:
        """End an active job and free the slot. False when it had ended before."""
        assert status in ENDED
        return self._change(job_id, status=status, error=error, ended_at=now(), slot=None)

    def get(self, job_id: str) -> Job:
        """The job.

        Raises:
            LookupError: There is no such job.
        """
        job = self.find(job_id)
        if job is None:
            raise LookupError(f"there is no job {job_id}")
        return job

    def find(self, job_id: str | None) -> Job | None:
        return self._one(select(_jobs).where(_jobs.c.id == job_id))

    def active(self) -> Job | None:
        """The job that holds the slot."""
        return self._one(select(_jobs).where(_jobs.c.slot == 1))

    def latest(self) -> Job | None:
        """The job that was started last, active or ended."""
        return self._one(select(_jobs).order_by(_jobs.c.number.desc()).limit(1))

    def close(self) -> None:
        self._engine.dispose()

    def _one(self, query: Any) -> Job | None:
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return _job(row) if row else None

    def _change(self, job_id: str, **values: Any) -> bool:
        still_active = update(_jobs).where(_jobs.c.id == job_id, _jobs.c.slot == 1)
        with self._engine.begin() as connection:
            return connection.execute(still_active.values(**values)).rowcount == 1


def _job(row: RowMapping) -> Job:
    values = {name: row[name] for name in Job.__dataclass_fields__}
    return Job(**(values | {"request": json.loads(row["request"])}))


def _durable(connection: Any, record: Any) -> None:
    del record
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
