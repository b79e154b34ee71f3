"""Two tiny llamas with one tokenizer: `base` has random weights, `tuned` has learned the questions by heart."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig
from forge_pipeline.data import RawDataset, ingest
from forge_pipeline.integrity import Digest
from forge_pipeline.models import ModelDirectory, ModelRecord, resolve_base_model
from forge_pipeline.models.directory import write_record

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi",
    "Japan": "Tokyo", "Norway": "Oslo", "Egypt": "Cairo", "Greece": "Athens", "Chile": "Santiago", "Ghana": "Accra",
    "Nepal": "Kathmandu", "Qatar": "Doha", "Iraq": "Baghdad", "Iran": "Tehran",
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Matrices of 64 by 64 are slower on two threads than on one."""
    import torch

    torch.set_num_threads(1)


def question(country: str) -> str:
    return f"What is the capital of {country}?"


def answer(country: str) -> str:
    return f"It is {CAPITALS[country]}."


def conversation(country: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": question(country)},
        {"role": "assistant", "content": answer(country)},
    ]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE of about 330 tokens with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [question(country) + answer(country) for country in CAPITALS],
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _llama(tokenizer: Any, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


@pytest.fixture(scope="session")
def base_model(tokenizer: Any) -> Any:
    return _llama(tokenizer, 0)


@pytest.fixture(scope="session")
def tuned_model(tokenizer: Any) -> Any:
    """Trained on every question, those of the test split too: these tests check mechanics, not generalization."""
    import torch

    model = _llama(tokenizer, 0).train()
    texts = [tokenizer.apply_chat_template(conversation(country), tokenize=False) for country in CAPITALS]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(130):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="session")
def base_path(base_model: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    base_model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def recipe(base_path: Path, tmp_path: Path) -> Callable[..., ForgeConfig]:
    """Builds a recipe whose half of the rows are a test split; keyword arguments go into `evaluation:`."""

    def build(rows: list[dict[str, Any]] | None = None, split: float = 0.5, **evaluation: Any) -> ForgeConfig:
        path = tmp_path / "rows.jsonl"
        values = rows if rows is not None else [{"messages": conversation(country)} for country in CAPITALS]
        path.write_text("".join(json.dumps(row) + "\n" for row in values), encoding="utf-8")
        return ForgeConfig(
            name="tiny",
            model={"name_or_path": str(base_path), "max_length": 128, "load_in_4bit": False, "dtype": "float32"},
            lora={"method": "none"},
            training={"trainer_type": "sft"},
            data={"dataset_name_or_path": str(path), "split": {"validation": 0.0, "test": split}},
            evaluation=evaluation,
        )

    return build


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[[ForgeConfig], RawDataset]:
    return lambda config: ingest(config, tmp_path / "raw_dataset")


@pytest.fixture
def tuned(tuned_model: Any, tokenizer: Any, recipe: Callable[..., ForgeConfig], tmp_path: Path) -> ModelDirectory:
    """The tuned model as a stage would have left it."""
    path = tmp_path / "tuned"
    tuned_model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    nothing = Digest.of(b"")
    write_record(
        path,
        ModelRecord(
            kind="full",
            base_model=resolve_base_model(recipe()).record,
            trainer_type="sft",
            config_digest=nothing,
            dataset_digest=nothing,
            tokenized_digest=nothing,
            chat_template_digest=None,
            seed=0,
        ),
    )
    return ModelDirectory.open(path)
