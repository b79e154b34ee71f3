"""The services of compose.yaml, started: as processes in a network namespace, on a real PostgreSQL, without containers.

It needs root and iproute2 and costs about a minute of a core, so it runs only where TEST_SERVICES=1 asks for it.
"""

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.assets.graph_snapshot import LINES
from tests.deploy.test_compose import CHECKOUT, DEPLOY, OURS, services
from tests.postgresql import postgresql

__all__ = ["postgresql"]  # fixture


def test_every_service_starts_is_healthy_and_the_read_only_ui_starts_nothing(postgresql: Any, tmp_path: Path) -> None:
    if os.environ.get("TEST_SERVICES") != "1":
        pytest.skip("set TEST_SERVICES=1 to start every service of compose.yaml as a process")
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("namespaces need root and iproute2")
    import psycopg

    folder, suffix = str(postgresql._folder), uuid.uuid4().hex[:8]
    with psycopg.connect(host=folder, user="forge", dbname="postgres", autocommit=True) as connection:
        for name in (f"dagster_{suffix}", f"forge_{suffix}"):
            connection.execute(f"CREATE DATABASE {name}".encode())
    for name in ("home", "forge", "configs", "logs"):
        (tmp_path / name).mkdir()
    shutil.copy(DEPLOY / "dagster.postgresql.yaml", tmp_path / "home" / "dagster.yaml")
    (tmp_path / "configs" / "plain.yaml").write_text(LINES["plain"])
    addresses = {name: f"127.0.0.{number}" for number, name in enumerate(["code-location", *OURS], 1) if name in OURS}
    addresses["code-location"] = "127.0.0.1"  # its health check asks localhost
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in addresses.items()))
    told: dict[str, Any] = {
        "services": {name: each for name, each in services().items() if name in OURS},
        "environment": {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT),
            "DAGSTER_HOME": str(tmp_path / "home"), "FORGE_HOME": str(tmp_path / "forge"),
            "FORGE_CONFIGS": str(tmp_path / "configs"), "FORGE_STORE": str(tmp_path / "forge" / "store"),
            "FORGE_COMPUTE_LOGS": str(tmp_path / "forge" / "compute_logs"),
            "FORGE_PG_HOST": "", "PGHOST": folder, "FORGE_PG_PASSWORD": "", "FORGE_PG_DATABASE": f"dagster_{suffix}",
            "FORGE_DATABASE_URL": f"postgresql://forge@/forge_{suffix}?host={folder}",
        },
        "home": str(tmp_path / "home"), "hosts": str(tmp_path / "hosts"), "logs": str(tmp_path / "logs"),
        "addresses": addresses,
    }  # fmt: skip
    # /forge of the image is `--data-dir` of the REST service.
    words = told["services"]["rest"]["command"]
    words[words.index("/forge")] = str(tmp_path / "forge")
    space = f"forge-{suffix}"
    subprocess.run(["ip", "netns", "add", space], check=True)
    try:
        subprocess.run(["ip", "-n", space, "link", "set", "lo", "up"], check=True)
        command = [
            "ip",
            "netns",
            "exec",
            space,
            "unshare",
            "--mount",
            sys.executable,
            "-m",
            "tests.deploy.service_stack",
        ]
        done = subprocess.run(
            command, input=json.dumps(told), capture_output=True, text=True, cwd=CHECKOUT, timeout=400
        )
    finally:
        subprocess.run(["ip", "netns", "delete", space], check=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    launch = found.pop("launch")
    assert found == {name: "done" if name == "migrate" else "healthy" for name in OURS}
    assert launch == {"read-only": "UnauthorizedError", "operators": "SUCCESS"}
