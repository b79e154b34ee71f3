"""Memory to serve the tuned model: weights as the export writes them, cache, and what the runtime adds.

Weights of GGUF quantizations are counted tensor by tensor with the export's own type policy, so that a label
that gives wide tensors other types is counted as what it becomes. llama.cpp keeps the cache in float16;
vLLM and transformers in the weights' dtype, 16 bits.

What runtimes add is assumed, from their defaults: llama.cpp computes 512 tokens at a time and returns logits for
them in float32; vLLM plans for 8,192 tokens at a time and 256 rows of logits, and its CUDA graphs and context
take about 1.5 GB; transformers runs the whole prompt at once and keeps the last token's logits.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from forge_pipeline.config.operation import Quantization
from forge_pipeline.errors import ConfigError
from forge_pipeline.export.gguf_reader import TENSOR_TYPES
from forge_pipeline.export.quantize import TYPE_IDS, TypePolicy
from forge_pipeline.fit_check.cache import cache_bytes
from forge_pipeline.fit_check.parts import Part, in_order, total
from forge_pipeline.fit_check.report import Runtime, ServingMemory, judge
from forge_pipeline.fit_check.skeleton import build_skeleton, parameter_shapes, text_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

QUANTIZATIONS: Final = cast("tuple[Quantization, ...]", get_args(Quantization))
_LLAMA_CPP_TOKENS, _VLLM_TOKENS, _VLLM_ROWS = 512, 8192, 256
_VLLM_OWN, _CUDA_CONTEXT, _CPU_PROCESS = 1_500_000_000, 500_000_000, 100_000_000
_GGUF_NAMES: Final = {  # end of a Hugging Face module's name -> GGUF's, which the type policy reads
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "qkv_proj": "attn_qkv",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down", "gate_up_proj": "ffn_up",
}  # fmt: skip


def serving_memory(
    architecture: "PretrainedConfig",
    *,
    budget: int,
    on_cuda: bool,
    contexts: Sequence[int],
    batches: Sequence[int] = (1, 8),
    quantizations: Sequence[Quantization] = QUANTIZATIONS,
) -> tuple[ServingMemory, ...]:
    """Every quantization in llama.cpp, and 16 bits in vLLM (CUDA only) and transformers.

    Args:
        contexts: Tokens for each request, prompt and answer.
        batches: Requests at once.

    Raises:
        ConfigError: A context or batch is not positive.
        ModelError: transformers has no causal language model of this architecture.
    """
    if not contexts or not batches or min(*contexts, *batches, 1) < 1:
        raise ConfigError(f"serving: contexts {list(contexts)} and batches {list(batches)} must be 1 or more each")
    text = text_config(architecture)
    shapes = parameter_shapes(build_skeleton(architecture, "bfloat16"))
    tied = bool(getattr(architecture, "tie_word_embeddings", False))
    found = []
    kinds: list[tuple[Runtime, Quantization]] = [("llama.cpp", each) for each in quantizations]
    kinds += [("vllm", "bf16")] if on_cuda else []
    for runtime, quantization in [*kinds, ("transformers", "bf16")]:
        weights = weight_bytes(shapes, quantization, blocks=int(text.num_hidden_layers), tied=tied)
        bits = 8 * weights / sum(math.prod(shape) for shape in shapes.values())
        for context in contexts:
            for batch in batches:
                parts = {
                    "weights": weights,
                    "kv_cache": cache_bytes(
                        text, tokens=context, rows=batch, element=2, compressed=runtime != "transformers"
                    ),
                    "overhead": _overhead(runtime, text, context, batch, on_cuda=on_cuda),
                }
                whole = in_order(cast("dict[Part, float]", parts))
                needed = total(whole)
                found.append(
                    ServingMemory(runtime, quantization, bits, context, batch, whole, needed, judge(needed, budget))
                )
    return tuple(found)


def weight_bytes(shapes: "dict[str, tuple[int, ...]]", quantization: Quantization, *, blocks: int, tied: bool) -> int:
    """Bytes of all tensors in the types that the export's policy gives them."""
    policy = TypePolicy(quantization, blocks, tied)
    return sum(_tensor_bytes(policy, _gguf_name(name), shape) for name, shape in shapes.items())


def _tensor_bytes(policy: TypePolicy, name: str, shape: tuple[int, ...]) -> int:
    dims = tuple(reversed(shape))
    kind = TENSOR_TYPES[TYPE_IDS[policy.type_of(name, dims)]]
    return -(-math.prod(shape) // kind.block) * kind.size


def _gguf_name(name: str) -> str:
    parts = name.split(".")
    if "embed_tokens" in parts or "wte" in parts:
        return "token_embd.weight"
    if "lm_head" in parts:
        return "output.weight"
    number = next((part for part in parts if part.isdigit()), None)
    if number is None:
        return name
    ending = next((part for part in reversed(parts) if part in _GGUF_NAMES), None)
    return f"blk.{number}.{_GGUF_NAMES[ending] if ending else 'other'}.weight"


def _overhead(runtime: Runtime, text: Any, context: int, batch: int, *, on_cuda: bool) -> int:
    hidden, vocabulary = int(text.hidden_size), int(text.vocab_size)
    width = 4 * hidden + 3 * int(getattr(text, "intermediate_size", 4 * hidden))
    own = _CUDA_CONTEXT if on_cuda else _CPU_PROCESS
    if runtime == "llama.cpp":
        tokens = min(_LLAMA_CPP_TOKENS, context)
        return own + 4 * tokens * (vocabulary + width + context)  # flash attention is its default: a mask, no scores
    if runtime == "vllm":
        return _VLLM_OWN + 2 * _VLLM_TOKENS * width + 4 * _VLLM_ROWS * vocabulary
    return own + 2 * batch * context * width + 4 * batch * vocabulary
