"""Locks: flock as it is; the Windows half against a stand-in for msvcrt, since no Windows machine runs these tests."""

import errno
import os
import subprocess
import sys
import threading
import time
from types import ModuleType

import pytest

from forge_pipeline.audit_log import locking
from forge_pipeline.audit_log.locking import WindowsLocks, exclusive, shared_if_possible
from forge_pipeline.errors import EvidenceError


class StandInMsvcrt(ModuleType):
    """`msvcrt.locking` by its documentation: one byte range per file, mandatory, EACCES for whoever comes second.

    Usage: ``WindowsLocks(StandInMsvcrt())``; descriptors of one file, as in two processes, exclude one another.
    """

    LK_UNLCK, LK_LOCK, LK_NBLCK = 0, 1, 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.holders: dict[tuple[int, int], int] = {}  # (file, offset) -> descriptor
        self.guard = threading.Lock()
        self.error: int | None = None

    def locking(self, fd: int, mode: int, nbytes: int) -> None:
        assert nbytes == 1
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        region = os.fstat(fd).st_ino, os.lseek(fd, 0, os.SEEK_CUR)
        with self.guard:
            holder = self.holders.get(region)
            if mode == self.LK_UNLCK:
                if holder != fd:
                    raise PermissionError(errno.EACCES, "not locked by this descriptor")
                del self.holders[region]
            elif mode == self.LK_NBLCK:
                if holder is not None:
                    raise PermissionError(errno.EACCES, "locked")
                self.holders[region] = fd
            else:
                raise AssertionError("LK_LOCK gives up after ten tries")


@pytest.fixture
def windows(monkeypatch) -> StandInMsvcrt:
    msvcrt = StandInMsvcrt()
    monkeypatch.setattr(locking, "_LOCKS", WindowsLocks(msvcrt))
    return msvcrt


def test_windows_writers_take_turns(windows, tmp_path) -> None:
    inside, most, rounds = 0, 0, []

    def work(name: int) -> None:
        nonlocal inside, most
        for _ in range(10):
            with exclusive(tmp_path / "lock"):
                inside += 1
                most = max(most, inside)
                rounds.append(name)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work, args=[name]) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(rounds), windows.holders) == (1, 40, {})


def test_a_windows_lock_is_dropped_when_the_block_raises(windows, tmp_path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path / "lock"):
        raise RuntimeError
    with exclusive(tmp_path / "lock"):
        assert len(windows.holders) == 1


def test_a_windows_reader_waits_for_the_writer_and_needs_no_lock_file(windows, tmp_path) -> None:
    with shared_if_possible(tmp_path / "none"):
        pass
    order = []

    def read() -> None:
        with shared_if_possible(tmp_path / "lock"):
            order.append("reader")

    with exclusive(tmp_path / "lock"):
        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.05)
        order.append("writer")
    reader.join()
    assert order == ["writer", "reader"]


def test_the_windows_lock_is_on_the_first_byte_wherever_the_descriptor_stands(tmp_path) -> None:
    msvcrt = StandInMsvcrt()
    locks = WindowsLocks(msvcrt)
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"some bytes")
    locks.lock(fd, shared=False)
    assert [offset for _, offset in msvcrt.holders] == [0]
    os.lseek(fd, 5, os.SEEK_SET)
    locks.unlock(fd)
    assert msvcrt.holders == {}
    os.close(fd)


def test_a_windows_file_system_without_locks_is_refused(windows, tmp_path) -> None:
    windows.error = errno.EINVAL
    with pytest.raises(EvidenceError, match="gives no locks"), exclusive(tmp_path / "lock"):
        pytest.fail("the block must not run")


def test_a_whole_log_is_written_under_windows_locks(windows, tmp_path, make_log) -> None:
    from forge_pipeline.audit_log import verify_audit_log

    assert verify_audit_log(make_log(tmp_path).path).valid


HOLDER = """
import sys, pathlib
from forge_pipeline.audit_log.locking import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_the_lock_of_a_killed_process_is_free(tmp_path) -> None:
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    holder = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    entered = threading.Event()

    def enter() -> None:
        with exclusive(tmp_path / "lock"):
            entered.set()

    waiter = threading.Thread(target=enter)
    waiter.start()
    assert not entered.wait(0.1)
    holder.kill()
    holder.communicate()
    assert entered.wait(10)
    waiter.join()
