"""The quick estimate: parameter shapes and a handful of sums, no trace.

Weights, gradients and optimizer states are exact. Activations count what a gated decoder layer keeps for
its backward: the inputs of its norms and projections, queries, keys, values, the gates of its feed-forward,
the attention mask where rows are padded, and what adapters keep in float32 beside it. It is a cross-check of
the simulation, and stands in for it where an architecture cannot be traced.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.fit_check.cache import cache_bytes, head_size
from forge_pipeline.fit_check.optimizers import optimizer_bytes, step_bytes
from forge_pipeline.fit_check.packed_linear import packed_bytes
from forge_pipeline.fit_check.parts import Part, in_order, total
from forge_pipeline.fit_check.plan import BYTES, TrainingPlan
from forge_pipeline.fit_check.skeleton import build_skeleton, parameter_shapes, text_config
from forge_pipeline.models.logit_tiles import tile_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Shapes = Mapping[str, tuple[int, ...]]
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32768  # of TRL's fused head


def estimate(config: ForgeConfig, architecture: "PretrainedConfig", plan: TrainingPlan) -> dict[Part, int]:
    """Parts at the worst moment of a training step, without overhead.

    Raises:
        ModelError: transformers has no causal language model of this architecture.
    """
    shapes = parameter_shapes(build_skeleton(architecture, "bfloat16"))
    held = _held(config, shapes, plan)
    working = _working(text_config(architecture), _adapted(config, shapes), plan)
    stepping: dict[Part, float] = {"optimizer": _step(shapes, held, plan)}
    cached: dict[Part, float] = {}
    if plan.completion:
        element = BYTES[plan.autocast or plan.weights]
        cached["kv_cache"] = cache_bytes(
            text_config(architecture), tokens=plan.length, rows=plan.generated_rows, element=element
        )
    while_training = held | working
    if plan.accumulation == 1 and not plan.trains_every_weight:
        while_training["gradients"] = held.get("gradients", 0)
    moments = [while_training, _sum(held, stepping), held | cached]
    return in_order(max(moments, key=total))


def _sum(one: Mapping[Part, float], other: Mapping[Part, float]) -> dict[Part, float]:
    return {part: one.get(part, 0) + other.get(part, 0) for part in {**one, **other}}


def _held(config: ForgeConfig, shapes: Shapes, plan: TrainingPlan) -> dict[Part, float]:
    """What is there all the time."""
    count = sum(math.prod(shape) for shape in shapes.values())
    element = BYTES[plan.weights]
    if plan.trains_every_weight:
        states = sum(
            optimizer_bytes(plan.optim, shape, element, galore_rank=plan.galore_rank) for shape in shapes.values()
        )
        parts: dict[Part, float] = {"weights": count * element, "gradients": count * element, "optimizer": states}
        if plan.has_reference:
            parts["reference"] = count * element
        return parts
    packed = [math.prod(shape) for name, shape in shapes.items() if plan.four_bit and _is_layer_matrix(name, shape)]
    weights = (count - sum(packed)) * element
    weights += sum(packed_bytes(values, double_quant=plan.double_quant) for values in packed)
    pairs = _adapted(config, shapes)
    values = sum(rank * (rows + columns) for rows, columns, rank in pairs)
    saved = [shape for name, shape in shapes.items() if _ends_in(name, config.lora.modules_to_save or [])]
    values += sum(math.prod(shape) for shape in saved)
    states = sum(
        optimizer_bytes(plan.optim, (rank, columns), 4) + optimizer_bytes(plan.optim, (rows, rank), 4)
        for rows, columns, rank in pairs
    )
    states += sum(optimizer_bytes(plan.optim, shape, 4) for shape in saved)
    return {"weights": weights, "adapter": 4 * values, "gradients": 4 * values, "optimizer": states}


def _step(shapes: Shapes, held: Mapping[Part, float], plan: TrainingPlan) -> int:
    if not plan.trains_every_weight:
        return 0
    largest = max(math.prod(shape) for shape in shapes.values()) * BYTES[plan.weights]
    return step_bytes(plan.optim, largest, round(held["weights"]), on_cuda=plan.device == "cuda")


def _adapted(config: ForgeConfig, shapes: Shapes) -> list[tuple[int, int, int]]:
    """(rows, columns, rank) of every matrix that gets an adapter."""
    if config.lora.effective_method == "none":
        return []
    targets = config.lora.target_modules
    return [
        (shape[-2], shape[-1], config.lora.r)
        for name, shape in shapes.items()
        if len(shape) == 2
        and name.endswith(".weight")
        and (_is_layer_matrix(name, shape) if targets == ["all-linear"] else _ends_in(name, targets))
    ]


def _is_layer_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not any(word in name for word in ("embed", "lm_head", "wte", "wpe", "score"))


def _ends_in(name: str, targets: list[str]) -> bool:
    module = name.removesuffix(".weight").removesuffix(".bias")
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _working(text: Any, adapted: list[tuple[int, int, int]], plan: TrainingPlan) -> dict[Part, float]:
    """Activations and logits when backward begins."""
    tokens, layers, hidden = plan.model_rows * plan.model_length, int(text.num_hidden_layers), int(text.hidden_size)
    element = BYTES[plan.autocast or plan.weights]
    stream = BYTES[plan.weights]
    experts = int(getattr(text, "num_experts_per_tok", None) or 1)
    wide = getattr(text, "intermediate_size", None) or 4 * hidden
    expert_width: Any = getattr(text, "moe_intermediate_size", None) or wide
    queries = int(text.num_attention_heads) * head_size(text)
    keys = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head_size(text)
    kept = 4 * hidden * stream + 4 * hidden * 4 + (3 * queries + 3 * keys + 2 * hidden) * element
    kept += experts * int(expert_width) * 4 * element
    layer: float = tokens * kept
    if plan.attention != "flash_attention_2":
        layer += plan.model_rows * plan.model_length**2 * element
    layer += tokens * sum(4 * columns * (2 if plan.method == "dora" else 1) for _, columns, _ in adapted) / layers
    activations = layers * tokens * hidden * stream + layer if plan.checkpointing else layers * layer
    vocabulary = int(text.vocab_size)
    logits: float = 0.0
    if plan.passes.head == "logits":
        logits = 3.0 * tokens * vocabulary * element
    elif plan.passes.head == "fused":
        rows = min(tokens, tile_tokens(plan.device, _TILE_TOKENS))
        logits = rows * _TILE_VOCABULARY * element  # the buffer of a tile is as wide for a small vocabulary
        if plan.device != "cuda":
            logits += rows * min(vocabulary, _TILE_VOCABULARY) * 16
        activations += tokens * hidden * 4
    return {"activations": activations, "logits": logits}
