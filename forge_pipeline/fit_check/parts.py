"""What memory is spent on, in the order in which it is reported."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

Part = Literal[
    "weights",
    "adapter",
    "gradients",
    "optimizer",
    "reference",
    "reward_model",
    "activations",
    "logits",
    "kv_cache",
    "overhead",
]
PARTS: Final[tuple[Part, ...]] = (
    "weights",
    "adapter",
    "gradients",
    "optimizer",
    "reference",
    "reward_model",
    "activations",
    "logits",
    "kv_cache",
    "overhead",
)


def in_order(parts: Mapping[Part, float]) -> dict[Part, int]:
    """Whole bytes of the parts that are not empty, in the order of `PARTS`."""
    return {part: round(parts[part]) for part in PARTS if round(parts.get(part, 0)) > 0}


def total(parts: Mapping[Part, float] | Iterable[float]) -> int:
    """Bytes in all."""
    return round(sum(parts.values() if isinstance(parts, Mapping) else parts))
