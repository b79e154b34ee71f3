"""A real `forge serve` for `rest.py`: started, killed, watched; and the small things that are asked of it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from forge_pipeline.client import ForgeClient, ForgeUnreachableError

CHECKOUT = Path(__file__).resolve().parents[1]
_STARTS_WITHIN = 180.0  # seconds until the supervised Dagster has loaded the code location


class Server:
    """One `forge serve` with its own data directory, its own Dagster, and its models under `models`.

    Attributes:
        client: Of the server that runs now.
        ready_after: Seconds that each start took until training could begin.
    """

    def __init__(self, folder: Path, models: Path) -> None:
        self.folder, self.data_dir = folder, folder / "data"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FORGE_", "DAGSTER_"))},
            "FORGE_MODEL_ROOTS": str(models),
            "FORGE_CHECKOUT": str(CHECKOUT),
            "HF_HUB_OFFLINE": "1",
        }
        self._log = (folder / "server.log").open("ab")
        self.ready_after: list[float] = []

    def start(self) -> ForgeClient:
        """Start it, and wait until training can begin."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "forge_pipeline.server", "--port", str(port), "--data-dir", str(self.data_dir)]
        began = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=CHECKOUT, env=self._environment, stdout=self._log, stderr=self._log
        )
        self.url = f"http://127.0.0.1:{port}"
        self.client = ForgeClient(self.url, timeout=300)
        until(self._is_ready, _STARTS_WITHIN)
        self.ready_after.append(time.monotonic() - began)
        return self.client

    def kill(self) -> None:
        """As a power cut would: nobody gets to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def resident(self) -> int:
        """Bytes of memory of the server's own process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    @contextlib.contextmanager
    def peak(self) -> Iterator[list[int]]:
        """A list whose only entry grows to the largest resident memory seen, in bytes."""
        seen, over = [self.resident()], threading.Event()

        def look() -> None:
            while not over.wait(0.02):
                seen[0] = max(seen[0], self.resident())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield seen
        finally:
            over.set()
            looking.join()

    def _end(self, with_signal: int) -> None:
        self.client.close()
        self.process.send_signal(with_signal)
        self.process.wait(120)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended: {(self.folder / 'server.log').read_text()[-2000:]}")
        with contextlib.suppress(ForgeUnreachableError):
            return self.client.health().launcher == "ready"
        return False


def until(reached: Callable[[], Any], seconds: float, every: float = 0.1) -> Any:
    """The first truthy answer.

    Raises:
        TimeoutError: There was none in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := reached():
            return found
        time.sleep(every)
    raise TimeoutError(f"not within {seconds:.0f} s")
