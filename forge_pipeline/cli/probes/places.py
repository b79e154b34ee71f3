"""Where things are kept: FORGE_HOME, the artefact store, DAGSTER_HOME and its storage."""

import os
import socket
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from forge_pipeline.cli.probes.finding import Finding
from forge_pipeline.cli.probes.machine import nearest

_SECONDS = 2.0  # that a database may take to answer its port
_MAKE_DAGSTER_HOME = (
    "export DAGSTER_HOME=$PWD/.forge/dagster && mkdir -p $DAGSTER_HOME && cp deploy/dagster.yaml $DAGSTER_HOME"
)


def forge_home(home: Path) -> list[Finding]:
    return [_folder("FORGE_HOME", home, "give this user the right to write there, or set FORGE_HOME")]


def store(home: Path, environ: Mapping[str, str]) -> list[Finding]:
    """The artefact store: FORGE_STORE, else a folder of FORGE_HOME."""
    url = environ.get("FORGE_STORE", "")
    if "://" not in url:
        return [_folder("store", Path(url) if url else home / "store", "give this user the right to write there")]
    scheme = urlsplit(url).scheme
    module = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}.get(scheme, "fsspec")
    if find_spec(module) is None:
        fix = "pip install 'forge-pipeline[remote]'" if module in ("s3fs", "fsspec") else f"pip install {module}"
        return [Finding("store", "fail", f"{scheme}:// needs {module}, which is not installed", fix)]
    return [Finding("store", "ok", f"{scheme}://{urlsplit(url).hostname or ''}, read through {module}; not asked here")]


def dagster_home(environ: Mapping[str, str]) -> list[Finding]:
    """DAGSTER_HOME, its dagster.yaml, and whether the storage that it names can be reached."""
    home = environ.get("DAGSTER_HOME")
    if not home:
        words = "not set: runs are refused, because their history would be thrown away"
        return [Finding("DAGSTER_HOME", "warn", words, _MAKE_DAGSTER_HOME)]
    if not Path(home).is_absolute():
        return [
            Finding("DAGSTER_HOME", "fail", f"{home} is relative; Dagster wants an absolute path", _MAKE_DAGSTER_HOME)
        ]
    if not Path(home).is_dir():
        return [Finding("DAGSTER_HOME", "fail", f"{home} is no directory", _MAKE_DAGSTER_HOME)]
    folder = _folder("DAGSTER_HOME", Path(home), "give this user the right to write there")
    return [folder, *_instance(Path(home) / "dagster.yaml", environ)]


def _instance(path: Path, environ: Mapping[str, str]) -> list[Finding]:
    import yaml

    if not path.is_file():
        words = f"{path} is not there: Dagster's defaults apply, which send telemetry"
        return [Finding("dagster.yaml", "warn", words, f"cp deploy/dagster.yaml {path}")]
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        storage = settings.get("storage") or {}
        telemetry = (settings.get("telemetry") or {}).get("enabled", True)
        database = (storage.get("postgres") or {}) if isinstance(storage, dict) else {}
    except (OSError, UnicodeDecodeError, AttributeError, yaml.YAMLError) as error:
        return [Finding("dagster.yaml", "fail", f"{path} cannot be read: {error}", f"cp deploy/dagster.yaml {path}")]
    found = []
    if telemetry:
        fix = "write telemetry: {enabled: false}, as deploy/dagster.yaml does"
        found.append(Finding("dagster.yaml", "warn", "telemetry is on: Dagster sends usage figures", fix))
    else:
        found.append(Finding("dagster.yaml", "ok", "telemetry is off"))
    if database:
        return [*found, _postgres(database, environ)]
    return [*found, Finding("dagster storage", "ok", f"SQLite in {path.parent}, for one machine")]


def _postgres(settings: Mapping[str, Any], environ: Mapping[str, str]) -> Finding:
    """Whether something answers at the address, and the driver is there. Neither logs in nor asks anything."""
    host, port = _address(settings, environ)
    if not host:
        fix = "set the variables that storage.postgres names, in the shell and in Dagster's processes"
        return Finding("dagster storage", "fail", "PostgreSQL, and its host is not set", fix)
    if find_spec("dagster_postgres") is None or find_spec("psycopg2") is None:
        fix = "pip install dagster-postgres psycopg2-binary"
        return Finding("dagster storage", "fail", "PostgreSQL, and its driver is not installed", fix)
    try:
        socket.create_connection((host, port), timeout=_SECONDS).close()
    except OSError as error:
        fix = "start the database, or correct storage.postgres in dagster.yaml"
        return Finding("dagster storage", "fail", f"PostgreSQL at {host}:{port} does not answer: {error}", fix)
    return Finding("dagster storage", "ok", f"PostgreSQL at {host}:{port}")


def _address(settings: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, int]:
    database = settings.get("postgres_db") or {}
    if not database:
        parts = urlsplit(_value(settings.get("postgres_url"), environ))
        return parts.hostname or "", parts.port or 5432
    port = _value(database.get("port"), environ)
    return _value(database.get("hostname"), environ), int(port) if port.isdigit() else 5432


def _value(given: Any, environ: Mapping[str, str]) -> str:
    """A value of dagster.yaml; ``{env: NAME}`` stands for a variable."""
    if isinstance(given, dict):
        return environ.get(str(given.get("env", "")), "")
    return "" if given is None else str(given)


def _folder(what: str, path: Path, fix: str) -> Finding:
    """Whether `path`, or the nearest folder above it that exists, takes files: by making one and removing it."""
    found = nearest(path)
    try:
        with tempfile.TemporaryFile(dir=found):
            pass
    except OSError as error:
        return Finding(what, "fail", f"{path} cannot be written: {error.strerror}", fix)
    return Finding(what, "ok", f"{path}{'' if path.exists() else ' (not there yet)'}")


def log_files(home: Path) -> list[Path]:
    """The audit logs under FORGE_HOME."""
    return sorted((home / "audit_log").glob("*/audit_log.jsonl")) if os.access(home, os.R_OK) else []
