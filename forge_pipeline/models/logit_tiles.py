"""How many tokens' logits TRL's fused LM head computes at once.

TRL folds them in tiles of 4,096 tokens by 32,768 words, which keeps a GPU busy. On a CPU each tile is there several
times over in float32, hundreds of megabytes on top of the activations just when these are most, and none of it fits
into a cache. The sum over the words stands in one tile's row either way, so the losses are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from forge_pipeline.models.devices import Device

_CPU_TOKENS = 256


@contextmanager
def logit_tiles_for(device: Device) -> Iterator[None]:
    """Within the block TRL takes tiles that suit the device."""
    try:
        kernel: Any = import_module("trl.kernels.chunked_logprob")
        before = int(kernel.TOKEN_CHUNK_SIZE)
    except (ImportError, AttributeError):  # another TRL, which does not tile, or otherwise
        yield
        return
    kernel.TOKEN_CHUNK_SIZE = tile_tokens(device, before)
    try:
        yield
    finally:
        kernel.TOKEN_CHUNK_SIZE = before


def tile_tokens(device: Device, usual: int) -> int:
    """Tokens of a tile on `device`, where TRL takes `usual`."""
    return min(usual, _CPU_TOKENS) if device == "cpu" else usual
