"""The sections a provider declares: purpose, risk, monitoring, retention.

Nothing here has a default that says something on the provider's behalf: an empty
string or None means that nobody has declared it, and the bundle marks it missing.
"""

from typing import Literal

from pydantic import Field

from forge_pipeline.config._base import Section

RiskTier = Literal["unknown", "minimal-risk", "limited-risk", "high-risk", "unacceptable"]


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
