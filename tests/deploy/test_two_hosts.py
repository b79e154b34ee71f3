"""A whole line whose fine-tune runs on two hosts: network namespaces with addresses, names and nothing shared but files.

The recipe says `launcher: slurm`; the command that the launcher builds is the one that a cluster would get. What stands
in for Slurm is `srun` itself: a script that starts the command once in each namespace. It needs root and iproute2 and
costs about a minute of a core, so it runs only where TEST_TWO_HOSTS=1 asks for it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.assets.conftest import make_deployment, tiny_model, warm_dagster

__all__ = ["make_deployment", "tiny_model", "warm_dagster"]  # fixtures

HOSTS = ("forge-host1", "forge-host2")
SRUN = """#!/bin/sh
# One task a host, as --nodes=2 --ntasks-per-node=1 asks; the options before the command are Slurm's.
echo "$@" > {log}
while [ "${{1#--}}" != "$1" ]; do shift; done
for host in {hosts}; do
  ip netns exec "$host" unshare --uts sh -c 'hostname "$0" && exec "$@"' "$host" "$@" &
  pids="$pids $!"
done
code=0
for pid in $pids; do wait "$pid" || code=$?; done
exit $code
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Path]:
    """Two namespaces joined by a cable, and a folder with `srun`."""
    if os.environ.get("TEST_TWO_HOSTS") != "1":
        pytest.skip("set TEST_TWO_HOSTS=1 to train over two network namespaces")
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and iproute2")
    made = []
    try:
        for number, host in enumerate(HOSTS, 1):
            ip("netns", "add", host)
            made.append(host)
            names = Path("/etc/netns", host)  # what `ip netns exec` puts over /etc
            names.mkdir(parents=True)
            names.joinpath("hosts").write_text(
                "127.0.0.1 localhost\n" + "".join(f"10.77.0.{n} {name}\n" for n, name in enumerate(HOSTS, 1))
            )
            ip("-n", host, "link", "set", "lo", "up")
            if number == 1:
                continue
            ip("link", "add", "cable1", "netns", HOSTS[0], "type", "veth", "peer", "name", "cable2", "netns", HOSTS[1])
        for number, host in enumerate(HOSTS, 1):
            ip("-n", host, "addr", "add", f"10.77.0.{number}/24", "dev", f"cable{number}")
            ip("-n", host, "link", "set", f"cable{number}", "up")
        programs = tmp_path / "bin"
        programs.mkdir()
        srun = programs / "srun"
        srun.write_text(SRUN.format(log=tmp_path / "srun.log", hosts=" ".join(HOSTS)))
        srun.chmod(0o755)
        yield programs
    finally:
        for host in made:
            ip("netns", "delete", host)
            shutil.rmtree(Path("/etc/netns", host), ignore_errors=True)


def test_a_line_trains_on_two_hosts_and_says_so_in_its_record(hosts: Path, make_deployment: Any) -> None:
    deployment = make_deployment()
    deployment.write_recipe(
        "tiny",
        distributed={"strategy": "ddp", "launcher": "slurm", "hosts": 2, "processes": 1, "backend": "gloo"},
        training__per_device_train_batch_size=2,
        evaluation__benchmark__enabled=False,
        evaluation__safety__enabled=False,
        export__enabled=False,
    )
    done = deployment.materialize(
        "group:tiny",
        PATH=f"{hosts}{os.pathsep}{os.environ['PATH']}",
        SLURM_JOB_ID="4711",
        SLURM_JOB_NODELIST="forge-host[1-2]",
        SLURM_JOB_NUM_NODES="2",
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    command = (hosts.parent / "srun.log").read_text()
    assert "--rdzv-endpoint=forge-host1:30111" in command
    model = Path(str(deployment.latest("tiny", "fine_tuned_model").metadata["dagster/uri"].value))
    report = json.loads((model / "training_report.json").read_text())
    assert (report["world_size"], report["effective_batch_size"]) == (2, 4)
