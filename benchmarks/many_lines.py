"""What fifty declared lines cost: loading them, listing them, and looking at all their sensors once.

    python -m benchmarks.many_lines --page docs/benchmarks/many-lines.md
    python -m benchmarks.many_lines --quick

Each line is a recipe of its own with its own file of rows, every stage, a cron schedule and the retraining sensor. Each
measurement is a fresh process; CPU seconds and peak memory are that process's, as the kernel counts them. Sensors are
evaluated as the daemon's gRPC call does it (`evaluate_tick`), in one process, one after the other: the first look finds
new data in every line, the second finds nothing new.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
ROWS = 200
RECIPE = """owners: ["team:line{number}"]
model: {{name_or_path: owner/base, load_in_4bit: false}}
lora: {{}}
data: {{dataset_name_or_path: {rows}}}
training: {{learning_rate: {rate}}}
evaluation:
  benchmark: {{enabled: true, tasks: [held_out]}}
  safety: {{enabled: true, classifier: rules, test_prompts: builtin}}
automation:
  cron: "0 3 * * 1"
  on_new_data: true
  settle_seconds: 0
"""


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Attributes:
        wall, cpu: Seconds.
        peak_mb: Largest resident set, in MB of 10^6 bytes.
        said: The JSON object on its last line; empty for other people's commands.
    """

    wall: float
    cpu: float
    peak_mb: float
    said: Mapping[str, Any]


def write_lines(folder: Path, count: int) -> dict[str, str]:
    """Recipes and rows of `count` lines, and the environment of a deployment that has them."""
    configs = folder / "configs"
    configs.mkdir(parents=True)
    (folder / "dagster").mkdir()
    (folder / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    for number in range(count):
        rows = folder / f"rows_{number}.jsonl"
        with rows.open("w") as file:
            for row in range(ROWS):
                file.write(
                    json.dumps({"prompt": f"Question {row} of line {number}?", "completion": f"Answer {row}."}) + "\n"
                )
        recipe = RECIPE.format(number=number, rows=rows, rate=1e-4 * (number + 1))
        (configs / f"line{number:03d}.yaml").write_text(recipe)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORGE_", "DAGSTER_"))}
    return {**kept, "FORGE_CONFIGS": str(configs), "FORGE_HOME": str(folder / "forge"),
            "DAGSTER_HOME": str(folder / "dagster"), "HF_HUB_OFFLINE": "1"}  # fmt: skip


def measure(command: list[str], environment: Mapping[str, str]) -> Cost:
    """Run `command` to its end.

    Raises:
        RuntimeError: It failed; its output is in the message.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, cwd=CHECKOUT, env=dict(environment), stdout=out, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        out.seek(0)
        text = out.read()
    process.returncode = os.waitstatus_to_exitcode(status)  # wait4 took it away from Popen
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text[-3000:]}")
    last = text.rstrip().rpartition("\n")[2]
    said = json.loads(last) if last.startswith("{") else {}
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, said)


# --- in the measured process --------------------------------------------------------------------------------------


def load() -> dict[str, Any]:
    """Import Dagster, then the code location, then resolve its graph: seconds of each, and what was found."""
    began = time.perf_counter()
    import dagster  # noqa: F401

    imported = time.perf_counter()
    from assets.definitions import defs

    built = time.perf_counter()
    repository = defs.get_repository_def()
    graph = repository.asset_graph
    resolved = time.perf_counter()
    return {
        "dagster": imported - began,
        "definitions": built - imported,
        "graph": resolved - built,
        "assets": len(graph.get_all_asset_keys()),
        "checks": len(graph.asset_check_keys),
        "sensors": len(repository.sensor_defs),
        "schedules": len(repository.schedule_defs),
    }


def tick() -> dict[str, Any]:
    """Evaluate every retraining and release sensor twice; seconds of each evaluation."""
    import dagster as dg

    from assets.definitions import defs

    repository = defs.get_repository_def()
    resources = repository.get_top_level_resources()
    found: dict[str, Any] = {"first": [], "again": [], "asked": 0}
    with dg.DagsterInstance.get() as instance:
        for sensor in repository.sensor_defs:
            if not sensor.name.endswith(("_retraining", "_release")) or sensor.name.startswith("studio"):
                continue
            cursor = None
            for which in ("first", "again"):
                wanted = {name: resources[name] for name in sensor.required_resource_keys}
                began = time.perf_counter()
                with dg.build_sensor_context(
                    instance=instance,
                    cursor=cursor,
                    repository_def=repository,
                    resources=wanted,
                    sensor_name=sensor.name,
                ) as context:
                    data = sensor.evaluate_tick(context)
                found[which].append(time.perf_counter() - began)
                found["asked"] += len(data.run_requests or [])
                cursor = data.cursor
    return found


CHILDREN: dict[str, Callable[[], dict[str, Any]]] = {"load": load, "tick": tick}


# --- the page -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One number of lines. Of `repeat` loads and lists, the medians by CPU."""

    lines: int
    loads: tuple[Cost, ...]
    lists: tuple[Cost, ...]
    ticks: Cost


def middle(costs: tuple[Cost, ...]) -> Cost:
    return sorted(costs, key=lambda cost: cost.cpu)[len(costs) // 2]


def run(lines: int, repeat: int) -> Measured:
    python = [sys.executable, "-W", "ignore", "-m"]
    with tempfile.TemporaryDirectory() as folder:
        environment = write_lines(Path(folder), lines)
        measure([*python, "dagster", "instance", "migrate"], environment)
        child = [*python, "benchmarks.many_lines", "--child"]
        loads = tuple(measure([*child, "load"], environment) for _ in range(repeat))
        listing = [*python, "dagster", "asset", "list", "-m", "assets.definitions"]
        lists = tuple(measure(listing, environment) for _ in range(repeat))
        return Measured(lines, loads, lists, measure([*child, "tick"], environment))


def page(found: list[Measured], command: str) -> str:
    """The results as Markdown; every figure is of this run."""
    head = (
        f"# Many lines\n\nWritten by `{command}`, {date.today().isoformat()}, Python {platform.python_version()}, "
        f"dagster {version('dagster')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end. Each line "
        "has all stages, a schedule and a retraining sensor. CPU seconds and peak memory of a fresh process each.\n"
    )
    rows = ["| lines | assets | checks | sensors | load: CPU s | Dagster's import, wall s | definitions, wall s | "
            "graph, wall s | peak MB | `dagster asset list`: CPU s | peak MB |", "|" + "---|" * 11]  # fmt: skip
    for each in found:
        load, listed = middle(each.loads), middle(each.lists)
        facts = load.said
        walls = [f"{facts[part]:.2f}" for part in ("dagster", "definitions", "graph")]
        cells = (each.lines, facts["assets"], facts["checks"], facts["sensors"], f"{load.cpu:.2f}", *walls,
                 f"{load.peak_mb:.0f}", f"{listed.cpu:.2f}", f"{listed.peak_mb:.0f}")  # fmt: skip
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    ticks = ["| lines | sensors looked at | first look, ms each (median, longest) | again, ms each (median, longest) | "
             "all of them once, s | runs asked for |", "|" + "---|" * 6]  # fmt: skip
    for each in found:
        first, again = each.ticks.said["first"], each.ticks.said["again"]
        seen = (each.lines, len(again), _times(first), _times(again), f"{sum(again):.2f}", each.ticks.said["asked"])
        ticks.append("| " + " | ".join(map(str, seen)) + " |")
    slope = ""
    if len(found) > 1:
        less, more = middle(found[0].loads), middle(found[-1].loads)
        lines = found[-1].lines - found[0].lines
        slope = (
            f"\nOne more line costs {(more.cpu - less.cpu) / lines * 1000:.0f} ms of CPU and "
            f"{(more.peak_mb - less.peak_mb) / lines:.2f} MB at each load of the code location.\n"
        )
    note = (
        "\nThe first look reads each line's rows and asks for a run; the second finds them as they were. A sensor "
        "looks every `check_interval_seconds` of its recipe.\n"
    )
    return "\n".join([head, "## Loading", "", *rows, slope, "## Sensors", "", *ticks, note])


def _times(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f}, {max(seconds) * 1000:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3, help="loads and lists of each size (default 3)")
    parser.add_argument("--quick", action="store_true", help="one load and one list of each size")
    parser.add_argument("--page", type=Path, help="write the page here; without it, it is printed")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child]()))
        return
    repeat = 1 if options.quick else options.repeat
    found = [
        run(lines, repeat) for lines in sorted({1, 10, options.lines} if options.lines > 10 else {1, options.lines})
    ]
    arguments = " --quick" if options.quick else f" --lines {options.lines} --repeat {repeat}"
    text = page(found, f"python -m benchmarks.many_lines{arguments}")
    if options.page:
        options.page.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
