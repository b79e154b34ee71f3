"""Shared by every test: a two-layer llama with random weights, its tokenizer and a chat template.

The caller's own settings are taken away first, so that the tests mean the same everywhere.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

for _name in [name for name in os.environ if name.startswith(("FORGE_", "FORGELM_", "DAGSTER_"))]:
    del os.environ[_name]

# A shell that runs the tests in the background has its children ignore Ctrl-C; whoever is tested must be able to get it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


def make_llama(directory: Path, texts: Iterable[str] = TEXTS, *, vocab_size: int = 300, hidden_size: int = 32) -> Path:
    """Save a llama and a byte-level BPE tokenizer trained on `texts`, with SmolLM2's splitting and a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of long tests first: with a file a core, one that starts last is what everybody else waits for."""
    seconds: dict[Path, float] = {}
    for item in items:
        about = 12.0 if item.get_closest_marker("slow") or item.get_closest_marker("browser") else 0.05
        seconds[item.path] = seconds.get(item.path, 0.0) + about
    items.sort(key=lambda item: -seconds[item.path])  # stable: the tests of a file keep their order


_known = 0  # modules imported when the heap was last frozen


def pytest_runtest_setup() -> None:
    """Trainers collect garbage at every start, which takes half a second where torch and its kin are searched too."""
    global _known
    if len(sys.modules) > _known + 200:
        gc.collect()
        gc.freeze()
        _known = len(sys.modules)


def pytest_sessionfinish() -> None:
    from tests import standing

    standing.end_all()


@pytest.fixture(scope="session")
def llama_maker() -> Callable[..., Path]:
    """`make_llama`, for fixtures that want other texts or another size."""
    return make_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory: 2 layers, hidden size 32, about 300 tokens."""
    return make_llama(tmp_path_factory.mktemp("tiny-llama"))
