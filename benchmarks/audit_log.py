"""Measures the audit log beside ForgeLM's, damages and crashes it, and writes docs/benchmarks/audit-log.md.

    python -m benchmarks.audit_log --peer .venv-forgelm

Both sides append and verify in fresh processes, in turn. Without the peer's environment, which `make benchmark-audit`
makes, its columns are left out.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.log_attacks import ATTACKS, LogCopy, matrix, table
from benchmarks.log_kills import Kills, kill_writers
from benchmarks.log_mutations import Mutations, damage_logs
from benchmarks.log_worker import LOG, OURS, PEER, SECRET
from benchmarks.power_loss import Outcome, crash_everywhere, operations
from forge_pipeline.audit_log import verify_audit_log
from forge_pipeline.audit_log.keys import LogKeys, load_private_key

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks" / "audit-log.md"
_WRITTEN = 1_000  # entries of a log to be verified that its writer wrote; the rest repeats them
MODES = {OURS: ("plain", "hmac", "signed"), PEER: ("plain", "hmac")}


@dataclass(frozen=True)
class Run:
    """What one fresh process took.

    Attributes:
        count: Entries that it appended or verified.
        seconds, cpu_seconds: Of the appends or of the verification, without start and imports.
        peak_mb: Of the whole process.
    """

    count: int
    seconds: float
    cpu_seconds: float
    peak_mb: float


class Bench:
    """Runs `log_worker` for either side and keeps the logs under one directory."""

    def __init__(self, scratch: Path, peer: Path | None) -> None:
        self.scratch = scratch
        self._python = {OURS: sys.executable} | ({PEER: str(peer / "bin" / "python")} if peer else {})

    @property
    def sides(self) -> list[tuple[str, str]]:
        """(who, mode) of each contestant."""
        return [(who, mode) for who in self._python for mode in MODES[who]]

    def directory(self, name: str, who: str, mode: str) -> Path:
        directory = self.scratch / f"{name}-{who}-{mode}"
        if mode == "signed" and not (key := self.scratch / f"{directory.name}.key.pem").exists():
            private = Ed25519PrivateKey.generate()
            pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
            key.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
            public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
            (self.scratch / f"{directory.name}.public.pem").write_bytes(public)
        return directory

    def command(self, task: str, who: str, directory: Path, count: int, mode: str) -> list[str]:
        return [self._python[who], str(HERE / "log_worker.py"), task, who, str(directory), str(count), mode]

    def run(self, task: str, who: str, directory: Path, count: int, mode: str) -> Run:
        result, output = self.scratch / "run.json", self.scratch / "run.out"
        launcher = [sys.executable, "-S", "-E", str(HERE / "launcher.py"), str(result)]
        with output.open("w") as stdout:
            subprocess.run(
                [*launcher, *self.command(task, who, directory, count, mode)],
                check=True, stdout=stdout, cwd=HERE.parent, env=environment(),
            )  # fmt: skip
        cost = json.loads(result.read_text())
        if cost["exit_code"]:
            raise SystemExit(f"{who}, {task} {mode}: exit code {cost['exit_code']}")
        return Run(count, **json.loads(output.read_text()), peak_mb=cost["peak_mb"])


def environment() -> dict[str, str]:
    """This process's environment without keys and operators of its user; the repository is importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORGE_", "FORGELM_"))}
    return {**kept, "PYTHONPATH": str(HERE.parent)}


Runs = dict[tuple[str, str], list[Run]]


def measure_appends(bench: Bench, count: int, repeat: int) -> Runs:
    """`count` fsynced appends a process, `repeat` rounds of all contestants in turn."""
    runs: Runs = {side: [] for side in bench.sides}
    for number in range(repeat):
        for who, mode in bench.sides:
            directory = bench.directory(f"append-{number}", who, mode)
            runs[who, mode].append(bench.run("append", who, directory, count, mode))
    return runs


def measure_verification(bench: Bench, counts: list[int], repeat: int) -> dict[int, Runs]:
    """Verify logs of `counts` entries, in turn."""
    found: dict[int, Runs] = {}
    for count in counts:
        found[count] = {side: [] for side in bench.sides}
        for who, mode in bench.sides:
            directory = bench.directory(f"full-{count}", who, mode)
            bench.run("fill", who, directory, count if who == PEER else min(count, _WRITTEN), mode)
            if who == OURS:
                lengthen(directory, count, mode)
        for _ in range(repeat):
            for who, mode in bench.sides:
                directory = bench.directory(f"full-{count}", who, mode)
                found[count][who, mode].append(bench.run("verify", who, directory, count, mode))
    return found


def lengthen(directory: Path, count: int, mode: str) -> None:
    """Make a log of ours `count` entries long by repeating its entries, numbered, linked and authenticated anew."""
    log = LogCopy(directory)
    first, *rest = log.entries
    key = load_private_key(directory.with_name(f"{directory.name}.key.pem")) if mode == "signed" else None
    keys = LogKeys.of(first.log_id, secret=SECRET if mode == "hmac" else None, private=key)
    bare = [replace(entry, hmac=None, sig=None) for entry in rest]
    entries = itertools.islice(itertools.cycle(bare), count - 1)
    log.rebuild([replace(first, hmac=None, sig=None), *entries], keys)


@dataclass(frozen=True)
class Crowd:
    """What eight processes appending at once came to."""

    processes: int
    each: int
    seconds: float
    entries: int
    is_contiguous: bool
    valid: bool


def append_together(bench: Bench, processes: int, each: int) -> Crowd:
    directory = bench.scratch / "crowd"
    command = bench.command("append", OURS, directory, each, "plain")
    began = time.monotonic()
    workers = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=HERE.parent, env=environment())
        for _ in range(processes)
    ]
    codes = [worker.wait() for worker in workers]
    seconds = time.monotonic() - began
    if any(codes):
        raise SystemExit(f"appending together: exit codes {codes}")
    log = directory / LOG
    numbers = [json.loads(line)["seq"] for line in log.read_bytes().splitlines()]
    valid = verify_audit_log(log).valid
    return Crowd(processes, each, seconds, len(numbers), numbers == list(range(processes * each + 1)), valid)


def crash(scratch: Path, share: float, log: Callable[[str], None]) -> dict[str, Outcome]:
    found = {}
    for name, operation in operations().items():
        found[name] = crash_everywhere(name, operation, scratch, share=share)
        log(f"  {name}: {found[name].states} states")
    return found


# --- the page -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    machine: list[str]
    appends: int
    append_runs: Runs
    verify_runs: dict[int, Runs]
    crowd: Crowd
    attacks: dict[str, tuple[bool, ...]]
    mutations: Mutations
    kills: Kills | None
    crashes: dict[str, Outcome]


NAMES = {(OURS, "plain"): "ours", (OURS, "hmac"): "ours, HMAC", (OURS, "signed"): "ours, Ed25519",
         (PEER, "plain"): "ForgeLM", (PEER, "hmac"): "ForgeLM, HMAC"}  # fmt: skip


def page(found: Results) -> str:
    """The page, in Markdown."""
    parts = [
        "# Audit log: speed, damage, crashes",
        "<!-- written by benchmarks/audit_log.py -->",
        "\n".join(f"- {line}" for line in found.machine),
        "## Appending",
        f"{found.appends} events a process, one after the other, each on the disk when the call returns. ForgeLM waits "
        "for the disk once an event; ours three times: for the line, for the checkpoint beside the log, and for the "
        "directory that names it. The checkpoint is what makes a log that lost its end invalid. Median of the rounds "
        "(lowest to highest).",
        _append_table(found.append_runs),
        f"{found.crowd.processes} processes × {found.crowd.each} events into one log: {found.crowd.entries} entries in "
        f"{found.crowd.seconds:.0f} s, numbers {'without a gap' if found.crowd.is_contiguous else 'WITH GAPS'}, "
        f"{'valid' if found.crowd.valid else 'NOT VALID'}.",
        "## Verifying",
        "The whole log, in a fresh process. ForgeLM's verification checks the chain and, given the secret, the tags; "
        "ours also that every line is canonical, the Merkle root, and the checkpoint. Peak memory is the process's, "
        "imports included.",
        _verify_table(found.verify_runs),
        "## Attacks",
        f"{len(found.attacks)} attacks by somebody who can write every file, as four readers see them "
        "(`tests/forge_pipeline/audit_log/test_attack_matrix.py`). Somebody who holds the log, the key and every copy "
        "of every anchor is noticed by nobody.",
        table(found.attacks).rstrip(),
        "## Damage",
        _mutations(found.mutations),
        "## Kills",
        _kills(found.kills),
        "## Power loss",
        "Every disk that a crash may leave, by the model in `benchmarks/power_loss.py`: for each prefix of the system "
        "calls, what was not fsynced is lost, kept, reordered, or torn at each sector and byte; names that were not "
        "made durable are undone. After each, the log is opened, appended to and verified.",
        _crashes(found.crashes),
    ]
    return "\n\n".join(parts) + "\n"


def _median(runs: list[Run], of: Callable[[Run], float]) -> float:
    return statistics.median(map(of, runs))


def _ratio(runs: Runs, side: tuple[str, str], of: Callable[[Run], float]) -> str:
    """How many times the peer's figure, of the same mode where it has one."""
    peer = (PEER, side[1] if (PEER, side[1]) in runs else "plain")
    if peer not in runs or side[0] == PEER:
        return "–"
    return f"{_median(runs[side], of) / _median(runs[peer], of):.2f}"


def _append_table(runs: Runs) -> str:
    rows = ["| | events/s | times ForgeLM's | CPU ms an event |", "|---|---|---|---|"]
    for side, each in runs.items():
        rates = [run.count / run.seconds for run in each]
        rate, low, high = statistics.median(rates), min(rates), max(rates)
        ratio = _ratio(runs, side, lambda run: run.count / run.seconds)
        cpu = _median(each, lambda run: run.cpu_seconds / run.count) * 1e3
        rows.append(f"| {NAMES[side]} | {rate:,.0f} ({low:,.0f} to {high:,.0f}) | {ratio} | {cpu:.2f} |")
    return "\n".join(rows)


def _verify_table(found: dict[int, Runs]) -> str:
    rows = ["| entries | | CPU s | wall s | CPU times ForgeLM's | peak MB |", "|---|---|---|---|---|---|"]
    for count, runs in found.items():
        for side, each in runs.items():
            cpu, wall = _median(each, lambda run: run.cpu_seconds), _median(each, lambda run: run.seconds)
            ratio = _ratio(runs, side, lambda run: run.cpu_seconds)
            peak = _median(each, lambda run: run.peak_mb)
            rows.append(f"| {count:,} | {NAMES[side]} | {cpu:.2f} | {wall:.2f} | {ratio} | {peak:.0f} |")
    return "\n".join(rows)


def _mutations(found: Mutations) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.failures.items())
    return (
        f"{found.tried:,} random changes to bytes and lines of an anchored log, half of them to a signed one: "
        f"{found.detected:,} noticed, {len(found.missed)} missed, {len(found.raised)} at which the verifier raised; "
        f"the slowest took {found.slowest * 1e3:.0f} ms. Called: {kinds}."
    )


def _kills(found: Kills | None) -> str:
    if found is None:
        return "Not measured: this needs fork."
    return (
        f"{found.kills:,} SIGKILLs among eight writers: {found.acknowledged:,} appends acknowledged, {found.lost} of "
        f"them lost, {found.duplicates} numbers given twice or left out; the log of {found.entries:,} entries is "
        f"{'valid' if found.valid else 'NOT VALID'}. Torn lines moved aside: {found.recovered}; a kill seldom tears "
        "one, which is why power loss is simulated below."
    )


def _crashes(found: dict[str, Outcome]) -> str:
    rows = ["| operation | system calls | states | lost | bricked | not valid |", "|---|---|---|---|---|---|"]
    for name, each in found.items():
        counts = (each.calls, each.states, len(each.lost), len(each.bricked), len(each.unverified) + len(each.raised))
        rows.append(f"| {name} | {' | '.join(f'{count:,}' for count in counts)} |")
    rows.append(f"| all | | {sum(each.states for each in found.values()):,} | | | |")
    return "\n".join(rows)


def machine(peer: Path | None) -> list[str]:
    """Where and when this ran, one fact a line. The load is that of before the first run."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "?")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    versions = {name: importlib.metadata.version(name) for name in ("forge-pipeline", "cryptography")}
    if peer is not None:
        question = "import importlib.metadata as m; print(m.version('forgelm'))"
        asked = subprocess.run(
            [str(peer / "bin" / "python"), "-c", question], check=True, capture_output=True, text=True
        )
        versions["forgelm"] = asked.stdout.strip()
    return [
        f"{datetime.now(UTC).date().isoformat()}, {os.cpu_count()} cores of {cpu}, {platform.system()} "
        f"{platform.release().split('-')[0]}, Python {platform.python_version()}",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"load averages at the start: {load}; other load shows in the wall times, most where a disk is waited for",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the audit log beside ForgeLM's.")
    parser.add_argument("--peer", type=Path, default=Path(".venv-forgelm"), help="the peer's environment")
    parser.add_argument("--appends", type=int, default=1_000, help="events a process")
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000], help="logs to verify")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--each", type=int, default=1_000, help="events of each of the processes at once")
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--share", type=float, default=1.0, help="of the power-loss states")
    parser.add_argument("--quick", action="store_true", help="little of everything: does the script work?")
    parser.add_argument("--scratch", type=Path, default=Path("build/benchmark-log"))
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.appends, arguments.entries, arguments.repeat, arguments.each = 50, [500, 2_000], 1, 50
        arguments.mutations, arguments.kills, arguments.share = 300, 10, 0.01
    peer = arguments.peer.absolute()
    if not (peer / "bin" / "python").is_file():
        print(
            f"{arguments.peer}: no environment with ForgeLM, so its side is left out; `make benchmark-audit` makes it"
        )
        peer = None
    shutil.rmtree(arguments.scratch, ignore_errors=True)
    arguments.scratch.mkdir(parents=True)
    text = page(measure(arguments, Bench(arguments.scratch.absolute(), peer), machine(peer)))
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(text, encoding="utf-8")
    print(text)


def measure(arguments: argparse.Namespace, bench: Bench, facts: list[str]) -> Results:
    """Run everything, with a line for each part."""
    log: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
    log("appending")
    appends = measure_appends(bench, arguments.appends, arguments.repeat)
    log("appending together")
    crowd = append_together(bench, arguments.processes, arguments.each)
    log("verifying")
    verified = measure_verification(bench, arguments.entries, arguments.repeat)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as memory:
        log("attacks")
        attacks = matrix(Path(memory, "attacks"), Ed25519PrivateKey.generate())
        if attacks != {name: noticed for name, (_, noticed) in ATTACKS.items()}:
            raise SystemExit(f"the attack matrix is not the one that is claimed:\n{table(attacks)}")
        log("damage")
        mutations = damage_logs(Path(memory, "damage"), arguments.mutations)
        log("power loss")
        crashes = crash(Path(memory), arguments.share, log)
    log("kills")
    kills = kill_writers(bench.scratch / "kills", arguments.kills) if hasattr(os, "fork") else None
    return Results(facts, arguments.appends, appends, verified, crowd, attacks, mutations, kills, crashes)


if __name__ == "__main__":
    main()
