"""The sections a provider declares: purpose, risk, monitoring, retention.

Nothing here has a default that says something on the provider's behalf: an empty
string or None means that nobody has declared it, and the bundle marks it missing.
"""

from typing import Literal

from pydantic import Field, field_validator

from forge_pipeline.config._base import Section

ANNEX_IV_POINTS = (
    *(f"1({letter})" for letter in "abcdefgh"),
    *(f"2({letter})" for letter in "abcdefgh"),
    *(str(number) for number in range(3, 10)),
)
RiskTier = Literal["unknown", "minimal-risk", "limited-risk", "high-risk", "unacceptable"]


GPAI_DECLARATIONS = (
    *(f"XI 1({letter})" for letter in "abcdef"),
    *(f"XI 2({letter})" for letter in "abcde"),
    *(f"summary 1.{number}" for number in range(1, 4)),
    *(f"summary 2.{number}" for number in range(1, 7)),
    *(f"summary 3.{number}" for number in range(1, 4)),
    "GPAI base_training_flop",
    "GPAI base_systemic_risk",
    "GPAI device_peak_flop_per_second",
    "GPAI device_utilization",
)
"""Keys of `declarations` beyond the points of Annex IV: Annex XI and XII, the training-content summary, compute."""


class ComplianceSection(Section):
    """Identity and purpose of the AI system (Annex IV 1)."""

    provider_name: str = ""
    provider_contact: str = ""
    system_name: str = ""
    intended_purpose: str = ""
    known_limitations: str = ""
    system_version: str = ""
    risk_classification: RiskTier | None = None
    declarations: dict[str, str] = {}
    """Statements for other Annex IV points, keyed by the point: ``"1(b)": "..."``."""

    @field_validator("declarations")
    @classmethod
    def _are_points(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(value) - set(ANNEX_IV_POINTS) - set(GPAI_DECLARATIONS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no point of Annex IV; the points are {', '.join(ANNEX_IV_POINTS)}")
        return value


class RiskAssessmentSection(Section):
    """The risk management system's inputs (Art. 9, Annex IV 5)."""

    intended_use: str = ""
    foreseeable_misuse: list[str] = []
    risk_category: RiskTier | None = None
    mitigation_measures: list[str] = []
    vulnerable_groups_considered: bool | None = None


class MonitoringSection(Section):
    """Post-market monitoring (Art. 72, Annex IV 9)."""

    enabled: bool = False
    endpoint: str = ""
    endpoint_env: str | None = None
    metrics_export: Literal["none", "prometheus", "datadog", "custom_webhook"] = "none"
    alert_on_drift: bool = True
    check_interval_hours: int = Field(default=24, ge=1)


class RetentionSection(Section):
    """How long what is kept (Art. 18: ten years for documentation; Art. 19(1), 26(6): six months for logs)."""

    audit_log_retention_days: int = Field(default=1825, ge=0)
    staging_ttl_days: int = Field(default=7, ge=0)
    ephemeral_artefact_retention_days: int = Field(default=90, ge=0)
    raw_documents_retention_days: int = Field(default=90, ge=0)
    enforce: Literal["log_only", "warn_on_excess", "block_on_excess"] = "log_only"
