"""`training.rope_scaling`: which keys each way of stretching rotary positions takes.

linear    Chen et al. 2023, arXiv:2306.15595          positions divided by `factor`
dynamic   NTK-aware, reddit.com/r/LocalLLaMA, 2023    the base grows with the length of the text
yarn      Peng et al. 2023, arXiv:2309.00071          low frequencies are stretched, high ones are kept
longrope  Ding et al. 2024, arXiv:2402.13753          one factor a frequency, for short and for long texts
"""

import math
from collections.abc import Mapping
from typing import Any

_REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}
_OPTIONAL = {
    "linear": (),
    "dynamic": (),
    "yarn": (
        "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate",
        "original_max_position_embeddings",
    ),
    "longrope": ("attention_factor", "factor", "original_max_position_embeddings"),
}  # fmt: skip


def check_rope_scaling(values: Mapping[str, Any]) -> None:
    """Refuse what transformers would only warn about, or fail on once the model is built.

    Raises:
        ValueError: The type is none of the four, or a key lacks, is not one of its type, or has no usable value.
    """
    kind = rope_type(values)
    if kind not in _REQUIRED:
        raise ValueError(f"rope_scaling.type: found {kind!r}; expected linear, dynamic, yarn or longrope")
    known = {"type", "rope_type", "rope_theta", *_REQUIRED[kind], *_OPTIONAL[kind]}
    for key in values:
        if key not in known:
            raise ValueError(f"rope_scaling.{key} is not a key of {kind}; known keys: {', '.join(sorted(known))}")
    for key in _REQUIRED[kind]:
        if key not in values:
            raise ValueError(f"rope_scaling.{key} is required for {kind} and missing")
    if "factor" in values and not _is_number(values["factor"], above=1.0):
        raise ValueError(f"rope_scaling.factor: found {values['factor']!r}; expected a number above 1")
    original = values.get("original_max_position_embeddings", 1)
    if type(original) is not int or original < 1:
        raise ValueError(
            f"rope_scaling.original_max_position_embeddings: found {original!r}; expected tokens, 1 or more"
        )
    for key in ("short_factor", "long_factor"):
        factors = values.get(key, [1.0])
        if not isinstance(factors, list) or not factors or not all(_is_number(each, above=0.0) for each in factors):
            raise ValueError(f"rope_scaling.{key}: expected a list of numbers above 0, one for each rotary frequency")


def rope_type(values: Mapping[str, Any]) -> Any:
    """The type, in the newer spelling or the older one."""
    return values.get("rope_type", values.get("type"))


def _is_number(value: Any, *, above: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > above
