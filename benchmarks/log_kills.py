"""SIGKILLs at random moments: eight writers append to one log, are killed and replaced; all they acknowledged is there.

    python -m benchmarks.log_kills --kills 1000

A writer prints the number of an entry after the append has returned. After the last kill the log must open, take an
event, verify, hold each printed entry at its number, and number its entries without a gap or a repetition.
"""

import argparse
import itertools
import json
import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from forge_pipeline.audit_log import AuditLogger, AuditSettings, iter_entries, verify_audit_log

SECRET = "a secret of some length"


@dataclass(frozen=True)
class Kills:
    """What `kill_writers` found.

    Attributes:
        kills: SIGKILLs sent to running writers.
        acknowledged: Entries that a writer had printed.
        entries: Entries in the log.
        recovered: Torn lines moved aside.
        lost: Acknowledged entries that are not at their number.
        duplicates: Numbers that occur twice, or are left out.
        valid: Whether the log verified at the end, its vault included.
    """

    kills: int
    acknowledged: int
    entries: int
    recovered: int
    lost: int
    duplicates: int
    valid: bool
    seconds: float


class Writer:
    """A forked process that appends until it is killed; what it acknowledged goes to a file of its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._output = directory / f"{name}.acknowledged"
        self._output.touch()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._append_for_ever(directory)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def _append_for_ever(self, directory: Path) -> None:
        fd = os.open(self._output, os.O_WRONLY | os.O_APPEND)
        settings = AuditSettings("worker", hmac_secret=SECRET)
        logger = AuditLogger.with_settings(directory / "log", settings, run_id=self.name)
        for number in itertools.count():
            personal = {"who": f"{self.name}-{number}"} if number % 7 == 3 else None
            receipt = logger.append("acme.counted", {"number": number}, personal=personal)
            os.write(fd, f"{receipt.seq} {number}\n".encode())

    @property
    def has_begun(self) -> bool:
        return self._output.stat().st_size > 0

    def kill(self) -> bool:
        """Whether it was still running; a writer that ended by itself is a finding of the caller's."""
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        return os.WIFSIGNALED(status)

    def acknowledged(self) -> dict[int, int]:
        """Number of the entry -> what the writer counted."""
        lines = self._output.read_text().splitlines()
        return {int(line.split()[0]): int(line.split()[1]) for line in lines}


def kill_writers(directory: Path, kills: int, *, writers: int = 8, seed: int = 3) -> Kills:
    """Keep `writers` processes appending to one log; kill one of them at a time, `kills` times. Forks: POSIX only."""
    chance = random.Random(seed)
    directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    names = (f"writer-{number}" for number in range(kills + writers))
    ended: list[Writer] = []
    running = [Writer(directory, next(names)) for _ in range(writers)]
    survived = 0
    try:
        while len(ended) < kills:
            time.sleep(chance.uniform(0.0, 0.03))
            ready = [writer for writer in running if writer.has_begun]
            if not ready:
                continue
            victim = chance.choice(ready)
            survived += not victim.kill()
            running.remove(victim)
            ended.append(victim)
            running.append(Writer(directory, next(names)))
    finally:
        for writer in running:
            writer.kill()
    if survived:
        raise RuntimeError(f"{survived} writers ended by themselves; their messages are above")
    return _judge(directory, [*ended, *running], kills, began)


def _judge(directory: Path, writers: Sequence[Writer], kills: int, began: float) -> Kills:
    settings = AuditSettings("alice@lab", hmac_secret=SECRET)
    logger = AuditLogger.with_settings(directory / "log", settings, run_id="last")
    logger.log_event("acme.counted", number=0)
    written: dict[int, tuple[str, object]] = {}
    duplicates = recovered = 0
    for place, entry in enumerate(iter_entries(logger.log_path)):
        duplicates += entry.seq != place
        recovered += entry.event == "audit.recovered"
        written[entry.seq] = (entry.run_id, entry.data.get("number"))
    promised = [(seq, (writer.name, number)) for writer in writers for seq, number in writer.acknowledged().items()]
    lost = sum(written.get(seq) != what for seq, what in promised)
    result = verify_audit_log(logger.log_path, hmac_secret=SECRET, require_hmac=True)
    valid = result.valid and result.redacted_openings == 0
    seconds = time.monotonic() - began
    return Kills(kills, len(promised), len(written), recovered, lost, duplicates, valid, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill writers of an audit log.")
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--writers", type=int, default=8)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = kill_writers(Path(directory), arguments.kills, writers=arguments.writers)
    print(json.dumps(vars(result)))


if __name__ == "__main__":
    main()
