"""`forge serve`'s own Dagster: a webserver and a daemon on loopback, kept alive, and gone when we are.

Every process below carries our data directory in its environment (`_MARK`). What carries
it when we start was left by a server that died, and is ended first; what carries it when
we stop is ended too, whatever session it has moved to. A lock on the data directory keeps
a second server from taking the first one's processes for leftovers.
"""

import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path

import httpx

from forge_pipeline.errors import ConfigError
from forge_pipeline.server.launchers import LOCATION
from forge_pipeline.server.settings import ServerSettings

_log = logging.getLogger(__name__)

_MARK = "FORGE_SERVED_FROM"
_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
_POLL = 0.25
_LONGEST_PAUSE = 30.0  # seconds between restarts of a process that keeps dying
_PR_SET_PDEATHSIG = 1
_LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
    name locationOrLoadError { __typename ... on PythonError { message } } } } } }"""


@contextlib.contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for one server.

    Raises:
        ConfigError: Another server holds it.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "server.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{data_dir}: another forge serve uses this data directory; stop it, or set FORGE_HOME"
            ) from error
        yield


class DagsterSupervisor:
    """Starts the processes in a thread of its own and restarts what dies.

    Args:
        settings: `checkout` must hold workspace.yaml.
        environment: What the processes inherit.

    Raises:
        ConfigError: There is no workspace.yaml.
    """

    def __init__(self, settings: ServerSettings, environment: Mapping[str, str]) -> None:
        self._checkout = settings.checkout
        if not (self._checkout / "workspace.yaml").is_file():
            raise ConfigError(
                f"{self._checkout} has no workspace.yaml; start forge serve in the checkout, name the checkout with "
                "FORGE_CHECKOUT, or name a running dagster-webserver with FORGE_DAGSTER_URL"
            )
        self._home = settings.data_dir / "dagster"
        self._mark = str(settings.data_dir)
        self._environment = {
            **environment,
            _MARK: self._mark,
            "FORGE_HOME": str(settings.data_dir),
            "DAGSTER_HOME": str(self._home),
            # Console scripts of this interpreter, also where its environment is not activated.
            "PATH": os.pathsep.join(filter(None, [str(Path(sys.executable).parent), environment.get("PATH")])),
            "PYTHONUNBUFFERED": "1",
        }
        self._url: str | None = None
        self._state = "Dagster is starting"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dagster-supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End every process; returns when they are gone."""
        self._stopping.set()
        self._thread.join(timeout=3 * _GRACE)

    def url(self) -> str | None:
        """The webserver's address, once the code location has loaded."""
        return self._url

    def state(self) -> str:
        return self._state

    def wait_until_ready(self, timeout: float) -> None:
        """Wait for `url`, at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self._url is None and not self._stopping.is_set() and time.monotonic() < deadline:
            time.sleep(_POLL)

    def _run(self) -> None:
        try:
            end_marked(self._mark)
            self._prepare_home()
            pause = 1.0
            while not self._stopping.is_set():
                began = time.monotonic()
                self._serve_once()
                end_marked(self._mark)
                pause = 1.0 if time.monotonic() - began > 60 else min(2 * pause, _LONGEST_PAUSE)
                self._stopping.wait(pause)
        except Exception:  # the thread's last words; without them the server would wait for Dagster without a reason
            _log.exception("the Dagster supervisor failed")
            self._state = "Dagster could not be started; the server's log has the reason"
        finally:
            self._url = None
            end_marked(self._mark)

    def _prepare_home(self) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        settings_file = self._home / "dagster.yaml"
        if not settings_file.exists():
            settings_file.write_bytes(files("forge_pipeline.server").joinpath("dagster.yaml").read_bytes())
        # The databases are made once here: two processes that make them at the same time collide.
        with self._spawn("migrate", "-m", "dagster", "instance", "migrate") as migration:
            while migration.poll() is None and not self._stopping.is_set():
                time.sleep(_POLL)
            if migration.poll() not in (0, None):
                raise ConfigError(
                    f"dagster instance migrate ended with {migration.returncode}; see {self._log_file('migrate')}"
                )

    def _serve_once(self) -> None:
        """Run both processes until one of them ends or we are asked to stop."""
        port = _free_port()
        address = f"http://127.0.0.1:{port}"
        workspace = str(self._checkout / "workspace.yaml")
        processes = {
            "webserver": self._spawn(
                "webserver", "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", workspace
            ),
            "daemon": self._spawn("daemon", "-m", "dagster._daemon", "run", "-w", workspace),
        }
        try:
            while not self._stopping.is_set():
                ended = [name for name, process in processes.items() if process.poll() is not None]
                if ended:
                    self._state = (
                        f"Dagster's {ended[0]} ended with {processes[ended[0]].returncode} and is being restarted"
                    )
                    _log.error("%s; see %s", self._state, self._log_file(ended[0]))
                    return
                if self._url is None:
                    self._url = address if self._has_loaded(address) else None
                time.sleep(_POLL)
        finally:
            self._url = None
            end_marked(self._mark)
            for process in processes.values():
                process.wait()

    def _has_loaded(self, address: str) -> bool:
        try:
            reply = httpx.post(f"{address}/graphql", json={"query": _LOCATIONS}, timeout=10, trust_env=False)
            entries = reply.raise_for_status().json()["data"]["workspaceOrError"]["locationEntries"]
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False
        for entry in entries:
            loaded = entry["locationOrLoadError"]
            if entry["name"] != LOCATION or loaded is None:
                continue
            if loaded["__typename"] == "RepositoryLocation":
                self._state = "ready"
                return True
            self._state = f"Dagster could not load the code location: {_last_line(loaded.get('message', ''))}"
        return False

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._log_file(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self._checkout,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_ordinary_signals(),
            )

    def _log_file(self, name: str) -> Path:
        return self._home / "logs" / f"{name}.log"


def end_marked(mark: str) -> None:
    """End every other process that carries `mark`: SIGTERM, then SIGKILL after the grace time."""
    deadline = time.monotonic() + _GRACE
    asked: set[int] = set()
    while pids := _marked(mark):
        if time.monotonic() > deadline + _GRACE:  # not even SIGKILL ends a process that hangs in the kernel
            _log.error("processes %s of %s could not be ended", sorted(pids), mark)
            return
        sign = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        for pid in pids if sign is signal.SIGKILL else pids - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        asked |= pids
        time.sleep(_POLL)


def _marked(mark: str) -> set[int]:
    """Processes with our mark in their environment, zombies left out. Linux only; elsewhere none are found."""
    entry = f"{_MARK}={mark}".encode()
    found = set()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and entry in environment.read_bytes().split(b"\0"):
                found.add(pid)
    return found


def _ordinary_signals() -> Callable[[], None]:
    """What a child does before it becomes Dagster.

    Dagster takes over whatever SIGINT means at its start; a shell that starts us with ``&``
    has made that "ignored", and then nothing short of SIGKILL would end it. On Linux the
    child also gets SIGTERM when the supervisor's thread, and so this process, ends.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no further words"
