"""How much compute the modification took, and what that means for the one-third rule.

Who modifies a general-purpose AI model with more than a third of the original's training
compute counts, indicatively, as provider of the modified model. Where the original's
compute is not known, a third of the general threshold is taken, or of the threshold for
systemic risk where the original is known to be such a model.

Two methods, either of which will do within the regime's tolerance when its assumptions
stand beside it:

  architecture  C = 6 * P * D    P parameters, D tokens over all epochs: for adapters an upper estimate,
                                 since weight gradients of frozen layers are not computed (about 4 * P * D)
  hardware      C = N * L * H * U    N devices, L seconds, H peak operations a second, U utilization

The architecture's figure decides where there is one, because P and D are counted. The
hardware's stands beside it; where nobody measured the utilization, U = 1 makes it an upper
limit, which can show that a modification lies below the threshold and nothing else.
Evaluation, export and activation recomputation are not counted.
"""

from dataclasses import dataclass
from typing import Literal

from forge_pipeline.annex_iv.declarations import declared_flag, declared_number
from forge_pipeline.annex_iv.evidence import Evidence
from forge_pipeline.annex_iv.regime import GpaiThresholds, load_regime

OneThird = Literal["below", "above", "undetermined"]

BASE_TRAINING_FLOP = "GPAI base_training_flop"
BASE_SYSTEMIC_RISK = "GPAI base_systemic_risk"
DEVICE_PEAK_FLOP = "GPAI device_peak_flop_per_second"
DEVICE_UTILIZATION = "GPAI device_utilization"

# Name of the device contains -> peak 16-bit operations a second (dense), board power in watts; from data sheets.
_DEVICES = {
    "B200": (2.25e15, 1000), "H200": (9.89e14, 700), "H100 PCIe": (7.56e14, 350), "H100": (9.89e14, 700),
    "A100": (3.12e14, 400), "L40S": (3.62e14, 350), "L4": (1.21e14, 72), "A10": (1.25e14, 150),
    "T4": (6.5e13, 70), "V100": (1.25e14, 300), "RTX 4090": (1.65e14, 450), "RTX 3090": (7.1e13, 350),
}  # fmt: skip


@dataclass(frozen=True)
class HardwareUse:
    """What a device did, for the hardware method.

    Attributes:
        device_seconds: Seconds of all devices together (N * L).
        peak_flop_per_second: H of one device.
        utilization: U, from 0 to 1; None where nobody measured it.
    """

    device: str
    device_seconds: float
    peak_flop_per_second: float
    utilization: float | None = None

    @property
    def flop(self) -> float:
        """N * L * H * U, with U = 1 where it is not known."""
        return self.device_seconds * self.peak_flop_per_second * (self.utilization or 1.0)

    @property
    def is_upper_limit(self) -> bool:
        return self.utilization is None


@dataclass(frozen=True)
class ComputeEstimate:
    """Training compute of the modification.

    Attributes:
        modification_flop: By the architecture method, in FLOP; None if P or D is not known.
        hardware_flop: By the hardware method; None where no accelerator was used, or its peak is not known.
        hardware_is_upper_limit: Whether `hardware_flop` assumes full utilization; None without it.
        method: Which of the two decided; None if neither could.
        base_training_flop: The original's training compute in FLOP, None if not known.
        threshold_flop: What the modification is held against.
        threshold_used: In words, where `threshold_flop` comes from.
        ratio: The deciding figure / threshold.
        verdict: ``undetermined`` also when the estimate lies within its tolerance of the threshold.
    """

    parameters: int
    tokens: int | None
    modification_flop: float | None
    hardware_flop: float | None
    hardware_is_upper_limit: bool | None
    method: Literal["architecture", "hardware"] | None
    base_training_flop: float | None
    threshold_flop: float
    threshold_used: str
    ratio: float | None
    verdict: OneThird
    assumptions: tuple[str, ...]


def estimate_compute(
    parameters: int,
    tokens: int | None,
    thresholds: GpaiThresholds,
    *,
    base_training_flop: float | None = None,
    base_systemic_risk: bool | None = None,
    hardware: HardwareUse | None = None,
) -> ComputeEstimate:
    """Estimate the modification's compute and hold it against the one-third threshold.

    Args:
        parameters: All parameters, frozen ones included.
        tokens: Tokens that went through the model in training, repeats counted each time.
        base_training_flop: Training compute of the original model, if its provider published it.
        base_systemic_risk: Whether the original is a model with systemic risk. Where nobody has said, the general
            threshold is taken, which is the lower one.
        hardware: For the hardware method.
    """
    architecture = 6.0 * parameters * tokens if parameters > 0 and tokens else None
    original, used = _original(thresholds, base_training_flop, base_systemic_risk)
    threshold = original * thresholds.modification_share
    deciding = architecture if architecture is not None else hardware.flop if hardware else None
    ratio = deciding / threshold if deciding is not None else None
    verdict = _verdict(ratio, thresholds.estimate_tolerance)
    if architecture is None and hardware is not None and hardware.is_upper_limit and verdict == "above":
        verdict = "undetermined"  # an upper limit above the threshold shows nothing
    method: Literal["architecture", "hardware"] = "architecture" if architecture is not None else "hardware"
    return ComputeEstimate(
        parameters=parameters,
        tokens=tokens,
        modification_flop=architecture,
        hardware_flop=hardware.flop if hardware else None,
        hardware_is_upper_limit=hardware.is_upper_limit if hardware else None,
        method=method if deciding is not None else None,
        base_training_flop=base_training_flop,
        threshold_flop=threshold,
        threshold_used=used,
        ratio=ratio,
        verdict=verdict,
        assumptions=_assumptions(thresholds, hardware),
    )


def compute_of(evidence: Evidence) -> ComputeEstimate:
    """The estimate for a bundle's fine-tune: tokens as the trainer counted them, else training split times epochs."""
    training, split, config = evidence.training, evidence.tokenization.splits.get("train"), evidence.config
    tokens = training.tokens_trained
    if tokens is None and split is not None:
        tokens = round(split.tokens * training.epochs)
    return estimate_compute(
        training.total_parameters,
        tokens,
        load_regime(evidence.run.regime).gpai,
        base_training_flop=declared_number(config, BASE_TRAINING_FLOP),
        base_systemic_risk=declared_flag(config, BASE_SYSTEMIC_RISK),
        hardware=_hardware(evidence),
    )


def energy_upper_limit_kwh(evidence: Evidence) -> float | None:
    """Device time at the board's full power, in kWh; None where there was no accelerator, or its power is not known."""
    usage = evidence.usage
    device = _device(usage.device_name) if usage is not None else None
    if usage is None or usage.gpu_seconds is None or device is None:
        return None
    return usage.gpu_seconds * device[1] / 3.6e6


def _hardware(evidence: Evidence) -> HardwareUse | None:
    usage, config = evidence.usage, evidence.config
    if usage is None or usage.gpu_seconds is None:
        return None
    known = _device(usage.device_name)
    peak = declared_number(config, DEVICE_PEAK_FLOP) or (known[0] if known else None)
    share = declared_number(config, DEVICE_UTILIZATION)
    if peak is None:
        return None
    return HardwareUse(usage.device_name, usage.gpu_seconds, peak, share if share is not None and share <= 1 else None)


def _device(name: str) -> tuple[float, int] | None:
    words = name.replace("-", " ")
    return next((facts for part, facts in _DEVICES.items() if f" {part}" in f" {words}"), None)


def _original(thresholds: GpaiThresholds, base_training_flop: float | None, systemic: bool | None) -> tuple[float, str]:
    """What a third is taken of, and in words."""
    if base_training_flop:
        return base_training_flop, "one third of the original model's training compute"
    if systemic:
        flop = thresholds.systemic_training_flop
        return flop, f"the original's compute is not known and it has systemic risk: one third of {flop:.0e} FLOP"
    return (
        thresholds.training_flop,
        f"the original's compute is not known: one third of {thresholds.training_flop:.0e} FLOP",
    )


def _assumptions(thresholds: GpaiThresholds, hardware: HardwareUse | None) -> tuple[str, ...]:
    lines = [
        "architecture method 6*P*D for a dense model, forward and backward pass",
        "P counts frozen weights too, which makes the figure an upper estimate for adapters",
        "D counts every token that went through the model in training, repeats each time, padding excluded",
        "evaluation, export and activation recomputation are not counted; neither is what made synthetic rows",
    ]
    if hardware is not None:
        share = "1, so it is an upper limit" if hardware.utilization is None else f"{hardware.utilization:g}, declared"
        lines.append(
            f"hardware method N*L*H*U: {hardware.device_seconds:.0f} device seconds of {hardware.device}, loading and "
            f"saving included, peak {hardware.peak_flop_per_second:.3g} FLOP/s, U {share}"
        )
    return (*lines, f"tolerance {thresholds.estimate_tolerance:.0%}; {thresholds.reference}")


def _verdict(ratio: float | None, tolerance: float) -> OneThird:
    if ratio is None or 1 - tolerance <= ratio <= 1 + tolerance:
        return "undetermined"
    return "above" if ratio > 1 else "below"
