"""Tiny random models with tiny trained tokenizers: real files, a second's work."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CORPUS = [
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "Numbers like 12, 345 and 67890 are split in different ways.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "def f(x):\n    return x + 1  # a comment\n\n",
    "人工智能正在改变世界。 Привет, мир!",
]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"


def write_tokenizer(directory: Path, kind: str) -> int:
    """Train and save a tokenizer of the `kind` that PRE_TOKENIZERS names; return its number of tokens."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    if kind.startswith(("sentencepiece", "phi-3")):
        return write_sentencepiece(directory, prefix=kind.endswith("prefix"), strips=kind.startswith("phi-3"))
    tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
    bytes_split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    steps: dict[str, Any] = {
        "gpt-2": bytes_split,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_split]),
        "llama-bpe": pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(_HEAD + r"\p{N}{1,3}" + _TAIL), "isolated"), bytes_only]
        ),
        "qwen2": pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(_HEAD + r"\p{N}" + _TAIL), "isolated"), bytes_only]
        ),
    }
    tokenizer.pre_tokenizer = steps[kind]
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if kind == "llama-bpe":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))]
        )
    return _save(tokenizer, directory)


def write_sentencepiece(directory: Path, *, prefix: bool, strips: bool = False) -> int:
    """BPE with byte fallback, as Gemma has it, or with a blank before each text, as Llama 2 has it.

    With `strips` special tokens swallow the blanks after them, as Phi-3's do.
    """
    from tokenizers import AddedToken, Tokenizer, models, normalizers, processors, trainers

    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    steps = [normalizers.Prepend("▁"), *steps] if prefix else steps
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence(steps)
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=260, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", *(["<s>", "</s>"] if strips else [])]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [(left, right) for left, right in model["merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(steps) if prefix else steps[0]
    keeps = ("<unk>", "<s>", "<|endoftext|>")
    tokenizer.add_special_tokens(
        [AddedToken(token, rstrip=strips and token not in keeps, normalized=False) for token in special]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    return _save(tokenizer, directory, strips=strips)


def _save(tokenizer: Any, directory: Path, *, strips: bool = False) -> int:
    from transformers import AddedToken, PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_tokens([AddedToken("<tool>", normalized=False, rstrip=strips)])  # an added token that is not special
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)
    return len(fast)


def write_model(
    directory: Path, family: str = "llama", *, pre: str = "smollm", dtype: str = "float32", **changes: Any
) -> Path:
    """Save a random two-block model of a `family`, with a tokenizer of the kind `pre`."""
    import torch
    import transformers

    tokens = write_tokenizer(directory, pre)
    classes = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2"}
    classes |= {"gemma3_text": "Gemma3", "gemma": "Gemma", "smollm3": "SmolLM3", "phi3": "Phi3", "mixtral": "Mixtral"}
    classes |= {"qwen3_moe": "Qwen3Moe"}
    settings: dict[str, Any] = {
        "vocab_size": tokens + 3,  # rows without a token, as real checkpoints have
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        "head_dim": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    } | changes
    torch.manual_seed(0)
    name = "Gemma3TextConfig" if family == "gemma3_text" else f"{classes[family]}Config"
    config = getattr(transformers, name)(**settings)
    model = getattr(transformers, f"{classes[family]}ForCausalLM")(config)
    with torch.no_grad():  # zero biases and unit norms would hide a mistake
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.to(getattr(torch, dtype)).save_pretrained(directory)
    return directory


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """`write_model` into a new directory."""
    count = 0

    def write(family: str = "llama", **options: Any) -> Path:
        nonlocal count
        count += 1
        return write_model(tmp_path / f"model_{count}", family, **options)

    return write


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama for tests that only read it."""
    return write_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def llama_gguf(llama_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That model as f16 GGUF, for tests that only read it."""
    from forge_pipeline.export.gguf_writer import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "tiny.f16.gguf"
    write_gguf(llama_directory, path, "f16", {"model_digest": "sha256:" + "0" * 64}, name="tiny")
    return path
