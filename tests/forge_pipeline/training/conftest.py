"""Tokenized datasets for every trainer type, in the shape that `forge_pipeline.data.tokenize` gives them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forge_pipeline.data import TokenizedDataset
from forge_pipeline.data.artifacts import SplitSummary, TokenizationSummary
from forge_pipeline.integrity import Digest, write_report

_FORKING_TRAINER = Path(__file__).with_name("forking_trainer.py")
QUESTIONS = [
    "What is two plus two?",
    "Name a color.",
    "Say hello.",
    "Where is Paris?",
    "Count to three.",
    "Who are you?",
]
ANSWERS = ["Four.", "Blue is a color.", "Hello there!", "Paris is in France.", "One, two, three.", "A small model."]


@pytest.fixture(scope="session")
def _forking_trainer() -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [sys.executable, str(_FORKING_TRAINER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    yield process
    assert process.stdin
    process.stdin.close()
    process.wait(timeout=20)


@pytest.fixture
def forked(_forking_trainer: "subprocess.Popen[str]", tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Fine-tunes in a process of its own, which may be killed; see `forking_trainer`. Returns how that ended."""
    from forge_pipeline.integrity import write_report

    def train(config: Any, dataset: TokenizedDataset, **job: Any) -> dict[str, Any]:
        number = len(list(tmp_path.glob("job-*.json")))
        write_report(tmp_path / f"job-{number}.json", config)
        job |= {"recipe": str(tmp_path / f"job-{number}.json"), "dataset": str(dataset.path)}
        job |= {"output": str(tmp_path / f"model-{number}"), "result": str(tmp_path / f"result-{number}.json")}
        assert _forking_trainer.stdin
        assert _forking_trainer.stdout
        _forking_trainer.stdin.write(json.dumps(job, default=str) + "\n")
        _forking_trainer.stdin.flush()
        return {"output": Path(job["output"]), **json.loads(_forking_trainer.stdout.readline())}

    return train


@pytest.fixture
def tokenized(tiny_model: Path, tmp_path: Path) -> Callable[..., TokenizedDataset]:
    """Writes the tokenized dataset of a trainer type: six training rows, three of them for validation."""

    def build(
        trainer_type: str = "sft", *, validation: bool = True, packed: bool = False, name: str = "", repeat: int = 1
    ) -> Any:
        from transformers import AutoTokenizer

        directory = tmp_path / f"tokenized-{trainer_type}{name}"
        directory.mkdir()
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        rows = [ROWS[trainer_type](tokenizer, index) for index in range(6)] * repeat
        if packed:
            rows = _pack(rows)
        splits = {"train": rows, **({"validation": rows[:3]} if validation else {})}
        for split, values in splits.items():
            pq.write_table(pa.Table.from_pylist(values), directory / f"{split}.parquet")
        write_report(
            directory / "summary.json",
            TokenizationSummary(
                dataset_digest=Digest.of(b"raw"),
                tokenizer_digest=Digest.of(b"tokenizer"),
                chat_template_digest=Digest.of(tokenizer.chat_template.encode()),
                trainer_type=trainer_type,
                max_length=64,
                packed=packed,
                splits={
                    split: SplitSummary(
                        rows=len(values),
                        tokens=sum(row["length"] for row in values),
                        trained_tokens=None,
                        truncated=0,
                        fully_masked=0,
                        max_length_seen=max(row["length"] for row in values),
                        mean_length=sum(row["length"] for row in values) / len(values),
                    )
                    for split, values in splits.items()
                },
            ),
        )
        return TokenizedDataset.open(directory)

    return build


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _sft(tokenizer: Any, index: int) -> dict[str, Any]:
    prompt = tokenizer.apply_chat_template(
        [_turn("user", QUESTIONS[index])], add_generation_prompt=True, tokenize=False
    )
    prompt_ids = tokenizer(prompt)["input_ids"]
    answer_ids = tokenizer(f"{ANSWERS[index]}<|im_end|>\n")["input_ids"]
    ids = [*prompt_ids, *answer_ids]
    return {"input_ids": ids, "labels": [-100] * len(prompt_ids) + answer_ids, "length": len(ids)}


def _preference(tokenizer: Any, index: int) -> dict[str, Any]:
    return {
        "prompt": [_turn("user", QUESTIONS[index])],
        "chosen": [_turn("assistant", ANSWERS[index])],
        "rejected": [_turn("assistant", ANSWERS[index - 1])],
        "length": 20 + index,
    }


def _unpaired(tokenizer: Any, index: int) -> dict[str, Any]:
    return {
        "prompt": [_turn("user", QUESTIONS[index])],
        "completion": [_turn("assistant", ANSWERS[index])],
        "label": index % 2 == 0,
        "length": 20 + index,
    }


def _prompt_only(tokenizer: Any, index: int) -> dict[str, Any]:
    return {"prompt": [_turn("user", QUESTIONS[index])], "answer": ANSWERS[index], "length": 10 + index}


ROWS: dict[str, Callable[[Any, int], dict[str, Any]]] = {
    "sft": _sft,
    "dpo": _preference,
    "orpo": _preference,
    "simpo": _preference,
    "reward": _preference,
    "kto": _unpaired,
    "grpo": _prompt_only,
}


def _pack(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two rows in one, with the lengths of both beside them."""
    return [
        {
            "input_ids": left["input_ids"] + right["input_ids"],
            "labels": left["labels"] + right["labels"],
            "seq_lengths": [left["length"], right["length"]],
            "length": left["length"] + right["length"],
        }
        for left, right in zip(rows[::2], rows[1::2], strict=True)
    ]
