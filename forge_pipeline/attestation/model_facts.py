"""What a bill of materials says about a model, in types that know nothing of who measured it.

The stages that train and measure are siblings of this package; whoever composes them
(`annex_iv`, the trainer) fills these in. What nobody has said is None or empty, never a default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_pipeline.config.data import GovernanceSection
from forge_pipeline.data import DatasetProvenance
from forge_pipeline.integrity import Digest, Manifest
from forge_pipeline.models import ModelRecord


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes:
        name: What was measured: ``acc``, ``unsafe_rate``.
        value: As measured; a share lies from 0 to 1.
        task: What it was measured on.
        n: Items behind it.
        interval: (low, high) of `value`; one side alone where the bound is one-sided. None: not computed.
        level: Confidence level of the interval.
        method: How the interval was computed.
        stderr: Standard error of `value`; None where it was not computed.
        base_value: The base model's on the same items.
        task_digest: Of exactly what was asked.
    """

    name: str
    value: float
    task: str
    n: int | None = None
    interval: tuple[float | None, float | None] | None = None
    level: float = 0.95
    method: str | None = None
    stderr: float | None = None
    base_value: float | None = None
    task_digest: Digest | None = None


@dataclass(frozen=True)
class Considerations:
    """What the provider declares: uses, limits, and each foreseeable misuse; mitigations are of all of them."""

    use_cases: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    misuse: tuple[str, ...] = ()
    mitigations: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileFacts:
    """An exported file."""

    name: str
    digest: Digest
    size: int
    quantization: str | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """The rows that the model was trained on.

    Attributes:
        asset_key: Of the artefact that holds them.
        digest: Of that artefact.
        governance: As the recipe declares it.
        personal_data: Category -> findings of the dataset audit.
    """

    asset_key: str
    digest: Digest
    provenance: DatasetProvenance
    governance: GovernanceSection | None = None
    personal_data: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelFacts:
    """A fine-tuned model and what it is made of.

    Attributes:
        asset_key: Of the model's artefact.
        name, version: As the provider states them; the version is None where nobody did.
        manifest: Its files.
        record: What was trained on what.
        hyper_parameters: Name -> value, as the trainer used them.
        energy_kwh: Measured for the training, or None.
    """

    asset_key: str
    name: str
    version: str | None
    manifest: Manifest
    record: ModelRecord
    dataset: DatasetFacts
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    considerations: Considerations = Considerations()
    exports: tuple[FileFacts, ...] = ()
    provider_name: str | None = None
    provider_contact: str | None = None
    energy_kwh: float | None = None
