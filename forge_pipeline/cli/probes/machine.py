"""The machine: Python, processor, memory, disk, clock, ports."""

import ctypes
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from forge_pipeline.cli.probes.finding import Finding, State

_LEAST_FREE_DISK = 5 * 2**30  # bytes; a run is refused with less than 2 GB
_NO_ROOM = 2 * 2**30
_TIME_ERROR = 5  # adjtimex(2): the kernel's clock is not synchronized
_RELEASED = datetime(2026, 11, 1, tzinfo=UTC)  # no right clock is before this release
_SLACK = 60.0  # seconds that a log's newest file may lie ahead of the clock


def python() -> list[Finding]:
    words = f"{platform.python_version()} on {platform.platform()}"
    enough = sys.version_info >= (3, 11)
    fix = "" if enough else "install Python 3.11 or later, and make the environment anew"
    return [Finding("python", "ok" if enough else "fail", words, fix)]


def hardware() -> list[Finding]:
    found = [Finding("processor", "ok", f"{os.cpu_count()} cores, {platform.machine()}")]
    try:
        import psutil
    except ImportError:
        return [*found, Finding("memory", "warn", "not known", "pip install psutil")]
    memory = psutil.virtual_memory()
    words = f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free"
    return [*found, Finding("memory", "ok", words)]


def disk(directory: Path) -> list[Finding]:
    """The disk that `directory`, or the nearest folder above it that exists, lies on."""
    free = shutil.disk_usage(nearest(directory)).free
    words = f"{free / 2**30:.1f} GiB free for {directory}"
    fix = "free some space, or set FORGE_HOME to a larger disk; 5 GiB or more is comfortable"
    if free >= _LEAST_FREE_DISK:
        return [Finding("disk", "ok", words)]
    return [Finding("disk", "fail" if free < _NO_ROOM else "warn", words, fix)]


def clock(logs: Iterable[Path], now: float | None = None) -> list[Finding]:
    """Whether times in the record can be right.

    Args:
        logs: Files of audit logs: none was written in the future.
        now: Seconds since the epoch, UTC; None asks the clock.
    """
    now = time.time() if now is None else now
    words = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    fix = "set the clock, and keep it by chronyd or systemd-timesyncd"
    if now < _RELEASED.timestamp():
        return [Finding("clock", "fail", f"{words}, which is before this release", fix)]
    newest = max((path.stat().st_mtime for path in logs if path.is_file()), default=0.0)
    if newest > now + _SLACK:
        behind = f"{words}, {newest - now:.0f} s behind the newest audit log"
        return [Finding("clock", "fail", behind, f"{fix}, before anything more is recorded")]
    if _kernel_clock() == _TIME_ERROR:
        return [Finding("clock", "warn", f"{words}; the kernel does not call it synchronized", fix)]
    return [Finding("clock", "ok", words)]


def _kernel_clock() -> int:
    """adjtimex(2), asked without setting anything; 0 where there is no such call."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))
    except (AttributeError, OSError, TypeError):  # not Linux
        return 0


def ports(wanted: Iterable[tuple[int, str]]) -> list[Finding]:
    """Whether each port of this machine can be listened on.

    Args:
        wanted: Port, and what listens on it.
    """
    found = []
    for port, what in wanted:
        state: State = "ok"
        words, fix = f"free, for {what}", ""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                state, words = "warn", f"not free ({error.strerror}); {what} is to listen on it"
                fix = "if that is not the same service already running, stop what listens there or choose another port"
        found.append(Finding(f"port {port}", state, words, fix))
    return found


def nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
