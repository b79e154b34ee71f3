"""A soak of the retraining sensor: new file, run, next file, with processes killed all the while.

    python -m benchmarks.retraining --cycles 200 --page docs/benchmarks/retraining.md

starts Dagster's own daemon on a home with SQLite, with the line of `benchmarks.retraining_line`, and writes one new
file a cycle. Killed are, by SIGKILL and drawn with a seed: the daemon; the run's worker; daemon, code server and worker
at once, which is what a power failure leaves. In the second half the daemon lives, so that its memory can be watched.

What is counted afterwards, from Dagster's runs alone: digests without a successful run (lost), and digests with two
successful runs or with two that went on at the same time (doubled).
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path

import dagster as dg
import psutil

from forge_pipeline.data.held_out import source_digest

CHECKOUT = Path(__file__).parents[1]
INTERVAL = 10  # seconds between two looks of the sensor; the least that a recipe takes
GIVE_UP = 300  # seconds that one cycle may take
KILLS = ("none", "worker", "daemon", "everything")
_YAML = """telemetry: {enabled: false}
concurrency: {runs: {max_concurrent_runs: 4}}
run_monitoring:
  {enabled: true, poll_interval_seconds: 5, start_timeout_seconds: 60, free_slots_after_run_end_seconds: 5}
run_retries: {enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}
"""


@dataclass
class Cycle:
    """One new file. Times in seconds since 1970."""

    digest: str
    kill: str
    written: float
    asked: float | None = None
    started: float | None = None
    succeeded: float | None = None
    runs: int = 0
    daemon_mb: float = 0.0


@dataclass
class Soak:
    """A deployment, its daemon, and what was seen."""

    root: Path
    rng: random.Random
    cycles: list[Cycle] = field(default_factory=list)
    daemon: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.data = self.root / "rows.jsonl"
        self.home = self.root / "dagster"
        self.home.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(_YAML)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FORGE_", "DAGSTER_"))},
            "FORGE_HOME": str(self.root / "forge"),
            "FORGE_OPERATOR": "soak",
            "FORGE_CONFIGS": str(self.root / "none"),
            "DAGSTER_HOME": str(self.home),
            "SOAK_DATA": str(self.data),
            "SOAK_INTERVAL": str(INTERVAL),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(CHECKOUT),
        }
        with self.instance() as instance:
            instance.get_runs()

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))

    def start(self) -> None:
        command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "benchmarks.retraining_line"]
        with (self.root / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                command, cwd=CHECKOUT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, *, everything: bool) -> None:
        assert self.daemon is not None
        (os.killpg if everything else os.kill)(self.daemon.pid, signal.SIGKILL)
        self.daemon.wait()

    def stop(self) -> None:
        """End the daemon and every process of its session: code servers that lost their daemon among them."""
        assert self.daemon is not None
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("DAGSTER_HOME") == str(self.home)
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if ours and process.pid != os.getpid():
                process.kill()
        self.daemon.wait()

    def cycle(self, number: int, kill: str) -> Cycle:
        """Write a file, do the harm, wait for its run's success."""
        from benchmarks.retraining_line import soak_config

        rows = [{"text": f"cycle {number} row {row} {self.rng.random()}"} for row in range(20)]
        aside = self.data.with_suffix(".tmp")
        aside.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if kill in ("worker", "everything"):
            Path(f"{self.data}.kill").touch()
        aside.replace(self.data)
        seen = Cycle(str(source_digest(soak_config(self.data))), kill, time.time())
        harm_at = seen.written + self.rng.uniform(0, 1.5 * INTERVAL) if kill in ("daemon", "everything") else None
        while seen.succeeded is None:
            if time.time() - seen.written > GIVE_UP:
                break
            if harm_at is not None and time.time() >= harm_at:
                self.kill(everything=kill == "everything")
                self.start()
                harm_at = None
            self._note(seen)
            time.sleep(0.25)
        Path(f"{self.data}.kill").unlink(missing_ok=True)
        assert self.daemon is not None
        seen.daemon_mb = psutil.Process(self.daemon.pid).memory_info().rss / 2**20
        self.cycles.append(seen)
        return seen

    def _note(self, seen: Cycle) -> None:
        with self.instance() as instance:
            records = runs_for(instance, seen.digest)
        seen.runs = len(records)
        if records:
            seen.asked = records[0].create_timestamp.timestamp()
            seen.started = records[0].start_time
        for record in records:
            if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
                seen.succeeded = record.end_time


def runs_for(instance: dg.DagsterInstance, digest: str) -> list[dg.RunRecord]:
    """The runs that were asked for one digest, oldest first."""
    causes = json.dumps({"new_data": digest})
    return list(instance.get_run_records(dg.RunsFilter(tags={"forge/causes": causes}), ascending=True))


def count(soak: Soak) -> tuple[list[str], list[str]]:
    """Digests whose run was lost, and whose run was doubled."""
    lost, doubled = [], []
    with soak.instance() as instance:
        for cycle in soak.cycles:
            records = runs_for(instance, cycle.digest)
            good = [each for each in records if each.dagster_run.status is dg.DagsterRunStatus.SUCCESS]
            if not good:
                lost.append(cycle.digest)
            at_once = any(
                before.end_time is None or after.create_timestamp.timestamp() < before.end_time
                for before, after in pairwise(records)
            )
            if len(good) > 1 or at_once:
                doubled.append(cycle.digest)
    return lost, doubled


def stage_costs(soak: Soak) -> dict[str, float]:
    """Median seconds of each part of the runs that succeeded at once."""
    parts: dict[str, list[float]] = {"queue": [], "worker start": [], "stages": [], "between stages": []}
    kinds = dg.DagsterEventType
    with soak.instance() as instance:
        for cycle in soak.cycles:
            records = runs_for(instance, cycle.digest)
            if len(records) != 1 or records[0].start_time is None or records[0].end_time is None:
                continue
            events = instance.all_logs(records[0].dagster_run.run_id)
            at = {kind: [e.timestamp for e in events if e.dagster_event_type is kind] for kind in kinds}
            steps = sum(at[kinds.STEP_SUCCESS]) - sum(at[kinds.STEP_START])
            launched = at[kinds.RUN_STARTING][0]
            parts["queue"].append(launched - records[0].create_timestamp.timestamp())
            parts["worker start"].append(records[0].start_time - launched)
            parts["stages"].append(steps)
            parts["between stages"].append((records[0].end_time - records[0].start_time - steps) / 2)
    return {name: statistics.median(values) for name, values in parts.items() if values}


def render(soak: Soak, lost: list[str], doubled: list[str], costs: dict[str, float], wall: float) -> str:
    """The page as Markdown."""
    cycles = soak.cycles
    quiet = [each for each in cycles if each.kill == "none" and each.started is not None]
    asked = sorted(each.asked - each.written for each in quiet if each.asked)
    began = sorted(each.started - each.written for each in quiet if each.started)
    kills = {kind: sum(each.kill == kind for each in cycles) for kind in KILLS}
    memory = [each.daemon_mb for each in cycles[len(cycles) // 2 :]]
    tenth = max(1, len(memory) // 5)
    early, late = statistics.median(memory[tenth : 2 * tenth] or memory), statistics.median(memory[-tenth:])
    lines = [
        "# Retraining, soaked",
        "",
        f"Written by `python -m benchmarks.retraining --cycles {len(cycles)}`: {wall / 60:.0f} minutes, "
        f"{date.today()}, Python {platform.python_version()}, dagster {dg.__version__}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f} at the end. SQLite home, one daemon, sensor interval {INTERVAL} s, settle time 0 s. "
        "The line's training is real and takes milliseconds (`benchmarks/retraining_line.py`), so what is timed is "
        "orchestration.",
        "",
        "## Runs",
        "",
        "| new files | worker killed | daemon killed | all killed at once | runs started | lost | doubled |",
        "|---|---|---|---|---|---|---|",
        f"| {len(cycles)} | {kills['worker']} | {kills['daemon']} | {kills['everything']} | "
        f"{sum(each.runs for each in cycles)} | **{len(lost)}** | **{len(doubled)}** |",
        "",
        "Lost: a digest without a successful run. Doubled: a digest with two successful runs, or with two at the same "
        "time. A run that was killed is followed by another of the same digest: there are more runs than files.",
        "",
        "## From new file to run start",
        "",
        "| seconds, cycles without a kill | median | longest |",
        "|---|---|---|",
        f"| until the run is asked for | {statistics.median(asked):.1f} | {asked[-1]:.1f} |"
        if asked
        else "| - | - | - |",
        f"| until its worker has started | {statistics.median(began):.1f} | {began[-1]:.1f} |"
        if began
        else "| - | - | - |",
        "",
        "## What orchestration costs a run",
        "",
        "| part | median seconds |",
        "|---|---|",
        *(f"| {name} | {value:.2f} |" for name, value in costs.items()),
        "",
        "Worker start is the new process with its imports. Between stages: what a run takes beyond its stages, for "
        "each of its two stages. A stage's own time includes reading and writing the store.",
        "",
        "## Memory of the daemon",
        "",
        f"Second half, in which the daemon was not killed, {len(memory)} cycles: {early:.0f} MB early, {late:.0f} MB "
        f"at the end ({late - early:+.0f} MB).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="10 cycles: whether the script works")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--work", type=Path, default=Path("build/benchmark/retraining"))
    parser.add_argument("--page", type=Path, help="where the page is written; default: stdout")
    args = parser.parse_args()
    cycles = 10 if args.quick else args.cycles
    work = args.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    os.environ.setdefault("FORGE_OPERATOR", "soak")
    soak, began = Soak(work, random.Random(args.seed)), time.time()
    soak.start()
    try:
        for number in range(cycles):
            # Every other cycle is harmed; in the second half the daemon is left alone.
            kinds = KILLS[1:] if number < cycles // 2 else KILLS[1:2]
            kill = soak.rng.choice(kinds) if number % 2 else "none"
            seen = soak.cycle(number, kill)
            took = f"{seen.succeeded - seen.written:.0f} s" if seen.succeeded else "gave up"
            print(
                f"{number + 1:4} {kill:10} {seen.runs} runs  {took}  {seen.daemon_mb:.0f} MB",
                file=sys.stderr,
                flush=True,
            )
    finally:
        soak.stop()
    lost, doubled = count(soak)
    page = render(soak, lost, doubled, stage_costs(soak), time.time() - began)
    if args.page:
        args.page.write_text(page)
    else:
        print(page)
    sys.exit(1 if lost or doubled else 0)


if __name__ == "__main__":
    main()
