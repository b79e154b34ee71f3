"""Configuration of other launchers: accelerate's files by accelerate's parser, the Slurm script by a shell and a fake srun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config.operation import DistributedSection
from forge_pipeline.training.distributed import _fsdp_settings

CHECKOUT = Path(__file__).parents[2]
FILES = sorted((CHECKOUT / "deploy" / "accelerate").glob("*.yaml"))


def parsed(file: Path) -> Any:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    arguments = ["--config_file", str(file), "--machine_rank", "1", "-m", "forge_pipeline.training.ranks", "spec.json"]
    done, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return done


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_accelerate_reads_the_file_and_the_hosts_number_wins(file: Path) -> None:
    done = parsed(file)
    assert (done.num_machines, done.num_processes, done.machine_rank) == (2, 16, 1)
    assert done.main_process_ip
    assert done.use_fsdp is (file.stem == "fsdp2")
    assert not done.use_deepspeed


def test_what_the_fsdp_file_says_is_what_the_recipe_sets() -> None:
    done = parsed(CHECKOUT / "deploy" / "accelerate" / "fsdp2.yaml")
    ours = _fsdp_settings(DistributedSection(strategy="fsdp"))
    theirs = {
        "version": int(done.fsdp_version),
        "reshard_after_forward": str(done.fsdp_reshard_after_forward).lower() == "true",
        "auto_wrap_policy": done.fsdp_auto_wrap_policy,
        "cpu_offload": str(done.fsdp_offload_params).lower() == "true",
        "state_dict_type": done.fsdp_state_dict_type,
    }
    assert theirs == ours


def test_a_misspelled_key_would_be_noticed(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(
        (CHECKOUT / "deploy" / "accelerate" / "fsdp2.yaml").read_text().replace("num_machines", "machines")
    )
    with pytest.raises(ValueError, match="machines"):
        parsed(broken)


SCRIPT = CHECKOUT / "deploy" / "slurm" / "line.sbatch"
FAKE = """#!{python}
import sys, time
try:
    open({log!r}, "a").write(" ".join(sys.argv[1:]) + "\\n")
    if {wait}: time.sleep(60)
except KeyboardInterrupt:
    open({log!r}, "a").write("interrupted\\n")
    sys.exit(130)
sys.exit(3)
"""


def fake_python(folder: Path, *, wait: bool) -> Path:
    path = folder / "python"
    path.write_text(FAKE.format(python=sys.executable, log=str(folder / "log"), wait=wait))
    path.chmod(0o755)
    return path


def environment(folder: Path, python: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHON": str(python), "FORGE_HOME": str(folder), "DAGSTER_HOME": str(folder),
            "SLURM_JOB_USER": "u", "SLURM_JOB_ID": "1"}  # fmt: skip


def test_the_slurm_script_ends_with_the_runs_code(tmp_path: Path) -> None:
    variables = environment(tmp_path, fake_python(tmp_path, wait=False))
    assert subprocess.run(["bash", str(SCRIPT), "mine"], env=variables, timeout=30).returncode == 3
    assert (tmp_path / "log").read_text().strip().endswith("--select group:mine")
    assert subprocess.run(["bash", str(SCRIPT)], env=variables, capture_output=True, timeout=30).returncode != 0


def test_the_slurm_scripts_signal_reaches_the_run_and_is_waited_for(tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "mine"],
        env=environment(tmp_path, fake_python(tmp_path, wait=True)),
        start_new_session=True,
    )
    deadline = time.monotonic() + 20
    while not (tmp_path / "log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)  # as Slurm's --signal=B:INT: to the shell alone
    assert process.wait(20) == 130
    assert "interrupted" in (tmp_path / "log").read_text()
