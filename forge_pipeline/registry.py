"""The registry: which models and datasets there are, which model an alias means, who approved what.

One SQL database (SQLite file by default, PostgreSQL by URL; see `database`). Rules:

- A model's `uid` is the digest of its directory, so a row can never come to mean other bytes.
- Aliases (``production``) are append-only history: setting or rolling back adds a row,
  the newest row of a (line, alias) is what the alias means.
- A change of stage and alias in one step (`release_model`, `move_alias`) is one transaction, so a crash
  leaves it done or not done; the row names the log entry that announced it.
- Approval requests and decisions are kept beside the audit log, which is their authority:
  `release.promote` counts a decision only if the log holds it too.
- Rows handed out are frozen dataclasses. Times are timezone-aware UTC, given by the caller
  or taken from the clock at the edge.

The files that rows point to are never touched here: deleting a row deletes no bytes.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.types import TypeDecorator

from forge_pipeline.database import UtcDateTime, make_tables, open_engine, shown
from forge_pipeline.errors import ConfigError, StoreError
from forge_pipeline.integrity import Digest

ModelStage = Literal["candidate", "staging", "released", "archived", "quarantined"]
ApprovalDecision = Literal["granted", "rejected"]
AliasOperation = Literal["release", "set", "rollback"]


class _DigestText(TypeDecorator[Digest]):
    """`Digest` in Python, its text in the database."""

    impl = String(71)
    cache_ok = True

    def process_bind_param(self, value: Digest | None, dialect: Dialect) -> str | None:
        return str(Digest(value)) if value is not None else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> Digest | None:
        return Digest(value) if value is not None else None


_metadata = MetaData()

_models = Table(
    "models",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("uid", _DigestText, nullable=False, unique=True),
    Column("name", String(255), nullable=False),
    Column("line", String(64), nullable=False, index=True),
    Column("base_model", Text, nullable=False),
    Column("task", String(64), nullable=False),
    Column("provider", String(64), nullable=False),
    Column("strategy", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("path", Text, nullable=False),
    Column("training_params", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("stage_reason", Text),
    Column("run_id", String(64)),
    Column("job_id", String(64), index=True),
    sqlite_autoincrement=True,  # an id is never given twice, also after a deletion
)

_datasets = Table(
    "datasets",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("digest", _DigestText, nullable=False),
    Column("filename", String(255), nullable=False, unique=True),
    Column("path", Text, nullable=False),
    Column("num_examples", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("uploaded_at", UtcDateTime, nullable=False),
    Column("validation", JSON, nullable=False),
    sqlite_autoincrement=True,
)

_aliases = Table(
    "alias_history",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("line", String(64), nullable=False, index=True),
    Column("alias", String(64), nullable=False),
    Column("model_uid", _DigestText, ForeignKey("models.uid"), nullable=False),
    Column("set_at", UtcDateTime, nullable=False),
    Column("set_by", String(255), nullable=False),
    Column("reason", Text, nullable=False),
    Column("intent", _DigestText),
    Column("operation", String(16)),
    sqlite_autoincrement=True,
)

_requests = Table(
    "approval_requests",
    _metadata,
    Column("request_id", String(64), primary_key=True),
    Column("line", String(64), nullable=False),
    Column("subject", _DigestText, nullable=False, index=True),
    Column("bundle", _DigestText, nullable=False),
    Column("policy_digest", _DigestText, nullable=False),
    Column("needed", Integer, nullable=False),
    Column("requested_by", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("log_directory", Text, nullable=False),
    Column("details", JSON),
)

_approvals = Table(
    "approvals",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("request_id", String(64), ForeignKey("approval_requests.request_id"), nullable=False),
    Column("subject", _DigestText, nullable=False, index=True),
    Column("decision", String(16), nullable=False),
    Column("approver", String(255), nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    Column("record", JSON, nullable=False),
    UniqueConstraint("request_id", "approver"),
    sqlite_autoincrement=True,
)

_revocations = Table(
    "revocations",
    _metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("approval_id", Integer, ForeignKey("approvals.id"), nullable=False, unique=True),
    Column("request_id", String(64), ForeignKey("approval_requests.request_id"), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("revoked_at", UtcDateTime, nullable=False),
    Column("record", JSON, nullable=False),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True)
class ModelRow:
    """One fine-tuned model.

    Attributes:
        id: Small integer of the REST API; never given twice.
        uid: Digest of the model directory.
        strategy: The trainer type, in the REST seed's word.
        stage: ``candidate`` when trained, ``staging`` while people decide, ``released`` once an alias was moved to
            it by a release, ``quarantined`` when a gate failed, ``archived`` when it is to be used no more.
        stage_reason: Why it is in that stage, where somebody said so.
    """

    id: int
    uid: Digest
    name: str
    line: str
    base_model: str
    task: str
    provider: str
    strategy: str
    created_at: datetime
    size_bytes: int
    path: str
    training_params: Mapping[str, Any]
    metrics: Mapping[str, float]
    stage: ModelStage
    run_id: str | None
    job_id: str | None
    stage_reason: str | None = None


@dataclass(frozen=True)
class DatasetRow:
    """One uploaded dataset file; `validation` is what reading it found."""

    id: int
    digest: Digest
    filename: str
    path: str
    num_examples: int
    size_bytes: int
    uploaded_at: datetime
    validation: Mapping[str, Any]


@dataclass(frozen=True)
class AliasRow:
    """One moment at which an alias came to mean a model.

    `intent` is the hash of the audit log's entry that announced the change; None where nobody logged one.
    `operation` is what was done; None in rows of an earlier version.
    """

    id: int
    line: str
    alias: str
    model_uid: Digest
    set_at: datetime
    set_by: str
    reason: str
    intent: Digest | None = None
    operation: AliasOperation | None = None


@dataclass(frozen=True)
class ApprovalRequestRow:
    """A release that waits for people.

    Attributes:
        subject: Digest of the model directory that is asked about.
        bundle: Digest of the bundle that was shown.
        policy_digest: Digest of the recipe whose gates were met.
        needed: Distinct approvers.
        log_directory: Directory of the audit log that decisions belong into.
        details: What people are shown, as `release.RequestDetails` has it.
    """

    request_id: str
    line: str
    subject: Digest
    bundle: Digest
    policy_digest: Digest
    needed: int
    requested_by: str
    created_at: datetime
    expires_at: datetime
    log_directory: str
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ApprovalRow:
    """One person's decision; `record` is what was logged (and signed, where there is a key)."""

    id: int
    request_id: str
    subject: Digest
    decision: ApprovalDecision
    approver: str
    reason: str
    decided_at: datetime
    record: Mapping[str, Any]


@dataclass(frozen=True)
class RevocationRow:
    """A decision taken back by the person who made it; `record` is what was logged (and signed)."""

    id: int
    approval_id: int
    request_id: str
    reason: str
    revoked_at: datetime
    record: Mapping[str, Any]


class Registry:
    """The registry behind one database URL. Safe to share between threads.

    Args:
        url: A SQLAlchemy URL: ``sqlite:///path/to/registry.sqlite``, ``postgresql://user@host/name``.
            The tables, and columns that an earlier version did not have, are made when they are missing.

    Raises:
        ConfigError: The URL is not one, or its driver is not installed.
        StoreError: The database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_engine(url)
        with _store_errors(url):
            make_tables(self._engine, _metadata)

    def close(self) -> None:
        """Give back every pooled connection."""
        self._engine.dispose()

    # Models

    def register_model(
        self,
        *,
        uid: Digest,
        name: str,
        line: str,
        base_model: str,
        task: str = "text-generation",
        provider: str = "huggingface",
        strategy: str = "sft",
        path: str,
        size_bytes: int | None = None,
        training_params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        stage: ModelStage = "candidate",
        run_id: str | None = None,
        job_id: str | None = None,
        created_at: datetime | None = None,
    ) -> ModelRow:
        """Add a model, or return the row that its digest already has (nothing in it is changed).

        `size_bytes` is what the files under `path` have together, unless it is given. A metric that is no finite
        number is left out: JSON, in which they are kept, has no word for it.
        """
        _check_choice("stage", stage, get_args(ModelStage))
        values = {
            "uid": uid,
            "name": name,
            "line": line,
            "base_model": base_model,
            "task": task,
            "provider": provider,
            "strategy": strategy,
            "created_at": created_at or datetime.now(UTC),
            "size_bytes": _size_of(Path(path)) if size_bytes is None else size_bytes,
            "path": path,
            "training_params": dict(training_params or {}),
            "metrics": {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},
            "stage": stage,
            "run_id": run_id,
            "job_id": job_id,
        }
        try:
            with self._transaction() as connection:
                connection.execute(insert(_models).values(values))
        except IntegrityError:  # the same bytes were registered before, perhaps by another process just now
            pass
        row = self.find_model(uid)
        assert row is not None
        return row

    def list_models(
        self,
        *,
        line: str | None = None,
        stage: ModelStage | None = None,
        job_id: str | None = None,
        limit: int | None = None,
        after: int = 0,
    ) -> tuple[ModelRow, ...]:
        """Models in order of registration, those with an id above `after`, at most `limit`."""
        query = select(_models).where(_models.c.id > after).order_by(_models.c.id)
        for column, value in ((_models.c.line, line), (_models.c.stage, stage), (_models.c.job_id, job_id)):
            if value is not None:
                query = query.where(column == value)
        with self._transaction() as connection:
            return tuple(_model(row) for row in connection.execute(query.limit(limit)))

    def get_model(self, model_id: int) -> ModelRow | None:
        """The model with that id, or None."""
        with self._transaction() as connection:
            row = connection.execute(select(_models).where(_models.c.id == model_id)).one_or_none()
        return _model(row) if row else None

    def find_model(self, uid: Digest) -> ModelRow | None:
        """The model with that digest, or None."""
        with self._transaction() as connection:
            row = connection.execute(select(_models).where(_models.c.uid == uid)).one_or_none()
        return _model(row) if row else None

    def set_stage(self, uid: Digest, stage: ModelStage, *, reason: str | None = None) -> None:
        """Move a model to `stage`.

        Raises:
            StoreError: No model has that digest.
        """
        with self._transaction() as connection:
            _set_stage(connection, uid, stage, reason)

    def delete_model(self, model_id: int) -> bool:
        """Forget a model; its files stay. False if there was none.

        Raises:
            StoreError: An alias means or meant it; its history would lose its subject.
        """
        with self._transaction() as connection:
            row = connection.execute(select(_models.c.uid).where(_models.c.id == model_id)).one_or_none()
            if row is None:
                return False
            used = connection.execute(select(_aliases.c.alias).where(_aliases.c.model_uid == row.uid)).first()
            if used:
                raise StoreError(
                    f"model {model_id} is in the history of alias {used.alias!r} and is kept; archive it instead"
                )
            connection.execute(delete(_models).where(_models.c.id == model_id))
        return True

    # Datasets

    def register_dataset(
        self,
        *,
        digest: Digest,
        filename: str,
        path: str,
        num_examples: int,
        size_bytes: int,
        validation: Mapping[str, Any],
        uploaded_at: datetime | None = None,
    ) -> DatasetRow:
        """Add a dataset file; one of the same name is replaced (it keeps its id)."""
        values = {
            "digest": digest,
            "filename": filename,
            "path": path,
            "num_examples": num_examples,
            "size_bytes": size_bytes,
            "validation": dict(validation),
            "uploaded_at": uploaded_at or datetime.now(UTC),
        }
        try:
            return self._put_dataset(values)
        except IntegrityError:  # another process entered that name just now, so there is a row to replace
            return self._put_dataset(values)

    def _put_dataset(self, values: Mapping[str, Any]) -> DatasetRow:
        by_name = _datasets.c.filename == values["filename"]
        with self._transaction() as connection:
            if not connection.execute(update(_datasets).where(by_name).values(values)).rowcount:
                connection.execute(insert(_datasets).values(values))
            return DatasetRow(**connection.execute(select(_datasets).where(by_name)).one()._mapping)

    def list_datasets(self) -> tuple[DatasetRow, ...]:
        """Datasets in order of first registration."""
        with self._transaction() as connection:
            rows = connection.execute(select(_datasets).order_by(_datasets.c.id))
            return tuple(DatasetRow(**row._mapping) for row in rows)

    def find_dataset(self, filename: str) -> DatasetRow | None:
        """The dataset of that file name, or None."""
        with self._transaction() as connection:
            row = connection.execute(select(_datasets).where(_datasets.c.filename == filename)).one_or_none()
        return DatasetRow(**row._mapping) if row else None

    def delete_dataset(self, filename: str) -> bool:
        """Forget a dataset; its file stays. False if there was none."""
        with self._transaction() as connection:
            return connection.execute(delete(_datasets).where(_datasets.c.filename == filename)).rowcount == 1

    # Aliases

    def set_alias(
        self, line: str, alias: str, uid: Digest, *, set_by: str, reason: str, set_at: datetime | None = None
    ) -> AliasRow:
        """Make `alias` of `line` mean the model `uid` from now on.

        Raises:
            StoreError: No model of that line has that digest.
        """
        with self._transaction() as connection:
            known = connection.execute(select(_models.c.line).where(_models.c.uid == uid)).one_or_none()
            if known is None or known.line != line:
                raise StoreError(f"line {line!r} has no model {uid}; an alias means a registered model of its own line")
            return _add_alias(connection, line, alias, uid, set_by, reason, set_at or datetime.now(UTC), "set")

    def move_alias(
        self,
        line: str,
        alias: str,
        uid: Digest,
        *,
        operation: AliasOperation,
        intent: Digest,
        set_by: str,
        reason: str,
        stages: Mapping[Digest, tuple[ModelStage, str | None]] | None = None,
        set_at: datetime | None = None,
    ) -> AliasRow | None:
        """Make an alias mean a model and move models between stages, in one transaction.

        Args:
            intent: Hash of the log entry that announced it.
            stages: Model -> its new stage and why.

        Returns:
            The new row; None if the alias meant that model already (the stages are set all the same).

        Raises:
            StoreError: No model of that line has that digest. Nothing was changed.
        """
        with self._transaction() as connection:
            known = connection.execute(select(_models.c.line).where(_models.c.uid == uid)).one_or_none()
            if known is None or known.line != line:
                raise StoreError(f"line {line!r} has no model {uid}; an alias means a registered model of its own line")
            for model, (stage, why) in (stages or {}).items():
                _set_stage(connection, model, stage, why)
            history = _alias_rows(connection, line, alias)
            if history and history[-1].model_uid == uid:
                return None
            return _add_alias(
                connection, line, alias, uid, set_by, reason, set_at or datetime.now(UTC), operation, intent
            )

    def aliases(self, line: str | None = None) -> tuple[AliasRow, ...]:
        """What each alias means now, by line and name."""
        newest = select(func.max(_aliases.c.id)).group_by(_aliases.c.line, _aliases.c.alias)
        query = select(_aliases).where(_aliases.c.id.in_(newest)).order_by(_aliases.c.line, _aliases.c.alias)
        if line is not None:
            query = query.where(_aliases.c.line == line)
        with self._transaction() as connection:
            return tuple(AliasRow(**row._mapping) for row in connection.execute(query))

    def alias_meanings(self, line: str, alias: str) -> tuple[Digest, ...]:
        """The models an alias went through, oldest first, each rollback having taken the last one away again."""
        return tuple(_meanings(self.alias_history(line, alias)))

    def resolve_alias(self, line: str, alias: str) -> ModelRow | None:
        """The model that the alias means now, or None if it was never set."""
        history = self.alias_history(line, alias)
        return self.find_model(history[-1].model_uid) if history else None

    def alias_history(self, line: str, alias: str) -> tuple[AliasRow, ...]:
        """Every meaning the alias had, oldest first."""
        with self._transaction() as connection:
            return _alias_rows(connection, line, alias)

    def rollback_alias(
        self, line: str, alias: str, *, set_by: str, reason: str, set_at: datetime | None = None
    ) -> AliasRow:
        """Make the alias mean the model it meant before its present one.

        A second rollback goes one model further back: what was rolled away from is not returned to.

        Raises:
            StoreError: It never meant another model.
        """
        with self._transaction() as connection:
            meanings = _meanings(_alias_rows(connection, line, alias))
            if len(meanings) < 2:
                raise StoreError(f"alias {alias!r} of line {line!r} never meant another model; nothing to go back to")
            moment = set_at or datetime.now(UTC)
            return _add_alias(connection, line, alias, meanings[-2], set_by, reason, moment, "rollback")

    # Approvals

    def add_approval_request(self, request: ApprovalRequestRow) -> None:
        """Record that a release waits for people."""
        with self._transaction() as connection:
            connection.execute(insert(_requests).values(vars(request)))

    def approval_requests(
        self, *, subject: Digest | None = None, line: str | None = None
    ) -> tuple[ApprovalRequestRow, ...]:
        """Requests, oldest first; of one subject or line if given."""
        query = select(_requests).order_by(_requests.c.created_at, _requests.c.request_id)
        if subject is not None:
            query = query.where(_requests.c.subject == subject)
        if line is not None:
            query = query.where(_requests.c.line == line)
        with self._transaction() as connection:
            return tuple(ApprovalRequestRow(**row._mapping) for row in connection.execute(query))

    def add_approval(
        self,
        *,
        request_id: str,
        subject: Digest,
        decision: ApprovalDecision,
        approver: str,
        reason: str,
        decided_at: datetime,
        record: Mapping[str, Any],
    ) -> ApprovalRow:
        """Record one person's decision.

        Raises:
            StoreError: That person has decided on this request already, or there is no such request.
        """
        values = {
            "request_id": request_id,
            "subject": subject,
            "decision": decision,
            "approver": approver,
            "reason": reason,
            "decided_at": decided_at,
            "record": dict(record),
        }
        try:
            with self._transaction() as connection:
                inserted = connection.execute(insert(_approvals).values(values)).inserted_primary_key
                assert inserted is not None
                row = connection.execute(select(_approvals).where(_approvals.c.id == inserted[0])).one()
        except IntegrityError as error:
            raise StoreError(
                f"request {request_id}: {approver} has decided already, or there is no such request"
            ) from error
        return ApprovalRow(**row._mapping)

    def approvals(self, request_id: str) -> tuple[ApprovalRow, ...]:
        """Decisions on one request, oldest first."""
        query = select(_approvals).where(_approvals.c.request_id == request_id).order_by(_approvals.c.id)
        with self._transaction() as connection:
            return tuple(ApprovalRow(**row._mapping) for row in connection.execute(query))

    def add_revocation(
        self, approval: ApprovalRow, *, reason: str, revoked_at: datetime, record: Mapping[str, Any]
    ) -> RevocationRow:
        """Record that a decision was taken back.

        Raises:
            StoreError: It was taken back before.
        """
        values = {
            "approval_id": approval.id,
            "request_id": approval.request_id,
            "reason": reason,
            "revoked_at": revoked_at,
            "record": dict(record),
        }
        by_approval = select(_revocations).where(_revocations.c.approval_id == approval.id)
        try:
            with self._transaction() as connection:
                connection.execute(insert(_revocations).values(values))
                return RevocationRow(**connection.execute(by_approval).one()._mapping)
        except IntegrityError as error:
            raise StoreError(
                f"request {approval.request_id}: the decision of {approval.approver} was revoked before"
            ) from error

    def revocations(self, request_id: str) -> tuple[RevocationRow, ...]:
        """Decisions on one request that were taken back, oldest first."""
        query = select(_revocations).where(_revocations.c.request_id == request_id).order_by(_revocations.c.id)
        with self._transaction() as connection:
            return tuple(RevocationRow(**row._mapping) for row in connection.execute(query))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with _store_errors(self.url), self._engine.begin() as connection:
            yield connection


def _size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


@contextmanager
def _store_errors(url: str) -> Iterator[None]:
    """Database trouble as StoreError; IntegrityError passes through to whoever can explain it."""
    try:
        yield
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        raise StoreError(f"registry {shown(url)}: {getattr(error, 'orig', None) or error}") from error


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{what} {value!r} is not one of {', '.join(choices)}")


def _model(row: Row[Any]) -> ModelRow:
    return ModelRow(**row._mapping)


def _alias_rows(connection: Connection, line: str, alias: str) -> tuple[AliasRow, ...]:
    query = select(_aliases).where(_aliases.c.line == line, _aliases.c.alias == alias).order_by(_aliases.c.id)
    return tuple(AliasRow(**row._mapping) for row in connection.execute(query))


def _meanings(history: tuple[AliasRow, ...]) -> list[Digest]:
    """The models an alias went through, each rollback having taken the last one away again."""
    meanings: list[Digest] = []
    for row in history:
        if row.operation == "rollback" and row.model_uid in meanings:
            while meanings[-1] != row.model_uid:
                meanings.pop()
        elif row.operation is None and len(meanings) > 1 and meanings[-2] == row.model_uid:  # as version 0 rolled back
            meanings.pop()
        elif not meanings or meanings[-1] != row.model_uid:
            meanings.append(row.model_uid)
    return meanings


def _set_stage(connection: Connection, uid: Digest, stage: ModelStage, reason: str | None) -> None:
    _check_choice("stage", stage, get_args(ModelStage))
    values = {"stage": stage, "stage_reason": reason}
    if not connection.execute(update(_models).where(_models.c.uid == uid).values(values)).rowcount:
        raise StoreError(f"the registry knows no model {uid}; register it first")


def _add_alias(
    connection: Connection,
    line: str,
    alias: str,
    uid: Digest,
    set_by: str,
    reason: str,
    set_at: datetime,
    operation: AliasOperation,
    intent: Digest | None = None,
) -> AliasRow:
    values = {
        "line": line,
        "alias": alias,
        "model_uid": uid,
        "set_by": set_by,
        "reason": reason,
        "set_at": set_at,
        "intent": intent,
        "operation": operation,
    }
    connection.execute(insert(_aliases).values(values))
    return _alias_rows(connection, line, alias)[-1]
