"""What to change so that it fits: searched, each combination simulated, least change first.

The changes and what they cost, from nothing to much: halve the micro batch and double the accumulation (the
effective batch stays, equal results but for rounding), checkpoint gradients (a fifth to a third slower), an
8-bit optimizer, bfloat16 weights, 4-bit weights (another base to train on), half the length (long rows are
cut), an adapter instead of every weight. A combination that holds one which fits already is not looked at.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ForgeError
from forge_pipeline.fit_check.report import Suggestion, Verdict
from forge_pipeline.models.devices import Device

Needs = Callable[[ForgeConfig], int]
Judge = Callable[[int], Verdict]

MOST_SUGGESTIONS: Final = 3
_MOST_SIMULATIONS: Final = 40
_SHORTEST: Final = 128


@dataclass(frozen=True)
class _Change:
    """Recipe keys to set; `cost` orders, `words` say what it does to training."""

    kind: str
    keys: dict[str, Any]
    cost: float
    words: str


def suggest(
    config: ForgeConfig, device: Device, *, needs: Needs, floor: Needs, budget: int, judged: Judge
) -> tuple[Suggestion, ...]:
    """Up to three changes of the recipe that fit.

    Args:
        needs: Bytes that a recipe needs, by simulation.
        floor: Bytes that it needs at the least, fast; combinations above the budget are not simulated.
        judged: Verdict on an amount.
    """
    found: list[tuple[frozenset[str], Suggestion]] = []
    simulated = 0
    for changes in _combinations(config, device):
        names = frozenset(_label(each) for each in changes)
        if any(known <= names for known, _ in found):
            continue
        changed = _applied(config, changes)
        try:
            if floor(changed) > budget:
                continue
            simulated += 1
            needed = needs(changed)
        except ForgeError:  # the recipe does not allow this combination (kto needs two rows)
            continue
        if needed <= budget:
            found.append((names, _suggestion(changes, needed, judged(needed))))
        if len(found) == MOST_SUGGESTIONS or simulated == _MOST_SIMULATIONS:
            break
    return tuple(suggestion for _, suggestion in found)


def _label(change: _Change) -> str:
    return f"{change.kind}:{sorted(change.keys.items())}"


def _suggestion(changes: tuple[_Change, ...], needed: int, verdict: Verdict) -> Suggestion:
    keys = {key: value for each in changes for key, value in each.keys.items()}
    words = [text for each in changes for text in [each.words, *[""] * (len(each.keys) - 1)]]
    return Suggestion(keys, needed, verdict, tuple(words))


def _combinations(config: ForgeConfig, device: Device) -> Iterator[tuple[_Change, ...]]:
    """All of them but none at all, by cost."""
    choices: list[list[_Change | None]] = [[None, *kind] for kind in _changes(config, device)]
    combinations = [tuple(each for each in picked if each is not None) for picked in itertools.product(*choices)]
    allowed = [each for each in combinations if each and _is_allowed(config, each)]
    yield from sorted(allowed, key=lambda changes: sum(each.cost for each in changes))


def _is_allowed(config: ForgeConfig, changes: tuple[_Change, ...]) -> bool:
    kinds = {each.kind for each in changes}
    every_weight = config.lora.effective_method == "none" and "adapter" not in kinds
    return not (every_weight and kinds & {"4-bit", "bfloat16"})


def _changes(config: ForgeConfig, device: Device) -> Iterator[list[_Change]]:
    training, model = config.training, config.model
    rows, steps = training.per_device_train_batch_size, training.gradient_accumulation_steps
    yield [
        _Change(
            "batch",
            {
                "training.per_device_train_batch_size": rows // 2**halvings,
                "training.gradient_accumulation_steps": steps * 2**halvings,
            },
            1 + 0.1 * halvings,
            "the same effective batch in smaller pieces",
        )
        for halvings in range(1, 8)
        if rows % 2**halvings == 0
    ]
    if training.gradient_checkpointing is not True and not (
        training.gradient_checkpointing == "auto" and device == "cuda"
    ):
        yield [_Change("checkpointing", {"training.gradient_checkpointing": True}, 1.5, "a fifth to a third slower")]
    if model.dtype in ("float32", "fp32"):
        yield [_Change("bfloat16", {"model.dtype": "bfloat16"}, 2, "the frozen weights lose precision")]
    if device == "cuda":
        if "8bit" not in training.optim and not training.galore_enabled:
            yield [_Change("optimizer", {"training.optim": "adamw_8bit"}, 2.2, "optimizer states in 8 bits")]
        if model.load_in_4bit is False and config.lora.effective_method != "pissa":
            yield [_Change("4-bit", {"model.load_in_4bit": True}, 3, "trains on rounded base weights; slower")]
    yield [
        _Change("length", {"model.max_length": model.max_length // 2**halvings}, 4 + halvings, "longer rows are cut")
        for halvings in range(1, 5)
        if model.max_length // 2**halvings >= _SHORTEST
    ]
    if config.lora.effective_method == "none":
        yield [_Change("adapter", {"lora.method": "lora"}, 7, "an adapter instead of every weight")]


def _applied(config: ForgeConfig, changes: tuple[_Change, ...]) -> ForgeConfig:
    sections: dict[str, dict[str, Any]] = {}
    for change in changes:
        for key, value in change.keys.items():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = value
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )
