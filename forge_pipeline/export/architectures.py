"""What each supported architecture needs in a GGUF file, and how a Hugging Face model becomes it.

Two tables, both data:

- `CATALOGUES`, `EXPERT_CATALOGUES`: GGUF architecture -> its metadata keys and tensors with their dimensions.
  `gguf_verify` holds files against them, the writer takes its tensor order from them.
- `_FAMILIES`: Hugging Face ``model_type`` -> GGUF architecture and what must change on the way.
  Each family here is exported from a small random model in the tests, loaded by llama.cpp, and
  its logits compared; `NOT_YET` says of the others what is missing.

What llama.cpp computes differently from transformers:
- its ``llama`` graph rotates neighbouring pairs (RoPE as published), transformers rotates halves, so the
  rows of q and k are interleaved; qwen graphs rotate halves and take the rows as they are;
- its ``llama`` graph has no sliding window and its ``phi3`` graph ignores it, so a model that has one declares
  no more context than the window, where both agree;
- Llama 3's stretched RoPE is stored as a tensor of divisors, ``rope_freqs.weight``. LongRoPE's two lists of
  divisors are tensors as well; transformers takes the long ones for texts beyond the original context,
  llama.cpp for contexts beyond it, whatever the text;
- the experts of one block are one tensor;
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
        dims = self.named(name)
        return tuple(sizes[dim] for dim in dims) if dims else None

    def named(self, name: str) -> tuple[str, ...]:
        """What the dimensions of `name` are called; none for a name that is not in the catalogue."""
        parts = name.split(".")
        template = ".".join([parts[0], "{}", *parts[2:]]) if parts[0] == "blk" else name
        return next((spec.dims for spec in self.tensors if spec.name == template), ())

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
            "fused_qkv": heads * key_length + kv_heads * (key_length + value_length),
            "gate_and_up": 2 * number("feed_forward_length"),
            "experts": number("expert_count"),
            "expert_feed_forward": number("expert_feed_forward_length", number("feed_forward_length")),
        }


_ATTENTION: Final = {
    "attn_q": ("embedding", "queries"), "attn_k": ("embedding", "keys"), "attn_v": ("embedding", "values"),
    "attn_output": ("attended", "embedding"),
}  # fmt: skip
_FUSED_ATTENTION: Final = {"attn_qkv": ("embedding", "fused_qkv"), "attn_output": ("attended", "embedding")}
_GATED: Final = {
    "ffn_gate": ("embedding", "feed_forward"), "ffn_up": ("embedding", "feed_forward"),
    "ffn_down": ("feed_forward", "embedding"),
}  # fmt: skip
_FUSED_GATED: Final = {"ffn_up": ("embedding", "gate_and_up"), "ffn_down": ("feed_forward", "embedding")}
_EXPERTS: Final = {
    "ffn_gate_inp": ("embedding", "experts"),
    "ffn_gate_exps": ("embedding", "expert_feed_forward", "experts"),
    "ffn_up_exps": ("embedding", "expert_feed_forward", "experts"),
    "ffn_down_exps": ("expert_feed_forward", "embedding", "experts"),
}  # fmt: skip


def _tensors(
    *,
    attention: Mapping[str, tuple[str, ...]] = _ATTENTION,
    feed_forward: Mapping[str, tuple[str, ...]] = _GATED,
    biases: tuple[str, ...] = (),
    head_norms: tuple[str, ...] = (),
    norms: tuple[str, ...] = (),
    rope: tuple[str, ...] = ("rope_freqs",),
) -> tuple[TensorSpec, ...]:
    """A decoder with gated feed-forward: the shape that the architectures here share.

    Args:
        attention, feed_forward: The matrices of a block, with their dimensions.
        biases: Block tensors that may carry a bias; a trailing ``!`` marks those that must.
        head_norms: Norms over one head that every block has besides (Qwen 3, Gemma 3).
        norms: Norms over the embedding that every block has besides (Gemma).
        rope: Divisors of the RoPE frequencies that a model may have.
    """
    block = [
        TensorSpec("blk.{}.attn_norm.weight", ("embedding",)),
        TensorSpec("blk.{}.ffn_norm.weight", ("embedding",)),
    ]
    block += [TensorSpec(f"blk.{{}}.{name}.weight", ("head",)) for name in head_norms]
    block += [TensorSpec(f"blk.{{}}.{name}.weight", ("embedding",)) for name in norms]
    for name, dims in {**attention, **feed_forward}.items():
        block.append(TensorSpec(f"blk.{{}}.{name}.weight", dims))
        if name in biases or f"{name}!" in biases:
            block.append(TensorSpec(f"blk.{{}}.{name}.bias", dims[1:], required=f"{name}!" in biases))
    return (
        TensorSpec("token_embd.weight", ("embedding", "vocabulary")),
        TensorSpec("output_norm.weight", ("embedding",)),
        TensorSpec("output.weight", ("embedding", "vocabulary"), required=False),  # absent where it is token_embd
        *(TensorSpec(f"{name}.weight", ("half_head",), required=False) for name in rope),
        *block,
    )


_HEAD_NORMS: Final = ("attn_q_norm", "attn_k_norm")
_GEMMA_NORMS: Final = ("post_attention_norm", "post_ffw_norm")
_EVERY_LINEAR: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

CATALOGUES: Final[Mapping[str, Catalogue]] = {
    "llama": Catalogue(_tensors(biases=_EVERY_LINEAR)),
    "qwen2": Catalogue(_tensors(biases=("attn_q!", "attn_k!", "attn_v!"))),
    "qwen3": Catalogue(_tensors(head_norms=_HEAD_NORMS)),
    "smollm3": Catalogue(_tensors()),
    "phi3": Catalogue(
        _tensors(
            attention=_FUSED_ATTENTION, feed_forward=_FUSED_GATED, rope=("rope_factors_long", "rope_factors_short")
        )
    ),
    "gemma": Catalogue(_tensors()),
    "gemma2": Catalogue(_tensors(norms=_GEMMA_NORMS), (*_INTEGERS, "attention.sliding_window")),
    "gemma3": Catalogue(_tensors(head_norms=_HEAD_NORMS, norms=_GEMMA_NORMS), (*_INTEGERS, "attention.sliding_window")),
}


_EXPERT_INTEGERS: Final = (*_INTEGERS, "expert_count", "expert_used_count")
EXPERT_CATALOGUES: Final[Mapping[str, Catalogue]] = {
    "llama": Catalogue(_tensors(feed_forward=_EXPERTS), _EXPERT_INTEGERS),  # Mixtral
    "qwen3moe": Catalogue(
        _tensors(feed_forward=_EXPERTS, head_norms=_HEAD_NORMS), (*_EXPERT_INTEGERS, "expert_feed_forward_length")
    ),
}
"""Architectures whose blocks hold several experts; files of these name an ``expert_count``."""


@dataclass(frozen=True)
class _Family:
    """How one Hugging Face ``model_type`` maps.

    Attributes:
        norm_offset: Added to the weights of every norm.
        window_period: In llama.cpp's graph the last of so many blocks sees everything and the others a
            sliding window; 0 where no block has one.
        bounds_context: A sliding window of the model ends the declared context.
        rope_types: What stretches RoPE alike on both sides.
        rotates_partly: A head may be rotated in part.
        has_experts: Its feed-forward is a mixture.
    """

    architecture: str
    interleaves_rope: bool = False
    activation: str = "silu"
    norm_offset: float = 0.0
    window_period: int = 0
    bounds_context: bool = False
    rope_types: tuple[str, ...] = ("default", "linear", "llama3", "yarn")
    rotates_partly: bool = False
    has_experts: bool = False


_FAMILIES: Final[Mapping[str, _Family]] = {
    "llama": _Family("llama", interleaves_rope=True),  # also SmolLM and SmolLM2
    "mistral": _Family("llama", interleaves_rope=True, bounds_context=True),
    "mixtral": _Family("llama", interleaves_rope=True, bounds_context=True, has_experts=True),
    "smollm3": _Family("smollm3", interleaves_rope=True),
    "qwen2": _Family("qwen2"),
    "qwen3": _Family("qwen3"),
    "qwen3_moe": _Family("qwen3moe", has_experts=True),
    "phi3": _Family("phi3", bounds_context=True, rope_types=("default", "longrope"), rotates_partly=True),
    "gemma": _Family("gemma", activation="gelu_pytorch_tanh", norm_offset=1.0, rope_types=("default",)),
    "gemma2": _Family(
        "gemma2", activation="gelu_pytorch_tanh", norm_offset=1.0, window_period=2, rope_types=("default", "linear")
    ),
    "gemma3_text": _Family(
        "gemma3", activation="gelu_pytorch_tanh", norm_offset=1.0, window_period=6, rope_types=("default", "linear")
    ),
}

NOT_YET: Final[Mapping[str, str]] = {
    "gemma3": "its vision tower",
    "gemma3n": "its per-layer embeddings",
    "llama4": "its chunked attention and shared experts",
    "qwen2_moe": "its shared expert",
    "qwen3_next": "its linear attention",
    "mistral3": "its vision tower",
    "gpt_oss": "its attention sinks and four-bit experts",
    "deepseek_v3": "its compressed attention",
    "falcon": "its parallel blocks",
}


@dataclass(frozen=True)
class Architecture:
    """A Hugging Face model's hyperparameters, ready to be written.

    Attributes:
        name: GGUF architecture.
        model_type: Hugging Face ``model_type``.
        context: Longest text that both sides compute alike.
        declared_context: Longest text of the model.
        rotary: Dimensions of a head that are rotated.
        experts, experts_used: Of a block, and of them for a token; 0 without a mixture.
        rope_scaling: transformers' dictionary, with its ``rope_type``.
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
    rotary: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    context: int
    declared_context: int
    vocabulary: int
    epsilon: float
    rope_base: float
    rope_scaling: Mapping[str, Any]
    tied: bool
    extra: Mapping[str, int | float]

    @property
    def catalogue(self) -> Catalogue:
        return (EXPERT_CATALOGUES if self.experts else CATALOGUES)[self.name]

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
            "rope.dimension_count": self.rotary,
            "rope.freq_base": self.rope_base,
            "vocab_size": self.vocabulary,
        }
        if self.experts:
            keys |= {"expert_count": self.experts, "expert_used_count": self.experts_used}
            keys |= {"expert_feed_forward_length": self.expert_feed_forward}
        keys |= self._rope_keys()
        keys |= self.extra
        return {f"{self.name}.{key}": value for key, value in keys.items()}

    def _rope_keys(self) -> dict[str, int | float | str]:
        scaling, kind = self.rope_scaling, self.rope_scaling["rope_type"]
        if kind == "linear":
            return {"rope.scaling.type": kind, "rope.scaling.factor": float(scaling["factor"])}
        if kind not in ("yarn", "longrope"):
            return {}
        original = int(scaling.get("original_max_position_embeddings") or self.context)
        keys = {"rope.scaling.type": kind, "rope.scaling.original_context_length": original}
        if kind == "longrope":
            return keys | {"rope.scaling.attn_factor": self._longrope_scale(original)}
        keys["rope.scaling.factor"] = float(scaling["factor"])
        for name in ("beta_fast", "beta_slow"):
            if scaling.get(name):
                keys[f"rope.scaling.yarn_{name}"] = float(scaling[name])
        return keys

    def _longrope_scale(self, original: int) -> float:
        """By how much rotated queries and keys are scaled (LongRoPE, arXiv 2402.13753, as transformers has it)."""
        if self.rope_scaling.get("attention_factor"):
            return float(self.rope_scaling["attention_factor"])
        factor = float(self.rope_scaling.get("factor") or self.declared_context / original)
        return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0

    def convert(self, name: str, rows: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
        """Rows of a tensor as llama.cpp wants them.

        Args:
            name: Its GGUF name.
            rows: As transformers has them: whole heads of q and k, any rows of other weights (out, in), all of
                a norm or bias (out,).
        """
        part = name.split(".")[-2]
        if self.norm_offset and part.endswith("_norm"):
            moved: npt.NDArray[Any] = rows + rows.dtype.type(self.norm_offset)
            return moved
        if not self.is_interleaved(name):
            return rows
        # Halves (x0..x31, y0..y31) of each head become neighbours (x0, y0, x1, y1, ...).
        halves = rows.reshape(-1, 2, self.head_size // 2, *rows.shape[1:])
        interleaved: npt.NDArray[Any] = halves.swapaxes(1, 2).reshape(rows.shape)
        return interleaved

    def is_interleaved(self, name: str) -> bool:
        """Whether the rows of the tensor `name` change places within each head."""
        return self.interleaves_rope and name.split(".")[-2] in ("attn_q", "attn_k")

    def computed(self) -> "dict[str, npt.NDArray[np.float32]]":
        """Tensors that no checkpoint has, by GGUF name: divisors of the RoPE frequencies, (rotary / 2,)."""
        import numpy as np

        if self.rope_scaling["rope_type"] == "longrope":
            lists = {kind: self.rope_scaling[f"{kind}_factor"] for kind in ("long", "short")}
            return {f"rope_factors_{kind}.weight": np.array(values, np.float32) for kind, values in lists.items()}
        divisors = self.rope_divisors()
        return {} if divisors is None else {"rope_freqs.weight": divisors}

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
    declared = _integer(config, "max_position_embeddings")
    context = declared
    if family.bounds_context and config.get("sliding_window"):
        context = min(context, int(config["sliding_window"]))
    feed_forward = _integer(config, "intermediate_size")
    head_size = int(config.get("head_dim") or embedding // heads)
    experts = int(config.get("num_local_experts") or config.get("num_experts") or 0) if family.has_experts else 0
    architecture = Architecture(
        name=family.architecture,
        model_type=model_type,
        interleaves_rope=family.interleaves_rope,
        norm_offset=family.norm_offset,
        blocks=_integer(config, "num_hidden_layers"),
        embedding=embedding,
        feed_forward=feed_forward,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=head_size,
        rotary=int(head_size * _rotary_share(config, rope)),
        experts=experts,
        experts_used=_integer(config, "num_experts_per_tok") if experts else 0,
        expert_feed_forward=int(config.get("moe_intermediate_size") or feed_forward),
        context=context,
        declared_context=declared,
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


def _rotary_share(config: Mapping[str, Any], rope: Mapping[str, Any]) -> float:
    share = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor")
    return float(share or 1.0)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's parameters: of the blocks that see everything, where kinds of blocks differ (Gemma 3)."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    if config.get("original_max_position_embeddings"):
        rope.setdefault("original_max_position_embeddings", config["original_max_position_embeddings"])
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
    share = _rotary_share(config, architecture.rope_scaling)
    faults = {
        f"the activation {activation!r}; expected {family.activation!r}": activation != family.activation,
        f"rope_type {rope_type!r}; expected {', '.join(family.rope_types)}": rope_type not in family.rope_types,
        f"a partial_rotary_factor of {share}": share != 1.0 and not family.rotates_partly,
        "YaRN settings that llama.cpp has not": rope_type == "yarn" and not _stretches_alike(architecture),
        "LongRoPE lists that do not fit its heads": rope_type == "longrope" and not _lists_fit(architecture),
        "layers with RoPE where llama.cpp has none, or the reverse": not _rotates_alike(config),
        "sliding-window layers where llama.cpp has none, or the reverse": not _slides_alike(config, family),
        "quantized weights; merge it in float32 first": bool(config.get("quantization_config")),
        "attention biases": family.architecture not in ("llama", "qwen2") and bool(config.get("attention_bias")),
        "feed-forward biases": family.architecture != "llama" and bool(config.get("mlp_bias")),
        "a query scale that llama.cpp does not use": not _scales_alike(config, architecture, family),
        "bidirectional attention": bool(config.get("use_bidirectional_attention")),
        "no experts": family.has_experts and not architecture.experts,
        "layers without experts, or expert weights that do not add up to one": not _mixes_alike(config),
    }
    for fault, present in faults.items():
        if present:
            raise ExportError(f"GGUF export of this {architecture.model_type} model is not supported: it has {fault}")


def _stretches_alike(architecture: Architecture) -> bool:
    """llama.cpp scales attention by YaRN's own 0.1 ln(factor) + 1 and rounds its ramp to whole dimensions."""
    scaling = architecture.rope_scaling
    scale = 0.1 * math.log(float(scaling.get("factor") or 1.0)) + 1.0
    given = float(scaling.get("attention_factor") or scale)
    return not scaling.get("mscale_all_dim") and scaling.get("truncate", True) and math.isclose(given, scale)


def _lists_fit(architecture: Architecture) -> bool:
    lists = [architecture.rope_scaling.get(f"{kind}_factor") for kind in ("long", "short")]
    return all(isinstance(each, list) and len(each) == architecture.rotary // 2 for each in lists)


def _rotates_alike(config: Mapping[str, Any]) -> bool:
    """llama.cpp's SmolLM 3 graph leaves every fourth layer without RoPE."""
    if config.get("model_type") != "smollm3":
        return True
    layers = config.get("no_rope_layers") or [int((index + 1) % 4 != 0) for index in range(config["num_hidden_layers"])]
    return all(bool(rotates) == ((index + 1) % 4 != 0) for index, rotates in enumerate(layers))


def _mixes_alike(config: Mapping[str, Any]) -> bool:
    """llama.cpp's Qwen 3 mixture has experts in every layer and divides their weights by their sum."""
    if config.get("model_type") != "qwen3_moe":
        return True
    everywhere = not config.get("mlp_only_layers") and config.get("decoder_sparse_step", 1) == 1
    return everywhere and bool(config.get("norm_topk_prob"))


def _slides_alike(config: Mapping[str, Any], family: _Family) -> bool:
    layer_types = config.get("layer_types") or ()
    if family.window_period:
        expected = ["sliding_attention"] * (family.window_period - 1) + ["full_attention"]
        return all(kind == expected[index % family.window_period] for index, kind in enumerate(layer_types))
    if family.bounds_context:
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
