"""One SQL database behind a URL: a SQLite file, or PostgreSQL.

Both are opened, given their tables and brought up to date here, so that registry and job table mean the same in
both. Any number of processes may do so at the same moment: on PostgreSQL they take turns by an advisory lock, on
SQLite each statement is one that does nothing where it was done before.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, DateTime, Engine, MetaData, create_engine, event, inspect, text
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import TypeDecorator

from forge_pipeline.errors import ConfigError

DATABASE_VARIABLE = "FORGE_DATABASE_URL"
REGISTRY_VARIABLE = "FORGE_REGISTRY_URL"
_SCHEMA_LOCK = 0x666F726765  # "forge": whoever makes or changes tables holds it
_BUSY = 30  # seconds that a writer waits for another one's transaction


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, whatever zone the database's session is in; SQLite keeps none, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; the database keeps UTC")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def database_url(environment: Mapping[str, str], home: Path) -> str:
    """FORGE_DATABASE_URL, else the SQLite file of the registry under FORGE_HOME."""
    return environment.get(DATABASE_VARIABLE) or f"sqlite:///{home / 'registry.sqlite'}"


def registry_url(environment: Mapping[str, str], home: Path) -> str:
    """FORGE_REGISTRY_URL, for a registry apart from the job table; else `database_url`."""
    return environment.get(REGISTRY_VARIABLE) or database_url(environment, home)


def open_engine(url: str) -> Engine:
    """An engine, which connects when it is first used.

    Args:
        url: A SQLAlchemy URL: ``sqlite:///path/to/file.sqlite``, ``postgresql://user@host/name`` (driver psycopg 3).

    Raises:
        ConfigError: It is no such URL, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgres", "postgresql"):  # as libpq and most hosts write it
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, pool_pre_ping=True, json_serializer=_json)
    except (ArgumentError, ImportError) as error:
        raise ConfigError(
            f"database URL {shown(url)!r} cannot be used ({error}); expected for example "
            "sqlite:///.forge/registry.sqlite or postgresql://forge@localhost/forge "
            "(pip install 'forge-pipeline[postgresql]')"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def make_tables(engine: Engine, metadata: MetaData) -> frozenset[tuple[str, str]]:
    """Make what is missing of `metadata`: tables, indexes, and columns of a later version, which are all nullable.

    Returns:
        The columns that were added to tables that were there, as (table, column).
    """
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # until the transaction's end; its tables are made or not made whole
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
        for table in metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in sorted(table.indexes, key=lambda index: str(index.name)):
                connection.execute(CreateIndex(index, if_not_exists=True))
        return frozenset(_add_columns(connection, metadata))


def shown(url: str) -> str:
    """A URL for people, without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "not shown, as it is no SQLAlchemy URL"


def _add_columns(connection: Connection, metadata: MetaData) -> list[tuple[str, str]]:
    added = []
    for table in metadata.sorted_tables:
        present = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name in present:
                continue
            kind = column.type.compile(connection.dialect)
            # SQLite has no "if not exists" here; another process may have added it a moment ago.
            with suppress(OperationalError), connection.begin_nested():
                connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}"))
                added.append((table.name, column.name))
    return added


def _prepare_sqlite(connection: Any, record: Any) -> None:
    del record
    pragmas = (f"busy_timeout={1000 * _BUSY}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}").close()


def _json(value: Any) -> str:
    """JSON that every database takes: NaN and the infinities, which are none, become null."""
    return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
