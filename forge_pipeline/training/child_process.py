"""A child process and everything it starts, ended together.

A launcher (torchrun) puts each of its workers in a session of its own, so a signal to
the child's process group does not reach them. Three things do: the launcher hands
SIGINT and SIGTERM on; `end_group` kills every descendant that is left after its grace;
and each worker ends itself when its parent is gone (`follow_parent`), whether that was
told to stop or was killed.
"""

import ctypes
import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

LIFELINE = "FORGE_LIFELINE"
"""Environment variable: a FIFO whose read end the parent holds for as long as it lives."""
LIFELINE_FD = "FORGE_LIFELINE_FD"
"""Environment variable: the inherited read end of a pipe whose write end the parent holds."""

_GRACE = ((signal.SIGINT, 2.0), (signal.SIGTERM, 1.5), (signal.SIGKILL, 1.0))  # seconds after each signal
_POLL = 0.1  # seconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Child(Protocol):
    """What is asked of a child process; `subprocess.Popen` is one."""

    pid: int

    def poll(self) -> int | None: ...


def run_child(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    on_poll: Callable[[], None] = lambda: None,
    output: int | None = None,
    directory: Path | None = None,
) -> int:
    """Run a command to its end and return its exit code, negative for a signal.

    Args:
        on_poll: Called ten times a second while the child runs, and once after its end. What it raises ends the child.
        output: A file descriptor for the child's stdout and stderr; None shares ours.
        directory: Where the child runs; None runs it here.

    Raises:
        OSError: The command cannot be started.
    """
    process = subprocess.Popen(
        list(command),
        env=dict(environment),
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        cwd=directory,
    )
    return follow(process, on_poll)


def follow(process: Child, on_poll: Callable[[], None] = lambda: None) -> int:
    """Wait for a child that leads its own process group; see `run_child`."""
    try:
        while (code := process.poll()) is None:
            on_poll()
            time.sleep(_POLL)
    except BaseException:  # also an interrupt: whatever stops us must not leave the child behind
        end_group(process)
        raise
    on_poll()
    return code


def end_group(process: Child) -> None:
    """End a child's process group and all its descendants within five seconds."""
    others: set[Any] = set()
    for number, seconds in _GRACE:
        others |= _descendants(process.pid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number == signal.SIGKILL:
            _kill(others)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and (_group_alive(process) or _alive(others)):
            time.sleep(0.05)
        if not _group_alive(process) and not _alive(others):
            break
    process.poll()


def _descendants(pid: int) -> set[Any]:
    import psutil

    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def _alive(processes: set[Any]) -> bool:
    import psutil

    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def _kill(processes: set[Any]) -> None:
    import psutil

    for process in processes:
        try:
            process.kill()  # psutil refuses where the number belongs to somebody else by now
        except psutil.NoSuchProcess:
            continue


def _group_alive(process: Child) -> bool:
    process.poll()  # reaps the leader, which would otherwise count as alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def lifeline(directory: Path) -> Iterator[dict[str, str]]:
    """A FIFO in `directory`, held open within the block, and the environment that names it to workers."""
    path = directory / "lifeline"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield {LIFELINE: str(path)}
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def follow_parent(environ: Mapping[str, str]) -> None:
    """End this process group as soon as the parent is gone, also if it is gone already."""
    if "LOCAL_RANK" in environ:
        _die_with_launcher()
    if LIFELINE in environ:
        _watch(lambda: _wait_for_reader_to_leave(environ[LIFELINE]))
    elif LIFELINE_FD in environ:
        _watch(lambda: _wait_for_end_of_file(int(environ[LIFELINE_FD])))


def _watch(gone: Callable[[], bool]) -> None:
    def end_when_gone() -> None:
        if gone():
            os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=end_when_gone, name="lifeline", daemon=True).start()


def _wait_for_reader_to_leave(path: str) -> bool:
    try:
        # With nobody reading this fails at once, so there is no moment in which the parent's end can be missed.
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return error.errno in (errno.ENXIO, errno.ENOENT)
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR, the last reader's end, is reported unasked
    poll.poll()
    return True


def _wait_for_end_of_file(fd: int) -> bool:
    try:
        os.read(fd, 1)
    except OSError:  # a launcher between us and the parent did not pass the pipe on
        return False
    return True


def _die_with_launcher() -> None:
    """Have the kernel kill this worker when the launcher dies, be it by SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
