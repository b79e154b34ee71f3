"""`FitReport`: what a fit check found, in bytes, and the lines that say it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from forge_pipeline.fit_check.parts import Part
from forge_pipeline.models.devices import Device
from forge_pipeline.models.memory import format_memory

Verdict = Literal["fits", "tight", "does_not_fit"]
Runtime = Literal["llama.cpp", "vllm", "transformers"]

TIGHT = 0.9  # of the budget; above it a longer row than any seen, or another program, is enough to fail


def judge(needed: int, budget: int) -> Verdict:
    """``tight`` is above nine tenths of the budget."""
    if needed > budget:
        return "does_not_fit"
    return "tight" if needed > TIGHT * budget else "fits"


@dataclass(frozen=True)
class Budget:
    """What may be used: bytes, on which device, and who says so."""

    device: Device
    bytes: int
    source: str


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of a fine-tune at its worst moment.

    Attributes:
        parts: Bytes by part; their sum is `needed`.
        how: ``simulated``, or ``formula`` where the architecture could not be traced or quick mode was asked for.
        moment: Of the training step; ``formula`` has none.
        cross_check: What the formula says in all; None where it is the estimate.
        trained_values: Weights that are trained; None from the formula.
        error: How far such predictions were from measured peaks.
    """

    parts: Mapping[Part, int]
    needed: int
    verdict: Verdict
    how: Literal["simulated", "formula"]
    moment: str | None
    cross_check: int | None
    trained_values: int | None
    error: str


@dataclass(frozen=True)
class Suggestion:
    """A change of the recipe that fits, simulated.

    Attributes:
        keys: Recipe keys to set, for example ``{"training.gradient_checkpointing": True}``.
        words: What each change costs.
    """

    keys: Mapping[str, Any]
    needed: int
    verdict: Verdict
    words: tuple[str, ...]


@dataclass(frozen=True)
class ServingMemory:
    """Memory to answer with the tuned model: `context` tokens for each of `batch` requests at once."""

    runtime: Runtime
    quantization: str
    bits_per_weight: float
    context: int
    batch: int
    parts: Mapping[Part, int]
    needed: int
    verdict: Verdict


@dataclass(frozen=True)
class FitReport:
    """Will it fit?

    Attributes:
        model: As the recipe names it.
        method: What is trained, in words.
        advice: Changes that fit, least change first; empty where the recipe fits, or nothing does.
        notes: What the estimate leaves out or assumes, one sentence each.
    """

    model: str
    architecture: str
    method: str
    budget: Budget
    training: TrainingMemory
    advice: tuple[Suggestion, ...]
    serving: tuple[ServingMemory, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        return self.training.verdict

    @property
    def fits(self) -> bool:
        """Also where it is tight."""
        return self.verdict != "does_not_fit"

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.model} ({self.architecture}), {self.method}"
        yield (
            f"{self.verdict.replace('_', ' ')}: needs {format_memory(self.training.needed)} of "
            f"{format_memory(self.budget.bytes)} ({self.budget.source})"
        )
        for part, size in self.training.parts.items():
            yield f"  {part.replace('_', ' '):<14} {format_memory(size):>10}"
        yield f"  {self._how()}"
        for number, each in enumerate(self.advice, 1):
            yield f"option {number}: {format_memory(each.needed)}, {each.verdict}"
            for (key, value), words in zip(each.keys.items(), _padded(each), strict=True):
                yield f"  {key}: {_yaml(value)}{words}"
        if not self.fits and not self.advice:
            yield "no change of batch, checkpointing, length, precision or method was found: take a smaller base model"
        yield from self._serving_lines()
        yield from (f"note: {note}" for note in self.notes)

    def _how(self) -> str:
        training = self.training
        moment = f" ({training.moment})" if training.moment else ""
        check = f"; formula {format_memory(training.cross_check)}" if training.cross_check is not None else ""
        return f"{training.how}{moment}{check}; error: {training.error}"

    def _serving_lines(self) -> Iterator[str]:
        if self.serving:
            yield "serving        runtime       weights at    context x requests      needs"
        for each in self.serving:
            yield (
                f"  {each.verdict.replace('_', ' '):<12} {each.runtime:<13} {each.quantization:<7}"
                f"{each.bits_per_weight:5.2f} bit {each.context:>7} x {each.batch:<3} {format_memory(each.needed):>16}"
            )


def _padded(suggestion: Suggestion) -> list[str]:
    words = [f"  # {each}" for each in suggestion.words]
    return words + [""] * (len(suggestion.keys) - len(words))


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
