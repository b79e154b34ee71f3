"""The table of jobs: what was asked, which run does it, how far it is, how it ended.

One training job at a time holds the slot. The slot is a unique column, so the database
decides, for threads, processes and restarts alike, which of several starts gets it; the
others are a 409. A job gives the slot up in the same statement that ends it, and a job that
has ended never changes again.

A job of the queue waits without the slot: `queued`, with neither slot nor end. It takes
the slot in one statement (`promote`), and only there. Jobs of another kind (pushes to the
Hub, exports) have a queue of their own, beside the slot. Every change of status leaves an
event in the same transaction.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from forge_pipeline.database import make_tables, open_engine
from forge_pipeline.server.errors import BusyError
from forge_pipeline.server.job_rows import (
    ACTIVE,
    ENDED,
    EVENTS,
    JOBS,
    METADATA,
    Job,
    JobEvent,
    JobKind,
    job_of,
    new_job_id,
    now,
)
from forge_pipeline.server.schemas import JobStatus

__all__ = ["ACTIVE", "ENDED", "Job", "JobEvent", "JobKind", "JobTable", "new_job_id", "now"]

_TRAINS = or_(JOBS.c.kind.is_(None), JOBS.c.kind == "train")
_WAITS = (JOBS.c.slot.is_(None), JOBS.c.ended_at.is_(None), _TRAINS)


class JobTable:
    """Jobs in one SQL database.

    Args:
        place: A SQLAlchemy URL, or the path of a SQLite file. The table is made when it is not there, and brought
            up to date when an earlier version made it.

    Raises:
        ConfigError: The URL is not one, or its driver is not installed.
    """

    def __init__(self, place: Path | str) -> None:
        self._engine = open_engine(f"sqlite:///{place}" if isinstance(place, Path) else place)
        make_tables(self._engine, METADATA)
        with self._engine.begin() as connection:
            # Jobs of a version without a queue all got the slot, in the order of their numbers.
            older = (JOBS.c.turn.is_(None), JOBS.c.queued_at.is_(None))
            connection.execute(update(JOBS).where(*older).values(turn=JOBS.c.number, started_at=JOBS.c.created_at))

    @property
    def engine(self) -> Engine:
        return self._engine

    def claim(self, job_id: str, request: Mapping[str, Any]) -> Job:
        """Add a queued job that holds the slot.

        Raises:
            BusyError: Another job holds it, or waits for it.
        """
        first = self.next_waiting()
        if first is not None:
            raise BusyError(
                f"Jobs wait in the queue, and job {first.id} is next. Add yours with POST /api/jobs, or cancel them"
            )
        values = {"id": job_id, "status": "queued", "request": json.dumps(request), "created_at": now()}
        try:
            with self._engine.begin() as connection:
                connection.execute(JOBS.insert().values(**values, **_turn()))
                _tell(connection, job_id, "queued", "Started at once")
        except IntegrityError as error:
            holder = self.active()
            name = f"job {holder.id} is {holder.status}" if holder else "another job is being started"
            raise BusyError(
                f"One training runs at a time and {name}. Wait for it, stop it with POST /api/stop_training, or add "
                "yours to the queue with POST /api/jobs"
            ) from error
        return self.get(job_id)

    def enqueue(
        self,
        job_id: str,
        request: Mapping[str, Any],
        *,
        priority: int = 0,
        retry_of: str | None = None,
        kind: JobKind = "train",
    ) -> Job:
        """Add a job that waits: for the slot, or, one that never has it, for those of its kind before it."""
        moment = now()
        values = {
            "id": job_id,
            "status": "queued",
            "request": json.dumps(request),
            "created_at": moment,
            "queued_at": moment,
            "priority": priority,
            "retry_of": retry_of,
            "kind": kind,
        }
        with self._engine.begin() as connection:
            connection.execute(JOBS.insert().values(**values))
            _tell(connection, job_id, "queued", f"Does job {retry_of} again" if retry_of else "Joined the queue")
        return self.get(job_id)

    def promote(self, job_id: str) -> bool:
        """Give the slot to a job that waits. False when it no longer waits, or another job holds the slot."""
        try:
            with self._engine.begin() as connection:
                taken = connection.execute(update(JOBS).where(JOBS.c.id == job_id, *_WAITS).values(**_turn()))
                if taken.rowcount == 1:
                    _tell(connection, job_id, "queued", "Its turn has come")
                return taken.rowcount == 1
        except IntegrityError:  # the slot is taken
            return False

    def requeue(self, job_id: str, reason: str) -> bool:
        """Put a job back into the queue, because its run was never started. False if it was asked to stop or ended."""
        values = {"slot": None, "status": "queued", "run_id": None, "started_at": None, "turn": None}
        asked = (JOBS.c.id == job_id, JOBS.c.slot == 1, JOBS.c.stop_asked_at.is_(None))
        with self._engine.begin() as connection:
            back = connection.execute(update(JOBS).where(*asked).values(**values)).rowcount == 1
            if back:
                _tell(connection, job_id, "queued", f"Back in the queue: {reason}")
        return back

    def withdraw(self, job_id: str) -> bool:
        """Stop a job that waits. False when it no longer does."""
        values = {"status": "stopped", "stop_asked_at": now(), "ended_at": now()}
        with self._engine.begin() as connection:
            gone = connection.execute(update(JOBS).where(JOBS.c.id == job_id, *_WAITS).values(**values)).rowcount == 1
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
        if job_id is None or "\0" in job_id:  # PostgreSQL takes no NUL, and no job has one
            return None
        return self._one(select(JOBS).where(JOBS.c.id == job_id))

    def active(self) -> Job | None:
        """The job that holds the slot."""
        return self._one(select(JOBS).where(JOBS.c.slot == 1))

    def latest(self) -> Job | None:
        """The job that got the slot last, active or ended."""
        return self._one(select(JOBS).where(JOBS.c.turn.is_not(None)).order_by(JOBS.c.turn.desc()).limit(1))

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
        query = select(JOBS).order_by(JOBS.c.number.desc()).limit(limit)
        if after is not None:
            self.get(after)
            query = query.where(JOBS.c.number < select(JOBS.c.number).where(JOBS.c.id == after).scalar_subquery())
        if status is not None:
            query = query.where(JOBS.c.status == status)
        return self._all(query)

    def beside(self, kind: JobKind, status: JobStatus) -> list[Job]:
        """Jobs of a kind that never has the slot: ``queued``, the next one first, or ``running``."""
        return self._all(select(JOBS).where(JOBS.c.kind == kind, JOBS.c.status == status).order_by(JOBS.c.number))

    def begin_beside(self, job_id: str, message: str) -> bool:
        """Note that such a job begins. False when it no longer waits."""
        return self._change_beside(job_id, message, JOBS.c.status == "queued", status="running", started_at=now())

    def note_beside(self, job_id: str, message: str, **values: Any) -> bool:
        """Note something about such a job that has begun. False when it has ended."""
        return self._change_beside(job_id, message, JOBS.c.status == "running", status="running", **values)

    def withdraw_beside(self, job_id: str, message: str) -> bool:
        """Stop such a job. False when it no longer waits."""
        return self._change_beside(job_id, message, JOBS.c.status == "queued", status="stopped", ended_at=now())

    def end_beside(self, job_id: str, status: JobStatus, message: str) -> bool:
        """End such a job, whether it waits or has begun. False when it had ended before."""
        assert status in ENDED
        error = message if status == "failed" else None
        return self._change_beside(
            job_id, message, JOBS.c.ended_at.is_(None), status=status, error=error, ended_at=now()
        )

    def events(self, job_id: str, after: int = 0) -> tuple[JobEvent, ...]:
        """What happened to a job, oldest first, with a number above `after`."""
        query = select(EVENTS.c.number, EVENTS.c.at, EVENTS.c.status, EVENTS.c.message).order_by(EVENTS.c.number)
        with self._engine.connect() as connection:
            found = connection.execute(query.where(EVENTS.c.job_id == job_id, EVENTS.c.number > after)).mappings()
            return tuple(JobEvent(**row) for row in found)

    def counts(self) -> dict[str, int]:
        """Status -> how many jobs have it."""
        query = select(JOBS.c.status, func.count()).group_by(JOBS.c.status)
        with self._engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def close(self) -> None:
        self._engine.dispose()

    def _one(self, query: Select[Any]) -> Job | None:
        with self._engine.connect() as connection:
            row = connection.execute(query).mappings().first()
        return job_of(row) if row else None

    def _all(self, query: Select[Any]) -> list[Job]:
        with self._engine.connect() as connection:
            return [job_of(row) for row in connection.execute(query).mappings()]

    def _change_beside(self, job_id: str, message: str, still: ColumnElement[bool], **values: Any) -> bool:
        which = (JOBS.c.id == job_id, ~_TRAINS, still)
        with self._engine.begin() as connection:
            changed = connection.execute(update(JOBS).where(*which).values(**_storable(values))).rowcount == 1
            if changed:
                _tell(connection, job_id, values["status"], message)
        return changed

    def _change(self, job_id: str, message: str, **values: Any) -> bool:
        """Change a job that holds the slot; an event says so where its status changes or there is a message."""
        own = (JOBS.c.id == job_id, JOBS.c.slot == 1)
        with self._engine.begin() as connection:
            before = connection.execute(select(JOBS.c.status).where(*own)).scalar()
            changed = connection.execute(update(JOBS).where(*own).values(**_storable(values))).rowcount == 1
            if changed and (message or values.get("status", before) != before):
                _tell(connection, job_id, values.get("status", before), message)
        return changed


def _waiting() -> Select[Any]:
    return select(JOBS).where(*_WAITS).order_by(func.coalesce(JOBS.c.priority, 0).desc(), JOBS.c.number)


def _turn() -> dict[str, Any]:
    """Values of a job that gets the slot now."""
    following = select(func.coalesce(func.max(JOBS.c.turn), 0) + 1).scalar_subquery()
    return {"slot": 1, "started_at": now(), "turn": following}


def _tell(connection: Connection, job_id: str, status: str | None, message: str) -> None:
    connection.execute(
        EVENTS.insert().values(job_id=job_id, at=now(), status=status, message=message.replace("\0", ""))
    )


def _storable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without NUL characters, which PostgreSQL's text does not take: a run's own words may hold one."""
    return {name: value.replace("\0", "") if isinstance(value, str) else value for name, value in values.items()}
