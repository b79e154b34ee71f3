"""A stage server that stands by between runs: the libraries are imported once for all of them.

    python -m resources.standing_server /run/forge/stages.sock &
    export FORGE_STAGE_SERVER=/run/forge/stages.sock

Without it every run worker starts a `resources.stage_server` of its own, which spends some five seconds of a core on
imports before the first stage begins. Here a connection is served by a fork that has them. The standing process
computes nothing and holds about 300 MB. It serves its own user alone, and only runs whose environment and code are
those it was imported with; any other run, and every run when nobody answers, starts a server of its own as before.
"""

import json
import os
import signal
import socket
import struct
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from forge_pipeline.integrity import Digest

VARIABLE = "FORGE_STAGE_SERVER"

# What a run may have otherwise than the standing process: our settings and Dagster's, which are read by the stage, and
# what a shell or a test runner changes from command to command.
_OF_ONE_RUN = ("FORGE_", "DAGSTER_", "OMP_NUM_THREADS", "PYTHONPATH", "PYTEST_", "PWD", "OLDPWD", "SHLVL", "_=")
_LONGEST = 4 << 20  # bytes of an environment
_PATIENCE = 10.0  # seconds in which a standing server that lives has answered, also on a busy machine


def join(environment: Mapping[str, str]) -> socket.socket | None:
    """A connection to the standing server that `environment` names, or None: it is absent, somebody else's or other."""
    if not (path := environment.get(VARIABLE)):
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_PATIENCE)
        connection.connect(path)
        if _user(connection) == os.getuid():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
            connection.send(json.dumps(imported_in(environment)).encode())
            if connection.recv(16) == b"same":
                connection.settimeout(None)
                return connection
    except OSError:
        pass
    connection.close()
    return None


def listen(path: Path, started_in: dict[str, str], serve: Callable[[socket.socket], None]) -> None:
    """Answer connections to `path` until SIGTERM; each is served by a fork of this process.

    Args:
        started_in: `imported_in` as it was before anything was imported: libraries set variables of their own.

    Raises:
        OSError: The socket cannot be made there.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a fork ended
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(64)
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    try:
                        listener.close()
                        _answer(connection, started_in, serve)
                    except Exception:  # this is a process's last frame: who called it is another process
                        traceback.print_exc()
                    finally:
                        os._exit(0)


def _answer(connection: socket.socket, started_in: dict[str, str], serve: Callable[[socket.socket], None]) -> None:
    """The fork's whole life."""
    os.setsid()  # the stages of a run outlive a Ctrl-C at the standing process
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError):
        same = _user(connection) == os.getuid() and json.loads(connection.recv(_LONGEST)) == started_in
        connection.send(b"same" if same else b"other")
        if same:
            serve(connection)


def imported_in(environment: Mapping[str, str]) -> dict[str, str]:
    """What an import depends on: variables that libraries read, and the code as it lies on the disk now.

    A process that stands by must not run yesterday's code under the commit that today's record names.
    """
    ours = {name: value for name, value in environment.items() if not f"{name}=".startswith(_OF_ONE_RUN)}
    return {**ours, "python": sys.executable, "code": _code()}


def _code() -> str:
    """Changes when a module of ours is touched, or a package installed, upgraded or removed."""
    root = Path(__file__).resolve().parents[1]
    modules = [path for part in ("forge_pipeline", "resources") for path in (root / part).rglob("*.py")]
    facts = [(str(path), (found := path.stat()).st_size, found.st_mtime_ns) for path in sorted(modules)]
    packages = sysconfig.get_path("purelib")
    return str(Digest.of(json.dumps([facts, packages, Path(packages).stat().st_mtime_ns]).encode()))


def _user(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def main() -> None:
    started_in = imported_in(os.environ)
    from resources import stage_server

    stage_server.import_all()
    listen(Path(sys.argv[1]), started_in, stage_server.serve)


if __name__ == "__main__":
    main()
