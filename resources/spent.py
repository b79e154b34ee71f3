"""What a stage's processes used, seen from outside: for stages that end without saying so themselves.

A stage that ends well measures itself. ``spent.json`` in a stage's scratch folder, which goes when its artefact is
stored, has wall clock and CPU time as the operating system tells them to whoever waited for its processes, and what
else the stage could still say (memory, energy). CPU time of processes that outlived their parent before they were
killed is missing.
"""

import json
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from resources.stage_server import ForkedStage

_FILE = "spent.json"


class Spent:
    """Started at construction.

    Attributes:
        child: The stage, where it is a fork of the stage server, for whose children this process does not wait.
    """

    def __init__(self) -> None:
        self.child: ForkedStage | None = None
        self._wall, self._cpu = time.monotonic(), _cpu_of_children()

    def write(self, work: Path, said: Mapping[str, Any]) -> None:
        """Leave the figures in the stage's scratch folder.

        Args:
            said: What the stage said itself, if it still could.
        """
        cpu = self.child.cpu_seconds if self.child else _cpu_of_children() - self._cpu
        measured = {"duration_seconds": time.monotonic() - self._wall, "cpu_seconds": cpu}
        figures = {**said, **{name: value for name, value in measured.items() if value is not None}}
        with suppress(OSError):  # of a full disk: the stage's own error is what must be told
            (work / _FILE).write_text(json.dumps(figures), encoding="utf-8")


def read_spent(work: Path) -> dict[str, float | str]:
    """What a stage that failed left; empty where it left nothing, or ran in Dagster's own process."""
    file = work / _FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
