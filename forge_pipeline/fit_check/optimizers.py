"""Bytes that an optimizer keeps for each weight it trains, by its name in `training.optim`.

States are float32 or the weight's own dtype; the 8-bit optimizers of bitsandbytes keep one byte and one
float32 scale for each 256 values, and full precision below 4,096 values. GaLore keeps its states in a
space of rank r and one projection a matrix (arXiv:2403.03507).
"""

import re
from typing import Final

_STATES: Final = (  # first match counts: (pattern, states a value)
    (r"^sgd", 0.0),
    (r"lomo", 0.0),
    (r"lion|rmsprop|adagrad|muon", 1.0),
    (r"ademamix", 3.0),
    (r"adam", 2.0),
)
_SMALLEST_8BIT = 4096
_BLOCK_8BIT = 256


def knows_optimizer(optim: str) -> bool:
    """Whether `optimizer_bytes` has its states in a table; another is counted as AdamW."""
    return "adafactor" in optim or any(re.search(pattern, optim) for pattern, _ in _STATES)


def optimizer_bytes(optim: str, shape: tuple[int, ...], element: int, *, galore_rank: int | None = None) -> int:
    """Bytes of state for one weight.

    Args:
        shape: Of the weight.
        element: Bytes of one value of the weight.
        galore_rank: Of the projection where this weight is projected.
    """
    count = 1
    for size in shape:
        count *= size
    projection = 0
    if galore_rank is not None and len(shape) == 2:
        rank = min(galore_rank, *shape)
        projection = rank * min(shape) * element
        count = rank * max(shape)
        shape = (rank, max(shape))
    if "adafactor" in optim:  # one value for each row and each column; all of them for vectors
        return projection + (
            sum(shape[-2:]) * 4 * (count // max(1, shape[-1] * shape[-2])) if len(shape) > 1 else 4 * count
        )
    states = next((states for pattern, states in _STATES if re.search(pattern, optim)), 2.0)
    if "8bit" in optim and count >= _SMALLEST_8BIT:
        return projection + round(states * count * (1 + 4 / _BLOCK_8BIT))
    return projection + round(states * count * (4 if "32bit" in optim or "8bit" in optim else element))


def step_bytes(optim: str, largest: int, everything: int, *, on_cuda: bool) -> int:
    """Bytes that a step needs besides the states, while it runs.

    The default AdamW walks through the weights one by one on a CPU, and makes one temporary copy of all of
    them on CUDA (``foreach``); fused and 8-bit optimizers work in place.
    """
    if "fused" in optim or "8bit" in optim or "lomo" in optim:
        return 0
    return everything if on_cuda and optim in ("adamw_torch", "sgd", "rmsprop", "adagrad") else 2 * largest
