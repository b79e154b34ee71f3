"""Log lines of the command line, the server and the stages: text for people, or one JSON object a line.

    FORGE_LOG_FORMAT   text (default) or json
    FORGE_LOG_LEVEL    debug, info, warning, error

A JSON line has ``ts`` (UTC, RFC 3339), ``level``, ``logger`` and ``message``, and ``run_id``, ``line``, ``stage``,
``request_id`` where there are any; of an exception ``error`` has type, message and trace. Secrets are masked in
every text (`dataset_audit.mask_secrets`), and a line break or escape sequence in a message begins no new line.
Logs are for whoever runs the program; what must be on record is in the audit log.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

from forge_pipeline.errors import ConfigError

LogFormat = Literal["text", "json"]
FIELDS = ("run_id", "line", "stage", "request_id")
_LEVELS = ("debug", "info", "warning", "error")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]")


def setup_logging(
    environ: Mapping[str, str],
    *,
    default_level: str = "warning",
    fields: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> LogFormat:
    """Send every log record of this process to one handler of ours; called again, it replaces that one.

    Args:
        default_level: Where FORGE_LOG_LEVEL says none.
        fields: `FIELDS` that are the same for every line of this process.
        stream: Whatever stderr is at the time, unless given.

    Returns:
        The format.

    Raises:
        ConfigError: A variable has another value than it may have.
    """
    chosen = read_format(environ)
    threshold = _read(environ, "FORGE_LOG_LEVEL", _LEVELS, default_level)
    handler = _Handler(stream)
    handler.setFormatter(JsonLines(fields or {}) if chosen == "json" else TextLines(fields or {}))
    root = logging.getLogger()
    root.handlers[:] = [*(each for each in root.handlers if not isinstance(each, _Handler)), handler]
    root.setLevel(threshold.upper())
    logging.captureWarnings(chosen == "json")  # a warning of Python's would be a line that is no object
    return chosen


def writes_json() -> bool:
    """Whether whoever reads this process's stderr expects one JSON object a line."""
    ours = [each for each in logging.getLogger().handlers if isinstance(each, _Handler)]
    return any(isinstance(each.formatter, JsonLines) for each in ours)


def read_format(environ: Mapping[str, str]) -> LogFormat:
    """What FORGE_LOG_FORMAT says.

    Raises:
        ConfigError: It is none of the formats.
    """
    return "json" if _read(environ, "FORGE_LOG_FORMAT", get_args(LogFormat), "text") == "json" else "text"


class _Handler(logging.Handler):
    """Writes to a stream, or to what `sys.stderr` is when a record comes."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = self._stream or sys.stderr
        try:
            stream.write(self.format(record) + "\n")
            stream.flush()
        except (OSError, ValueError):  # a reader that is gone, or a stream that was closed, is no reason to stop
            self.handleError(record)


class JsonLines(logging.Formatter):
    """A record as one JSON object without a line break."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = dict(fields)

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _masked(_message(record)),
            **_about(record, self._fields),
        }
        if record.exc_info and record.exc_info[0]:
            kind, error, _ = record.exc_info
            trace = "".join(traceback.format_exception(*record.exc_info))
            line["error"] = {"type": kind.__name__, "message": _masked(str(error)), "trace": _masked(trace)}
        return json.dumps(line)  # in ASCII: no reader of lines sees a break where Unicode has one


class TextLines(logging.Formatter):
    """A record for people: time, level, what it is about, logger, message, and the trace of an exception."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = dict(fields)

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        about = "".join(f" {name}={value}" for name, value in _about(record, self._fields).items())
        text = _CONTROL.sub(lambda found: repr(found[0])[1:-1], _masked(_message(record)).replace("\n", "\n  "))
        if record.exc_info and record.exc_info[0]:
            text += "\n" + _masked("".join(traceback.format_exception(*record.exc_info))).rstrip()
        return f"{moment} {record.levelname}{about} {record.name}: {text}"


def _about(record: logging.LogRecord, fields: Mapping[str, str]) -> dict[str, str]:
    """`FIELDS` that the record or the process has; a server's filter writes ``-`` outside of a request."""
    found = {name: getattr(record, name, None) or fields.get(name) for name in FIELDS}
    return {name: _masked(str(value)) for name, value in found.items() if value and value != "-"}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (
        TypeError,
        ValueError,
    ):  # of a library whose arguments do not fit its words: half a line is better than none
        return f"{record.msg} {record.args!r}"


def _masked(text: str) -> str:
    from forge_pipeline.dataset_audit.secret_scan import mask_secrets  # needs RE2, which a quiet command never loads

    return mask_secrets(text)


def _read(environ: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = environ.get(name, "").strip().lower()
    if value and value not in allowed:
        raise ConfigError(f"{name}: found {environ[name]!r}; expected one of {', '.join(allowed)}")
    return value or default
