"""The table of jobs: what was asked, which run does it, how far it is, how it ended.

One job at a time holds the slot. The slot is a unique column, so the database decides,
for threads, processes and restarts alike, which of several starts gets it; the others
are a 409. A job gives the slot up in the same statement that ends it, and a job that
has ended never changes again.

A job of the queue waits without the slot: `queued`, with neither slot nor end. It takes
the slot in one statement (`promote`), and only there. Every change of status leaves an
event in the same transaction.
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
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    inspect,
    select,
    text,
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
    # What came with the queue; nullable, so that an older table takes them.
    Column("queued_at", String(32), nullable=True, doc="when it joined the queue; NULL: started at once"),
    Column("priority", Integer, nullable=True, default=0),
    Column("retry_of", String(64), nullable=True),
    Column("started_at", String(32), nullable=True, doc="when it got the slot"),
    Column("turn", Integer, nullable=True, doc="counts who got the slot, in order"),
    sqlite_autoincrement=True,
)
_events = Table(
    "job_events",
    _metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(64), nullable=False, index=True),
    Column("at", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("message", Text, nullable=False),
    sqlite_autoincrement=True,
)
_WAITS = (_jobs.c.slot.is_(None), _jobs.c.ended_at.is_(None))


@dataclass(frozen=True)
class Job:
    """One row of the table. Times are ISO 8601 in UTC, ending in Z.

    Attributes:
        slot: 1 while it is the active job.
        queued_at: When it joined the queue; None for one that was started at once.
        priority: Higher goes first; equal ones in the order they came.
        retry_of: The job that this one does again.
        started_at: When it got the slot.
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


def new_job_id() -> str:
    """``train_`` and 12 hexadecimal digits: fit for a file name, a partition key and a recipe's name."""
    return f"train_{secrets.token_hex(6)}"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class JobTable:
    """Jobs in a SQLite file of their own.

    Args:
        path: The file; made when it does not exist, and brought up to date when an earlier version made it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(self._engine, "connect", _durable)
        _metadata.create_all(self._engine)
        _bring_up_to_date(self._engine)

    @property
    def engine(self) -> Engine:
        return self._engine

    def claim(self, job_id: str, request: Mapping[str, Any]) -> Job:
        """Add a queued job that holds the slot.

        Raises:
            ConflictError: Another job holds it, or waits for it.
        """
        first = self.next_waiting()
        if first is not None:
            raise ConflictError(
                f"Jobs wait in the queue, and job {first.id} is next. Add yours with POST /api/jobs, or cancel them"
            )
        values = {"id": job_id, "status": "queued", "request": json.dumps(request), "created_at": now()}
        try:
            with self._engine.begin() as connection:
                connection.execute(_jobs.insert().values(**values, **_turn()))
                _tell(connection, job_id, "queued", "Started at once")
        except IntegrityError as error:
            holder = self.active()
            name = f"job {holder.id} is {holder.status}" if holder else "another job is being started"
            raise ConflictError(
                f"One training runs at a time and {name}. Wait for it, stop it with POST /api/stop_training, or add "
                "yours to the queue with POST /api/jobs"
            ) from error
        return self.get(job_id)

    def enqueue(
        self, job_id: str, request: Mapping[str, Any], *, priority: int = 0, retry_of: str | None = None
    ) -> Job:
        """Add a job that waits for the slot."""
        moment = now()
        values = {
            "id": job_id,
            "status": "queued",
            "request": json.dumps(request),
            "created_at": moment,
            "queued_at": moment,
            "priority": priority,
            "retry_of": retry_of,
        }
        with self._engine.begin() as connection:
            connection.execute(_jobs.insert().values(**values))
            _tell(connection, job_id, "queued", f"Does job {retry_of} again" if retry_of else "Joined the queue")
        return self.get(job_id)

    def promote(self, job_id: str) -> bool:
        """Give the slot to a job that waits. False when it no longer waits, or another job holds the slot."""
        try:
            with self._engine.begin() as connection:
                taken = connection.execute(update(_jobs).where(_jobs.c.id == job_id, *_WAITS).values(**_turn()))
                if taken.rowcount == 1:
                    _tell(connection, job_id, "queued", "Its turn has come")
                return taken.rowcount == 1
        except IntegrityError:  # the slot is taken
            return False

    def requeue(self, job_id: str, reason: str) -> bool:
        """Put a job back into the queue, because its run was never started. False if it was asked to stop or ended."""
        values = {"slot": None, "status": "queued", "run_id": None, "started_at": None, "turn": None}
        asked = (_jobs.c.id == job_id, _jobs.c.slot == 1, _jobs.c.stop_asked_at.is_(None))
        with self._engine.begin() as connection:
            back = connection.execute(update(_jobs).where(*asked).values(**values)).rowcount == 1
            if back:
                _tell(connection, job_id, "queued", f"Back in the queue: {reason}")
        return back

    def withdraw(self, job_id: str) -> bool:
        """Stop a job that waits. False when it no longer does."""
        values = {"status": "stopped", "stop_asked_at": now(), "ended_at": now()}
        with self._engine.begin() as connection:
            gone = connection.execute(update(_jobs).where(_jobs.c.id == job_id, *_WAITS).values(**values)).rowcount == 1
            if gone:
                _tell(connection, job_id, "stopped", "Taken out of the queue")
        return gone

    def launched(self, job_id: str, run_id: str) -> Job:
        """Note which run does the job. It stays queued until that run is seen to start."""
        self._change(job_id, f"Dagster run {run_id} does it", run_id=run_id)
        return self.get(job_id)

    def ask_to_stop(self, job_id: str) -> Job:
        """Note that somebody asked this job to stop, unless it has ended."""
        self._change(job_id, "Asked to stop", stop_asked_at=now())
        return self.get(job_id)

    def advance(self, job_id: str, **values: Any) -> None:
        """Note status and figures of an active job; does nothing to one that has ended."""
        self._change(job_id, "", **values)

    def end(self, job_id: str, status: JobStatus, error: str | None = None) -> bool:
        """End an active job and free the slot. False when it had ended before."""
        assert status in ENDED
        return self._change(job_id, error or "", status=status, error=error, ended_at=now(), slot=None)

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
        """The job that got the slot last, active or ended."""
        return self._one(select(_jobs).where(_jobs.c.turn.is_not(None)).order_by(_jobs.c.turn.desc()).limit(1))

    def next_waiting(self) -> Job | None:
        """The job that gets the slot next."""
        return self._one(_waiting().limit(1))

    def waiting(self) -> list[Job]:
        """The queue, first the job that gets the slot next."""
        return self._all(_waiting())

    def page(self, *, limit: int, after: str | None = None, status: JobStatus | None = None) -> list[Job]:
        """Jobs, newest first: at most `limit`, those older than the job `after`.

        Raises:
            LookupError: There is no job `after`.
        """
        query = select(_jobs).order_by(_jobs.c.number.desc()).limit(limit)
        if after is not None:
            self.get(after)
            query = query.where(_jobs.c.number < select(_jobs.c.number).where(_jobs.c.id == after).scalar_subquery())
        if status is not None:
            query = query.where(_jobs.c.status == status)
        return self._all(query)

    def events(self, job_id: str, after: int = 0) -> tuple[JobEvent, ...]:
        """What happened to a job, oldest first, with a number above `after`."""
        query = select(_events.c.number, _events.c.at, _events.c.status, _events.c.message).order_by(_events.c.number)
        with self._engine.connect() as connection:
            found = connection.execute(query.where(_events.c.job_id == job_id, _events.c.number > after)).mappings()
            return tuple(JobEvent(**row) for row in found)

    def close(self) -> None:
        self._engine.dispose()

    def _one(self, query: Select[Any]) -> Job | None:
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return _job(row) if row else None

    def _all(self, query: Select[Any]) -> list[Job]:
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query).mappings()]

    def _change(self, job_id: str, message: str, **values: Any) -> bool:
        """Change a job that holds the slot; an event says so where its status changes or there is a message."""
        own = (_jobs.c.id == job_id, _jobs.c.slot == 1)
        with self._engine.begin() as connection:
            before = connection.execute(select(_jobs.c.status).where(*own)).scalar()
            changed = connection.execute(update(_jobs).where(*own).values(**values)).rowcount == 1
            if changed and (message or values.get("status", before) != before):
                _tell(connection, job_id, values.get("status", before), message)
        return changed


def _waiting() -> Select[Any]:
    return select(_jobs).where(*_WAITS).order_by(func.coalesce(_jobs.c.priority, 0).desc(), _jobs.c.number)


def _turn() -> dict[str, Any]:
    """Values of a job that gets the slot now."""
    following = select(func.coalesce(func.max(_jobs.c.turn), 0) + 1).scalar_subquery()
    return {"slot": 1, "started_at": now(), "turn": following}


def _tell(connection: Connection, job_id: str, status: str | None, message: str) -> None:
    connection.execute(_events.insert().values(job_id=job_id, at=now(), status=status, message=message))


def _job(row: RowMapping) -> Job:
    values = {name: row[name] for name in Job.__dataclass_fields__}
    return Job(**(values | {"request": json.loads(row["request"])}))


def _bring_up_to_date(engine: Engine) -> None:
    """Columns that a table of an earlier version lacks; its jobs all got the slot, in the order of their numbers."""
    present = {column["name"] for column in inspect(engine).get_columns(_jobs.name)}
    lacking = [column for column in _jobs.columns if column.name not in present]
    with engine.begin() as connection:
        for column in lacking:
            kind = column.type.compile(engine.dialect)
            connection.execute(text(f"ALTER TABLE {_jobs.name} ADD COLUMN {column.name} {kind}"))
        if any(column.name == "turn" for column in lacking):
            connection.execute(update(_jobs).values(turn=_jobs.c.number, started_at=_jobs.c.created_at))


def _durable(connection: Any, record: Any) -> None:
    del record
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
