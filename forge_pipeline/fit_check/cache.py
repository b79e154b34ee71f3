"""Bytes of the key-value cache, from an architecture's configuration."""

from typing import Any


def cache_bytes(text: Any, *, tokens: int, rows: int, element: float, compressed: bool = False) -> int:
    """Keys and values of all layers.

    Args:
        text: The language model's configuration. Grouped heads share keys; layers with a sliding window keep
            no more tokens than it is wide; layers without attention keep a state of fixed size, which is left out.
        tokens: Tokens a row.
        element: Bytes of one value.
        compressed: Whether the runtime stores the latent vector of multi-head latent attention (DeepSeek)
            instead of the keys and values made from it.
    """
    values = sum(width * min(tokens, window or tokens) for width, window in _layers(text, compressed=compressed))
    return round(rows * values * element)


def _layers(text: Any, *, compressed: bool) -> list[tuple[int, int | None]]:
    """For each layer the values that a token adds, and its window."""
    count = int(text.num_hidden_layers)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * count
    window = getattr(text, "sliding_window", None)
    if getattr(text, "use_sliding_window", True) is False:
        window = None
    slides_everywhere = getattr(text, "layer_types", None) is None and window is not None
    width = _width(text, compressed=compressed)
    found: list[tuple[int, int | None]] = []
    for kind in kinds[:count]:
        if "attention" not in kind or kind == "linear_attention":
            continue
        slides = slides_everywhere or kind in ("sliding_attention", "chunked_attention")
        found.append((width, int(window) if slides and window else None))
    return found


def _width(text: Any, *, compressed: bool) -> int:
    latent = getattr(text, "kv_lora_rank", None)
    heads = int(text.num_attention_heads)
    if latent:
        rotary = int(getattr(text, "qk_rope_head_dim", 0))
        if compressed:
            return int(latent) + rotary
        return heads * (int(getattr(text, "qk_nope_head_dim", 0)) + rotary + int(getattr(text, "v_head_dim", 0)))
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    return 2 * kv_heads * head_size(text)


def head_size(text: Any) -> int:
    """Values of one attention head."""
    return int(getattr(text, "head_dim", None) or int(text.hidden_size) // int(text.num_attention_heads))
