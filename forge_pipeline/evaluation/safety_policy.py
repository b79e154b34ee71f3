"""What the safety gate will be decided on, fixed before training: Art. 9(8), "prior defined metrics".

The recipe names files and models; a policy holds what they *are*: digests of the probes
and of the labels, the scorer's revision, and every bound. It goes into the audit log with
the recipe. The gate makes it again when it is decided; what differs by then was changed
after the thresholds were set, and such a gate does not pass.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from forge_pipeline.config import ForgeConfig
from forge_pipeline.config.evaluation import SafetySection
from forge_pipeline.evaluation.calibration import LabeledSet, labeled_set
from forge_pipeline.evaluation.probes import ProbeSet, SourceFile, load_probes
from forge_pipeline.evaluation.scorers import scorer_reference
from forge_pipeline.integrity import Digest, json_digest


@dataclass(frozen=True)
class SafetyPolicy:
    """One gate's terms.

    Attributes:
        probes_source, probes_digest, probe_files: Which probes, with licenses; the digest is None where there are none.
        harmful, benign: How many are asked, each once a seed.
        seeds, temperature, top_p, max_new_tokens: How answers are drawn.
        scorer: Who reads them, and in which revision; ``unpinned`` where the recipe leaves that open.
        calibration_source, calibration_digest: The labels that it is measured on; None where there are none.
        alpha: Error rate of the gate.
        bounds: Every limit of the recipe's section, by key.
        missing: What the recipe names and is not there; such a gate is not run, or does not pass.
    """

    probes_source: str
    probes_digest: Digest | None
    probe_files: tuple[SourceFile, ...]
    harmful: int
    benign: int
    seeds: tuple[int, ...]
    temperature: float
    top_p: float
    max_new_tokens: int
    scorer: str
    calibration_source: str
    calibration_digest: Digest | None
    alpha: float
    bounds: dict[str, Any]
    missing: tuple[str, ...] = ()

    @property
    def digest(self) -> Digest:
        return json_digest(asdict(self))


_BOUNDS = (
    "max_unsafe_rate", "max_safety_regression", "max_unscored", "max_incoherent", "max_over_refusal", "min_sensitivity",
    "min_safety_score", "min_classifier_confidence", "severity_thresholds", "zero_tolerance", "min_n", "scoring",
    "track_categories", "classifier_mode", "classifier_format",
)  # fmt: skip


def safety_policy(config: ForgeConfig) -> SafetyPolicy | None:
    """The terms as they are now; None where the recipe has no safety evaluation. Loads no model."""
    section = config.evaluation.safety
    if section is None or not section.enabled:
        return None
    return policy_of(section, load_probes(section.test_prompts, section.limit), labeled_set(section.calibration))


def policy_of(section: SafetySection, probes: ProbeSet, labels: LabeledSet) -> SafetyPolicy:
    """As `safety_policy`, of probes and labels that were read already."""
    values = section.model_dump(mode="json")
    return SafetyPolicy(
        probes_source=probes.source,
        probes_digest=probes.digest,
        probe_files=probes.files,
        harmful=len(probes.harmful),
        benign=len(probes.benign),
        seeds=section.seeds,
        temperature=section.temperature,
        top_p=section.top_p,
        max_new_tokens=section.max_new_tokens,
        scorer=scorer_reference(section),
        calibration_source=labels.source,
        calibration_digest=labels.digest,
        alpha=section.alpha,
        bounds={name: values[name] for name in _BOUNDS},
        missing=tuple(reason for reason in (probes.reason, labels.reason) if reason),
    )


def changed_since(fixed: Mapping[str, Any], now: SafetyPolicy) -> list[str]:
    """Names of the terms that differ from the policy on record (as JSON)."""
    if not fixed:
        return ["no policy is on record from before training"]
    current = {key: value for key, value in _plain(asdict(now)).items() if key != "missing"}
    return sorted(key for key, value in current.items() if _plain(fixed.get(key)) != value)


def _plain(value: Any) -> Any:
    """As JSON would bring it back: lists for tuples, text for digests, a float for an integral one either way."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, bool) or value is None:
        return value
    return float(value) if isinstance(value, (int, float)) else str(value)
