"""What each supported architecture needs in a GGUF file, and how a Hugging Face model becomes it.

Two tables, both data:

- `CATALOGUES`: GGUF architecture -> its metadata keys and tensors with their dimensions. `gguf_verify`
  holds files against it, the writer takes its tensor order from it.
- `_FAMILIES`: Hugging Face ``model_type`` -> GGUF architecture and what must change on the way.
  Each family here is exported from a small random model in the tests, loaded by llama.cpp, and
  its logits compared; `NOT_YET` says of the others what is missing.

What llama.cpp computes differently from transformers:
- its ``llama`` graph rotates neighbouring pairs (RoPE as published), transformers rotates halves, so the
  rows of q and k are interleaved; qwen graphs rotate halves and take the rows as they are;
- its ``llama`` graph has no sliding window, so a Mistral model that has one declares no more context
  than the window, where both agree;
- Llama 3's stretched RoPE is stored as a tensor of divisors, ``rope_freqs.weight``;
- Gemma's norms scale by 1 + weight in transformers and by the weight in llama.cpp; which of its blocks
  look at a sliding window only, and how queries are scaled, is fixed in llama.cpp's graph.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from forge_pipeline.errors import ExportError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from forge_pipeline.export.gguf_reader import Value


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an architecture.

    Attributes:
        name: With ``{}`` for the block's number, if it is there once a block.
        dims: Names of its dimensions (see `Catalogue.sizes`), row length first, as GGUF stores them.
    """

    name: str
    dims: tuple[str, ...]
    required: bool = True


_INTEGERS: Final = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
)  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """The keys (after ``<architecture>.``) and tensors of one GGUF architecture."""

    tensors: tuple[TensorSpec, ...]
    positive_integers: tuple[str, ...] = _INTEGERS
    floats: tuple[str, ...] = ("attention.layer_norm_rms_epsilon",)

    def required_names(self, blocks: int) -> Iterator[str]:
        """Names that a model of so many blocks must have."""
        return self._names(blocks, only_required=True)

    def all_names(self, blocks: int) -> Iterator[str]:
        """Names that such a model may have, in the order in which the writer writes them."""
        return self._names(blocks, only_required=False)

    def _names(self, blocks: int, *, only_required: bool) -> Iterator[str]:
        specs = [spec for spec in self.tensors if spec.required or not only_required]
        yield from (spec.name for spec in specs if "{}" not in spec.name)
        for block in range(blocks):
            yield from (spec.name.format(block) for spec in specs if "{}" in spec.name)

    def dims(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
        """The dimensions that `name` must have, or None for a name that is not in the catalogue."""
        parts = name.split(".")
        template = ".".join([parts[0], "{}", *parts[2:]]) if parts[0] == "blk" else name
        for spec in self.tensors:
            if spec.name == template:
                return tuple(sizes[dim] for dim in spec.dims)
        return None

    def sizes(self, metadata: "Mapping[str, Value]") -> dict[str, int]:
        """Sizes by name, from a file's metadata (which must have the keys above)."""
        architecture = metadata["general.architecture"]

        def number(key: str, default: int = 0) -> int:
            value = metadata.get(f"{architecture}.{key}")
            return value if isinstance(value, int) else default

        embedding, heads = number("embedding_length"), number("attention.head_count")
        key_length = number("attention.key_length", embedding // heads)
        value_length = number("attention.value_length", embedding // heads)
        kv_heads = number("attention.head_count_kv", heads)
        return {
            "embedding": embedding,
            "feed_forward": number("feed_forward_length"),
            "head": key_length,
            "half_head": number("rope.dimension_count", key_length) // 2,
            "queries": heads * key_length,
            "keys": kv_heads * key_length,
            "values": kv_heads * value_length,
            "attended": heads * value_length,
        }


def _tensors(
    *, biases: tuple[str, ...] = (), head_norms: tuple[str, ...] = (), norms: tuple[str, ...] = ()
) -> tuple[TensorSpec, ...]:
    """A decoder with gated feed-forward: the shape that the architectures here share.

    Args:
        biases: Block tensors that may carry a bias; a trailing ``!`` marks those that must.
        head_norms: Norms over one head that every block has besides (Qwen 3, Gemma 3).
        norms: Norms over the embedding that every block has besides (Gemma).
    """
    weights = {
        "attn_q": ("embedding", "queries"),
        "attn_k": ("embedding", "keys"),
        "attn_v": ("embedding", "values"),
        "attn_output": ("attended", "embedding"),
        "ffn_gate": ("embedding", "feed_forward"),
        "ffn_up": ("embedding", "feed_forward"),
        "ffn_down": ("feed_forward", "embedding"),
    }
    block = [
        TensorSpec("blk.{}.attn_norm.weight", ("embedding",)),
        TensorSpec("blk.{}.ffn_norm.weight", ("embedding",)),
    ]
    block += [TensorSpec(f"blk.{{}}.{name}.weight", ("head",)) for name in head_norms]
    block += [TensorSpec(f"blk.{{}}.{name}.weight", ("embedding",)) for name in norms]
    for name, dims in weights.items():
        block.append(TensorSpec(f"blk.{{}}.{name}.weight", dims))
        if name in biases or f"{name}!" in biases:
            block.append(TensorSpec(f"blk.{{}}.{name}.bias", dims[1:], required=f"{name}!" in biases))
    return (
        TensorSpec("token_embd.weight", ("embedding", "vocabulary")),
        TensorSpec("output_norm.weight", ("embedding",)),
        TensorSpec("output.weight", ("embedding", "vocabulary"), required=False),  # absent where it is token_embd
        TensorSpec("rope_freqs.weight", ("half_head",), required=False),
        *block,
    )


_HEAD_NORMS: Final = ("attn_q_norm", "attn_k_norm")
_GEMMA_NORMS: Final = ("post_attention_norm", "post_ffw_norm")
_EVERY_LINEAR: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

CATALOGUES: Final[Mapping[str, Catalogue]] = {
    "llama": Catalogue(_tensors(biases=_EVERY_LINEAR)),
    "qwen2": Catalogue(_tensors(biases=("attn_q!", "attn_k!", "attn_v!"))),
    "qwen3": Catalogue(_tensors(head_norms=_HEAD_NORMS)),
    "gemma2": Catalogue(_tensors(norms=_GEMMA_NORMS), (*_INTEGERS, "attention.sliding_window")),
    "gemma3": Catalogue(_tensors(head_norms=_HEAD_NORMS, norms=_GEMMA_NORMS), (*_INTEGERS, "attention.sliding_window")),
}


@dataclass(frozen=True)
class _Family:
    """How one Hugging Face ``model_type`` maps.

    Attributes:
        norm_offset: Added to the weights of every norm.
        window_period: In llama.cpp's graph the last of so many blocks sees everything and the others a
            sliding window; 0 where no block has one.
    """

    architecture: str
    interleaves_rope: bool = False
    activation: str = "silu"
    norm_offset: float = 0.0
    window_period: int = 0


_FAMILIES: Final[Mapping[str, _Family]] = {
    "llama": _Family("llama", interleaves_rope=True),  # also SmolLM and SmolLM2
    "mistral": _Family("llama", interleaves_rope=True),
    "qwen2": _Family("qwen2"),
    "qwen3": _Family("qwen3"),
    "gemma2": _Family("gemma2", activation="gelu_pytorch_tanh", norm_offset=1.0, window_period=2),
    "gemma3_text": _Family("gemma3", activation="gelu_pytorch_tanh", norm_offset=1.0, window_period=6),
}

NOT_YET: Final[Mapping[str, str]] = {
    "gemma": "a test of its graph against transformers",
    "gemma3": "its vision tower",
    "phi3": "its fused projections, its LongRoPE factors and its added tokens that swallow blanks",
    "smollm3": "its layers without RoPE",
    "mixtral": "stacking its experts",
    "qwen2_moe": "stacking its experts",
    "qwen3_moe": "stacking its experts",
}


@dataclass(frozen=True)
class Architecture:
    """A Hugging Face model's hyperparameters, ready to be written.

    Attributes:
        name: GGUF architecture.
        model_type: Hugging Face ``model_type``.
        rope_scaling: transformers' dictionary with ``rope_type`` ``default``, ``linear`` or ``llama3``.
        extra: Keys that only this architecture has.
    """

    name: str
    model_type: str
    interleaves_rope: bool
    norm_offset: float
    blocks: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_size: int
    context: int
    vocabulary: int
    epsilon: float
    rope_base: float
    rope_scaling: Mapping[str, Any]
    tied: bool
    extra: Mapping[str, int | float]

    @property
    def catalogue(self) -> Catalogue:
        return CATALOGUES[self.name]

    def metadata(self) -> dict[str, int | float | str]:
        """The ``<architecture>.*`` keys."""
        keys: dict[str, int | float | str] = {
            "block_count": self.blocks,
            "context_length": self.context,
            "embedding_length": self.embedding,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_size,
            "attention.value_length": self.head_size,
            "attention.layer_norm_rms_epsilon": self.epsilon,
            "rope.dimension_count": self.head_size,
            "rope.freq_base": self.rope_base,
            "vocab_size": self.vocabulary,
        }
        if self.rope_scaling.get("rope_type") == "linear":
            keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(self.rope_scaling["factor"])}
        keys |= self.extra
        return {f"{self.name}.{key}": value for key, value in keys.items()}

    def convert(self, name: str, tensor: "npt.NDArray[np.float32]") -> "npt.NDArray[np.float32]":
        """The tensor as llama.cpp wants it.

        Args:
            name: Its GGUF name.
            tensor: As transformers has it: (out, in) for weights, (out,) for biases and norms.
        """
        part = name.split(".")[-2]
        if self.norm_offset and part.endswith("_norm"):
            return tensor + tensor.dtype.type(self.norm_offset)
        if not self.interleaves_rope or part not in ("attn_q", "attn_k"):
            return tensor
        heads = self.heads if part == "attn_q" else self.kv_heads
        # Halves (x0..x31, y0..y31) of each head become neighbours (x0, y0, x1, y1, ...).
        halves = tensor.reshape(heads, 2, self.head_size // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)

    def rope_divisors(self) -> "npt.NDArray[np.float32] | None":
        """Llama 3's divisors of the RoPE frequencies, (head_size / 2,), or None for other models.

        Wavelengths shorter than the original context divided by ``high_freq_factor`` stay, longer than
        that divided by ``low_freq_factor`` are stretched by ``factor``, and those between are blended.
        """
        import numpy as np

        scaling = self.rope_scaling
        if scaling.get("rope_type") != "llama3":
            return None
        factor, low, high = (float(scaling[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        original = float(scaling["original_max_position_embeddings"])
        frequencies = self.rope_base ** -(np.arange(0, self.head_size, 2, dtype=np.float64) / self.head_size)
        turns = original * frequencies / (2 * math.pi)  # within the original context
        blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return (1.0 / ((1.0 - blend) / factor + blend)).astype(np.float32)


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read ``config.json``.

    Raises:
        ExportError: The model is of a kind that cannot be exported yet; the message says what is missing.
    """
    model_type = str(config.get("model_type"))
    family = _FAMILIES.get(model_type)
    if family is None:
        missing = NOT_YET.get(model_type)
        why = f"missing is {missing}" if missing else "nothing is known about it"
        raise ExportError(
            f"GGUF export of model_type {model_type!r} is not supported: {why}. Supported: {', '.join(_FAMILIES)}"
        )
    heads, embedding = _integer(config, "num_attention_heads"), _integer(config, "hidden_size")
    rope = _rope(config)
    context = _integer(config, "max_position_embeddings")
    if model_type == "mistral" and config.get("sliding_window"):
        context = min(context, int(config["sliding_window"]))
    architecture = Architecture(
        name=family.architecture,
        model_type=model_type,
        interleaves_rope=family.interleaves_rope,
        norm_offset=family.norm_offset,
        blocks=_integer(config, "num_hidden_layers"),
        embedding=embedding,
        feed_forward=_integer(config, "intermediate_size"),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or embedding // heads),
        context=context,
        vocabulary=_integer(config, "vocab_size"),
        epsilon=float(config["rms_norm_eps"]),
        rope_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        rope_scaling=rope | {"rope_type": rope.get("rope_type") or rope.get("type") or "default"},
        # transformers leaves the key out where it has the family's default, which for Gemma is true.
        tied=bool(config.get("tie_word_embeddings", family.architecture.startswith("gemma"))),
        extra=_gemma_keys(config) if family.window_period else {},
    )
    _check_supported(config, architecture, family)
    return architecture


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's parameters: of the blocks that see everything, where kinds of blocks differ (Gemma 3)."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    return dict(rope["full_attention"]) if "full_attention" in rope else rope


def _gemma_keys(config: Mapping[str, Any]) -> dict[str, int | float]:
    keys: dict[str, int | float] = {"attention.sliding_window": _integer(config, "sliding_window")}
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.get(name):
            keys[name] = float(config[name])
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    base = local.get("rope_theta") or config.get("rope_local_base_freq")
    if base:
        keys["rope.freq_base_swa"] = float(base)
    return keys


def _check_supported(config: Mapping[str, Any], architecture: Architecture, family: _Family) -> None:
    """Refuse variants whose export would load and answer wrongly."""
    rope_type = architecture.rope_scaling["rope_type"]
    activation = config.get("hidden_activation") or config.get("hidden_act")
    faults = {
        f"the activation {activation!r}; expected {family.activation!r}": activation != family.activation,
        f"rope_type {rope_type!r}; expected default, linear or llama3": rope_type
        not in ("default", "linear", "llama3"),
        "a partial_rotary_factor other than 1": architecture.rope_scaling.get("partial_rotary_factor", 1.0) != 1.0,
        "sliding-window layers where llama.cpp has none, or the reverse": not _slides_alike(config, family),
        "quantized weights; merge it in float32 first": bool(config.get("quantization_config")),
        "attention biases": family.architecture in ("qwen3", "gemma2", "gemma3") and bool(config.get("attention_bias")),
        "a query scale that llama.cpp does not use": not _scales_alike(config, architecture, family),
        "bidirectional attention": bool(config.get("use_bidirectional_attention")),
    }
    for fault, present in faults.items():
        if present:
            raise ExportError(f"GGUF export of this {architecture.model_type} model is not supported: it has {fault}")


def _slides_alike(config: Mapping[str, Any], family: _Family) -> bool:
    layer_types = config.get("layer_types") or ()
    if family.window_period:
        expected = ["sliding_attention"] * (family.window_period - 1) + ["full_attention"]
        return all(kind == expected[index % family.window_period] for index, kind in enumerate(layer_types))
    if config.get("model_type") == "mistral":
        return True  # the declared context ends where the window does
    return not config.get("use_sliding_window") and "sliding_attention" not in layer_types


def _scales_alike(config: Mapping[str, Any], architecture: Architecture, family: _Family) -> bool:
    """llama.cpp's Gemma graphs scale queries by the head size, in the 27B models by embedding / heads."""
    if not family.window_period:
        return True
    is_27b = architecture.blocks == {"gemma2": 46, "gemma3": 62}[family.architecture]
    used = architecture.embedding // architecture.heads if is_27b else architecture.head_size
    return bool(config.get("query_pre_attn_scalar", used) == used)


def _integer(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ExportError(f"config.json: {key} is {value!r}; expected a positive integer")
    return value
