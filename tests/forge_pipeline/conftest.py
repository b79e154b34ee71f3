"""Shared by the library's tests: a two-layer llama with random weights, and a recipe that trains it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_pipeline.config import ForgeConfig

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = [
    "What is two plus two? Four.",
    "Name a color. Blue is a color.",
    "Say hello. Hello there!",
    "Where is Paris? Paris is in France.",
    "Count to three. One, two, three.",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: 2 layers, hidden size 32, a byte-level BPE of about 300 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny-llama")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def recipe(tiny_model: Path) -> Callable[..., ForgeConfig]:
    """Builds a recipe of two steps on the tiny model; keyword arguments replace whole `training:` or other keys."""

    def build(**sections: dict[str, Any]) -> ForgeConfig:
        training = {
            "trainer_type": "sft",
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-3,
        }
        model = {"name_or_path": str(tiny_model), "max_length": 64, "load_in_4bit": False}
        lora = {"r": 4, "alpha": 8}
        return ForgeConfig(
            name="tiny",
            model=model | sections.pop("model", {}),
            lora=lora | sections.pop("lora", {}),
            training=training | sections.pop("training", {}),
            data={"dataset_name_or_path": "rows.jsonl"} | sections.pop("data", {}),
            **sections,
        )

    return build
