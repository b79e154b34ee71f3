"""A real PostgreSQL server for a session of tests, and in it a schema of its own for every test.

The server is the machine's (Debian's `postgresql`, or `initdb` and `postgres` on the PATH); it listens on a socket in
its own folder and on nothing else. It refuses to run as root, so root's tests run it as another user. Without it the
tests that need it are skipped, visibly.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

_USERS = ("postgres", "nobody")  # who runs the server where the tests are root's


def find_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; the newest of several."""
    found = shutil.which("initdb")
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)]
    folders += [Path(found).resolve().parent] if found else []
    return next((each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()), None)


def _version(folder: Path) -> float:
    name = folder.parent.name
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


class PostgreSQL:
    """A server that can be stopped and started again.

    server.url("schema_name")   a SQLAlchemy URL whose tables lie in that schema
    """

    def __init__(self, programs: Path, folder: Path, user: str | None) -> None:
        self._programs, self._folder, self._user = programs, folder, user
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(folder / "data"), "-U", "forge", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")

    def start(self) -> None:
        # Its own safety is not under test, and its writes to disk cost seconds.
        options = {"listen_addresses": "", "unix_socket_directories": str(self._folder), "timezone": "Asia/Tokyo",
                   "fsync": "off", "synchronous_commit": "off", "shared_buffers": "16MB"}  # fmt: skip
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "server.log").open("ab") as log:
            command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *settings]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline, (self._folder / "server.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """Every connection is cut off, as by a restart of the machine that it runs on."""
        if self._process is not None:
            self._process.send_signal(2)  # SIGINT: fast shutdown
            self._process.wait(30)

    def url(self, schema: str = "public") -> str:
        return (
            f"postgresql://forge@/postgres?host={quote(str(self._folder))}&options={quote(f'-csearch_path={schema}')}"
        )

    def make_schema(self) -> str:
        """A new schema's name."""
        import psycopg

        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(host=str(self._folder), user="forge", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return name

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(host=str(self._folder), user="forge", dbname="postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        done = subprocess.run(command, user=self._user, cwd=self._folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """The server; skips where there is none, or no driver."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]'")
    user = None
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = next((name for name in _USERS if name in known), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no other user to run it")
    # A socket's path has at most 107 bytes, and pytest's own folders are root's alone.
    folder = Path(tempfile.mkdtemp(prefix="forge-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        server = PostgreSQL(programs, folder, user)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deep/er/registry.sqlite"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.url(server.make_schema())
