"""A byte tokenizer with SmolLM2's chat template, recipes, and files to read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig

# SmolLM2-Instruct's own template: no generation tags, a default system prompt.
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Any]:
    """Bytes are tokens, but for the special ones and `merges`, pairs of bytes that make one token."""

    def make(template: str | None = SMOLLM2_TEMPLATE, merges: tuple[tuple[str, str], ...] = ()) -> Any:
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
        backend = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(merges)))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|endoftext|>"
        )
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    return make_tokenizer()


@pytest.fixture
def recipe() -> Callable[..., ForgeConfig]:
    """A recipe for `dataset`; keyword arguments go to `data`, `training` and `max_length`."""

    def make(
        dataset: Path | str, *, training: dict[str, Any] | None = None, max_length: int = 512, **data: Any
    ) -> ForgeConfig:
        return ForgeConfig(
            model={"name_or_path": "nobody/nothing", "max_length": max_length, "load_in_4bit": False, "offline": True},
            lora={},
            training={"trainer_type": "sft", **(training or {})},
            data={"dataset_name_or_path": str(dataset), **data},
        )

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def dialogues() -> list[dict[str, Any]]:
    """Forty short conversations, all different."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"How do I open drawer {i}?"},
                {"role": "assistant", "content": f"Pull handle {i}.\n\n    twice()"},
            ],
            "id": i,
        }
        for i in range(40)
    ]


@pytest.fixture
def tokenized(
    write_jsonl: Callable[..., Path], recipe: Callable[..., ForgeConfig], tokenizer: Any, tmp_path: Path
) -> Callable[..., Any]:
    """Ingest and tokenize `rows`; keyword arguments go to the recipe, `tokenizer` and `workers` to `tokenize`."""
    from forge_pipeline.data import ingest, tokenize

    def run(rows: list[dict[str, Any]], name: str = "tokenized", **options: Any) -> Any:
        with_tokenizer, workers = options.pop("tokenizer", tokenizer), options.pop("workers", 1)
        config = recipe(write_jsonl(rows), **options)
        raw = ingest(config, tmp_path / f"{name}-raw")
        return tokenize(config, raw, with_tokenizer, tmp_path / name, workers=workers)

    return run
