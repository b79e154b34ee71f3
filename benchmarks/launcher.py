"""Run one command and tell what it cost: CPU seconds, wall seconds, peak memory.

A program of its own, and a small one: a process starts with the peak memory of the one that
forked it, so a large parent would be measured in place of its child. The figures are the
kernel's and cover the command and every process that it left behind or waited for.

    python -S -E launcher.py RESULT.json COMMAND ...
"""

import ctypes
import json
import os
import resource
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36  # Linux: orphans of the command become children of this process
_ORPHANS_MAY_TAKE = 10  # seconds


def main() -> None:
    result, command = sys.argv[1], sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.monotonic()
    child = os.posix_spawnp(command[0], command, os.environ)
    _, status = os.waitpid(child, 0)
    wall = time.monotonic() - began
    _wait_for_orphans()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": wall,
        "peak_mb": usage.ru_maxrss / 1024,  # of the largest process
    }
    with open(result, "w") as file:
        json.dump(measured, file)


def _wait_for_orphans() -> None:
    """Worker processes and their trackers end just after the command; until then their time is not counted."""
    deadline = time.monotonic() + _ORPHANS_MAY_TAKE
    while time.monotonic() < deadline:
        try:
            done, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # no more
            return
        if not done:
            time.sleep(0.01)


if __name__ == "__main__":
    main()
