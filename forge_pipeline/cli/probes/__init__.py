"""What `forge doctor` looks at: one module a subject, one function a probe; they return findings and raise nothing.

A finding is ``ok``, ``warn`` (something is missing or unwise, and most things work) or ``fail`` (what the product is
for cannot work, or its record could not be trusted). What to do about it stands in the finding, not in a manual.
"""

from forge_pipeline.cli.probes.finding import Finding, State

__all__ = ["Finding", "State"]
