"""`fit_check`: a recipe, a budget -> what training and serving would need, before anything is loaded."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forge_pipeline._optional import require
from forge_pipeline.config import ForgeConfig
from forge_pipeline.errors import ConfigError, ForgeError
from forge_pipeline.fit_check.calibration import CALIBRATIONS
from forge_pipeline.fit_check.parts import Part, in_order, total
from forge_pipeline.fit_check.plan import TrainingPlan, plan_training
from forge_pipeline.fit_check.report import Budget, FitReport, ServingMemory, Suggestion, TrainingMemory, judge
from forge_pipeline.models.devices import Device, pick_device
from forge_pipeline.models.location import load_architecture
from forge_pipeline.models.memory import device_memory, parse_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_log = logging.getLogger(__name__)
_TRANSIENT: tuple[Part, ...] = ("activations", "logits")


def fit_check(
    config: ForgeConfig,
    *,
    memory: str | int | None = None,
    device: Device | None = None,
    serving: bool | Sequence[int] = False,
    quick: bool = False,
    advise: bool = True,
) -> FitReport:
    """Will this recipe fit?

    Args:
        memory: The budget, in bytes or as ``24GB``; None takes what is free on this machine.
        device: The kind of device the budget is on; None takes this machine's. A kind that this machine does
            not have needs `memory`.
        serving: Whether to say what serving takes; or the context lengths to say it for.
        quick: The formula instead of the simulation.
        advise: Whether to search for changes that fit where the recipe does not.

    Raises:
        ConfigError: `memory` is no amount, or the recipe's settings contradict each other.
        ModelError: There is no such base model, or its architecture is not known.
        OptionalDependencyError: The libraries for training are not installed.
    """
    for module in ("torch", "transformers", "peft", "trl"):
        require(module, extra="train", purpose="Fit checks")
    device = device or pick_device()
    budget = _budget(device, memory)
    architecture = load_architecture(config)
    plan = plan_training(config, device)
    estimate, failure = _estimate(config, architecture, plan, quick=quick)
    training = TrainingMemory(
        parts=estimate.parts,
        needed=total(estimate.parts),
        verdict=judge(total(estimate.parts), budget.bytes),
        how="simulated" if estimate.moment else "formula",
        moment=estimate.moment,
        cross_check=total(_formula(config, architecture, plan)) if estimate.moment else None,
        trained_values=estimate.trained,
        error=CALIBRATIONS[device].statement,
    )
    advice: tuple[Suggestion, ...] = ()
    if advise and training.verdict == "does_not_fit":
        advice = _advice(config, architecture, budget, quick=quick or not estimate.moment)
    return FitReport(
        model=config.model.name_or_path,
        architecture=str(architecture.model_type),
        method=_method(config, plan),
        budget=budget,
        training=training,
        advice=advice,
        serving=_serving(config, architecture, budget, serving),
        notes=tuple(_notes(config, plan, failure)),
    )


@dataclass(frozen=True)
class _Estimate:
    parts: dict[Part, int]
    moment: str | None
    trained: int | None


def _budget(device: Device, memory: str | int | None) -> Budget:
    if memory is None:
        if device != pick_device():
            raise ConfigError(f"memory: this machine has no {device} device; say how much there is, for example 24GB")
        found = device_memory(device)
        return Budget(device, found.free, found.source)
    size = parse_memory(memory) if isinstance(memory, str) else memory
    if size <= 0:
        raise ConfigError(f"memory: found {memory!r}; expected more than nothing")
    return Budget(device, size, f"given, {device}")


def _estimate(
    config: ForgeConfig, architecture: "PretrainedConfig", plan: TrainingPlan, *, quick: bool
) -> tuple[_Estimate, str | None]:
    """The simulation, or the formula and why."""
    from forge_pipeline.fit_check.simulation import simulate

    if not quick:
        try:
            found = simulate(config, architecture, plan)
            return _Estimate(_with_overhead(dict(found.parts), plan.device), found.moment, found.trained), None
        except ForgeError:
            raise
        except Exception as error:  # a model's own code, run on tensors without values: it may raise anything
            _log.debug("cannot trace %s", architecture.model_type, exc_info=True)
            return _Estimate(_formula(config, architecture, plan), None, None), f"{type(error).__name__}: {error}"
    return _Estimate(_formula(config, architecture, plan), None, None), None


def _formula(config: ForgeConfig, architecture: "PretrainedConfig", plan: TrainingPlan) -> dict[Part, int]:
    from forge_pipeline.fit_check.formula import estimate

    return _with_overhead(estimate(config, architecture, plan), plan.device)


def _with_overhead(parts: dict[Part, int], device: Device) -> dict[Part, int]:
    transient = sum(parts.get(part, 0) for part in _TRANSIENT)
    return in_order({**parts, "overhead": CALIBRATIONS[device].overhead(transient)})


def _advice(
    config: ForgeConfig, architecture: "PretrainedConfig", budget: Budget, *, quick: bool
) -> tuple[Suggestion, ...]:
    from forge_pipeline.fit_check.advice import suggest

    def needs(changed: ForgeConfig) -> int:
        return total(_estimate(changed, architecture, plan_training(changed, budget.device), quick=quick)[0].parts)

    def floor(changed: ForgeConfig) -> int:
        """What the formula says is there all the time; exact, so never more than the simulation."""
        parts = _formula(changed, architecture, plan_training(changed, budget.device))
        return sum(parts.get(part, 0) for part in ("weights", "adapter", "reference"))

    return suggest(
        config,
        budget.device,
        needs=needs,
        floor=floor,
        budget=budget.bytes,
        judged=lambda needed: judge(needed, budget.bytes),
    )


def _serving(
    config: ForgeConfig, architecture: "PretrainedConfig", budget: Budget, asked: bool | Sequence[int]
) -> tuple[ServingMemory, ...]:
    if asked is False:
        return ()
    from forge_pipeline.fit_check.serving import serving_memory
    from forge_pipeline.fit_check.skeleton import text_config

    longest = int(getattr(text_config(architecture), "max_position_embeddings", 0) or config.model.max_length)
    contexts = sorted({min(4096, longest), min(32768, longest)}) if asked is True else tuple(asked)
    return serving_memory(architecture, budget=budget.bytes, on_cuda=budget.device == "cuda", contexts=contexts)


def _method(config: ForgeConfig, plan: TrainingPlan) -> str:
    how = "every weight" if plan.trains_every_weight else f"{plan.method} r={config.lora.r}"
    bits = f" on 4-bit {config.model.bnb_4bit_quant_type}" if plan.four_bit else f", {plan.weights}"
    cast = f" with {plan.autocast} autocast" if plan.autocast and plan.autocast != plan.weights else ""
    checkpoints = ", checkpointing" if plan.checkpointing else ""
    return (
        f"{config.training.trainer_type}, {how}{bits}{cast}, {plan.rows} x {plan.length} tokens, accumulation "
        f"{plan.accumulation}, {plan.optim}{checkpoints}"
    )


def _notes(config: ForgeConfig, plan: TrainingPlan, failure: str | None) -> list[str]:
    from forge_pipeline.fit_check.optimizers import knows_optimizer

    notes = ["every row is taken to be model.max_length tokens long; shorter rows need less"]
    if failure:
        notes.append(f"the architecture cannot be traced ({failure}); the formula was used, which is rougher")
    if plan.completion:
        notes.append(
            f"prompts of model.max_length tokens and completions of {plan.completion}, {plan.generated_rows} of them "
            "sampled at once"
        )
    if config.training.grpo_reward_model or config.training.trainer_type == "rlhf":
        notes.append("the reward model's own memory is not counted")
    if not knows_optimizer(plan.optim):
        notes.append(f"training.optim {plan.optim} is counted as AdamW")
    if config.distributed is not None and config.distributed.strategy:
        notes.append("one process is counted, as if nothing were sharded")
    if plan.passes.rows == 1 and config.model.task != "text-generation":
        notes.append("counted as a causal language model")
    return notes
